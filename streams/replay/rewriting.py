"""`trend.events` as it should have been: late rows where they would have stood, and rows put through a transform.

Only rows of orders and behaviours can be late, since the others count when they have arrived. A row is late when the
watermark of its partition had passed its event time; it stands before the control record that brought the watermark
there: the last place at which it was on time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.codecs import Rows, decode, encode_batch
from streams.errors import ReplayError
from streams.records import EventKind
from streams.records.inside import CONTROL, EVENTS
from streams.stage import Message
from streams.watermarks import CombinedWatermark

Transform = Callable[[Any], Any]  # a row as an object, to the row as it should be, or None to drop it
Origin = tuple[str, int, int]  # platform topic, partition and offset
LATE, REDRIVEN, TRANSFORMED = "late events", "dead letters put right", "transform"


@dataclass
class Rewriter:
    """One partition of trend.events. Notes which products it touched, and why."""

    transform: Transform | None = None
    redriven: frozenset[Origin] = frozenset()  # platform records that are dead letters sent again
    since: int = 0  # offset; rows before it stay as they are, however old the snapshot is
    touched: dict[str, set[str]] = field(default_factory=dict)  # product to causes
    changed: int = 0  # rows
    _watermark: CombinedWatermark = field(default_factory=CombinedWatermark)
    _late: pa.RecordBatch | None = None  # by event time
    _at: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # their event times, ascending
    _gone: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)  # by offset: rows that stay where they are
    _next: int = 0

    def look_ahead(self, messages: Iterable[Message]) -> None:
        """Find the late rows of the whole range, once, before anything is rewritten."""
        watermark = CombinedWatermark()
        found: list[pa.RecordBatch] = []
        for message in messages:
            rows = decode(message.value or b"")
            now = watermark.value()
            if rows.record is CONTROL:
                _update(watermark, rows)
            elif rows.record is EVENTS and now is not None and message.offset >= self.since:
                late = (rows["kind"] <= EventKind.FAVOURITE) & (rows["at"] < now)
                if late.any():
                    found.append(rows.batch.filter(pa.array(late)))
                    self._gone[message.offset] = np.flatnonzero(~late)
        if not found:
            return
        table = pa.Table.from_batches(found).unify_dictionaries().combine_chunks()
        batch = table.take(pa.array(np.argsort(table["at"].to_numpy(), kind="stable"))).to_batches()[0]
        self._late, self._at = batch, Rows(EVENTS, batch)["at"]
        origins = batch.select(["product", "source", "source_partition", "source_offset"]).to_pylist()
        for product, *origin in map(dict.values, origins):
            self._touch(product, REDRIVEN if tuple(origin) in self.redriven else LATE)

    def rewrite(self, message: Message) -> Iterator[Message]:
        """The records that take the place of this one."""
        rows = decode(message.value or b"")
        if rows.record is CONTROL:
            _update(self._watermark, rows)
            now = self._watermark.value()
            if now is not None:
                yield from self._due(message, now)
        if rows.record is EVENTS and message.offset >= self.since:
            batch = self._kept(message.offset, rows)
            if self.transform is not None:
                batch = self._transformed(message, batch)
            if batch is not rows.batch:
                message = _with(message, batch)
        yield message

    @property
    def watermark(self) -> list[list[Any]]:
        return self._watermark.dump()

    def load(self, watermark: list[list[Any]], touched: Mapping[str, list[str]], changed: int) -> None:
        """The inverse of what a checkpoint keeps of it, after `look_ahead`."""
        self._watermark.load(watermark)
        now = self._watermark.value()
        if now is not None:
            self._next = int(np.searchsorted(self._at, now))
        self.changed = changed
        for product, causes in touched.items():
            self.touched.setdefault(product, set()).update(causes)

    def _due(self, control: Message, now: int) -> Iterator[Message]:
        start, self._next = self._next, int(np.searchsorted(self._at, now))
        if self._late is not None and self._next > start:
            batch = self._late.slice(start, self._next - start)
            yield _with(control, batch if self.transform is None else self._transformed(control, batch))

    def _kept(self, offset: int, rows: Rows) -> pa.RecordBatch:
        kept = self._gone.get(offset)
        return rows.batch if kept is None else rows.batch.take(pa.array(kept))

    def _transformed(self, message: Message, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert self.transform is not None
        after: list[Mapping[str, Any]] = []
        changed = self.changed
        for row in batch.to_pylist():
            named = {name: None if value != value else value for name, value in row.items()}  # JSON has no NaN
            named["kind"] = EventKind(row["kind"]).name.lower()
            try:
                given = self.transform(dict(named))
            except Exception as error:
                raise ReplayError(
                    f"the transform fails on {row['product']} of {message.topic}/{message.partition} offset "
                    f"{message.offset}: {type(error).__name__}: {error}; mend it and run the replay again"
                ) from error
            if given == named:
                after.append(row)
                continue
            self.changed += 1
            self._touch(row["product"], TRANSFORMED)
            if given is not None:
                after.append(_checked(given, message))
        return batch if self.changed == changed else pa.RecordBatch.from_pylist(after, schema=EVENTS.schema)

    def _touch(self, product: str, cause: str) -> None:
        self.touched.setdefault(product, set()).add(cause)


def _checked(row: Mapping[str, Any], message: Message) -> Mapping[str, Any]:
    names = set(EVENTS.schema.names)
    kinds = {kind.name.lower(): int(kind) for kind in EventKind}
    if not isinstance(row, Mapping) or set(row) != names or row["kind"] not in kinds:
        raise ReplayError(
            f"the transform gives {row!r} for a row of {message.topic}/{message.partition} offset {message.offset}; it "
            f"must give null, or all of {', '.join(EVENTS.schema.names)}, with a kind of {', '.join(kinds)}"
        )
    return {**{n: math.nan if v is None else v for n, v in row.items()}, "kind": kinds[row["kind"]]}


def _update(watermark: CombinedWatermark, rows: Rows) -> None:
    columns = [rows[name].tolist() for name in ("source", "source_partition", "state", "watermark")]
    for source, partition, state, mark in zip(*columns, strict=True):
        watermark.update(source, partition, state, mark)


def _with(message: Message, batch: pa.RecordBatch) -> Message:
    place = (message.topic, message.partition, message.offset, message.timestamp)
    return Message(*place, message.key, encode_batch(batch))
