"""The windows stage by itself.

Costs are CPU seconds of this process, the median over turns of twenty records; worlds that are compared take turns in
one process. Live windows, vectors and watermarks are part of the cost, the ends of days are timed apart.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from featurizers.window_config import WindowConfig
from featurizers.windows import WindowStage
from streams.calendars import DAY, HOUR, Platform
from streams.codecs import Coded, encode
from streams.records import DAYS, VECTOR, EventKind, SourceState
from streams.records.inside import CONTROL, EVENTS, VECTORS
from streams.stage import Message
from tests.bench.restore import restore_s
from tests.bench.suite import Part, Piece, Settings, Table

RECORD = 4_000  # events of a record
TURN = 20  # records that are timed together
RATE = 1_500_000  # events a second of record time, so that live windows come as often as they would
START = 20_000 * DAY
SINCE = 60 * 50_000 // RECORD  # records that a restore folds again: a minute of 50,000 events a second
WITHOUT_CLOSES = WindowConfig({"shop": Platform("shop")}, active_days=0)
_TASK = ("trend.events", 0)
_KINDS = np.asarray([4, 5, 6, 1, 2, 3, 7, 8, 9, 10], np.int8)  # EventKind
_SHARES = (0.62, 0.08, 0.03, 0.15, 0.005, 0.01, 0.02, 0.005, 0.02, 0.06)
_LATE = 0.01  # share of events that come half a day late


def names(products: int) -> pa.StringArray:
    return pa.array([f"shop:p{i:09d}" for i in range(products)])


class World:
    """One stage, and the log that it folds: an hour of event time is 24 records."""

    def __init__(self, products: int, draw: str = "even", close_windows: bool = True, seed: int = 7) -> None:
        """`draw`: even, zipf, or hot: half of all events, 48,000 an hour, on one product, the rest even."""
        self._names = names(products)
        self._draw, self._random = draw, np.random.default_rng(seed)
        weights = 1 / np.arange(1, products + 1)
        self._shares = np.cumsum(weights / weights.sum())
        self._offset = self._events = 0
        self.stage = WindowStage(_TASK, WindowConfig({"shop": Platform("shop")}) if close_windows else WITHOUT_CLOSES)
        self.stage.fold([self.watermark(START)])
        for first in range(0, products, 50_000):  # each product is known before anything is timed
            rows = np.arange(first, min(first + 50_000, products))
            self.stage.fold([self.events(rows, np.full(len(rows), START))])

    @property
    def now(self) -> int:
        """Event time that the next record begins at."""
        return START + HOUR + self._events * HOUR // (24 * RECORD)

    def next(self, count: int) -> list[Message]:
        """Records of events with some vectors and watermarks among them."""
        messages = []
        for i in range(count):
            at = self.now + np.sort(self._random.integers(0, HOUR // 24, RECORD))
            at[self._random.random(RECORD) < _LATE] -= DAY // 2
            messages.append(self.events(self._rows(), at))
            self._events += RECORD
            if i % TURN == TURN // 2:
                messages += [self.vectors(64), self.watermark(self.now - HOUR)]
        return messages

    def _rows(self) -> Any:
        products = len(self._names)
        if self._draw == "zipf":
            return np.searchsorted(self._shares, self._random.random(RECORD)).clip(0, products - 1)
        rows = self._random.integers(0, products, RECORD)
        if self._draw == "hot":
            rows[self._random.random(RECORD) < 0.5] = 0
        return rows

    def events(self, rows: Any, at: Any, kind: Any = None, quantity: Any = None) -> Message:
        count, random = len(rows), self._random
        kind = random.choice(_KINDS, count, p=_SHARES) if kind is None else kind
        quantity = random.integers(1, 4, count) if quantity is None else quantity
        quantity = np.where(kind <= EventKind.RETURNED, quantity, 0)
        level, catalogue = kind == EventKind.LEVEL, kind == EventKind.CATALOGUE
        columns = {
            "kind": kind,
            "product": self._coded(rows),
            "at": at,
            "ordered_at": np.where(kind == EventKind.CANCELLED, at - 600_000, at),
            "source": Coded(np.zeros(count), ["orders"]),
            "source_partition": np.zeros(count),
            "source_offset": np.arange(count),
            "quantity": quantity,
            "amount": quantity * random.integers(100, 9_999, count),
            "rating": np.where(kind == EventKind.REVIEW, random.integers(1, 6, count), 0),
            "category": Coded(np.where(catalogue, 1, 0), ["", "food > bread"]),
            "price": np.where(catalogue, 499, -1),
            "on_hand": np.where(level, random.integers(0, 9, count), np.nan),
            "on_order": np.where(level, 0.0, np.nan),
            "lead_time_days": np.where(level, 3.0, np.nan),
            "unit_cost": np.where(level, 250, -1),
        }
        return self._message(encode(EVENTS, columns), count)

    def vectors(self, count: int) -> Message:
        columns = {
            "product": self._coded(self._rows()[:count]),
            "modality": np.zeros(count),
            "at": np.full(count, self.now),
            "source": Coded(np.zeros(count), ["reviews"]),
            "source_partition": np.zeros(count),
            "source_offset": self._offset * count + np.arange(count),
            "vector": self._random.normal(size=(count, VECTOR)),
            "encoder": Coded(np.zeros(count), ["text-1"]),
        }
        return self._message(encode(VECTORS, columns), 0)

    def watermark(self, at: int) -> Message:
        columns = {"source": ["orders"], "source_partition": [0], "state": [int(SourceState.ACTIVE)], "watermark": [at]}
        return self._message(encode(CONTROL, columns), 0)

    def _coded(self, rows: Any) -> pa.Array:
        used, codes = np.unique(rows, return_inverse=True)
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), self._names.take(pa.array(used)))

    def _message(self, value: bytes, events: int) -> Message:
        self._offset += 1
        return Message(*_TASK, self._offset, 1_000_000 + self._events * 1_000 // RATE, None, value)


def turns(worlds: Sequence[World], records: int) -> list[list[float]]:
    """CPU seconds per event of each world, turn by turn; the worlds take turns on the same core."""
    costs: list[list[float]] = [[] for _ in worlds]
    for _ in range(max(records // TURN, 1)):
        for world, cost in zip(worlds, costs, strict=True):
            messages = world.next(TURN)
            gc.collect()
            begin = time.process_time()
            world.stage.fold(messages)
            cost.append((time.process_time() - begin) / (TURN * RECORD))
    return costs


def compare(base: World, other: World, records: int) -> tuple[float, float]:
    """Seconds per event of the base, and the ratio of the other's cost to it, each the median."""
    first, second = turns([base, other], records)
    return median(first), median(second) / median(first)


