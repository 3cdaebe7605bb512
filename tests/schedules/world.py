"""A few days of a small platform as its events: out of order within bounds, sent twice, cancelled before they were
ordered, with wrong dates and wrong bodies."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from streams.calendars import DAY, HOUR
from tests.schedules.broker import START_MS

PARTITIONS = {"orders": 2, "behaviors": 1, "reviews": 1}
PRODUCTS = ("a", "b", "e", "lamp")  # of both partitions of trend.events

Event = tuple[str, int, str]  # topic, partition, value


def events(random: Random, days: int, count: int) -> list[Event]:
    """What the platform sends, in order; all of it happened before the simulation starts, save for wrong dates."""
    start = START_MS - (days + 1) * DAY
    found: list[Event] = []
    placed: list[tuple[str, int, str, int]] = []  # order, ordered_at, product, quantity
    times = sorted(start + random.randrange(days * DAY) for _ in range(count))
    for number, at in enumerate(times):
        at += random.choice((0, 0, 0, -HOUR, -30_000, -DAY, DAY // 2))
        choice = random.random()
        product = random.choice(PRODUCTS)
        if choice < 0.45:
            quantity = random.randrange(1, 5)
            placed.append((f"o{number}", at, product, quantity))
            found.append(_order(f"o{number}", at, "placed", None, product, quantity))
        elif choice < 0.60 and placed:
            order, ordered_at, product, quantity = random.choice(placed)
            status = random.choice(("cancelled", "cancelled", "returned"))
            units = random.choice((1, quantity, quantity + 1))
            event = _order(order, ordered_at, status, max(at, ordered_at) + 1000, product, units)
            found.insert(random.choice((len(found), random.randrange(len(found) + 1))), event)
        elif choice < 0.80:
            kind = random.choice(("view", "cart", "favourite"))
            body = {"platform": "shop", "product_id": product, "user_id": f"u{number % 3}", "kind": kind}
            found.append(("behaviors", 0, json.dumps({**body, "occurred_at": at})))
        elif choice < 0.90:
            body = {"platform": "shop", "product_id": product, "review_id": f"r{number}", "buyer_id": "u"}
            found.append(("reviews", 0, json.dumps({**body, "rating": random.randrange(1, 6), "written_at": at})))
        elif choice < 0.95 and found:
            found.append(random.choice(found))
        else:
            found.append(_wrong(random, number, at, product))
    return found


def _order(
    order: str, ordered_at: int, status: str, status_at: int | None, product: str, quantity: int, platform: str = "shop"
) -> Event:
    body: dict[str, Any] = {"platform": platform, "order_id": order, "buyer_id": "u", "ordered_at": ordered_at}
    body |= {"currency": "EUR", "status": status, "status_at": status_at}
    body["lines"] = [{"product_id": product, "quantity": quantity, "unit_price": "2.50"}]
    return ("orders", sum(order.encode()) % PARTITIONS["orders"], json.dumps(body))


def _wrong(random: Random, number: int, at: int, product: str) -> Event:
    order, choice = f"w{number}", random.randrange(5)
    if choice == 0:
        return ("behaviors", 0, "{not json")
    if choice == 1:
        return _order(order, at, "placed", None, product, 0)
    if choice == 2:
        return _order(order, at, "placed", None, product, 1, platform="elsewhere")
    wrong_date = random.choice((at - 80 * DAY, START_MS + DAY // 2, START_MS + 9 * DAY))
    return _order(order, wrong_date, "placed", None, product, 1)
