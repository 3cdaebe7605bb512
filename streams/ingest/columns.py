"""Orders in columns: a poll as it was read, and the rows that a poll becomes."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from streams.codecs import Array, Coded, Column
from streams.ingest.orders import Line
from streams.ingest.products import Products
from streams.records import EventKind


@dataclass(frozen=True, slots=True)
class PlainOrders:
    """A poll in columns. Odd records have their places too; what those hold means nothing."""

    odd: set[int]  # records that are not plain
    unread: list[int]  # those of them of which nothing is known
    now: list[int]  # [records] newest record time so far
    offset: list[int]  # [records]
    ordered_at: list[int]  # [records]
    order: list[bytes]  # [records] digests of the orders
    ids: list[bytes]  # digests that records are remembered by, one or two each
    id_start: Sequence[int]  # [records + 1] where the ids of each begin
    id_now: list[int]  # [ids] `now` of their records
    apart: bool  # whether there are records whose order is not one of their ids
    lines: list[int]  # [records] number of lines
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
        found = {bisect_right(self.id_start, k) - 1 for k, known in enumerate(self.ids) if known in digests}
        if self.apart:
            found.update([i for i, order in enumerate(self.order) if order in digests])
        return found


def _repeated(digests: list[bytes]) -> set[bytes]:
    met: set[bytes] = set()
    add = met.add  # gives None: what is new is noted and left out
    return {digest for digest in digests if digest in met or add(digest)}


class OrderRows:
    """Rows of order events in columns: what the lines of an event share, once for each event, and the lines."""

    def __init__(self, products: Products) -> None:
        self._products = products
        self._kind: list[int] = []
        self._at: list[int] = []
        self._ordered_at: list[int] = []
        self._offset: list[int] = []
        self._lines: list[int] = []
        self._rows: list[tuple[Array, Array, Array] | tuple[list[int], list[int], list[int]]] = []

    def add(self, kind: EventKind, at: int, ordered_at: int, offset: int, lines: Sequence[Line]) -> None:
        if not lines:
            return
        self._kind.append(int(kind))  # arrays are made of members of an enumeration ten times as slowly
        self._at.append(at)
        self._ordered_at.append(ordered_at)
        self._offset.append(offset)
        self._lines.append(len(lines))
        codes = [self._products[line.product] for line in lines]
        self._rows.append((codes, [line.quantity for line in lines], [line.amount for line in lines]))

    def extend(self, orders: PlainOrders, start: int, stop: int) -> None:
        """Rows of the records from `start` to before `stop`."""
        self._kind += [int(EventKind.ORDER)] * (stop - start)
        self._at += orders.ordered_at[start:stop]
        self._ordered_at += orders.ordered_at[start:stop]
        self._offset += orders.offset[start:stop]
        self._lines += orders.lines[start:stop]
        lines = slice(orders.line_start[start], orders.line_start[stop])
        self._rows.append((orders.product[lines], orders.quantity[lines], orders.amount[lines]))

    def by_partition(self) -> Iterator[tuple[int, int, dict[str, Column | Coded]]]:
        """Partitions with rows, ascending; how many rows, and those of their columns that differ between orders."""
        if not self._rows:
            return
        pieces = zip(*self._rows, strict=True)
        products, quantity, amount = [np.concatenate(column, dtype=np.int64) for column in pieces]
        partition = np.array(self._products.partitions)[products]
        row = np.argsort(partition, kind="stable")
        event = np.repeat(np.arange(len(self._lines)), self._lines)[row]
        columns: dict[str, Array] = {
            "kind": np.array(self._kind, np.int8)[event],
            "at": np.array(self._at, np.int64)[event],
            "ordered_at": np.array(self._ordered_at, np.int64)[event],
            "source_offset": np.array(self._offset, np.int64)[event],
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
