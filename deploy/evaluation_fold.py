"""The windows of a whole source, folded once by the stages themselves and kept on disk by what went into them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deploy.errors import EvaluationError
from deploy.settings import Settings
from deploy.sources import PlatformEvent, Source
from deploy.training import History, start_history, with_pictures
from deploy.watch import Done, Watch
from streams.calendars import HOUR, Platform
from streams.records import DAYS, HORIZONS
from streams.stage import Message

LONGEST = max(HORIZONS)
_SCHEMA = pa.schema(
    [("partition", pa.int32()), ("offset", pa.int64()), ("timestamp", pa.int64()), ("value", pa.binary())]
)
_GROUP = 256  # messages a row group
_FEATURIZERS = Path(__file__).parents[1] / "featurizers"
_FOLDING = (  # code that windows come from
    "streams/ingest",
    "streams/records",
    *(f"streams/{name}.py" for name in ("calendars", "codecs", "embedded", "negative_binomial", "watermarks")),
    *(f"featurizers/{path.name}" for path in _FEATURIZERS.glob("*.py") if path.stem not in ("finetuning", "probing")),
    "deploy/sources",
    "deploy/loop.py",
    "deploy/training.py",
)


@dataclass(frozen=True)
class Plan:
    """Which days are for what; day indices of the platform's calendar, windows end at the start of a day.

    Networks are trained on what is known at `loop`; from there on heads learn. Windows that end in [test, last] are
    judged, a gap of the longest horizon after it. Rivals are tuned on windows in [validation, tuned], whose outcomes
    are known at `loop`, and for that learn from what is known a gap before.
    """

    platform: Platform
    first: int  # day of the first event
    validation: int
    tuned: int
    loop: int
    test: int
    last: int
    spacing: int  # days between two boundaries that are judged, no multiple of a week

    @staticmethod
    def of(platform: Platform, first: int, end: int, test_days: int, spacing: int) -> Plan:
        """`first` day with an event, `end` the day after the last. Raises EvaluationError when they are too few."""
        if spacing % 7 == 0:
            raise EvaluationError(f"--spacing {spacing} falls on one weekday alone; give one that 7 does not divide")
        last = end - LONGEST
        test = last - test_days + 1
        loop = test - LONGEST
        tuned = loop - LONGEST
        validation = tuned - test_days // 2 + 1
        needed = DAYS + test_days // 2 + test_days + 4 * LONGEST
        if end - first < needed:
            raise EvaluationError(
                f"{end - first} days of data are too few: with {test_days} days to judge, {test_days // 2} to tune on, "
                f"{DAYS} to learn from and four gaps of {LONGEST}, it takes {needed}; judge fewer (--test-days)"
            )
        return Plan(platform, first, validation, tuned, loop, test, last, spacing)

    @staticmethod
    def for_source(source: Source, settings: Settings, test_days: int, spacing: int) -> Plan:
        platforms = settings.calendars()
        if source.platform not in platforms:
            raise EvaluationError(
                f"{source.platform!r} is not one platform of TRENDSTREAM_PLATFORMS ({', '.join(platforms)}): "
                "evaluate one platform at a time"
            )
        platform = platforms[source.platform]
        span = source.description["span"]
        assert isinstance(span, Mapping)
        first, end = (platform.calendar.index(dt.date.fromisoformat(str(span[name]))) for name in ("from", "to"))
        return Plan.of(platform, first, end + 1, test_days, spacing)

    def spaced(self, begin: int, end: int) -> list[int]:
        """Boundaries in [begin, end] in step with the test's."""
        return [d for d in range(begin, end + 1) if (d - self.test) % self.spacing == 0]

    def instant(self, day: int) -> int:
        return self.platform.calendar.start(day)

    def date(self, day: int) -> dt.date:
        return self.platform.calendar.date(day)

    def date_of(self, instant: int) -> dt.date:
        return self.date(int(self.platform.calendar.day(instant)))


