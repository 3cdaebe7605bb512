"""Events on their way into the cells: kept as they come, sorted and summed many at a time.

Sums and newest times do not depend on how events are cut into records, so one sort serves many of them. Cancellations
do: a bucket stops at zero after each record, so they are played again record by record, for the buckets they touch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featurizers.cells import (
    CELL_BITS,
    CELL_CHANNELS,
    DAY_SHIFT,
    HOUR_SHIFT,
    HOURLY_DAYS,
    NO_HOUR,
    Cells,
    Keys,
    Run,
    cell,
    keys_of,
    merged,
    narrow,
    sort_order,
    starts_of,
)
from featurizers.pooling import NEVER
from featurizers.state import Array, Ints
from streams.calendars import HOUR
from streams.records import DAYS, EventKind, Modality

SETTLE = 1 << 16  # events that wait before they are settled
LARGEST = 1 << 20  # events that are added at a time: with those that wait, no more than one sort takes
_CHUNK = 1 << 20  # changes that are sorted at a time
_NONE = 15  # the code of a kind that fills no channel
_CODE = np.full(max(EventKind) + 1, _NONE, np.int64)  # by kind: the first channel that it fills
_CODE[EventKind.ORDER] = CELL_CHANNELS.index("units")
_CODE[EventKind.RETURNED] = CELL_CHANNELS.index("returned")
_CODE[EventKind.REVIEW] = CELL_CHANNELS.index("reviews")
_CODE[EventKind.VIEW] = CELL_CHANNELS.index("views")
_CODE[EventKind.CART] = CELL_CHANNELS.index("carts")
_CODE[EventKind.FAVOURITE] = CELL_CHANNELS.index("favourites")
_FILLS = np.zeros(_NONE + 1, np.int64)  # by code: channels that it fills, which stand side by side
_FILLS[_CODE[[EventKind.ORDER, EventKind.RETURNED, EventKind.REVIEW]]] = (3, 1, 2)
_FILLS[_CODE[[EventKind.VIEW, EventKind.CART, EventKind.FAVOURITE]]] = 1
# By channel: 0 counts events, 1 sums quantity or rating, 2 sums the amount.
_SUMS = np.asarray([{"units": 1, "revenue": 2, "returned": 1, "rating_sum": 1}.get(c, 0) for c in CELL_CHANNELS])
_HOURS = NO_HOUR << HOUR_SHIFT  # bits of the hour
_ORDERED = 3  # channels that a cancellation takes off: units, orders, revenue


@dataclass(frozen=True)
class Days:
    """How instants of the ring map to cells while one day is open."""

    open_day: int
    midnights: Ints  # [DAYS + 2] UTC ms at which the days of the ring begin, and the open one ends

    @property
    def first_hours(self) -> Ints:
        """[128] UTC hour in which each day begins, by day modulo 128."""
        hours = np.zeros(128, np.int64)
        hours[np.arange(self.open_day - DAYS, self.open_day + 2) & 127] = self.midnights // HOUR
        return hours

    @property
    def aligned(self) -> bool:
        """Whether no hour lies in two days."""
        return not (self.midnights % HOUR).any()

    def of(self, at: Ints) -> Ints:
        """Index of the ring's day that holds each instant before the end of the open day; -1 before the ring."""
        if len(at) and at.min() >= self.midnights[-2]:
            return np.full(len(at), DAYS)
        return np.searchsorted(self.midnights[:-1], at, side="right") - 1

    def cells(self, at: Ints) -> Ints:
        """Day and hour of instants in the ring, as the low bits of keys, for the first channel."""
        place = self.of(at)
        hours = at // HOUR - (self.midnights // HOUR)[place]
        hours[place < DAYS - HOURLY_DAYS] = NO_HOUR  # no window can ask for them
        return cell(place + (self.open_day - DAYS), hours, 0)


@dataclass(frozen=True)
class _Cancelled:
    """Lines that were cancelled in one record."""

    turn: int  # of the record among those that wait
    rows: Ints
    ordered_at: Ints
    off: Ints  # [lines, 3] units, orders, revenue


