"""What is left of each order, and the cancellations that came before theirs."""

from __future__ import annotations

import itertools
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from streams.codecs import Array
from streams.ingest.privacy import DIGEST_BYTES
from streams.ingest.products import Products
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


# An order as bytes: a row with its record time and `ordered_at`, then a row for each line with product, units ordered,
# units left and amount left. Of a million bytes objects the garbage collector knows nothing.
_ROW = struct.Struct("<4q")
_HEAD = 0  # in the place of a product


def packed(now: Array, ordered_at: Array, start: Array, product: Array, quantity: Array, amount: Array) -> list[bytes]:
    """What `OrderMemory.extend` takes, of orders [orders] with the lines [lines] from `start` [orders + 1]."""
    head = start[:-1] + np.arange(len(now))
    line = np.arange(len(product)) + np.repeat(np.arange(1, len(now) + 1), np.diff(start))
    rows = np.empty((len(now) + len(product), 4), "<i8")
    fields = ((_HEAD, product), (now, quantity), (ordered_at, quantity), (0, amount))
    for column, (of_head, of_line) in enumerate(fields):
        rows[head, column] = of_head
        rows[line, column] = of_line
    whole, ends = rows.tobytes(), (_ROW.size * np.append(head, len(rows))).tolist()
    return [whole[a:b] for a, b in itertools.pairwise(ends)]


class OrderMemory:
    """Orders and waiting cancellations of the dedupe horizon, by the digest of the order."""

    def __init__(self, products: Products) -> None:
        self._products = products
        self._placed: dict[bytes, bytes] = {}
        self._order: deque[bytes] = deque()
        self._waiting: dict[int, Waiting] = {}  # by offset, as they came
        self._offsets: dict[bytes, list[int]] = {}  # of the waiting ones, by order

    def place(self, order: bytes, ordered_at: int, lines: Sequence[Line], now: int) -> list[Waiting]:
        """Remember an order; returns the cancellations that waited for it, as they came."""
        placed = self._placed.get(order)
        if placed is None:
            self._order.append(order)
            placed = _ROW.pack(_HEAD, now, ordered_at, 0)
        rows = [_ROW.pack(self._products[product], n, n, amount) for product, n, amount in lines]
        self._placed[order] = b"".join([placed, *rows])
        return self._released(order)

    def extend(self, orders: Sequence[bytes], placed: Sequence[bytes]) -> None:
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
        stocks = self._stocks(placed)
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
        rows = [_ROW.pack(self._products[product], *stock) for product, stock in stocks.items()]
        self._placed[order] = b"".join([placed[: _ROW.size], *rows])
        return _ROW.unpack_from(placed)[2], taken

    def _stocks(self, placed: bytes) -> dict[str, list[int]]:
        """[units ordered, units left, amount left] of each product of an order; lines of one product count together."""
        stocks: dict[str, list[int]] = {}
        for code, *counts in itertools.islice(_ROW.iter_unpack(placed), 1, None):
            stock = stocks.setdefault(self._products.names[code], [0, 0, 0])
            for k, count in enumerate(counts):
                stock[k] += count
        return stocks

    def wait(self, cancellation: Waiting) -> None:
        self._waiting[cancellation.offset] = cancellation
        self._offsets.setdefault(cancellation.order, []).append(cancellation.offset)

    def forget(self, until: int) -> list[Waiting]:
        """Drop what came at or before this record time; returns the cancellations whose order never came."""
        while self._order and _ROW.unpack_from(self._placed[self._order[0]])[1] <= until:
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

    def dump(self) -> dict[str, bytes]:
        """Named blobs. Products are numbered anew, as they come: their codes here hang on what else was read."""
        rows = np.frombuffer(bytearray().join(self._placed.values()), "<i8").reshape(-1, 4)
        met = pa.array(rows[:, 0]).dictionary_encode()
        rows[:, 0] = met.indices
        names = [self._products.names[code] for code in met.dictionary.to_pylist()]
        return {
            "orders": b"".join(self._order),
            "order_rows": rows.tobytes(),
            "order_products": msgspec.msgpack.encode(names),
            "waiting": msgspec.msgpack.encode(list(self._waiting.values())),
        }

    def load(self, blobs: Mapping[str, bytes]) -> None:
        """The inverse of `dump`."""
        names = msgspec.msgpack.decode(blobs["order_products"], type=list[str])
        codes = np.array([self._products[name] if name else _HEAD for name in names], np.int64)
        rows = np.frombuffer(blobs["order_rows"], "<i8").reshape(-1, 4).copy()
        rows[:, 0] = codes[rows[:, 0]]
        whole = rows.tobytes()
        ends = [*(_ROW.size * np.flatnonzero(rows[:, 0] == _HEAD)).tolist(), len(whole)]
        digests = blobs["orders"]
        self._order = deque([digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)])
        placed = [whole[a:b] for a, b in itertools.pairwise(ends)]
        self._placed = dict(zip(self._order, placed, strict=True))
        self._waiting, self._offsets = {}, {}
        for cancellation in msgspec.msgpack.decode(blobs["waiting"], type=list[Waiting]):
            self.wait(cancellation)
