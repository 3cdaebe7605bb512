"""Orders in columns: a poll as it was read, and the rows that a poll becomes."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from streams.codecs import Array, Coded, Column
from streams.ingest.orders import Line
from streams.ingest.products import Products
from streams.records import EventKind

Numbers: TypeAlias = Array | list[int]


@dataclass(frozen=True, slots=True)
class PlainOrders:
    """A poll in columns. Odd records have their places too; what those hold means nothing."""

    odd: set[int]  # records that are not plain
    unread: list[int]  # those of them of which nothing is known
    now: list[int]  # [records] newest record time so far
    offset: Array  # [records]
    ordered_at: Array  # [records]
    order: list[bytes]  # [records] digests of the orders
    ids: list[bytes]  # digests that records are remembered by, one or two each
    id_start: Sequence[int]  # [records + 1] where the ids of each begin
    id_now: Array  # [ids] `now` of their records
    apart: bool  # whether there are records whose order is not one of their ids
    lines: Array  # [records] number of lines
    line_start: list[int]  # [records + 1]
    product: Array  # [lines] codes, int64
    quantity: Array  # [lines] int64
    amount: Array  # [lines] int64, minor units
    placed: list[bytes]  # [records] what the order memory keeps

    def shared(self) -> set[bytes]:
        """Orders and ids that more than one record has."""
        return _repeated(self.ids) | (_repeated(self.order) if self.apart else set())

    def tied(self, digests: set[bytes]) -> set[int]:
        """Records of these orders or ids."""
        found = {bisect_right(self.id_start, k) - 1 for k in _places(self.ids, digests)}
        return found.union(_places(self.order, digests)) if self.apart else found


def _repeated(digests: list[bytes]) -> set[bytes]:
    if len(set(digests)) == len(digests):
        return set()
    met: set[bytes] = set()
    add = met.add  # gives None: what is new is noted and left out
    return {digest for digest in digests if digest in met or add(digest)}


def _places(digests: list[bytes], wanted: set[bytes]) -> Iterator[int]:
    return itertools.compress(itertools.count(), map(wanted.__contains__, digests))


class OrderRows:
    """Rows of order events in columns: what the lines of an event share, once for each event, and the lines."""

    def __init__(self, products: Products) -> None:
        self._products = products
        self._kinds: list[int] = []  # of each piece
        self._events: list[tuple[Numbers, Numbers, Numbers, Numbers]] = []  # at, ordered at, offset, number of lines
        self._lines: list[tuple[Numbers, Numbers, Numbers]] = []  # product, quantity, amount

    def add(self, kind: EventKind, at: int, ordered_at: int, offset: int, lines: Sequence[Line]) -> None:
        if not lines:
            return
        self._kinds.append(int(kind))  # arrays are made of members of an enumeration ten times as slowly
        self._events.append(([at], [ordered_at], [offset], [len(lines)]))
        codes = [self._products[line.product] for line in lines]
        self._lines.append((codes, [line.quantity for line in lines], [line.amount for line in lines]))

    def extend(self, orders: PlainOrders, start: int, stop: int) -> None:
        """Rows of the records from `start` to before `stop`."""
        self._kinds.append(int(EventKind.ORDER))
        at, offset, number = (column[start:stop] for column in (orders.ordered_at, orders.offset, orders.lines))
        self._events.append((at, at, offset, number))
        lines = slice(orders.line_start[start], orders.line_start[stop])
        self._lines.append((orders.product[lines], orders.quantity[lines], orders.amount[lines]))

    def by_partition(self) -> Iterator[tuple[int, int, dict[str, Column | Coded]]]:
        """Partitions with rows, ascending; how many rows, and those of their columns that differ between orders."""
        if not self._kinds:
            return
        kind = np.repeat(np.array(self._kinds, np.int8), [len(piece[0]) for piece in self._events])
        at, ordered_at, offset, lines = _joined(self._events)
        products, quantity, amount = _joined(self._lines)
        # Few partitions: 16 bits are sorted by counting.
        partition = np.frombuffer(self._products.partitions, np.intc)[products].astype(np.int16)
        row = np.argsort(partition, kind="stable")
        event = np.repeat(np.arange(len(lines)), lines)[row]
        columns: dict[str, Array] = {
            "kind": kind[event],
            "at": at[event],
            "ordered_at": ordered_at[event],
            "source_offset": offset[event],
            "quantity": quantity[row],
            "amount": amount[row],
        }
        names, products = self._products.names, products[row]
        ends = np.cumsum(np.bincount(partition)).tolist()
        for number, (start, stop) in enumerate(itertools.pairwise([0, *ends])):
            if start < stop:
                met = pa.array(products[start:stop]).dictionary_encode()
                values = [names[code] for code in met.dictionary.to_pylist()]
                found: dict[str, Column | Coded] = {name: column[start:stop] for name, column in columns.items()}
                yield number, stop - start, {**found, "product": Coded(met.indices.to_numpy(), values)}


def _joined(pieces: Sequence[tuple[Numbers, ...]]) -> Iterator[Array]:
    return (np.concatenate(column, dtype=np.int64) for column in zip(*pieces, strict=True))
