"""What is left of each order, and the cancellations that came before theirs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from streams.ingest.reasons import Reason, RejectedError


class Line(NamedTuple):
    """One line of an order event."""

    product: str
    quantity: int
    amount: int  # quantity x unit price, minor units


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """A cancellation whose order has not come; its original is sealed already, should it become a dead letter."""

    order: bytes
    offset: int
    record_time: int
    at: int
    lines: list[Line]
    ids: list[bytes]  # digests that it is remembered by
    key: str | None
    sealed: str
    since: int  # newest record time of the source when it came


# An order: record time, `ordered_at`, and of each line product, units ordered, units left, amount left. One plain tuple
# of plain values: the garbage collector forgets about those, and a million of them must not slow it down.
Placed: TypeAlias = tuple[Any, ...]
_SINCE, _ORDERED_AT, _LINES = 0, 1, 2


class OrderMemory:
    """Orders and waiting cancellations of the dedupe horizon, by the digest of the order."""

    def __init__(self) -> None:
        self._placed: dict[bytes, Placed] = {}
        self._order: deque[bytes] = deque()
        self._waiting: dict[int, Waiting] = {}  # by offset, as they came
        self._offsets: dict[bytes, list[int]] = {}  # of the waiting ones, by order

    def place(self, order: bytes, ordered_at: int, lines: Sequence[Line], now: int) -> list[Waiting]:
        """Remember an order; returns the cancellations that waited for it, as they came."""
        placed = self._placed.get(order)
        if placed is None:
            self._order.append(order)
            placed = (now, ordered_at)
        self._placed[order] = (*placed, *[x for product, n, amount in lines for x in (product, n, n, amount)])
        return self._released(order)

    def extend(self, orders: Sequence[bytes], placed: Iterable[Placed]) -> None:
        """Remember orders that are new, differ from each other, and have no cancellation waiting."""
        self._placed.update(zip(orders, placed, strict=True))
        self._order.extend(orders)

    def among(self, orders: Iterable[bytes]) -> set[bytes]:
        """Those of which an order or a waiting cancellation is known."""
        wanted = set(orders)
        return (self._placed.keys() & wanted) | (self._offsets.keys() & wanted)

    def _released(self, order: bytes) -> list[Waiting]:
        if order not in self._offsets:
            return []
        return [self._waiting.pop(offset) for offset in self._offsets.pop(order)]

    def __contains__(self, order: bytes) -> bool:
        return order in self._placed

    def cancel(self, order: bytes, lines: list[Line]) -> tuple[int, list[Line]]:
        """Take lines off an order: its `ordered_at`, and what was left to take (a repeated product counts as one sum).

        Units and amounts never fall below zero. Raises RejectedError, and changes nothing, if more was to be cancelled
        than the order ever had.
        """
        placed = self._placed[order]
        stocks = _stocks(placed)
        totals: dict[str, int] = {}
        for product, quantity, _ in lines:
            totals[product] = totals.get(product, 0) + quantity
        for product, total in totals.items():
            ordered = stocks[product][0] if product in stocks else 0
            if total > ordered:
                raise RejectedError(
                    Reason.CANCELS_MORE,
                    f"lines: {total} of {product} cancelled, {ordered} ordered; cancel at most what was ordered",
                )
        taken = []
        for product, quantity, amount in lines:
            stock = stocks[product]
            units = min(quantity, stock[1])
            if not units:
                continue
            # The last units take the rest of the money: a fully cancelled order leaves none behind.
            worth = stock[2] if units == stock[1] else min(amount // quantity * units, stock[2])
            stock[1] -= units
            stock[2] -= worth
            taken.append(Line(product, units, worth))
        self._placed[order] = _with(placed, stocks)
        return placed[_ORDERED_AT], taken

    def wait(self, cancellation: Waiting) -> None:
        self._waiting[cancellation.offset] = cancellation
        self._offsets.setdefault(cancellation.order, []).append(cancellation.offset)

    def forget(self, until: int) -> list[Waiting]:
        """Drop what came at or before this record time; returns the cancellations whose order never came."""
        while self._order and self._placed[self._order[0]][_SINCE] <= until:
            del self._placed[self._order.popleft()]
        gone: list[Waiting] = []
        for cancellation in self._waiting.values():
            if cancellation.since > until:
                break
            gone.append(cancellation)
        for cancellation in gone:
            del self._waiting[cancellation.offset]
            offsets = self._offsets[cancellation.order]
            offsets.remove(cancellation.offset)
            if not offsets:
                del self._offsets[cancellation.order]
        return gone

    def dump(self) -> list[Any]:
        return [self._placed, list(self._waiting.values())]

    def load(self, state: list[Any]) -> None:
        """The inverse of `dump`, from its msgpack."""
        orders, waiting = state
        self._placed = {order: tuple(placed) for order, placed in orders.items()}
        self._order = deque(self._placed)
        self._waiting, self._offsets = {}, {}
        for cancellation in waiting:
            self.wait(msgspec.convert(cancellation, Waiting))


def _stocks(placed: Placed) -> dict[str, list[int]]:
    """[units ordered, units left, amount left] of each product of an order; lines of one product count together."""
    stocks: dict[str, list[int]] = {}
    for i in range(_LINES, len(placed), 4):
        stock = stocks.setdefault(placed[i], [0, 0, 0])
        for k in range(3):
            stock[k] += placed[i + 1 + k]
    return stocks


def _with(placed: Placed, stocks: dict[str, list[int]]) -> Placed:
    return (*placed[:_LINES], *[x for product, stock in stocks.items() for x in (product, *stock)])
