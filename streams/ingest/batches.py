"""Rows of one poll, gathered by partition, and the records that they become."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from streams.codecs import Coded, Column, encode, split
from streams.ingest.columns import OrderRows
from streams.ingest.products import Products
from streams.records import EventKind, SourceState
from streams.records.inside import CONTROL, EVENTS, PICTURES, PROMOTIONS, TEXTS, ArrowRecord
from streams.stage import Output, TaskKey

EventRow: TypeAlias = tuple[int, str, int, int, int, int, int, int, str, int, float, float, float, int]
TextRow: TypeAlias = tuple[str, int, int, int, str]
PictureRow: TypeAlias = tuple[str, int, int, str, str, bytes, str]
PromotionRow: TypeAlias = tuple[str, int, int, int, int, int, int]

# Where the rows' fields go; source and source_partition are the task's own.
_ORIGIN = ("source", "source_partition")
_EVENT_FIELDS = [name for name in EVENTS.schema.names if name not in _ORIGIN]
_TEXT_FIELDS = [name for name in TEXTS.schema.names if name not in _ORIGIN]
_PICTURE_FIELDS = [name for name in PICTURES.schema.names if name not in _ORIGIN]
_PROMOTION_FIELDS = [name for name in PROMOTIONS.schema.names if name not in _ORIGIN]

NAN = math.nan
_NOT_OF_ORDERS: dict[str, str | int | float] = {
    "rating": 0,
    "category": "",
    "price": -1,
    "on_hand": NAN,
    "on_order": NAN,
    "lead_time_days": NAN,
    "unit_cost": -1,
}


def event_row(
    kind: EventKind, product: str, at: int, offset: int, rating: int = 0, category: str = "", price: int = -1
) -> EventRow:
    """A row that is neither of an order nor of a stock level."""
    return (kind, product, at, at, offset, 0, 0, rating, category, price, NAN, NAN, NAN, -1)


class Batch:
    """Rows of one fold, by output partition, in the order in which they were added."""

    def __init__(self, task: TaskKey, partitions: int, max_bytes: int, products: Products) -> None:
        self.letters: list[Output] = []
        self._task = task
        self._partitions = partitions
        self._max_bytes = max_bytes
        self._products = products
        self._ready: list[Output] = []
        self._begin()

    def _begin(self) -> None:
        self.orders = OrderRows(self._products)  # in place of `events` for the topic of orders
        self.events: list[list[EventRow]] = [[] for _ in range(self._partitions)]
        self.texts: list[list[TextRow]] = [[] for _ in range(self._partitions)]
        self.pictures: list[list[PictureRow]] = [[] for _ in range(self._partitions)]
        self.promotions: list[list[PromotionRow]] = [[] for _ in range(self._partitions)]

    def control(self, state: SourceState, watermark: int) -> None:
        """Say to every partition, between the rows before and the rows after, how far the task's source is."""
        row = dict(zip(CONTROL.schema.names, ([value] for value in (*self._task, int(state), watermark)), strict=True))
        value = encode(CONTROL, row)
        self._ready += self._rows() + [Output("trend.events", p, value) for p in range(self._partitions)]
        self._begin()

    def outputs(self) -> list[Output]:
        """By stretches between control rows: events by ascending partition, then promotions, texts and pictures.
        Last dead letters."""
        return self._ready + self._rows() + self.letters

    def _rows(self) -> list[Output]:
        outputs: list[Output] = []
        for partition, rows, columns in self.orders.by_partition():
            same = {name: _constant(EVENTS, name, value, rows) for name, value in _NOT_OF_ORDERS.items()}
            self._encode("trend.events", partition, EVENTS, rows, {**columns, **same}, outputs)
        self._publish("trend.events", EVENTS, _EVENT_FIELDS, self.events, outputs)
        self._publish("trend.events", PROMOTIONS, _PROMOTION_FIELDS, self.promotions, outputs)
        self._publish("trend.reviews", TEXTS, _TEXT_FIELDS, self.texts, outputs)
        self._publish("trend.images", PICTURES, _PICTURE_FIELDS, self.pictures, outputs)
        return outputs

    def _publish(
        self,
        topic: str,
        record: ArrowRecord,
        fields: Sequence[str],
        partitions: Sequence[Sequence[tuple[Any, ...]]],
        outputs: list[Output],
    ) -> None:
        for partition, rows in enumerate(partitions):
            if rows:
                columns = dict(zip(fields, zip(*rows, strict=True), strict=True))
                self._encode(topic, partition, record, len(rows), columns, outputs)

    def _encode(
        self,
        topic: str,
        partition: int,
        record: ArrowRecord,
        rows: int,
        columns: Mapping[str, Column | Coded],
        outputs: list[Output],
    ) -> None:
        source, number = self._task
        origin = {
            "source": _constant(record, "source", source, rows),
            "source_partition": _constant(record, "source_partition", number, rows),
        }
        values = split(record, {**columns, **origin}, self._max_bytes)
        outputs += [Output(topic, partition, value) for value in values]


def _constant(record: ArrowRecord, name: str, value: str | int | float, rows: int) -> pa.Array:
    """A column that holds one value."""
    return _block(record.schema.field(name).type, value, 1 << rows.bit_length()).slice(0, rows)


@lru_cache(maxsize=256)
def _block(kind: pa.DataType, value: str | int | float, rows: int) -> pa.Array:
    if isinstance(value, str):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), [value])
    return pa.array(np.full(rows, value, kind.to_pandas_dtype()))