class Arrivals:
    """Events that were folded into products but not yet into their cells and times."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._events: list[tuple[Ints, Array, Ints, Ints, Array, Ints]] = []
        self._cancelled: list[_Cancelled] = []
        self._changes: list[tuple[Keys, Ints]] = []
        self.rows = 0

    def add(self, rows: Ints, kind: Array, at: Ints, quantity: Ints, rating: Array, amount: Ints) -> None:
        """Events [events] of one record, those that fill a channel within the ring."""
        self._events.append((rows, kind, at, quantity, rating, amount))
        self.rows += len(rows)

    def note(self, rows: Ints, at: Ints) -> None:
        """Rows of which the event time alone counts."""
        nothing = np.zeros(len(rows), np.int64)
        kind = np.full(len(rows), EventKind.IMAGE, np.int8)
        self.add(rows, kind, at, nothing, nothing.astype(np.int8), nothing)

    def cancel(self, rows: Ints, ordered_at: Ints, off: Ints) -> None:
        """Lines cancelled by the record that was added last; `off` [lines, 3] units, orders, revenue."""
        self._cancelled.append(_Cancelled(len(self._events) - 1, rows, ordered_at, off))

    def change(self, rows: Ints, cells: Array | int, values: Ints) -> None:
        """Add to cells, whatever they hold."""
        self._changes.append((keys_of(rows, cells), values))

    def settle(self, times: Array, days: Days) -> int:
        """Put all that waits into the cells and into `times` [products, 2 + modalities].

        Returns how many days' buckets would have become negative.
        """
        clipped = 0
        if self._events:
            events = self._events
            rows, kind, at, quantity, rating, amount = (
                np.concatenate([part[i] for part in events]) for i in range(len(events[0]))
            )
            keys, order = sort_order(keys_of(rows, days.cells(at) | _CODE[kind]))
            at, amount = at[order], amount[order]
            count = np.where(kind == EventKind.REVIEW, rating, quantity)[order]
            _note(times, keys, at)
            if self._cancelled:
                turns = np.repeat(np.arange(len(events)), [len(part[0]) for part in events])[order]
                clipped = self._replay(keys, turns, count, amount, days)
            self._cells.push(_sums(keys, count, amount))
        if self._changes:
            keys, values = (np.concatenate([part[i] for part in self._changes]) for i in (0, 1))
            for start in range(0, len(keys), _CHUNK):
                part = slice(start, start + _CHUNK)
                self._cells.push(merged([Run(keys[part], values[part])]))
        self._events, self._cancelled, self._changes, self.rows = [], [], [], 0
        return clipped

    def _replay(self, keys: Keys, turns: Ints, count: Ints, amount: Ints, days: Days) -> int:
        """Turn cancellations into changes of cells."""
        fields = ("rows", "ordered_at", "off")
        rows, ordered_at, off = (np.concatenate([getattr(c, f) for c in self._cancelled]) for f in fields)
        turn = np.repeat([c.turn for c in self._cancelled], [len(c.rows) for c in self._cancelled])
        wanted = keys_of(rows, days.cells(ordered_at)).astype(np.int64)
        is_order = np.flatnonzero((keys & np.uint64(_NONE)) == _CODE[EventKind.ORDER])
        is_order = is_order[np.isin(keys[is_order] >> np.uint64(CELL_BITS), rows.astype(np.uint64))]
        stored, held = self._stored(wanted, days)
        added = np.stack([count[is_order], np.ones(len(is_order), np.int64), amount[is_order]], axis=1)
        channels, first_hours = stored & _NONE, days.first_hours
        ordered, stored_in, cancelled = (
            _Buckets.of(some, first_hours) for some in (keys[is_order].astype(np.int64), stored, wanted)
        )

        def play(which: Ints, wanted: Ints, ordered: Ints, stored: Ints) -> tuple[Ints, Ints, int]:
            """Index of a cancelled line of each bucket, what all of them change it by, how many became negative."""
            buckets, lines = np.unique(wanted[which], return_index=True)
            values = np.zeros(len(buckets) * _ORDERED, np.int64)
            of, where = _places(buckets, stored)
            np.add.at(values, of * _ORDERED + channels[where], held[where])
            of, where = _places(buckets, ordered)
            by_turn = np.argsort(turns[is_order[where]], kind="stable")
            of, where = of[by_turn], where[by_turn]
            when = turns[is_order[where]]
            to, more = _cells_of(of), added[where].reshape(-1)
            without = values.copy()
            np.add.at(without, to, more)
            target, less = _cells_of(np.searchsorted(buckets, wanted[which])), off[which].reshape(-1)
            ends = np.searchsorted(turn[which], np.unique(turn[which]), side="right") * _ORDERED
            below = begin = done = 0
            for end in ends.tolist():
                stop = int(np.searchsorted(when, turn[which[end // _ORDERED - 1]], side="right")) * _ORDERED
                np.add.at(values, to[done:stop], more[done:stop])
                np.subtract.at(values, target[begin:end], less[begin:end])
                negative = np.flatnonzero(values < 0)
                values[negative] = 0
                below += len(negative)
                begin, done = end, stop
            np.add.at(values, to[done:], more[done:])
            return which[lines], (values - without).reshape(-1, _ORDERED), below

        lines, by_day, clipped = play(np.arange(len(rows)), cancelled.days, ordered.days, stored_in.days)
        day_alone = (wanted & ~_HOURS) | _HOURS
        self._change(day_alone[lines], by_day)
        hourly = np.flatnonzero(cancelled.hours >= 0)
        lines, by_hour, _ = play(hourly, cancelled.hours, ordered.hours, stored_in.hours)
        # An hour's cell counts for its day too: what the day is to change by stands in the day's own cell.
        self._change(wanted[lines], by_hour)
        self._change(day_alone[lines], -by_hour)
        return clipped

    def _stored(self, wanted: Ints, days: Days) -> tuple[Ints, Ints]:
        """Keys and values of what the cells hold of the days, and of all hours, that some keys lie in."""
        buckets = np.unique(wanted >> DAY_SHIFT)
        if not days.aligned:  # an hour may lie in the day before, or after
            row, day = buckets >> (CELL_BITS - DAY_SHIFT), buckets & 127
            buckets = np.unique(
                np.concatenate([(row << (CELL_BITS - DAY_SHIFT)) | ((day + step) & 127) for step in (-1, 0, 1)])
            )
        rows, low = buckets >> (CELL_BITS - DAY_SHIFT), (buckets & 127) << DAY_SHIFT
        found = self._cells.within(rows, low, low | ((1 << DAY_SHIFT) - 1))
        some = np.flatnonzero(found.channels < _ORDERED)
        return (rows[found.which[some]] << CELL_BITS) | found.cells[some], found.values[some].astype(np.int64)

    def _change(self, keys: Ints, values: Ints) -> None:
        for channel in range(_ORDERED):
            self._changes.append(((keys | channel).astype(np.uint64), values[:, channel]))


@dataclass(frozen=True)
class _Buckets:
    """Numbers of the buckets that keys belong to."""

    days: Ints  # product and day
    hours: Ints  # product and UTC hour, -1 without hour: an hour may lie in two days

    @staticmethod
    def of(keys: Ints, first_hours: Ints) -> _Buckets:
        place = (keys >> HOUR_SHIFT) & NO_HOUR
        hours = ((keys >> CELL_BITS) << 24) | (first_hours[(keys >> DAY_SHIFT) & 127] + place)
        return _Buckets(keys >> DAY_SHIFT, np.where(place == NO_HOUR, -1, hours))


def _cells_of(buckets: Ints) -> Ints:
    """[buckets * 3] place of each bucket's channels in a flat array: numpy adds to one dimension fastest."""
    return (buckets[:, None] * _ORDERED + np.arange(_ORDERED)).reshape(-1)


