"""Events as the platform sends them, good ones and bad ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from streams import kafka
from streams.stage import Output
from streams.topics import DAY_MS

START = 1_760_054_400_000  # 2025-10-10, UTC


def order(number: int, quantity: Any, at: int | None = None, **more: Any) -> Output:
    """To one of two partitions; `at` is UTC ms, by default now."""
    event = {
        "platform": "shop",
        "event_id": f"e{number}",
        "order_id": f"o{number}",
        "buyer_id": "ann@example.com",
        "ordered_at": int(time.time() * 1000) if at is None else at,
        "currency": "EUR",
        "status": "placed",
        "lines": [{"product_id": f"p{number % 6}", "quantity": quantity, "unit_price": "9.99"}],
        **more,
    }
    return Output("orders", number % 2, json.dumps(event).encode(), f"o{number}".encode())


def days(first: int, last: int, each: int = 48) -> list[Output]:
    """So many orders a day of days since START, evenly spread, for both partitions and six products."""
    return [
        order(day * each + i, 1 + (day + i) % 4, START + day * DAY_MS + i * DAY_MS // each)
        for day in range(first, last)
        for i in range(each)
    ]


def levels(**more: Any) -> list[Output]:
    """Stock of the six products, so that there is something to order."""
    level = {"platform": "shop", "on_hand": 12, "on_order": 0, "lead_time_days": 3, "updated_at": START, **more}
    return [
        Output("inventory.levels", i % 2, json.dumps({**level, "product_id": f"p{i}"}).encode(), f"p{i}".encode())
        for i in range(6)
    ]


def produce(bootstrap: str, events: Iterable[Output], record_times: Iterable[int]) -> None:
    """With record times of their own (UTC ms), as they lie in a topic that nobody has read for long."""
    to = kafka.producer(bootstrap)
    for event, at in zip(events, record_times, strict=True):
        to.produce(event.topic, event.value, event.key, event.partition, timestamp=at)
    assert to.flush(30) == 0
