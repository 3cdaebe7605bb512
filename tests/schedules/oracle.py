"""What windows hold and what outcomes they get, written from their documentation: dicts, one event at a time."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zoneinfo import ZoneInfo

from streams.records import CHANNELS, HORIZONS, NO_WATERMARK, EventKind, SourceState

RING = dt.timedelta(days=56)
ONE = dt.timedelta(days=1)


class Row(NamedTuple):
    kind: int
    product: str
    at: int
    ordered_at: int
    quantity: int = 0
    amount: int = 0
    rating: int = 0


class Windows:
    """One platform in one partition of trend.events: its close windows and outcomes, as they become final."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self.open: dt.date | None = None
        self.closes: dict[
            tuple[str, int], dict[str, dict[int, int]]
        ] = {}  # (product, end) -> channel -> days ago -> sum
        self.outcomes: dict[tuple[str, int, int], int] = {}  # (product, end, delay) -> units
        self._sums: dict[tuple[str, str, dt.date], int] = defaultdict(int)
        self._last: dict[str, int] = {}
        self._closed: dict[dt.date, list[str]] = {}
        self._used: set[tuple[str, dt.date]] = set()
        self._parked: list[Row] = []
        self._sources: dict[tuple[str, int], tuple[int, int]] = {}
        self._watermark = NO_WATERMARK
        self._least: int | None = None

    def take(self, rows: Iterable[Row]) -> None:
        """One record's rows: what happens today or before counts, the rest waits for its day."""
        due: list[Row] = []
        for row in rows:
            (due if self.open and self.day(row.at) <= self.open else self._parked).append(row)
        self._fold(due)

    def control(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """One control record: the least watermark of the sources that are not idle, or the greatest of all."""
        for source, partition, state, mark in rows:
            self._sources[source, partition] = (state, mark)
            if mark != NO_WATERMARK:
                self._least = mark if self._least is None else min(mark, self._least)
        active = [mark for state, mark in self._sources.values() if state != SourceState.IDLE]
        marks = [mark for _, mark in self._sources.values()]
        self._watermark = max(self._watermark, min(active) if active else max(marks))
        if self._watermark == NO_WATERMARK:
            return
        if self.open is None:
            assert self._least is not None
            timed = [r.at for r in self._parked if r.kind <= EventKind.FAVOURITE and r.at <= self._least]
            day = self.day(self._least)
            self.open = max(self.day(min(timed)), day - RING) if timed else day
            self._unpark()
        while self.start(self.open + ONE) <= self._watermark:
            self._close()

    @property
    def parked(self) -> int:
        return len(self._parked)

    def sum(self, product: str, channel: str, days_ago: int) -> int:
        """Of one day before the open one; 0 is the open day itself."""
        assert self.open is not None
        return self._sums.get((product, channel, self.open - days_ago * ONE), 0)

    def closed_days(self, product: str) -> dict[str, dict[int, int]]:
        """Sums that are not zero, by channel and days ago."""
        return {c: {d: n for d in range(1, 57) if (n := self.sum(product, c, d))} for c in CHANNELS}

    def day(self, at: int) -> dt.date:
        return dt.datetime.fromtimestamp(at / 1000, self._zone).date()

    def start(self, day: dt.date) -> int:
        return int(dt.datetime.combine(day, dt.time(), self._zone).timestamp()) * 1000

    def _unpark(self) -> None:
        rows, self._parked = self._parked, []
        self.take(rows)

    def _fold(self, rows: list[Row]) -> None:
        """A cancellation comes after the orders of its record or day, and stops at zero."""
        assert self.open is not None or not rows
        for row in sorted(rows, key=lambda r: r.kind == EventKind.CANCELLED):
            day = self.day(row.at)
            if row.kind <= EventKind.IMAGE and self.open and day < self.open - RING:
                continue
            self._last[row.product] = max(self._last.get(row.product, row.at), row.at)
            if row.kind == EventKind.CANCELLED:
                day = min(day, self.day(row.ordered_at))
                if self.open and day >= self.open - RING and (row.product, day) not in self._used:
                    for channel, amount in (("units", row.quantity), ("orders", 1), ("revenue", row.amount)):
                        key = (row.product, channel, day)
                        self._sums[key] = max(self._sums[key] - amount, 0)
            for channel, amount in _adds(row):
                self._sums[row.product, channel, day] += amount

    def _close(self) -> None:
        assert self.open is not None
        self.open += ONE
        end = self.start(self.open)
        for delay, (low, high) in enumerate(zip((0, *HORIZONS), HORIZONS, strict=False)):
            first = self.open - high * ONE
            for product in self._closed.get(first, []):
                days = [first + d * ONE for d in range(low, high)]
                self.outcomes[product, self.start(first), delay] = sum(self._sums[product, "units", d] for d in days)
                self._used.update((product, d) for d in days)
        active = [p for p, last in self._last.items() if last > self.start(self.open - RING)]
        self._closed[self.open] = active
        for product in active:
            self.closes[product, end] = self.closed_days(product)
        self._unpark()


def _adds(row: Row) -> Iterator[tuple[str, int]]:
    if row.kind == EventKind.ORDER:
        yield from (("units", row.quantity), ("orders", 1), ("revenue", row.amount))
    elif row.kind == EventKind.RETURNED:
        yield "returned", row.quantity
    elif row.kind == EventKind.REVIEW:
        yield from (("reviews", 1), ("rating_sum", row.rating))
    elif row.kind in (EventKind.VIEW, EventKind.CART, EventKind.FAVOURITE):
        yield {EventKind.VIEW: "views", EventKind.CART: "carts"}.get(EventKind(row.kind), "favourites"), 1
