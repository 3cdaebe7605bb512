"""The windows stage: a partition of `trend.events` in, rolling multimodal windows and matured outcomes out.

Each platform has one open day. Rows at or after its end are parked; when the combined watermark passes the end, the day
closes: outcomes that matured, close windows of the active products, a CLOSES row, and then the next day opens with the
rows that were parked for it. Before the first watermark no day is open and every row is parked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc

from featurizers.errors import WindowsError
from featurizers.names import ProductNames
from featurizers.parking import BEFORE_START, Columns, Parking
from featurizers.pooling import NEVER
from featurizers.products import Products
from featurizers.state import Array, Ints, Mask, Names, Queue, below, firsts, load_arrays
from featurizers.window_config import WindowConfig
from featurizers.window_rows import Moment, Vocabulary, outcome_columns, window_columns
from streams.calendars import Platform
from streams.codecs import Rows, decode, split
from streams.errors import SnapshotError
from streams.records import DAYS, EventKind, WindowKind, product_key
from streams.records.inside import CLOSES, CONTROL, EVENTS, OUTCOMES, PROMOTIONS, VECTORS, WINDOWS, ArrowRecord
from streams.stage import Fact, Message, Output, TaskKey
from streams.watermarks import CombinedWatermark

TOPIC = "trend.windows"
ROWS = 1_000  # windows that are built at a time, to bound memory
_NAMES = 1 << 16  # names that are read at a time
_ONCE = np.int32(1)  # of another type it would take numpy 40 times as long to add up
_FORMAT = 5  # of snapshots

_EVENT_COLUMNS = (
    "kind",
    "at",
    "ordered_at",
    "quantity",
    "amount",
    "rating",
    "price",
    "on_hand",
    "on_order",
    "lead_time_days",
    "unit_cost",
    "source_partition",
    "source_offset",
)
_ORIGIN = ("source", "source_partition", "source_offset")
# Kinds that come from the sources of event time: orders and behaviours.
_TIMED = [int(k) for k in EventKind if k <= EventKind.FAVOURITE]
_VECTOR_COLUMNS = ("modality", "at", "vector")
_PROMOTION_COLUMNS = ("at", "promotion", "percent", "starts", "ends")


class PlatformFold:
    """One platform's days: parking, closing, and which products wait for a live window."""

    def __init__(
        self, platform: Platform, partition: int, config: WindowConfig, vocabulary: Vocabulary, counters: Counter[str]
    ) -> None:
        self.name = platform.name
        self.products = Products(platform, config, counters)
        self.events = Parking()
        self.vectors = Parking()
        self.promotions = Parking()
        self._partition = partition
        self._config = config
        self._vocabulary = vocabulary
        self._counters = counters
        self._newest = NEVER  # event time folded
        self._first_close = 0
        self._queue = Queue()  # product rows, in order of first touch
        self._last_live: int | None = None  # record time

    def take_events(self, events: Columns) -> None:
        """Fold rows, or park those whose day is not open yet."""
        now = self._park(self.events, events)
        if now is not None:
            self._fold_events(now, history=False)

    def take_vectors(self, vectors: Columns) -> None:
        now = self._park(self.vectors, vectors)
        if now is not None:
            self._fold_vectors(now)

    def take_promotions(self, promotions: Columns) -> None:
        now = self._park(self.promotions, promotions)
        if now is not None:
            self._fold_promotions(now)

    def start(self, watermark: int) -> None:
        """Open the first day: the earliest with an order or a behaviour, at most the ring before the watermark's. What
        came before is history."""
        calendar = self.products.calendar
        events = self.events.take(BEFORE_START)
        first = int(calendar.day(watermark))
        if events is not None:
            timed = events["at"][np.isin(events["kind"], _TIMED) & (events["at"] <= watermark)]
            if len(timed):
                first = max(int(calendar.day(timed.min())), first - DAYS)
        self.products.open(max(first, 2 * DAYS))
        for parking, waiting, take in (
            (self.events, events, self._fold_history),
            (self.vectors, self.vectors.take(BEFORE_START), self._fold_vectors),
            (self.promotions, self.promotions.take(BEFORE_START), self._fold_promotions),
        ):
            now = None if waiting is None else self._park(parking, waiting)
            if now is not None:
                take(now)
        self.products.learn_history()

    def close(self, offset: int) -> Iterator[Output]:
        """End the open day: outcomes, windows and the CLOSES row of its boundary; open the next day."""
        products = self.products
        products.end_day()
        boundary = products.start
        self._first_close = self._first_close or boundary
        outcomes, matured = outcome_columns(products, self._vocabulary)
        if len(matured):
            yield from self._outputs(OUTCOMES, outcomes)
        active = products.active()
        yield from self._windows(active, Moment(WindowKind.CLOSE, boundary, offset, self._epoch()))
        counts = {"windows": len(active), "outcomes": len(matured)}
        row = {"partition": self._partition, "platform": self.name, "end": boundary, **counts}
        yield from self._outputs(CLOSES, {name: [value] for name, value in row.items()})
        self._counters.update({"close": len(active), "outcomes": len(matured), "closes": 1})
        products.begin_day(active)
        products.table["touches"][:] = 0
        self._queue.clear()
        for parking, take in (
            (self.events, self._fold_on_time),
            (self.vectors, self._fold_vectors),
            (self.promotions, self._fold_promotions),
        ):
            waiting = parking.take(products.open_day)
            if waiting is not None:
                take(waiting)

    def live(self, message: Message, watermark: int) -> Iterator[Output]:
        """Windows of the products touched since the last emission, if the interval has passed by the record's time."""
        if self._last_live is None:
            self._last_live = message.timestamp  # the first interval begins with the first open day
        if not self._queue or message.timestamp < self._last_live + self._config.live_interval_ms:
            return
        self._last_live = message.timestamp
        self.products.settle()
        table = self.products.table
        rows = self._queue.take(self._config.live_rows, table["touches"])
        table["touches"][rows] = 0
        table["revision"][rows] += 1
        as_of = min(max(self._newest, watermark), self.products.end - 1)
        yield from self._windows(rows, Moment(WindowKind.LIVE, as_of, message.offset, self._epoch()))
        self._counters["live"] += len(rows)
        self._counters["live_held"] += len(self._queue)

    def _epoch(self) -> int:
        """The boundary one day before the newest one, if this partition closed it."""
        before = self.products.calendar.start(self.products.open_day - 1)
        return before if self._first_close and before >= self._first_close else 0

    def _windows(self, rows: Ints, moment: Moment) -> Iterator[Output]:
        for start in range(0, len(rows), ROWS):
            columns = window_columns(self.products, self._vocabulary, rows[start : start + ROWS], moment)
            yield from self._outputs(WINDOWS, columns)

    def _outputs(self, record: ArrowRecord, columns: Mapping[str, Any]) -> Iterator[Output]:
        for value in split(record, columns, self._config.max_bytes):
            yield Output(TOPIC, self._partition, value)

    def _park(self, parking: Parking, columns: Columns) -> Columns | None:
        """Park what is not due; the rest. Nothing that was parked comes late, so nobody asks where it came from."""
        products = self.products
        if not products.opened:
            parking.put(BEFORE_START, {name: array for name, array in columns.items() if name not in _ORIGIN})
            return None
        at = columns["at"]
        later: Mask = at >= products.end
        if not later.any():
            return columns
        ahead = {name: array[later] for name, array in columns.items() if name not in _ORIGIN}
        parking.spread(products.calendar.day(ahead["at"]), ahead)
        return {name: array[~later] for name, array in columns.items()}

    def _fold_history(self, events: Columns) -> None:
        self._fold_events(events, history=True)

    def _fold_on_time(self, events: Columns) -> None:
        self._fold_events(events, history=False)

    def _fold_events(self, events: Columns, *, history: bool) -> None:
        self._touch(self.products.take_events(events, history=history), events["at"])

    def _fold_vectors(self, vectors: Columns) -> None:
        self._touch(self.products.take_vectors(vectors), vectors["at"])

    def _fold_promotions(self, promotions: Columns) -> None:
        rows = self.products.take_promotions(promotions)
        self.products.settle()
        known = self.products.last()[rows] != NEVER  # the others have no window yet
        self._touch(rows[known], promotions["at"])

    def _touch(self, rows: Array, at: Ints) -> None:
        self._newest = max(self._newest, int(at.max(initial=NEVER)))
        touches = self.products.table["touches"]
        fresh = rows[touches[rows] == 0]
        if len(fresh):
            self._queue.push(firsts(fresh))
        np.add.at(touches, rows, _ONCE)

    def freeze(self) -> tuple[dict[str, Any], dict[str, Callable[[], bytes]]]:
        """Scalars, and blobs by name as this moment left them, each encoded when it is called."""
        products = self.products
        scalars = {
            "name": self.name,
            "open_day": products.open_day,
            "since": products.since,
            "newest": self._newest,
            "first_close": self._first_close,
            "last_live": self._last_live,
        }
        blobs = {"queue": self._queue.freeze(), **products.freeze()}
        for kind, parking in self._parked():
            blobs |= {f"{kind}/{day}": blob for day, blob in parking.freeze().items()}
        return scalars, blobs

    def load(self, scalars: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
        """The inverse of `freeze`, on a fresh fold."""
        products = self.products
        products.open_day, products.since = scalars["open_day"], scalars["since"]
        self._newest, self._first_close = scalars["newest"], scalars["first_close"]
        self._queue, self._last_live = Queue(load_arrays(blobs["queue"])["values"]), scalars["last_live"]
        products.load(blobs)
        for kind, parking in self._parked():
            parking.load(below(kind, blobs))

    def _parked(self) -> tuple[tuple[str, Parking], ...]:
        return ("events", self.events), ("vectors", self.vectors), ("promotions", self.promotions)

    @property
    def parked(self) -> int:
        """Rows that wait for their day."""
        return sum(parking.rows for _, parking in self._parked())


class WindowStage:
    """One task of the windows stage: a fold over a partition of `trend.events`."""

    def __init__(self, task: TaskKey, config: WindowConfig) -> None:
        self._vocabulary = Vocabulary(ProductNames(), Names([""]), Names([""]), Names([""]))
        self._counters: Counter[str] = Counter()
        self._watermark = CombinedWatermark()
        self._highest: dict[tuple[str, int, int], int] = {}  # offset by source, its partition, modality
        self._platforms = sorted(config.platforms)
        self._folds = [
            PlatformFold(config.platforms[name], task[1], config, self._vocabulary, self._counters)
            for name in self._platforms
        ]
        self._platform_of = np.empty(0, np.int16)  # [product names] index of the platform, -1 unknown

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        """Advance by these records; one record is the unit, so any cut into calls gives the same outputs.

        Raises WindowsError or CodecError for a record that does not belong to `trend.events`.
        """
        outputs: list[Output] = []
        for message in messages:
            outputs += self._fold_record(message)
        return outputs

    def ready(self, message: Message) -> bool:
        return True

    def counters(self) -> dict[str, int]:
        """Totals since the log began, but `parked` and `products`, which are of now."""
        for fold in self._folds:
            fold.products.settle()
        parked = sum(fold.parked for fold in self._folds)
        products = sum(fold.products.table.rows for fold in self._folds)
        return {**{name: self._counters[name] for name in COUNTERS}, "parked": parked, "products": products}

    def report(self) -> dict[str, Fact]:
        """Its watermark, and the source that holds it back."""
        return {**self._watermark.report()}

    def freeze(self) -> dict[str, Callable[[], bytes]]:
        """`state`: scalars as JSON; `names`, `platform-<i>/…`: arrays as Arrow streams."""
        platforms: list[dict[str, Any]] = []
        blobs: dict[str, Callable[[], bytes]] = {"names": self._vocabulary.products.freeze()}
        for i, fold in enumerate(self._folds):
            scalars, arrays = fold.freeze()
            platforms.append(scalars)
            blobs |= {f"platform-{i}/{name}": blob for name, blob in arrays.items()}
        state = msgspec.json.encode(
            {
                "format": _FORMAT,
                "categories": self._vocabulary.categories.values,
                "encoders": self._vocabulary.encoders.values,
                "sources": self._vocabulary.sources.values,
                "counters": dict(sorted(self._counters.items())),
                "watermark": self._watermark.dump(),
                "highest": [[*key, offset] for key, offset in sorted(self._highest.items())],
                "platforms": platforms,
            }
        )
        return {"state": lambda: state, **blobs}

    def snapshot(self) -> dict[str, bytes]:
        return {name: blob() for name, blob in self.freeze().items()}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        """Take a snapshot. A platform that it does not know starts empty.

        Raises WindowsError if one is gone, SnapshotError if the snapshot is of a version that kept its state otherwise.
        """
        state = msgspec.json.decode(blobs["state"])
        if state.get("format") != _FORMAT:
            raise SnapshotError(
                f"windows: the snapshot has format {state.get('format', 1)}, this version reads {_FORMAT} alone; "
                "fold trend.events from its beginning"
            )
        self._vocabulary.products.load(blobs["names"])
        self._vocabulary.categories = Names(state["categories"])
        self._vocabulary.encoders = Names(state["encoders"])
        self._vocabulary.sources = Names(state["sources"])
        self._counters.update(state["counters"])
        self._watermark.load(state["watermark"])
        self._highest = {(source, part, kind): offset for source, part, kind, offset in state["highest"]}
        for i, scalars in enumerate(state["platforms"]):
            if scalars["name"] not in self._platforms:
                raise WindowsError(
                    f"snapshot holds the platform {scalars['name']!r}, which is not configured "
                    f"({', '.join(self._platforms) or 'none'}); configure it, or fold the log from its beginning"
                )
            fold = self._folds[self._platforms.index(scalars["name"])]
            fold.load(scalars, below(f"platform-{i}", blobs))
        self._know_platforms()

    def _fold_record(self, message: Message) -> list[Output]:
        if message.value is None:
            raise WindowsError(f"{message.topic}/{message.partition}@{message.offset} is empty; it cannot be folded")
        rows = decode(message.value)
        self._counters["records"] += 1
        outputs: list[Output] = []
        if rows.record is EVENTS:
            self._take_events(rows)
        elif rows.record is VECTORS:
            self._take_vectors(rows)
        elif rows.record is PROMOTIONS:
            self._take_promotions(rows)
        elif rows.record is CONTROL:
            outputs += self._take_control(rows, message.offset)
        else:
            raise WindowsError(
                f"{message.topic}/{message.partition}@{message.offset} is a record of {rows.record.name}; "
                "windows take events, vectors, promotions and control rows: is this stage on the right topic?"
            )
        watermark = self._watermark.value()
        # What ingest commits ends with a control row: a window made before it would miss the rest until its next turn.
        if watermark is not None and rows.record in (CONTROL, VECTORS):
            for fold in self._folds:
                outputs += fold.live(message, watermark)
        return outputs

    def _take_events(self, rows: Rows) -> None:
        self._counters["events"] += len(rows)
        columns = {name: rows[name] for name in _EVENT_COLUMNS}
        columns["product"] = self._product_names(rows)
        for name, known in (("category", self._vocabulary.categories), ("source", self._vocabulary.sources)):
            codes, values = rows.coded(name)
            columns[name] = known.codes(values)[codes]
        for fold, part in self._by_platform(columns):
            fold.take_events(part)

    def _take_vectors(self, rows: Rows) -> None:
        self._counters["vectors"] += len(rows)
        columns = {name: rows[name] for name in _VECTOR_COLUMNS}
        columns["product"] = self._product_names(rows)
        codes, values = rows.coded("encoder")
        columns["encoder"] = self._vocabulary.encoders.codes(values)[codes]
        fresh = self._fresh_vectors(rows)
        self._counters["vectors_repeated"] += int((~fresh).sum())
        for fold, part in self._by_platform({name: array[fresh] for name, array in columns.items()}):
            fold.take_vectors(part)

    def _take_promotions(self, rows: Rows) -> None:
        self._counters["promotions"] += len(rows)
        columns = {name: rows[name] for name in _PROMOTION_COLUMNS}
        columns["product"] = self._product_names(rows)
        for fold, part in self._by_platform(columns):
            fold.take_promotions(part)

    def _fresh_vectors(self, rows: Rows) -> Mask:
        """[rows] whether the source offset lies beyond the highest that came from its source and modality."""
        codes, sources = rows.coded("source")
        partition, modality, offset = rows["source_partition"], rows["modality"], rows["source_offset"]
        fresh = np.zeros(len(rows), np.bool_)
        origins = np.stack([codes, partition, modality], axis=1)
        for code, part, kind in np.unique(origins, axis=0).tolist():
            here = np.flatnonzero((codes == code) & (partition == part) & (modality == kind))
            key = (sources[code], part, kind)
            highest = np.maximum.accumulate(np.append(self._highest.get(key, -1), offset[here]))
            fresh[here] = offset[here] > highest[:-1]
            self._highest[key] = int(highest[-1])
        return fresh

    def _take_control(self, rows: Rows, offset: int) -> list[Output]:
        self._counters["control"] += len(rows)
        columns = [rows[name].tolist() for name in ("source", "source_partition", "state", "watermark")]
        for source, partition, state, watermark in zip(*columns, strict=True):
            self._watermark.update(source, partition, state, watermark)
        value = self._watermark.value()
        if value is None:
            return []
        outputs: list[Output] = []
        for fold in self._folds:
            if not fold.products.opened:
                # Not where all of them stand by now: a backlog read in one go closes its days like one read slowly.
                assert self._watermark.least is not None
                fold.start(self._watermark.least)
        while self._folds:
            # Boundaries in order of time; folds stand in order of name.
            fold = min(self._folds, key=lambda f: f.products.end)
            if fold.products.end > value:
                break
            outputs += fold.close(offset)
        return outputs

    def _product_names(self, rows: Rows) -> Array:
        column = rows.batch.column("product")
        codes: Ints = column.indices.to_numpy(zero_copy_only=False)
        names = self._vocabulary.products.codes(column.dictionary)
        if len(self._vocabulary.products) > len(self._platform_of):
            self._know_platforms()
        return names[codes]

    def _know_platforms(self) -> None:
        names = self._vocabulary.products
        for start in range(len(self._platform_of), len(names), _NAMES):
            fresh = names.texts(np.arange(start, min(start + _NAMES, len(names))))
            found = np.full(len(fresh), -1, np.int16)
            for i, name in enumerate(self._platforms):
                found[pc.starts_with(fresh, product_key(name, "")).to_numpy(zero_copy_only=False)] = i
            self._platform_of = np.append(self._platform_of, found)

    def _by_platform(self, columns: Columns) -> Iterator[tuple[PlatformFold, Columns]]:
        platform = self._platform_of[columns["product"]]
        self._counters["unknown_platform"] += int((platform < 0).sum())
        for i, fold in enumerate(self._folds):
            here = platform == i
            if here.all() and len(here):
                yield fold, columns
            elif here.any():
                yield fold, {name: array[here] for name, array in columns.items()}


COUNTERS = (
    "records",
    "events",
    "vectors",
    "vectors_repeated",
    "promotions",
    "control",
    "close",
    "live",
    "live_held",
    "outcomes",
    "closes",
    "late",
    "beyond_ring",
    "cancelled_after_outcome",
    "clipped",
    "unknown_platform",
)
