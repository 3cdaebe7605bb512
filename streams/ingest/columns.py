"""Orders in columns: a poll as it was read, and the rows that a poll becomes."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.codecs import Coded, Column
from streams.ingest.orders import Line, Placed
from streams.partitioning import partition_of
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
    product: list[int]  # [lines] codes
    quantity: list[int]  # [lines]
    amount: list[int]  # [lines] minor units
    placed: list[Placed]  # [records] what the order memory keeps

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


class Products(dict[str, int]):
    """Codes of product keys, from 1 in the order in which they were met, and the partition of each."""

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self.names = [""]
        self.partitions = array("i", [0])  # [codes]
        self._partitions = partitions

    def __missing__(self, product: str) -> int:
        code = self[product] = len(self.names)
        self.names.append(product)
        self.partitions.append(partition_of(product, self._partitions))
        return code


class OrderRows:
    """Rows of order events in columns: what the lines of an event share, once for each event, and the lines."""

    def __init__(self, products: Products) -> None:
        self._products = products
        self._kind: list[int] = []
        self._at: list[int] = []
        self._ordered_at: list[int] = []
        self._offset: list[int] = []
        self._lines: list[int] = []
        self._product: list[int] = []
        self._quantity: list[int] = []
        self._amount: list[int] = []

    def add(self, kind: EventKind, at: int, ordered_at: int, offset: int, lines: Sequence[Line]) -> None:
        self._kind.append(int(kind))  # arrays are made of members of an enumeration ten times as slowly
        self._at.append(at)
        self._ordered_at.append(ordered_at)
        self._offset.append(offset)
        self._lines.append(len(lines))
        for product, quantity, amount in lines:
            self._product.append(self._products[product])
            self._quantity.append(quantity)
            self._amount.append(amount)

    def extend(self, orders: PlainOrders, start: int, stop: int) -> None:
        """Rows of the records from `start` to before `stop`."""
        self._kind += [int(EventKind.ORDER)] * (stop - start)
        self._at += orders.ordered_at[start:stop]
        self._ordered_at += orders.ordered_at[start:stop]
        self._offset += orders.offset[start:stop]
        self._lines += orders.lines[start:stop]
        first, last = orders.line_start[start], orders.line_start[stop]
        self._product += orders.product[first:last]
        self._quantity += orders.quantity[first:last]
        self._amount += orders.amount[first:last]

    def by_partition(self) -> Iterator[tuple[int, int, dict[str, Column | Coded]]]:
        """Partitions with rows, ascending; how many rows, and those of their columns that differ between orders."""
        products = np.array(self._product, np.int32)
        partition = np.array(self._products.partitions, np.int32)[products]
        row = np.argsort(partition, kind="stable")
        event = np.repeat(np.arange(len(self._lines)), self._lines)[row]
        columns: dict[str, npt.NDArray[Any]] = {
            "kind": np.array(self._kind, np.int8)[event],
            "at": np.array(self._at, np.int64)[event],
            "ordered_at": np.array(self._ordered_at, np.int64)[event],
            "source_offset": np.array(self._offset, np.int64)[event],
            "quantity": np.array(self._quantity, np.int64)[row],
            "amount": np.array(self._amount, np.int64)[row],
        }
        names, products = self._products.names, products[row]
        ends = np.cumsum(np.bincount(partition)).tolist()
        for number, (start, stop) in enumerate(itertools.pairwise([0, *ends])):
            if start < stop:
                met = pa.array(products[start:stop]).dictionary_encode()
                values = [names[code] for code in met.dictionary.to_pylist()]
                found: dict[str, Column | Coded] = {name: column[start:stop] for name, column in columns.items()}
                yield number, stop - start, {**found, "product": Coded(met.indices.to_numpy(), values)}
