"""The state of one platform's products: what a row adds to it, and how a day ends.

A product's row is given at the first event that is folded, so rows stand in order of first appearance. Rings are
indexed by day (platform calendar) or hour (UTC) modulo their length.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from featurizers.baseline import Baseline, CategoryRates, baseline
from featurizers.grids import Grid
from featurizers.parking import Columns
from featurizers.pooling import COLUMNS as POOL_COLUMNS
from featurizers.pooling import NEVER, add_vectors
from featurizers.state import Array, Column, Floats, Ints, Mask, Table
from featurizers.window_config import WindowConfig
from streams.calendars import DAY, HOUR, Calendar
from streams.records import DAYS, HORIZONS, HOURS, EventKind, Modality

RING = DAYS + 1  # the closed days and the open one
HOUR_RING = 80  # HOURS before a day's start and the 25 hours that it may have, with room at both ends
_UNKNOWN = -1
_FAR = 2**62

COLUMNS: dict[str, Column] = {
    "name": Column(np.int32),
    "first": Column(np.int64, fill=_FAR),  # event times, ms
    "last": Column(np.int64, fill=NEVER),
    "newest": Column(np.int64, (len(Modality),), NEVER),  # event time of the newest row of each modality
    "category": Column(np.int32),  # code; 0 is ""
    "price": Column(np.int64, fill=-1),
    "unit_cost": Column(np.int64, fill=-1),
    "on_hand": Column(np.float64, fill=np.nan),
    "on_order": Column(np.float64, fill=np.nan),
    "lead_time_days": Column(np.float64, fill=np.nan),
    "out_ms": Column(np.int32, (RING,)),  # out of stock in each day
    "closed": Column(np.bool_, (RING,)),  # had a close window at the day's start
    "used": Column(np.bool_, (RING,)),  # an outcome has counted the day
    "late": Column(np.int32),
    "revision": Column(np.int32),
    "queued": Column(np.bool_),  # waits for a live window
    **Grid.columns("day", RING),
    **Grid.columns("hour", HOUR_RING),
    **POOL_COLUMNS,
}


class Products:
    """One platform's products between the opening of a day and its end."""

    def __init__(self, calendar: Calendar, config: WindowConfig, counters: Counter[str]) -> None:
        self.calendar = calendar
        self.table = Table(COLUMNS)
        self.day = Grid(self.table, "day", RING)
        self.hour = Grid(self.table, "hour", HOUR_RING)
        self.rates = CategoryRates(config.baseline)
        self.open_day = _UNKNOWN
        self.since = _FAR  # first day of which an order or a behaviour was folded
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

    # ---------------------------------------------------------------------------------------------- rows

    def take_events(self, events: Columns, *, history: bool) -> Array:
        """Fold rows before the end of the open day; their product rows [rows]. `history`: nothing counts as late."""
        day = self.calendar.day(events["at"])
        beyond = (events["kind"] <= EventKind.IMAGE) & (day < self.open_day - DAYS)
        if beyond.any():
            self._counters["beyond_ring"] += int(beyond.sum())
            events = {name: array[~beyond] for name, array in events.items()}
            day = day[~beyond]
        rows, kind, at = self._rows(events["product"]), events["kind"], events["at"]
        self._note_times(rows, at)
        timed = kind <= EventKind.FAVOURITE
        if timed.any():
            self.since = min(self.since, int(day[timed].min()))
        late = timed & (day < self.open_day)
        if not history and late.any():
            self._counters["late"] += int(late.sum())
            np.add.at(self.table["late"], rows[late], 1)
        self._tally(rows, day, events)
        self._cancel(rows, events)
        behaviour = (kind >= EventKind.VIEW) & (kind <= EventKind.FAVOURITE)
        newest = self.table["newest"].reshape(-1)
        np.maximum.at(newest, rows[behaviour] * len(Modality) + Modality.BEHAVIOR, at[behaviour])
        self._catalogue(rows, events)
        self._levels(rows, events)
        return rows

    def take_vectors(self, vectors: Columns) -> Array:
        """Fold encoders' rows before the end of the open day; their product rows [rows]."""
        rows = self._rows(vectors["product"])
        self._note_times(rows, vectors["at"])
        add_vectors(
            self.table,
            rows,
            vectors["modality"],
            vectors["at"],
            vectors["encoder"],
            vectors["vector"],
            self._config.vector_half_life * DAY,
        )
        return rows

    def _rows(self, names: Array) -> Ints:
        highest = int(names.max(initial=-1))
        if highest >= len(self._row_of):
            grown = np.full(max(highest + 1, 2 * len(self._row_of)), _UNKNOWN, np.int32)
            grown[: len(self._row_of)] = self._row_of
            self._row_of = grown
        rows = self._row_of[names]
        if (rows == _UNKNOWN).any():
            fresh, first = np.unique(names[rows == _UNKNOWN], return_index=True)
            fresh = fresh[np.argsort(first)]
            before = self.table.rows
            self.table.append(len(fresh))
            self.table["name"][before:] = fresh
            self._row_of[fresh] = np.arange(before, before + len(fresh))
            rows = self._row_of[names]
        return rows.astype(np.int64)

    def _note_times(self, rows: Ints, at: Ints) -> None:
        np.minimum.at(self.table["first"], rows, at)
        np.maximum.at(self.table["last"], rows, at)

    def _tally(self, rows: Ints, day: Ints, events: Columns) -> None:
        kind, hour = events["kind"], events["at"] // HOUR
        recent = hour > self._last_hour() - HOUR_RING

        def add(channel: str, where: Array, values: Array | int) -> None:
            amounts = np.broadcast_to(np.asarray(values), rows.shape)
            self.day.add(channel, rows[where], day[where], amounts[where])
            where = where[recent[where]]
            self.hour.add(channel, rows[where], hour[where], amounts[where])

        order = np.flatnonzero(kind == EventKind.ORDER)
        if len(order):
            add("units", order, events["quantity"])
            add("orders", order, 1)
            add("revenue", order, events["amount"])
        returned = np.flatnonzero(kind == EventKind.RETURNED)
        if len(returned):
            add("returned", returned, events["quantity"])
        review = np.flatnonzero(kind == EventKind.REVIEW)
        if len(review):
            add("reviews", review, 1)
            add("rating_sum", review, events["rating"])
        for channel, behaviour in (
            ("views", EventKind.VIEW),
            ("carts", EventKind.CART),
            ("favourites", EventKind.FAVOURITE),
        ):
            where = np.flatnonzero(kind == behaviour)
            if len(where):
                add(channel, where, 1)

    def _cancel(self, rows: Ints, events: Columns) -> None:
        """Take cancelled lines off the buckets of their orders, while no outcome has used the day."""
        where = np.flatnonzero(events["kind"] == EventKind.CANCELLED)
        if len(where) == 0:
            return
        ordered = np.minimum(events["ordered_at"][where], events["at"][where])
        day, hour, product = self.calendar.day(ordered), ordered // HOUR, rows[where]
        in_ring = day >= self.open_day - DAYS
        used = in_ring & self.table["used"][product, day % RING]
        self._counters["beyond_ring"] += int((~in_ring).sum())
        self._counters["cancelled_after_outcome"] += int(used.sum())
        keep = in_ring & ~used
        recent = keep & (hour > self._last_hour() - HOUR_RING)
        for channel, amounts in (
            ("units", events["quantity"][where]),
            ("orders", np.ones(len(where), np.int64)),
            ("revenue", events["amount"][where]),
        ):
            self._counters["clipped"] += self.day.take_off(channel, product[keep], day[keep], amounts[keep])
            self.hour.take_off(channel, product[recent], hour[recent], amounts[recent])

    def _last_hour(self) -> int:
        return (self.end - 1) // HOUR

    def _catalogue(self, rows: Ints, events: Columns) -> None:
        where = np.flatnonzero(events["kind"] == EventKind.CATALOGUE)
        if len(where) == 0:
            return
        # The last of a product in (event time, arrival) is its newest of these rows.
        where = where[np.lexsort((events["at"][where], rows[where]))]
        product = rows[where]
        where = where[np.append(product[1:] != product[:-1], True)]
        product, at = rows[where], events["at"][where]
        newer = at >= self.table["newest"][product, Modality.CATALOGUE]
        where, product = where[newer], product[newer]
        self.table["newest"][product, Modality.CATALOGUE] = at[newer]
        self.table["category"][product] = events["category"][where]
        self.table["price"][product] = events["price"][where]

    # --------------------------------------------------------------------------------------------- stock

    def _levels(self, rows: Ints, events: Columns) -> None:
        where = np.flatnonzero(events["kind"] == EventKind.LEVEL)
        if len(where) == 0:
            return
        where = where[np.lexsort((events["at"][where], rows[where]))]
        product = rows[where]
        starts = np.flatnonzero(np.append(True, product[1:] != product[:-1]))
        sizes = np.diff(np.append(starts, len(where)))
        for turn in range(int(sizes.max())):
            one = where[starts[sizes > turn] + turn]  # each product once
            self._set_level(rows[one], {name: array[one] for name, array in events.items()})

    def _set_level(self, rows: Ints, levels: Columns) -> None:
        """out_ms holds all time out of stock before max(newest level, start of the open day): keep it so."""
        table, at = self.table, levels["at"]
        newest = table["newest"][rows, Modality.LEVEL]
        newer = at >= newest
        rows, at, newest = rows[newer], at[newer], newest[newer]
        was_out = table["on_hand"][rows] <= 0
        is_out = levels["on_hand"][newer] <= 0
        counted = np.maximum(newest, self.start)
        self._out_of_stock(rows[was_out], counted[was_out], at[was_out], 1)
        self._out_of_stock(rows[was_out], at[was_out], counted[was_out], -1)
        self._out_of_stock(rows[is_out], at[is_out], np.full(int(is_out.sum()), self.start), 1)
        table["newest"][rows, Modality.LEVEL] = at
        for name in ("on_hand", "on_order", "lead_time_days", "unit_cost"):
            table[name][rows] = levels[name][newer]

    def _out_of_stock(self, rows: Ints, start: Ints, stop: Ints, sign: int) -> None:
        """Add the time from `start` to `stop`, where that is any, to the days it lies in; each row at most once."""
        start = np.maximum(start, self.calendar.start(self.open_day - DAYS))
        some = stop > start
        if not some.any():
            return
        rows, start, stop = rows[some], start[some], stop[some]
        first, last = int(self.calendar.day(start.min())), int(self.calendar.day(stop.max() - 1))
        for day in range(first, last + 1):
            begin, end = self.calendar.start(day), self.calendar.start(day + 1)
            part = np.maximum(np.minimum(stop, end) - np.maximum(start, begin), 0)
            self.table["out_ms"][rows, day % RING] += (sign * part).astype(np.int32)

    # ---------------------------------------------------------------------------------------------- days

    def open(self, day: int) -> None:
        """Open the first day. Days before it are history that may still be folded."""
        self.open_day = day

    def learn_history(self) -> None:
        """Category rates from the days before the first open one, once their rows are folded."""
        for day in range(max(self.since, self.open_day - DAYS), self.open_day):
            self._learn(day)

    def end_day(self) -> None:
        """Close the open day; the next one is open, but not yet cleared for its rows."""
        out = np.flatnonzero(self.table["on_hand"] <= 0)
        since = np.maximum(self.table["newest"][out, Modality.LEVEL], self.start)
        self._out_of_stock(out, since, np.full(len(out), self.end), 1)
        if self.since <= self.open_day:
            self._learn(self.open_day)
        self.open_day += 1

    def begin_day(self, active: Ints) -> None:
        """Make room in the rings for the day that `end_day` opened; `active` have a close window at its start."""
        slot = self.open_day % RING
        self.day.clear(np.asarray([self.open_day]))
        for name in ("out_ms", "used", "closed"):
            self.table[name][:, slot] = 0
        self.table["closed"][active, slot] = True
        before = (self.start - 1) // HOUR
        self.hour.clear(np.arange(before + 1, self._last_hour() + 1))
        self.table["late"][active] = 0
        self.table["revision"][:] = 0

    def active(self) -> Ints:
        """Rows of the products that get a close window at the start of the open day."""
        return np.flatnonzero(self.table["last"] > self.calendar.start(self.open_day - self._config.active_days))

    def _learn(self, day: int) -> None:
        first = self.calendar.day(self.table["first"])
        active = self.table["last"] > self.calendar.start(day + 1 - self._config.active_days)
        rows = np.flatnonzero((first <= day) & active)
        days = np.asarray([day])
        self.rates.learn(
            int(self.calendar.weekday(day)),
            self.table["category"][rows],
            day - first[rows],
            self.day.channel("units", days)[rows, 0],
            self.in_stock(rows, days)[:, 0],
        )

    def in_stock(self, rows: Ints, days: Ints) -> Floats:
        """[rows, days] share of each closed day in stock."""
        length = self.calendar.midnights[days + 1] - self.calendar.midnights[days]
        return np.asarray(1.0 - self.table["out_ms"][rows][:, days % RING] / length, np.float64)

    def age_days(self, rows: Ints) -> Ints:
        """[rows] days from the first event to the open day."""
        return self.open_day - self.calendar.day(self.table["first"][rows])

    def baseline(self, rows: Ints) -> Baseline:
        """Baseline and thresholds at the start of the open day."""
        days = np.arange(self.open_day - DAYS, self.open_day)
        age = self.age_days(rows)
        known: Mask = (days >= (self.open_day - age)[:, None]) & (days >= self.since)
        ahead = np.arange(self.open_day - DAYS, self.open_day + HORIZONS[-1])
        return baseline(
            self._config.baseline,
            self.rates,
            self.calendar.weekday(ahead),
            self.day.channel("units", days)[rows],
            self.in_stock(rows, days) * known,
            self.table["category"][rows],
            age,
        )

    def closed_hours(self, as_of: int) -> Ints:
        """The hour indices of a window that has seen everything up to and with `as_of`."""
        last = as_of // HOUR
        return np.arange(last - HOURS + 1, last + 1)

    # --------------------------------------------------------------------------------------------- blobs

    def load(self, products: bytes, rates: bytes) -> None:
        """The inverse of `table.dump()` and `rates.table.dump()`, on fresh products."""
        self.table.load(products)
        self.rates.table.load(rates)
        names = self.table["name"]
        self._row_of = np.full(int(names.max(initial=-1)) + 1, _UNKNOWN, np.int32)
        self._row_of[names] = np.arange(len(names))
