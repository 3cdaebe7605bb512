"""Builds the records of `trend.events` that tests fold, and reads what the windows stage makes of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from featurizers.window_config import WindowConfig
from featurizers.windows import WindowStage
from streams.codecs import Rows, decode, encode
from streams.records import PROMOTION_KINDS, VECTOR, EventKind, Modality, SourceState
from streams.records.inside import CONTROL, EVENTS, PROMOTIONS, VECTORS
from streams.stage import Message, Output

TASK = ("trend.events", 3)
_EVENT = {
    "source": "orders",
    "source_partition": 0,
    "source_offset": 0,
    "quantity": 0,
    "amount": 0,
    "rating": 0,
    "category": "",
    "price": -1,
    "on_hand": np.nan,
    "on_order": np.nan,
    "lead_time_days": np.nan,
    "unit_cost": -1,
}

Row = dict[str, Any]


def instant(text: str, zone: str = "UTC") -> int:
    """UTC ms of an ISO time in a zone, such as `2024-03-30 12:00`."""
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def event(kind: EventKind, product: str, at: int, **columns: Any) -> Row:
    """One row of EVENTS; what is not given is empty."""
    return {"kind": int(kind), "product": product, "at": at, "ordered_at": at, **_EVENT, **columns}


def order(product: str, at: int, quantity: int = 1, price: int = 100) -> Row:
    return event(EventKind.ORDER, product, at, quantity=quantity, amount=quantity * price)


def cancelled(product: str, at: int, ordered_at: int, quantity: int = 1, price: int = 100) -> Row:
    return event(EventKind.CANCELLED, product, at, ordered_at=ordered_at, quantity=quantity, amount=quantity * price)


def level(product: str, at: int, on_hand: float) -> Row:
    return event(EventKind.LEVEL, product, at, on_hand=on_hand, on_order=0.0, lead_time_days=3.0, unit_cost=50)


def vector(
    product: str,
    at: int,
    offset: int,
    value: float = 1.0,
    modality: Modality = Modality.TEXT,
    encoder: str = "text-1",
    source: str = "reviews",
) -> Row:
    """One row of VECTORS, whose vector holds `value` everywhere."""
    return {
        "product": product,
        "modality": int(modality),
        "at": at,
        "source": source,
        "source_partition": 0,
        "source_offset": offset,
        "vector": [value] * VECTOR,
        "encoder": encoder,
    }


def promotion(product: str, at: int, starts: int, ends: int, percent: int = 100, kind: str = "mailer") -> Row:
    """One row of PROMOTIONS, announced at `at`."""
    origin = {"source": "promotions", "source_partition": 0, "source_offset": 0}
    row = {"product": product, "at": at, "promotion": PROMOTION_KINDS.index(kind), "percent": percent}
    return {**row, **origin, "starts": starts, "ends": ends}


class Log:
    """Records of `trend.events` in the making: offsets count up, record time moves by `step_ms` a record."""

    def __init__(self, step_ms: int = 10) -> None:
        self.messages: list[Message] = []
        self._step = step_ms

    def events(self, *rows: Row) -> Log:
        return self._add(encode(EVENTS, _columns(EVENTS.schema.names, rows)))

    def vectors(self, *rows: Row) -> Log:
        columns = _columns(VECTORS.schema.names, rows)
        columns["vector"] = np.asarray(columns["vector"], np.float32).reshape(len(rows), VECTOR)
        return self._add(encode(VECTORS, columns))

    def promotions(self, *rows: Row) -> Log:
        return self._add(encode(PROMOTIONS, _columns(PROMOTIONS.schema.names, rows)))

    def watermark(self, *marks: int, source: str = "orders") -> Log:
        """One control record: the watermark of each partition of a source."""
        return self.control(*((source, i, SourceState.ACTIVE, mark) for i, mark in enumerate(marks)))

    def control(self, *rows: tuple[str, int, SourceState, int]) -> Log:
        source, partition, state, mark = zip(*rows, strict=True)
        columns = {"source": source, "source_partition": partition, "state": state, "watermark": mark}
        return self._add(encode(CONTROL, columns))

    def _add(self, value: bytes) -> Log:
        offset = len(self.messages)
        self.messages.append(Message(*TASK, offset, 1_000_000 + offset * self._step, None, value))
        return self


def _columns(names: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in names}


def run(log: Log, config: WindowConfig) -> tuple[WindowStage, list[Output]]:
    """A fresh stage after the whole log, and what it put out."""
    stage = WindowStage(TASK, config)
    return stage, stage.fold(log.messages)


def rows_of(outputs: Iterable[Output], record: str) -> list[Row]:
    """Every row of one record type among the outputs, in order, as dictionaries of Python and numpy values."""
    found: list[Row] = []
    for output in outputs:
        assert output.value is not None
        rows: Rows = decode(output.value)
        if rows.record.name != record:
            continue
        columns = {name: rows[name] for name in rows.record.schema.names}
        found += [{name: column[i] for name, column in columns.items()} for i in range(len(rows))]
    return found
