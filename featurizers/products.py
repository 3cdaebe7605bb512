"""The state of one platform's products: what a row adds to it, and how a day ends.

A product's row is given at the first event that is folded, so rows stand in order of first appearance. Events wait in
`Arrivals` and are settled many at a time; whoever reads sums or event times settles first. What has to see every record
by itself (levels, the catalogue, days that an outcome has used) is folded at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from featurizers.arrivals import LARGEST, SETTLE, Arrivals, Days
from featurizers.baseline import Baseline, CategoryRates, baseline
from featurizers.cells import CELL_CHANNELS, HOURLY_DAYS, NO_HOUR, PLACE, ROW_BITS, Cells, Found, cell, starts_of
from featurizers.errors import WindowsError
from featurizers.known import Announcements
from featurizers.parking import Columns
from featurizers.pooling import COLUMNS as POOL_COLUMNS
from featurizers.pooling import NEVER, Pools
from featurizers.state import Array, Column, Floats, Ints, Mask, Table, below, firsts
from featurizers.window_config import WindowConfig
from streams.calendars import DAY, HOUR, Platform
from streams.records import CHANNELS, DAYS, HORIZONS, HOURS, EventKind, Modality

_UNKNOWN = -1
_UNITS, _OUT = CELL_CHANNELS.index("units"), CELL_CHANNELS.index("out_ms")
_IN_WINDOW = np.asarray([CELL_CHANNELS.index(name) for name in CHANNELS])
_AT_ONCE = 1 << 14  # products whose days are spread out at a time, to bound memory
_FAR = 2**62

COLUMNS: dict[str, Column] = {
    "name": Column(np.int32),
    # Event times, ms: first, last, and the newest of each modality. Together, since they are written together.
    "times": Column(np.int64, (2 + len(Modality),), (_FAR, *[NEVER] * (1 + len(Modality)))),
    "category": Column(np.int32),  # code; 0 is ""
    "price": Column(np.int64, fill=-1),
    "unit_cost": Column(np.int64, fill=-1),
    "on_hand": Column(np.float64, fill=np.nan),
    "on_order": Column(np.float64, fill=np.nan),
    "lead_time_days": Column(np.float64, fill=np.nan),
    "closed": Column(np.uint64),  # had a close window at the start of the day: a bit for each day modulo 64
    "used": Column(np.uint64),  # an outcome has counted the day
    "late": Column(np.int32),
    "late_source": Column(np.int32),  # code, partition and offset of the last late row to come; zeros where late is 0
    "late_partition": Column(np.int32),
    "late_offset": Column(np.int64),
    "revision": Column(np.int32),
    "touches": Column(np.int32),  # since its last window; it waits for a live one where there are any
    **POOL_COLUMNS,
}


class Products:
    """One platform's products between the opening of a day and its end."""

    def __init__(self, platform: Platform, config: WindowConfig, counters: Counter[str]) -> None:
        self.calendar = platform.calendar
        self.country = platform.country
        self.table = Table(COLUMNS)
        self.cells = Cells()
        self.pools = Pools(self.table, self.newest, config.vector_half_life * DAY)
        self.rates = CategoryRates(config.baseline)
        self.announcements = Announcements()
        self.open_day = _UNKNOWN
        self.since = _FAR  # first day of which an order or a behaviour was folded
        self._arrivals = Arrivals(self.cells)
        self._ring: Days | None = None
        self._config = config
        self._counters = counters
        self._row_of = np.empty(0, np.int32)  # [names] row of a product's name, or _UNKNOWN

    @property
    def opened(self) -> bool:
        return self.open_day != _UNKNOWN

    @property
    def start(self) -> int:
        """UTC ms at which the open day begins."""
        return self.calendar.start(self.open_day)

    @property
    def end(self) -> int:
        """UTC ms at which the open day ends."""
        return self.calendar.start(self.open_day + 1)

    @property
    def _days(self) -> Days:
        if self._ring is None or self._ring.open_day != self.open_day:
            days = slice(self.open_day - DAYS, self.open_day + 2)
            self._ring = Days(self.open_day, self.calendar.midnights[days])
        return self._ring

    def first(self) -> Array:
        """[products] event time of the first row."""
        return self.table["times"][:, 0]

    def last(self) -> Array:
        """[products] event time of the newest row of any kind."""
        return self.table["times"][:, 1]

    def newest(self) -> Array:
        """[products, modalities] event time of the newest row of each, or NEVER."""
        return self.table["times"][:, 2:]

    # ---------------------------------------------------------------------------------------------- rows

    def take_events(self, events: Columns, *, history: bool) -> Array:
        """Fold rows before the end of the open day; their product rows [rows]. `history`: nothing counts as late."""
        days, at = self._days, events["at"]
        oldest = int(at.min(initial=_FAR))
        if oldest < days.midnights[0]:
            beyond = (events["kind"] <= EventKind.IMAGE) & (at < days.midnights[0])
            self._counters["beyond_ring"] += int(beyond.sum())
            events = {name: array[~beyond] for name, array in events.items()}
        rows, kind, at = self._rows(events["product"]), events["kind"], events["at"]
        if len(rows) == 0:
            return rows
        timed = kind <= EventKind.FAVOURITE
        if (self.since == _FAR or oldest < self.calendar.start(self.since)) and timed.any():
            self.since = min(self.since, int(self.calendar.day(at[timed].min())))
        if not history and oldest < self.start:
            self._count_late(rows, events, np.flatnonzero(timed & (at < self.start)))
        sums = (events["quantity"], events["rating"], events["amount"])
        for start in range(0, len(rows), LARGEST):  # a day that was parked may be longer than one sort
            self._settle_if_due()
            part = slice(start, start + LARGEST)
            self._arrivals.add(rows[part], kind[part], at[part], *(values[part] for values in sums))
        self._cancel(rows, events)
        self._catalogue(rows, events)
        self._levels(rows, events)
        self._settle_if_due()
        return rows

    def take_vectors(self, vectors: Columns) -> Array:
        """Fold encoders' rows before the end of the open day; their product rows [rows]."""
        rows = self._rows(vectors["product"])
        for start in range(0, len(rows), LARGEST):
            self._settle_if_due()
            self._arrivals.note(rows[start : start + LARGEST], vectors["at"][start : start + LARGEST])
        self.pools.add(rows, vectors["modality"], vectors["at"], vectors["encoder"], vectors["vector"])
        return rows

    def take_promotions(self, promotions: Columns) -> Array:
        """Fold announcements; their product rows [rows]. A product that has had no event yet is not made active."""
        rows = self._rows(promotions["product"])
        self.announcements.add(rows, promotions)
        return rows

    def settle(self) -> None:
        """Bring the sums and event times up to all that was folded; who reads them calls this first."""
        self._counters["clipped"] += self._arrivals.settle(self.table["times"], self._days)

    def _settle_if_due(self) -> None:
        if self._arrivals.rows >= SETTLE:
            self.settle()

    def _rows(self, names: Array) -> Ints:
        highest = int(names.max(initial=-1))
        if highest >= len(self._row_of):
            grown = np.full(max(highest + 1, len(self._row_of) + len(self._row_of) // 2), _UNKNOWN, np.int32)
            grown[: len(self._row_of)] = self._row_of
            self._row_of = grown
        rows = self._row_of[names]
        if len(rows) and rows.min() == _UNKNOWN:
            fresh = firsts(names[rows == _UNKNOWN])
            before = self.table.rows
            if before + len(fresh) > 1 << ROW_BITS:
                raise WindowsError(
                    f"{before + len(fresh)} products of one platform in one partition are more than {1 << ROW_BITS}; "
                    "make more partitions"
                )
            self.table.append(len(fresh))
            self.table["name"][before:] = fresh
            self._row_of[fresh] = np.arange(before, before + len(fresh))
            rows = self._row_of[names]
        return rows.astype(np.int64)

    def _count_late(self, rows: Ints, events: Columns, late: Ints) -> None:
        """`late`: which of the events, in order, came after their day had closed."""
        self._counters["late"] += len(late)
        np.add.at(self.table["late"], rows[late], np.int32(1))
        late = late[::-1]
        product, last = np.unique(rows[late], return_index=True)  # of each product the one that came last
        self.table["late_source"][product] = events["source"][late[last]]
        self.table["late_partition"][product] = events["source_partition"][late[last]]
        self.table["late_offset"][product] = events["source_offset"][late[last]]

    def _cancel(self, rows: Ints, events: Columns) -> None:
        """Take cancelled lines off the buckets of their orders, while no outcome has used the day."""
        where = np.flatnonzero(events["kind"] == EventKind.CANCELLED)
        if len(where) == 0:
            return
        ordered = np.minimum(events["ordered_at"][where], events["at"][where])
        product, day = rows[where], self._days.of(ordered) + (self.open_day - DAYS)
        in_ring = ordered >= self._days.midnights[0]
        used = in_ring & ((self.table["used"][product] & _bit(day)) != 0)
        self._counters["beyond_ring"] += int((~in_ring).sum())
        self._counters["cancelled_after_outcome"] += int(used.sum())
        keep = np.flatnonzero(in_ring & ~used)
        where, ones = where[keep], np.ones(len(keep), np.int64)
        off = np.stack([events["quantity"][where], ones, events["amount"][where]], axis=1)
        self._arrivals.cancel(product[keep], ordered[keep], off)

    def _catalogue(self, rows: Ints, events: Columns) -> None:
        where = np.flatnonzero(events["kind"] == EventKind.CATALOGUE)
        if len(where) == 0:
            return
        # The last of a product in (event time, arrival) is its newest of these rows.
        where = where[np.lexsort((events["at"][where], rows[where]))]
        product = rows[where]
        where = where[np.append(product[1:] != product[:-1], True)]
        product, at = rows[where], events["at"][where]
        newer = at >= self.newest()[product, Modality.CATALOGUE]
        where, product = where[newer], product[newer]
        self.newest()[product, Modality.CATALOGUE] = at[newer]
        self.table["category"][product] = events["category"][where]
        self.table["price"][product] = events["price"][where]

    # --------------------------------------------------------------------------------------------- stock

    def _levels(self, rows: Ints, events: Columns) -> None:
        where = np.flatnonzero(events["kind"] == EventKind.LEVEL)
        if len(where) == 0:
            return
        at, product = events["at"][where], rows[where]
        newer = at >= self.newest()[product, Modality.LEVEL]
        where, at, product = where[newer], at[newer], product[newer]
        if len(where) == 0:
            return
        order = np.lexsort((at, product))  # those of a product in (event time, arrival)
        where, at, product = where[order], at[order], product[order]
        starts = starts_of(product)
        self._count_out_of_stock(product, at, events["on_hand"][where] <= 0, starts)
        last = np.append(starts[1:], len(where)) - 1
        self.newest()[product[last], Modality.LEVEL] = at[last]
        for name in ("on_hand", "on_order", "lead_time_days", "unit_cost"):
            self.table[name][product[last]] = events[name][where[last]]

    def _count_out_of_stock(self, rows: Ints, at: Ints, is_out: Mask, starts: Ints) -> None:
        """out_ms holds all time out of stock before max(newest level, start of the open day): keep it so.

        Of each level: product, time, whether it says out of stock; `starts`: the first level of each product.
        """
        before, was_out = np.roll(at, 1), np.roll(is_out, 1)  # the level that this one follows
        before[starts] = self.newest()[rows[starts], Modality.LEVEL]
        was_out[starts] = self.table["on_hand"][rows[starts]] <= 0
        counted = np.maximum(before, self.start)
        self._out_of_stock(rows[was_out], counted[was_out], at[was_out], 1)
        self._out_of_stock(rows[was_out], at[was_out], counted[was_out], -1)
        self._out_of_stock(rows[is_out], at[is_out], np.full(int(is_out.sum()), self.start), 1)

    def _out_of_stock(self, rows: Ints, start: Ints, stop: Ints, sign: int) -> None:
        """Add the time from `start` to `stop`, where that is any, to the days it lies in."""
        start = np.maximum(start, self.calendar.start(self.open_day - DAYS))
        some = stop > start
        if not some.any():
            return
        rows, start, stop = rows[some], start[some], stop[some]
        first, last = int(self.calendar.day(start.min())), int(self.calendar.day(stop.max() - 1))
        for day in range(first, last + 1):
            begin, end = self.calendar.start(day), self.calendar.start(day + 1)
            part = np.maximum(np.minimum(stop, end) - np.maximum(start, begin), 0)
            self._arrivals.change(rows, cell(day, NO_HOUR, _OUT), sign * part)

    # ---------------------------------------------------------------------------------------------- days

    def open(self, day: int) -> None:
        """Open the first day. Days before it are history that may still be folded."""
        self.open_day = day

    def learn_history(self) -> None:
        """Category rates from the days before the first open one, once their rows are folded."""
        self.settle()
        for day in range(max(self.since, self.open_day - DAYS), self.open_day):
            self._learn(day)

    def end_day(self) -> None:
        """Close the open day; the next one is open, but not yet made ready for its rows."""
        out = np.flatnonzero(self.table["on_hand"] <= 0)
        since = np.maximum(self.newest()[out, Modality.LEVEL], self.start)
        self._out_of_stock(out, since, np.full(len(out), self.end), 1)
        self.settle()
        if self.since <= self.open_day:
            self._learn(self.open_day)
        self.open_day += 1
        self.cells.compact(self.open_day)
        self.announcements.forget(self.calendar.start(self.open_day - DAYS))

    def begin_day(self, active: Ints) -> None:
        """Make ready for the rows of the day that `end_day` opened; `active` have a close window at its start."""
        bit = _bit(self.open_day)
        self.table["used"][:] &= ~bit
        self.table["closed"][:] &= ~bit
        self.table["closed"][active] |= bit
        self.table["late"][active] = 0
        self.table["revision"][:] = 0

    def active(self) -> Ints:
        """Rows of the products that get a close window at the start of the open day."""
        return np.flatnonzero(self.last() > self.calendar.start(self.open_day - self._config.active_days))

    def closed(self, day: int) -> Ints:
        """Rows of the products that had a close window at the start of a day."""
        return np.flatnonzero((self.table["closed"] & _bit(day)) != 0)

    def use(self, rows: Ints, days: Ints) -> None:
        """Note that outcomes have counted some days of these products."""
        self.table["used"][rows] |= np.bitwise_or.reduce(_bit(days))

    def _learn(self, day: int) -> None:
        first = self.calendar.day(self.first())
        active = self.last() > self.calendar.start(day + 1 - self._config.active_days)
        rows = np.flatnonzero((first <= day) & active)
        units, out = self.cells.of_day(day, self.table.rows)
        self.rates.learn(
            int(self.calendar.weekday(day)),
            self.table["category"][rows],
            day - first[rows],
            units[rows],
            1.0 - out[rows] / self._lengths(np.asarray([day])),
        )

    def _lengths(self, days: Ints) -> Ints:
        """[days] ms of each day."""
        return self.calendar.midnights[days + 1] - self.calendar.midnights[days]

    # ------------------------------------------------------------------------------------------- reading

    def sums(self, rows: Ints) -> Sums:
        """What the cells hold of some products; settled sums alone."""
        found = self.cells.of_rows(rows)
        ages = found.ages(self.open_day)
        here = np.flatnonzero(ages <= DAYS)
        days = np.zeros((len(rows), len(CELL_CHANNELS), DAYS + 1), np.int64)
        places = (found.which[here] * len(CELL_CHANNELS) + found.channels[here]) * (DAYS + 1) + DAYS - ages[here]
        np.add.at(days.reshape(-1), places, found.values[here].astype(np.int64))
        return Sums(days, found, ages)

    def hours(self, sums: Sums, as_of: int) -> Ints:
        """[rows, channels, HOURS] in the order of `CHANNELS`, up to the hour that holds `as_of`."""
        found = sums.found
        here = np.flatnonzero((found.hours != NO_HOUR) & (sums.ages <= HOURLY_DAYS))
        hour = (self._days.midnights // HOUR)[DAYS - sums.ages[here]] + found.hours[here]
        place = hour - (as_of // HOUR - HOURS + 1)
        inside = (place >= 0) & (place < HOURS)
        here, place = here[inside], place[inside]
        hours = np.zeros((len(sums.days), len(CHANNELS), HOURS), np.int64)
        cells = (found.which[here] * len(CHANNELS) + PLACE[found.channels[here]]) * HOURS + place
        np.add.at(hours.reshape(-1), cells, found.values[here].astype(np.int64))
        return hours

    def in_stock(self, rows: Ints, days: Ints) -> Floats:
        """[rows, days] share of each closed day in stock."""
        self.settle()
        return self.sums(rows).in_stock(self._lengths(np.arange(self.open_day - DAYS, self.open_day)))[
            :, days - self.open_day
        ]

    def outcomes(self, rows: Ints, start: int, stop: int) -> tuple[Ints, Ints]:
        """[rows] units, and ms out of stock, in the closed days from `start` up to and without `stop`."""
        units, out = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        days = slice(start - self.open_day + DAYS, stop - self.open_day + DAYS)
        for first in range(0, len(rows), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            sums = self.sums(rows[part]).days
            units[part] = sums[:, _UNITS, days].sum(axis=1)
            out[part] = sums[:, _OUT, days].sum(axis=1)
        return units, out

    def known(self, rows: Ints) -> Array:
        """[rows, KNOWN, DAYS + AHEAD] percent: what is known of the days around the start of the open one."""
        return self.announcements.percents(rows, self.calendar, self.open_day, self.country)

    def age_days(self, rows: Ints) -> Ints:
        """[rows] days from the first event to the open day."""
        return self.open_day - self.calendar.day(self.first()[rows])

    def baseline(self, rows: Ints, sums: Sums) -> Baseline:
        """Baseline and thresholds at the start of the open day."""
        days = np.arange(self.open_day - DAYS, self.open_day)
        age = self.age_days(rows)
        known: Mask = (days >= (self.open_day - age)[:, None]) & (days >= self.since)
        ahead = np.arange(self.open_day - DAYS, self.open_day + HORIZONS[-1])
        return baseline(
            self._config.baseline,
            self.rates,
            self.calendar.weekday(ahead),
            sums.units,
            sums.in_stock(self._lengths(days)) * known,
            self.table["category"][rows],
            age,
        )

    # --------------------------------------------------------------------------------------------- blobs

    def freeze(self) -> dict[str, Callable[[], bytes]]:
        """Blobs by name, as this moment left them; each is encoded when it is called."""
        self.settle()
        return {
            f"{part}/{name}": blob
            for part, state in (
                ("products", self.table),
                ("rates", self.rates.table),
                ("cells", self.cells),
                ("pools", self.pools),
                ("announcements", self.announcements),
            )
            for name, blob in state.freeze().items()
        }

    def load(self, blobs: Mapping[str, bytes]) -> None:
        """The inverse of `freeze`, on fresh products."""
        for part, table in (("products", self.table), ("rates", self.rates.table)):
            table.load(*(blob for _, blob in sorted(below(part, blobs).items())))
        self.cells.load(below("cells", blobs))
        self.pools.load(below("pools", blobs))
        self.announcements.load(below("announcements", blobs))
        names = self.table["name"]
        self._row_of = np.full(int(names.max(initial=-1)) + 1, _UNKNOWN, np.int32)
        self._row_of[names] = np.arange(len(names))


@dataclass(frozen=True)
class Sums:
    """Daily sums of some products, and the cells that they were made of."""

    days: Ints  # [rows, cell channels, DAYS + 1], the open day last
    found: Found
    ages: Ints  # [cells] days before the open day

    @property
    def closed(self) -> Ints:
        """[rows, channels, DAYS] in the order of `CHANNELS`."""
        return self.days[:, _IN_WINDOW, :DAYS]

    @property
    def open(self) -> Ints:
        """[rows, channels] of the open day."""
        return self.days[:, _IN_WINDOW, DAYS]

    @property
    def units(self) -> Ints:
        """[rows, DAYS]"""
        return self.days[:, _UNITS, :DAYS]

    def in_stock(self, lengths: Ints) -> Floats:
        """[rows, DAYS] share of each closed day in stock; `lengths` [DAYS] ms."""
        return np.asarray(1.0 - self.days[:, _OUT, :DAYS] / lengths, np.float64)


def _bit(days: Array | int) -> Array:
    """The bit of each day, in `closed` and `used`."""
    return np.uint64(1) << (np.asarray(days) % 64).astype(np.uint64)
