"""What ingest accepts, written from its documentation: dicts, one event at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from streams.records import EventKind
from streams.stage import Message
from streams.watermarks import SourceWatermark
from tests.schedules.oracle import Row

DAY_MS = 86_400_000
COUNTS = ("read", "accepted", "repeated", "dead", "waiting")
_BEHAVIORS = {"view": EventKind.VIEW, "cart": EventKind.CART, "favourite": EventKind.FAVOURITE}


@dataclass
class Ingest:
    """One source partition; money in cents, one line an order, ids by nature: what the simulated platform sends."""

    rows: list[Row] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    _now: int = 0
    _seen: dict[Any, int] = field(default_factory=dict)  # id -> record time
    _orders: dict[str, list[int]] = field(default_factory=dict)  # since, ordered_at, ordered, left
    _waiting: dict[int, tuple[str, Any, Row, int]] = field(default_factory=dict)  # by offset
    _mark: SourceWatermark = field(default_factory=lambda: SourceWatermark(60_000))

    def take(self, message: Message) -> None:
        self.counts["read"] += 1
        self._now = max(self._now, message.timestamp)
        week_ago = self._now - 7 * DAY_MS
        self._seen = {i: at for i, at in self._seen.items() if at > week_ago}
        self._orders = {o: known for o, known in self._orders.items() if known[0] > week_ago}
        for offset, (_, _, _, since) in list(self._waiting.items()):
            if since <= week_ago:
                del self._waiting[offset]
                self._count(waiting=-1, dead=1)
        self._count(**{self._outcome(message): 1})

    def _outcome(self, message: Message) -> str:
        try:
            body = json.loads(message.value or b"")
        except ValueError:
            return "dead"
        line = body.get("lines", [{}])[0]
        product, quantity = f"shop:{body.get('product_id') or line['product_id']}", line.get("quantity", 0)
        placed_at = body.get("ordered_at") or body.get("occurred_at") or body.get("written_at")
        at = body.get("status_at") or placed_at
        status, order = body.get("status"), body.get("order_id", "")
        future = max(at, placed_at) > message.timestamp + DAY_MS
        if body["platform"] != "shop" or (status and quantity < 1) or future:
            return "dead"
        identity: Any = (order, status, body.get("status_at"))
        if not order:
            identity = body.get("review_id") or (body["user_id"], product, body["kind"], at)
        if identity in self._seen:
            return "repeated"
        bound = at if status == "returned" else placed_at
        if "rating" not in body and self._mark.value is not None and bound < self._mark.value - 56 * DAY_MS:
            return "dead"
        result = "accepted"
        if status is None:
            kind = EventKind.REVIEW if "rating" in body else _BEHAVIORS[body["kind"]]
            self.rows.append(Row(kind, product, at, at, rating=body.get("rating", 0)))
        elif status == "cancelled":
            row = Row(EventKind.CANCELLED, product, at, placed_at, quantity, quantity * 250)
            if order in self._orders:
                if not self._cancel(order, row):
                    return "dead"
            else:
                self._waiting[message.offset] = (order, identity, row, self._now)
                result = "waiting"
        else:
            kind = EventKind.ORDER if status == "placed" else EventKind.RETURNED
            self.rows.append(Row(kind, product, at, placed_at, quantity, quantity * 250))
            if status == "placed":
                self._orders[order] = [self._now, placed_at, quantity, quantity]
                for offset, (waits_for, waiting_id, row, _) in list(self._waiting.items()):
                    if waits_for == order:
                        del self._waiting[offset]
                        accepted = self._cancel(order, row)
                        self._count(waiting=-1, accepted=int(accepted), dead=int(not accepted))
                        if not accepted:
                            del self._seen[waiting_id]
        self._seen[identity] = self._now
        self._mark.observe(at)
        return result

    def _cancel(self, order: str, row: Row) -> bool:
        """Take off at most what is left; False if more was to be cancelled than ever ordered."""
        _, ordered_at, ordered, left = self._orders[order]
        if row.quantity > ordered:
            return False
        if units := min(row.quantity, left):
            self._orders[order][3] -= units
            self.rows.append(row._replace(ordered_at=ordered_at, quantity=units, amount=units * 250))
        return True

    def _count(self, **changes: int) -> None:
        for name, change in changes.items():
            self.counts[name] += change
