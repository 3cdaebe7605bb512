"""What is left of each order, and the cancellations that came before theirs."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

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


class Placed(NamedTuple):
    """An order. Plain values in two tuples: a million of them must not slow the garbage collector down."""

    since: int
    ordered_at: int
    products: tuple[str | int, ...]  # product, units ordered, units left, amount left, and so on for each


class OrderMemory:
    """Orders and waiting cancellations of the dedupe horizon, by the digest of the order."""

    def __init__(self) -> None:
        self._placed: dict[bytes, Placed] = {}
        self._order: deque[bytes] = deque()
        self._waiting: dict[int, Waiting] = {}  # by offset, as they came
        self._offsets: dict[bytes, list[int]] = {}  # of the waiting ones, by order

    def place(self, order: bytes, ordered_at: int, lines: list[Line], now: int) -> list[Waiting]:
        """Remember an order; returns the cancellations that waited for it, as they came."""
        placed = self._placed.get(order)
        if placed is None:
            self._order.append(order)
            if len(lines) == 1:
                product, quantity, amount = lines[0]
                self._placed[order] = Placed(now, ordered_at, (product, quantity, quantity, amount))
                return self._released(order)
            placed = Placed(now, ordered_at, ())
        stocks = _stocks(placed)
        for product, quantity, amount in lines:
            stock = stocks.setdefault(product, [0, 0, 0])
            stock[0] += quantity
            stock[1] += quantity
            stock[2] += amount
        self._placed[order] = _with(placed, stocks)
        return self._released(order)

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
        return placed.ordered_at, taken

    def wait(self, cancellation: Waiting) -> None:
        self._waiting[cancellation.offset] = cancellation
        self._offsets.setdefault(cancellation.order, []).append(cancellation.offset)

    def forget(self, until: int) -> list[Waiting]:
        """Drop what came at or before this record time; returns the cancellations whose order never came."""
        while self._order and self._placed[self._order[0]].since <= until:
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
        return [
            [[order, self._placed[order]] for order in self._order],
            list(self._waiting.values()),
        ]

    def load(self, state: list[Any]) -> None:
        """The inverse of `dump`, from its msgpack."""
        orders, waiting = state
        self._placed = {
            order: Placed(since, ordered_at, tuple(products)) for order, (since, ordered_at, products) in orders
        }
        self._order = deque(self._placed)
        self._waiting, self._offsets = {}, {}
        for cancellation in waiting:
            self.wait(msgspec.convert(cancellation, Waiting))


def _stocks(placed: Placed) -> dict[str, list[int]]:
    """[units ordered, units left, amount left] of each product of an order."""
    flat: Any = placed.products
    return {flat[i]: list(flat[i + 1 : i + 4]) for i in range(0, len(flat), 4)}


def _with(placed: Placed, stocks: dict[str, list[int]]) -> Placed:
    flat: list[str | int] = []
    for product, stock in stocks.items():
        flat.append(product)
        flat += stock
    return placed._replace(products=tuple(flat))
