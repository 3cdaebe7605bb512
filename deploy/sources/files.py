"""Events in files, one JSON record a line, as the platform topics take them. Lines are handed on as they are: what is
wrong with one is for ingest to say."""

from __future__ import annotations

import datetime as dt
import gzip
import heapq
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

from deploy.errors import SourceError
from deploy.sources import PlatformEvent

# File -> topic, key field, time fields (the first one that the line has). Also the order of events at the same instant:
# a product is known before it is sold.
LAYOUT: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "products.ndjson": ("products", "product_id", ("updated_at",)),
    "levels.ndjson": ("inventory.levels", "product_id", ("updated_at",)),
    "promotions.ndjson": ("promotions", "product_id", ("announced_at",)),
    "images.ndjson": ("images", "product_id", ("captured_at",)),
    "orders.ndjson": ("orders", "order_id", ("status_at", "ordered_at")),
    "behaviors.ndjson": ("behaviors", "product_id", ("occurred_at",)),
    "reviews.ndjson": ("reviews", "product_id", ("written_at",)),
}
_LATEST = 4_102_444_800_000  # 2100-01-01: a later time is a mistake


class _Line(msgspec.Struct):
    """What a line must say to be placed; anything may be missing or of a wrong type."""

    platform: Any = None
    order_id: Any = None
    product_id: Any = None
    ordered_at: Any = None
    status_at: Any = None
    occurred_at: Any = None
    written_at: Any = None
    captured_at: Any = None
    updated_at: Any = None
    announced_at: Any = None


_decoder = msgspec.json.Decoder(_Line)
_NOTHING = _Line()


def read_instant(value: object) -> int | None:
    """UTC ms of RFC 3339 text with an offset, or of integer epoch ms; None for anything else."""
    at: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        at = value
    elif isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            return None
        if moment.tzinfo is not None:
            at = round(moment.timestamp() * 1000)
    return at if at is not None and 0 <= at < _LATEST else None


@dataclass(frozen=True)
class _File:
    """One file after its first reading: the time of every line, and the order to play them in."""

    path: Path
    topic: str
    key: str
    times: npt.NDArray[np.int64]  # [lines] the place of each line in time; a line without keeps that of the one before
    starts: npt.NDArray[np.int64] | None  # [lines] byte offsets, only where the lines are not in order
    platforms: tuple[str, ...]
    displaced: int  # lines that come after a later one

    def events(self, rank: int) -> Iterator[tuple[int, int, PlatformEvent]]:
        lines = _read_lines(self.path) if self.starts is None else self._sorted_lines()
        order = range(len(self.times)) if self.starts is None else np.argsort(self.times, kind="stable")
        for place, (_, line) in zip(order, lines, strict=True):
            at = int(self.times[place])
            yield at, rank, PlatformEvent(self.topic, _text(getattr(_parse(line), self.key)), line, at)

    def _sorted_lines(self) -> Iterator[tuple[int, bytes]]:
        assert self.starts is not None
        with tempfile.TemporaryFile() as unpacked, _open(self.path) as packed:
            shutil.copyfileobj(packed, unpacked)  # a .gz cannot be read out of order
            for place in np.argsort(self.times, kind="stable"):
                start = int(self.starts[place])
                unpacked.seek(start)
                yield start, unpacked.readline().rstrip(b"\r\n")


@dataclass(frozen=True)
class FilesSource:
    """`orders.ndjson`, `reviews.ndjson`, … in one folder, each optional, `.gz` allowed, merged by event time.

    Every file is read twice: once for its times (8 bytes of memory a line, 16 where it is out of order), once to be
    played. Raises SourceError when the folder, or every file, is missing.
    """

    folder: Path
    _files: tuple[_File, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_files", tuple(_index(*found) for found in _find(self.folder)))

    @property
    def platform(self) -> str:
        return ", ".join(dict.fromkeys(name for file in self._files for name in file.platforms))

    @property
    def pictures(self) -> Path | None:
        return self.folder.resolve()

    @property
    def estimate(self) -> int:
        return sum(len(file.times) for file in self._files)

    @property
    def warnings(self) -> list[str]:
        return [
            f"{file.path.name}: {file.displaced:,} of {len(file.times):,} lines come after a later one; "
            "they are sorted by their time"
            for file in self._files
            if file.displaced
        ]

    @cached_property
    def description(self) -> Mapping[str, object]:
        times = [file.times[file.times > 0] for file in self._files]
        known = np.concatenate(times) if times else np.zeros(0, np.int64)
        span: dict[str, object] = {}
        if known.size:
            first, last = (dt.datetime.fromtimestamp(int(t) / 1000, dt.UTC) for t in (known.min(), known.max()))
            span = {"from": first.date().isoformat(), "to": last.date().isoformat(), "timezone": "UTC"}
        return {
            "name": f"files in {self.folder.name}",
            "platform": self.platform,
            "span": span,
            "rows": {file.topic: len(file.times) for file in self._files},
            "licence": "your own",
            "simulated": [],
            "notes": self.warnings,
        }

    def __iter__(self) -> Iterator[PlatformEvent]:
        streams = [file.events(rank) for rank, file in enumerate(self._files)]
        for _, _, event in heapq.merge(*streams, key=itemgetter(0, 1)):
            yield event


def _find(folder: Path) -> list[tuple[Path, str, str, tuple[str, ...]]]:
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; give one that holds files such as orders.ndjson")
    found = []
    for name, layout in LAYOUT.items():
        there = [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]
        if len(there) > 1:
            raise SourceError(f"{folder} holds both {name} and {name}.gz; which one is meant? Remove the other")
        found += [(path, *layout) for path in there]
    if not found:
        raise SourceError(f"{folder} holds no events; it needs at least one of {', '.join(LAYOUT)} (or with .gz)")
    return found


def _index(path: Path, topic: str, key: str, fields: tuple[str, ...]) -> _File:
    times, starts, platforms = array("q"), array("q"), dict[str, None]()
    at = latest = displaced = 0
    for start, line in _read_lines(path):
        parsed = _parse(line)
        instants = (read_instant(getattr(parsed, name)) for name in fields)
        at = next((i for i in instants if i is not None), at)
        displaced += at < latest
        latest = max(latest, at)
        times.append(at)
        starts.append(start)
        if parsed.platform and isinstance(parsed.platform, str):
            platforms[parsed.platform] = None
    offsets = np.frombuffer(starts, np.int64) if displaced else None
    instants_ = np.frombuffer(times, np.int64) if times else np.zeros(0, np.int64)
    return _File(path, topic, key, instants_, offsets, tuple(platforms), displaced)


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Byte offset (unpacked) and text of every line that is not blank."""
    try:
        with _open(path) as file:
            start = 0
            for line in file:
                if stripped := line.rstrip(b"\r\n"):
                    yield start, stripped
                start += len(line)
    except (OSError, EOFError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _parse(line: bytes) -> _Line:
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return _NOTHING


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