def day_end(world: World) -> tuple[float, int]:
    """CPU seconds and windows of the end of the open day."""
    before = world.stage.counters()["close"]
    end = (world.now // DAY + 1) * DAY
    begin = time.process_time()
    world.stage.fold([world.watermark(end)])
    return time.process_time() - begin, world.stage.counters()["close"] - before


def long_tail(products: int) -> World:
    """A stage after 57 days in which nine products of ten sell every third day and are looked at every other day, and
    the tenth sells, is looked at and put into carts every hour.

    The days come late, all at once, and a day's events of a product and kind as one row: the state is the same, and a
    million products take minutes. The last three days come by the hour. Days end without close windows.
    """
    world = World(products, close_windows=False)
    random, rows = np.random.default_rng(11), np.arange(products)
    slow = rows % 10 != 0

    def day_of(day: int, step: int) -> Iterator[tuple[Any, int]]:
        for kind, chance in ((EventKind.ORDER, 0.3), (EventKind.VIEW, 0.5)):
            yield rows[slow & (random.random(products) < chance)], int(kind)
        for _ in range(0, DAY, step):
            for kind in (EventKind.ORDER, EventKind.VIEW, EventKind.CART):
                yield rows[~slow], int(kind)

    first = START // DAY
    for day in range(first - DAYS, first + 1):
        recent = day >= first - 2
        for i, (some, kind) in enumerate(day_of(day, HOUR if recent else DAY)):
            at = day * DAY + (i * HOUR // 3 % DAY if recent else 0)
            for start in range(0, len(some), 50_000):
                part = some[start : start + 50_000]
                world.stage.fold([world.events(part, np.full(len(part), at), np.full(len(part), kind, np.int8))])
    world.stage.fold([world.watermark(START + DAY)])
    return world


def measure_memory(products: int) -> tuple[float, World]:
    """Bytes a product of a `long_tail`, no vectors among them: what Python and numpy hold more than before.

    By tracemalloc, which numpy tells of every array; the bench's own list of names is Arrow's, and not in it.
    """
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    world = long_tail(products)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held / products, world


@dataclass(frozen=True)
class SnapshotCost:
    pause_s: float  # the longer of the freeze and the longest blob: what the fold waits for at once
    encode_s: float  # all blobs, which go out between commits
    megabytes: float
    restore_s: float  # from the blobs until the fold goes on, the input since folded again


def measure_snapshot(world: World, since: Sequence[Message]) -> SnapshotCost:
    """A snapshot and its restore, with the input since; the broker is not in it.

    In CPU seconds, as they pass where nothing else has the core: there is one thread, which waits for nothing.
    """
    begin = time.process_time()
    frozen = world.stage.freeze()
    freeze = time.process_time() - begin
    blobs, longest, total = {}, 0.0, 0.0
    for name, blob in frozen.items():
        begin = time.process_time()
        blobs[name] = blob()
        took = time.process_time() - begin
        longest, total = max(longest, took), total + took
    del frozen, blob
    begin = time.process_time()
    again = WindowStage(_TASK, WITHOUT_CLOSES)
    again.restore(blobs)
    again.fold(since)
    restore = time.process_time() - begin
    return SnapshotCost(max(freeze, longest), total, sum(map(len, blobs.values())) / 1e6, restore)


def measure(folder: Path, products: int = 1_000_000, records: int = 400) -> tuple[dict[str, dict[str, float]], Table]:
    """The keys of the suite's JSON, and a table for people."""
    small = World(10_000)
    even, hot = compare(small, World(10_000, "hot"), records)
    closed_s, closed = day_end(small)
    zipf = median(turns([World(10_000, "zipf")], records)[0])
    few, growth = compare(World(10_000, close_windows=False), World(products, close_windows=False), records)
    memory, world = measure_memory(products)
    since = world.next(SINCE)
    snapshot = measure_snapshot(world, since)
    restored = restore_s(WITHOUT_CLOSES, world.stage.freeze(), since, folder)
    keys = {
        "windows": {
            "events_per_s": 1 / even,
            "growth_1m": growth,
            "hot_key": hot,
            "bytes_per_product": memory,
        },
        "snapshot": {"pause_s": snapshot.pause_s, "restore_s": restored},
    }
    rows = [
        ("events a CPU second, 10,000 products, even draw", f"{1 / even:,.0f}"),
        ("events a CPU second, 10,000 products, Zipf draw", f"{1 / zipf:,.0f}"),
        (f"cost per event, {products:,} against 10,000 products", f"{growth:.2f}"),
        ("cost per event, half of it on one product against even", f"{hot:.2f}"),
        ("ms per 1,000 close windows at the end of a day", f"{closed_s / max(closed, 1) * 1e6:.0f}"),
        (f"bytes a product, {products:,} products, 90 % slow", f"{memory:,.0f}"),
        ("snapshot: pause, CPU s", f"{snapshot.pause_s:.2f}"),
        ("snapshot: encoding between commits, CPU s", f"{snapshot.encode_s:.1f}"),
        ("snapshot: size, MB", f"{snapshot.megabytes:,.0f}"),
        ("restore and 60 s of 50,000 events/s, CPU s", f"{snapshot.restore_s:.1f}"),
        ("the same of a worker on a broker, from its start until its fold goes on, s", f"{restored:.1f}"),
    ]
    del few
    return keys, Table("windows", ("what", "measured"), rows)


def run(settings: Settings) -> Piece:
    keys, table = measure(settings.folder / "restore")
    return Piece(keys, [table])


PART = Part("windows", "the windows stage by itself: events, growth, memory, snapshot", lambda _: 300, run)