def _places(buckets: Ints, keys: Ints) -> tuple[Ints, Ints]:
    """Index into `buckets`, which are in order, and into `keys`, for each key that is among them."""
    place = np.minimum(np.searchsorted(buckets, keys), max(len(buckets) - 1, 0))
    where = np.flatnonzero(buckets[place] == keys) if len(buckets) else np.empty(0, np.int64)
    return place[where], where


def _note(times: Array, keys: Keys, at: Ints) -> None:
    """First and last event time, and the newest of behaviours."""
    rows = (keys >> np.uint64(CELL_BITS)).astype(np.int64)
    starts = starts_of(rows)
    code = keys & np.uint64(_NONE)
    behaviour = (code >= _CODE[EventKind.VIEW]) & (code <= _CODE[EventKind.FAVOURITE])
    lines = np.take(times, rows[starts], axis=0)
    newest = 2 + Modality.BEHAVIOR
    np.minimum(lines[:, 0], np.minimum.reduceat(at, starts), out=lines[:, 0])
    np.maximum(lines[:, 1], np.maximum.reduceat(at, starts), out=lines[:, 1])
    behaved = np.maximum.reduceat(np.where(behaviour, at, NEVER), starts)
    np.maximum(lines[:, newest], behaved, out=lines[:, newest])
    _whole(times)[rows[starts]] = _whole(lines)


def _whole(lines: Array) -> Array:
    """[rows] each row as one thing: numpy puts that down twice as fast."""
    return lines.view(f"V{lines.strides[0]}").reshape(-1)


def _sums(keys: Keys, count: Ints, amount: Ints) -> Run:
    """The cells of events in order of their keys."""
    starts = starts_of(keys)
    groups = keys[starts].astype(np.int64)
    sums = np.stack(
        [np.diff(np.append(starts, len(keys))), np.add.reduceat(count, starts), np.add.reduceat(amount, starts)]
    )
    code = groups & _NONE
    fills = _FILLS[code]
    of = np.repeat(np.arange(len(groups)), fills)
    channel = code[of] + np.arange(len(of)) - np.repeat(np.cumsum(fills) - fills, fills)
    return Run(((groups[of] ^ code[of]) | channel).astype(np.uint64), narrow(sums[_SUMS[channel], of]))
