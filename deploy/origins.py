"""The rows of trend.events behind a window, and the platform's records that they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streams.calendars import DAY
from streams.codecs import decode
from streams.partitioning import partition_of
from streams.records import DAYS, PROMOTION_KINDS, EventKind
from streams.records.inside import EVENTS, PROMOTIONS, VECTORS, WINDOWS
from streams.replay.cut import cut
from streams.replay.log import Log

_LISTED = 8  # newest rows that are named one by one
_SHOWN = ("at", "source", "source_partition", "source_offset", "quantity", "price", "rating", "percent")

Told = Callable[[str, int], Callable[[int], None]]  # name and size of a long part to what hears how far it is


@dataclass
class Source:
    """Platform records of one partition of one topic that went into a window."""

    topic: str
    partition: int
    first: int  # offset
    last: int
    rows: int = 0

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition} offsets {self.first} to {self.last}: {self.rows:,} rows"


@dataclass
class Sources:
    """Rows by kind, and where they came from."""

    kinds: Counter[str] = field(default_factory=Counter)
    found: dict[tuple[str, int], Source] = field(default_factory=dict)

    def add(self, kind: str, row: Mapping[str, Any]) -> None:
        self.kinds[kind] += 1
        if "vector" in row:
            return
        topic, partition, offset = row["source"], row["source_partition"], row["source_offset"]
        source = self.found.setdefault((topic, partition), Source(topic, partition, offset, offset))
        source.first, source.last = min(source.first, offset), max(source.last, offset)
        source.rows += 1

    def ordered(self) -> list[Source]:
        return [source for _, source in sorted(self.found.items())]


@dataclass
class Origins:
    """Of one window of one product."""

    first: int  # offset of trend.events, of the first row behind it
    last: int  # and where it holds
    all: Sources = field(default_factory=Sources)
    on_day: Sources = field(default_factory=Sources)  # of these, what happened on the day that it tells of
    newest: list[dict[str, Any]] = field(default_factory=list)
    vectors: list[dict[str, Any]] = field(default_factory=list)  # of reviews, titles and pictures, in the log's order

    def add(self, row: dict[str, Any], offset: int, day: int) -> None:
        self.first = min(self.first, offset)
        kind = _kind(row)
        self.all.add(kind, row)
        if row["at"] >= day:
            self.on_day.add(kind, row)
        if "vector" in row:
            self.vectors.append(row)
            return  # its review, title or picture is a row of its own
        shown = {name: row[name] for name in _SHOWN if name in row}
        self.newest.append({"kind": kind, **shown, "events_offset": offset})
        if len(self.newest) > 4 * _LISTED:
            self.newest = _latest(self.newest)


def origins(log: Log, product: str, window: Mapping[str, Any], day: tuple[int, int], told: Told) -> Origins:
    """A product's rows within its window's days, up to the record at which the window holds; `day` is UTC ms, half
    open."""
    partition, last, end = partition_of(product, log.partitions("trend.events")), int(window["offset"]), window["end"]
    first = _offset_of(log, partition, end - DAYS * DAY)
    done = told("rows of trend.events", last + 1 - first)
    found = Origins(last, last)
    for number, message in enumerate(log.read(("trend.events", partition), first, last + 1)):
        if number % 100 == 0:
            done(message.offset - first)
        rows = decode(message.value or b"")
        if rows.record not in (EVENTS, VECTORS, PROMOTIONS):
            continue
        mine = np.flatnonzero(rows["product"] == product)
        for row in rows.batch.take(mine).to_pylist() if len(mine) else ():
            if end - (DAYS + 1) * DAY <= row["at"] < day[1]:  # what is of later waits for its own window
                found.add(row, message.offset, day[0])
    found.newest = _latest(found.newest)
    return found


def _latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["at"])[-_LISTED:]


def _kind(row: Mapping[str, Any]) -> str:
    if "kind" in row:
        return EventKind(row["kind"]).name.lower()
    return f"{PROMOTION_KINDS[row['promotion']]} promotion" if "promotion" in row else "vector"


def _offset_of(log: Log, partition: int, at: int) -> int:
    """Of trend.events when a boundary was closed; the first one that is kept where there is none."""
    first, _ = log.range(("trend.events", partition))
    task = ("trend.windows", partition)
    start = cut(log, task, at)
    if start <= log.range(task)[0]:
        return first
    for message in log.read(task, start, log.range(task)[1]):
        rows = decode(message.value or b"")
        if rows.record is WINDOWS and len(rows):
            return max(first, int(rows["offset"][0]))
    return first
