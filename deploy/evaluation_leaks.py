"""Prefix invariance: fold again without what happens at or after a day, and everything before it must stay the same.

Events are compared with those of a source that never held the later ones, so a catalogue that knows products to come
shows; windows and predictions with those of the whole fold, so a feature from the future shows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from deploy.evaluation_fold import Plan
from deploy.sources import PlatformEvent, Source, Span
from deploy.training import before
from model.evaluate import Forecasts
from model.evaluate_loop import between
from streams.calendars import HOUR
from streams.codecs import Rows, decode
from streams.records.inside import ARROW_RECORDS, OUTCOMES, WINDOWS
from streams.stage import Message

SHOWN = 5  # events that are named; the rest is counted
TOLERANCE = 1e-9
_NOBODYS = "nobodys"
_PLACE = ("offset",)  # the record that closed the day: at the last boundary of the shorter log it is another one


@dataclass(frozen=True)
class Truncated:
    """A source as it would be had nothing happened since an instant. Views of a product that nobody sells close the day
    before it: two, since one alone may be a wrong date, and an hour later, since a watermark allows for disorder."""

    source: Source
    instant: int

    @staticmethod
    def of(source: Source, plan: Plan, day: int) -> Truncated:
        """Made anew from the data before the day, where the source makes its records; else cut."""
        if isinstance(getattr(source, "span", None), Span):
            made: Any = source
            source = replace(made, span=Span(made.span.first, plan.date(day)))
        return Truncated(source, plan.instant(day))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __iter__(self) -> Iterator[PlatformEvent]:
        yield from before(self.source, self.instant)
        for at in (self.instant + HOUR, self.instant + HOUR + 1):
            view = {"product_id": _NOBODYS, "user_id": _NOBODYS, "kind": "view", "occurred_at": at}
            value = msgspec.json.encode({"platform": self.source.platform, **view})
            yield PlatformEvent("behaviors", _NOBODYS, value, at)


def compare_events(whole: Iterable[PlatformEvent], part: Iterable[PlatformEvent], instant: int) -> list[str]:
    """Events before `instant` that are in one of both alone."""
    counts: dict[tuple[str, str, int, bytes], int] = {}
    for sign, events in ((1, before(whole, instant)), (-1, before(part, instant))):
        for event in events:
            key = (event.topic, event.key, event.at, event.value)
            left = counts.get(key, 0) + sign
            if left:
                counts[key] = left
            else:
                del counts[key]
    found = [
        f"event: {topic} {key} at {_iso(at)} is there only {'when' if count > 0 else 'unless'} later events are"
        for (topic, key, at, _), count in sorted(counts.items(), key=lambda item: item[0][2])
    ]
    more = len(found) - SHOWN
    return [*found[:SHOWN], f"and {more:,} more such events"] if more > 0 else found


def compare_windows(whole: Iterable[Message], part: Iterable[Message], plan: Plan, day: int) -> list[str]:
    """Rows of `trend.windows` of the last week up to the boundary `day` that differ, by product, end and column."""
    since, until = plan.instant(day - 7), plan.instant(day)
    ours, theirs = (_rows(between(log, since, until)) for log in (whole, part))
    found: list[str] = []
    for record in sorted({*ours, *theirs}):
        if record not in ours or record not in theirs:
            found.append(f"{record}: there only {'when' if record in ours else 'unless'} later events are")
        else:
            found += _differences(ours[record], theirs[record])
    return found


def compare_forecasts(
    whole: Mapping[str, Forecasts], part: Mapping[str, Forecasts], products: Sequence[str], day: dt.date
) -> list[str]:
    """Forecasts of the same products [n] at one boundary, by method."""
    found = []
    for method, theirs in part.items():
        ours = whole[method]
        for name in ("mean", "quantiles", "surging"):
            a, b = getattr(ours, name), getattr(theirs, name)
            close = np.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True).reshape(len(a), -1).all(axis=1)
            wrong = np.flatnonzero(~close).tolist()
            if wrong:
                first = products[wrong[0]]
                found.append(f"predictions of {method} at {day}: {name} differs in {len(wrong):,}, first {first}")
    return found


def _rows(messages: Iterable[Message]) -> dict[str, Rows]:
    """All windows and outcomes of a log, each in one batch."""
    batches: dict[str, list[pa.RecordBatch]] = {}
    for message in messages:
        rows = decode(message.value or b"")
        if rows.record in (WINDOWS, OUTCOMES) and len(rows):
            batches.setdefault(rows.record.name, []).append(rows.batch)
    found = {}
    for name, parts in batches.items():
        table = pa.Table.from_batches(parts).unify_dictionaries().combine_chunks()
        found[name] = Rows(ARROW_RECORDS[name], table.to_batches()[0])
    return found


def _differences(ours: Rows, theirs: Rows) -> list[str]:
    a, b, record = _keys(ours), _keys(theirs), ours.record.name
    found = []
    for only, when in ((a.keys() - b.keys(), "when"), (b.keys() - a.keys(), "unless")):
        if only:
            product, end, _ = min(only, key=lambda key: key[1])
            found.append(
                f"{record}: {len(only):,} are there only {when} later events are, first {product} at {_iso(end)}"
            )
    both = sorted(a.keys() & b.keys(), key=lambda key: (key[1], key[0]))
    left, right = np.array([a[key] for key in both], np.int64), np.array([b[key] for key in both], np.int64)
    for name in ours.record.schema.names:
        if name in _PLACE:
            continue
        x, y = ours[name][left], theirs[name][right]
        same = (x == y) | ((x != x) & (y != y))  # NaN is equal to NaN
        wrong = np.flatnonzero(~same.reshape(len(both), -1).all(axis=1)).tolist()
        if wrong:
            product, end, _ = both[wrong[0]]
            found.append(f"{record}: {name} differs in {len(wrong):,} of them, first {product} at {_iso(end)}")
    return found


def _keys(rows: Rows) -> dict[tuple[str, int, int], int]:
    delay = rows["delay"] if rows.record is OUTCOMES else np.zeros(len(rows), np.int8)
    keys = zip(rows["product"].tolist(), rows["end"].tolist(), delay.tolist(), strict=True)
    return {key: i for i, key in enumerate(keys)}


def _iso(at: int) -> str:
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).isoformat()