@dataclass(frozen=True)
class WindowLog:
    """`trend.windows` of all partitions, in the order in which it was written."""

    path: Path

    def __iter__(self) -> Iterator[Message]:
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(_GROUP):
                columns = [batch.column(i).to_pylist() for i in range(4)]
                for partition, offset, timestamp, value in zip(*columns, strict=True):
                    yield Message("trend.windows", partition, offset, timestamp, None, value)

    @property
    def dead(self) -> int:
        """Events that ingest could not use."""
        return int(json.loads(self.path.with_suffix(".json").read_text())["dead"])

    def __len__(self) -> int:
        return int(pq.read_metadata(self.path).num_rows)

    def watched(self, done: Done) -> Iterator[Message]:
        """The same, and `done` hears how many."""
        for count, message in enumerate(self, start=1):
            yield message
            if count % 100 == 0:
                done(count)


Fold = Callable[[Source, Settings, Plan, Path, Watch], WindowLog]
Start = Callable[[Source, Settings, int], History]


def fold(
    source: Source, settings: Settings, plan: Plan, path: Path, watch: Watch, start: Start = start_history
) -> WindowLog:
    """Ingest, encoders and windows over the whole source; projections see what happens before `plan.loop`."""
    settings = with_pictures(settings, source)
    watch.part("reading the data and the encoders", 0)
    history = start(source, settings, plan.instant(plan.loop))
    runner = history.loop.runner
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    waiting: list[Message] = []
    with pq.ParquetWriter(part, _SCHEMA, compression="zstd") as writer:

        def write() -> None:
            columns = [[getattr(m, name) for m in waiting] for name in _SCHEMA.names]
            writer.write_table(pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA))
            waiting.clear()

        def take(message: Message) -> None:
            if message.topic == "trend.windows":
                waiting.append(message)
                del history.loop.log.records("trend.windows", message.partition)[:-1]  # no stage here reads them

        def fed(events: Iterable[PlatformEvent]) -> Iterator[PlatformEvent]:
            hour = 0
            for event in events:
                if event.at // HOUR != hour:  # vectors and catalogue reach their windows within the hour, as when live
                    hour = event.at // HOUR
                    runner.run()
                if len(waiting) >= _GROUP:
                    write()
                yield event

        runner.on_output = take
        watch.part("folding the events into windows", source.estimate)
        history.feed(fed(source), watch.done)
        history.loop.settle(settings.idle_ms)
        write()
    dead = runner.counters()["ingest"].get("dead", 0)
    part.with_suffix(".json").write_text(json.dumps({"dead": dead}))
    part.replace(path)
    part.with_suffix(".json").replace(path.with_suffix(".json"))
    return WindowLog(path)


def fold_key(source: Source, settings: Settings, plan: Plan) -> str:
    """Hash of what the windows depend on: the events, the settings of the stages, the plan's gap, the code."""
    described = {
        "source": _described(source),
        "settings": [settings.partitions, settings.text_model, settings.image_model, settings.dtype, settings.idle_ms],
        "loop": plan.loop,
        "code": code_hash(*_FOLDING),
    }
    return short_hash(described)


def _described(source: Source) -> dict[str, Any]:
    """Type, fields and description of a source, with the sizes and times of the files that it names."""
    fields = {str(name): getattr(source, name) for name in getattr(source, "__dataclass_fields__", {})}
    paths = [Path(v) for v in fields.values() if isinstance(v, Path)]
    files = sorted(f for p in paths for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file())
    stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    plain = {name: repr(v) for name, v in fields.items() if not callable(v) and not name.startswith("_")}
    return {"type": type(source).__name__, "fields": plain, "files": stats, "description": dict(source.description)}


def code_hash(*parts: str) -> str:
    """Of the Python files of folders and files of this repository."""
    root = Path(__file__).parents[1]
    found = [root / part for part in parts]
    files = sorted(f for p in found for f in (p.rglob("*.py") if p.is_dir() else [p]))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
