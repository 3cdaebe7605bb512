"""The platform: a seeded producer of every kind of event that the run needs, which knows what was sold."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from streams import kafka
from streams.calendars import DAY, HOUR
from streams.partitioning import partition_of
from streams.topics import TIME_TOPICS

FIRST_DAY = 20_000  # days since 1970
PRODUCTS = [f"p{i}" for i in range(12)]
ORDERS, BEHAVIORS, REVIEWS = 30, 20, 8  # of a day
Planned = tuple[int, str, str, dict[str, Any] | bytes]  # event time, topic, key, event

_WORDS = ["warm", "soft", "bright", "broken", "late", "lovely", "heavy", "thin", "quick", "loud", "plain", "sturdy"]


class Load(threading.Thread):
    """Sends day after day until `finish`; then what ends the last one, and waits for every delivery."""

    def __init__(self, bootstrap: str, partitions: int, seed: int, day_s: float) -> None:
        super().__init__(name="load", daemon=True)
        self.units: Counter[tuple[str, int]] = Counter()  # by product key and day: ordered less cancelled
        self.produced: Counter[str] = Counter()  # delivered, by topic
        self.failures: list[str] = []
        self.boundary = 0  # UTC ms; all days before it can close once `run` has returned
        self._partitions = partitions
        self._chance = random.Random(seed)
        self._day_s = day_s
        self._producer = kafka.producer(bootstrap)
        self._finish = threading.Event()
        self._number = 0

    def finish(self) -> None:
        self._finish.set()

    def run(self) -> None:
        day = FIRST_DAY
        for product in PRODUCTS:
            self._send("products", product, self._product(product, day * DAY))
        while not self._finish.is_set():
            events = sorted(self._day(day), key=lambda planned: planned[0])
            for _, topic, key, event in events:
                self._send(topic, key, event)
                self._finish.wait(self._day_s / len(events))
            day += 1
        self.boundary = day * DAY
        # Every source of event time says that the last day is over, and then once more, and once more: a jump counts
        # when it is confirmed.
        for hour in (2, 14, 26):
            for topic in TIME_TOPICS:
                for partition in range(self._partitions):
                    self._send_to(topic, partition, self.boundary + hour * HOUR)
        if self._producer.flush(120):
            self.failures.append("not delivered within 120 s")

    def _day(self, day: int) -> Iterator[Planned]:
        """A day's events in no order; what is sent twice comes twice."""
        chance, start = self._chance, day * DAY
        for _ in range(ORDERS):
            at = start + chance.randrange(20 * HOUR)
            key, order = self._order(at)
            planned: list[Planned] = [(at, "orders", key, order)]
            if chance.random() < 0.15:  # the same day: once an outcome has used a day, it stays
                planned.append(self._cancellation(at + chance.randrange(3 * HOUR), order, day))
            for line in order["lines"]:
                self.units[f"shop:{line['product_id']}", day] += line["quantity"]
            yield from planned
            if chance.random() < 0.1:
                yield (at + HOUR, *chance.choice(planned)[1:])
        for _ in range(BEHAVIORS):
            at = start + chance.randrange(DAY)
            product = chance.choice(PRODUCTS)
            event = self._event(product_id=product, user_id=f"u{chance.randrange(50)}", kind="view", occurred_at=at)
            yield at, "behaviors", product, event
            if chance.random() < 0.1:
                yield at, "behaviors", product, event
        for _ in range(REVIEWS):
            at = start + chance.randrange(DAY)
            product = chance.choice(PRODUCTS)
            text = " ".join(chance.choices(_WORDS, k=chance.randint(1, 4)))
            name = f"r{self._next()}"
            review = self._event(product_id=product, review_id=name, buyer_id="ann", rating=4, text=text, written_at=at)
            yield at, "reviews", product, review
            if chance.random() < 0.1:
                yield at, "reviews", product, review
        product = chance.choice(PRODUCTS)
        yield start + 1, "products", product, self._product(product, start + 1)
        yield start + 2, "orders", "bad", b"{no json %d" % day

    def _order(self, at: int) -> tuple[str, dict[str, Any]]:
        name = f"o{self._next()}"
        lines = [
            {"product_id": product, "quantity": self._chance.randint(1, 4), "unit_price": "4.50"}
            for product in self._chance.sample(PRODUCTS, self._chance.randint(1, 3))
        ]
        order = self._event(order_id=name, buyer_id="ann", ordered_at=at, currency="EUR", status="placed", lines=lines)
        return name, order

    def _cancellation(self, at: int, order: dict[str, Any], day: int) -> Planned:
        line = self._chance.choice(order["lines"])
        taken = {**line, "quantity": self._chance.randint(1, line["quantity"])}
        self.units[f"shop:{line['product_id']}", day] -= taken["quantity"]
        cancelled = self._event(**{**order, "status": "cancelled", "status_at": at, "lines": [taken]})
        return at, "orders", order["order_id"], cancelled

    def _product(self, product: str, at: int) -> dict[str, Any]:
        category = ["a", "b"][int(product[1:]) % 2]
        title = " ".join(self._chance.choices(_WORDS, k=2))
        return self._event(
            product_id=product, title=title, category=[category], price="4.50", currency="EUR", updated_at=at
        )

    def _send_to(self, topic: str, partition: int, at: int) -> None:
        """An event of its own for this partition."""
        while True:
            name = f"end{self._next()}"
            if partition_of(name, self._partitions) == partition:
                break
        if topic == "orders":
            self._send(topic, name, {**self._order(at)[1], "order_id": name})
        else:
            self._send(topic, name, self._event(product_id=name, user_id="u", kind="view", occurred_at=at))

    def _event(self, **fields: Any) -> dict[str, Any]:
        return {"platform": "shop", **fields}

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _send(self, topic: str, key: str, event: dict[str, Any] | bytes) -> None:
        value = event if isinstance(event, bytes) else json.dumps(event).encode()
        partition = partition_of(key, self._partitions)
        kafka.send(self._producer, topic, partition, value, key.encode(), on_delivery=self._delivered)
        self._producer.poll(0)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            self.produced[message.topic()] += 1
        else:
            self.failures.append(f"{message.topic()}: {error.str()}")
