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
from streams.records import EventKind, Modality

SETTLE = 1 << 16  # events that wait at most
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
_ORDERED = 3  # channels that a cancellation takes off: units, orders, revenue


@dataclass(frozen=True)
class _Cancelled:
    """Lines that were cancelled in one record."""

    turn: int  # of the record among those that wait
    rows: Ints
    days: Ints
    places: Ints  # hour within the day, or NO_HOUR
    off: Ints  # [lines, 3] units, orders, revenue


class Arrivals:
    """Events that were folded into products but not yet into their cells and times."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._events: list[tuple[Keys, Ints, Ints, Ints]] = []  # keys, event times, quantity or rating, amount
        self._cancelled: list[_Cancelled] = []
        self._changes: list[tuple[Keys, Ints]] = []
        self.rows = 0

    def add(self, rows: Ints, cells: Array, kind: Array, at: Ints, count: Ints, amount: Ints) -> None:
        """Events [events] of one record; `cells` hold day and hour, `count` quantity, or rating of a review."""
        self._events.append((keys_of(rows, cells | _CODE[kind]), at, count, amount))
        self.rows += len(rows)

    def note(self, rows: Ints, at: Ints) -> None:
        """Rows of which the event time alone counts."""
        nothing = np.zeros(len(rows), np.int64)
        self._events.append((keys_of(rows, _NONE), at, nothing, nothing))
        self.rows += len(rows)

    def cancel(self, rows: Ints, days: Ints, places: Ints, off: Ints) -> None:
        """Lines cancelled by the record that was added last: day and hour within it of their orders, and what goes."""
        self._cancelled.append(_Cancelled(len(self._events) - 1, rows, days, places, off))

    def change(self, rows: Ints, cells: Array | int, values: Ints) -> None:
        """Add to cells, whatever they hold."""
        self._changes.append((keys_of(rows, cells), values))

    def settle(self, times: Array, first_hours: Ints) -> int:
        """Put all that waits into the cells and into `times` [products, 2 + modalities].

        `first_hours` [128]: UTC hour in which each day begins, by day modulo 128. Returns how many buckets would have
        become negative.
        """
        clipped = 0
        if self._events:
            events = self._events
            keys, order = sort_order(np.concatenate([part[0] for part in events]))
            at, count, amount = (np.concatenate([part[i] for part in events])[order] for i in (1, 2, 3))
            _note(times, keys, at)
            if self._cancelled:
                turns = np.repeat(np.arange(len(events)), [len(part[0]) for part in events])[order]
                clipped = self._replay(keys, turns, count, amount, first_hours)
            self._cells.push(_sums(keys, count, amount))
        if self._changes:
            keys, values = (np.concatenate([part[i] for part in self._changes]) for i in (0, 1))
            for start in range(0, len(keys), _CHUNK):
                part = slice(start, start + _CHUNK)
                self._cells.push(merged([Run(keys[part], values[part])]))
        self._events, self._cancelled, self._changes, self.rows = [], [], [], 0
        return clipped

    def _replay(self, keys: Keys, turns: Ints, count: Ints, amount: Ints, first_hours: Ints) -> int:
        """Turn cancellations into changes of cells."""
        fields = ("rows", "days", "places", "off")
        rows, days, places, off = (np.concatenate([getattr(c, f) for c in self._cancelled]) for f in fields)
        turn = np.repeat([c.turn for c in self._cancelled], [len(c.rows) for c in self._cancelled])
        is_order = np.flatnonzero((keys & np.uint64(_NONE)) == _CODE[EventKind.ORDER])
        ordered = _Buckets.of(keys[is_order].astype(np.int64), first_hours)
        added = np.stack([count[is_order], np.ones(len(is_order), np.int64), amount[is_order]], axis=1)
        products = np.unique(rows)
        found = self._cells.of_rows(products)
        some = np.flatnonzero(found.channels < _ORDERED)
        stored = _Buckets.of((products[found.which[some]] << CELL_BITS) | found.cells[some], first_hours)
        held = np.zeros((len(some), _ORDERED), np.int64)
        held[np.arange(len(some)), found.channels[some]] = found.values[some]

        def play(wanted: Ints, ordered: Ints, stored: Ints, which: Ints) -> tuple[Ints, Ints, int]:
            """Index of a cancelled line of each bucket, what all of them change it by, how many became negative."""
            buckets, lines = np.unique(wanted, return_index=True)
            values = np.zeros((len(buckets), _ORDERED), np.int64)
            of, where = _places(buckets, stored)
            np.add.at(values, of, held[where])
            of, where = _places(buckets, ordered)
            by_turn = np.argsort(turns[is_order[where]], kind="stable")
            of, where = of[by_turn], where[by_turn]
            when = turns[is_order[where]]
            without = values.copy()
            np.add.at(without, of, added[where])
            target, below, done = np.searchsorted(buckets, wanted), 0, 0
            for now in np.unique(turn[which]).tolist():
                stop = int(np.searchsorted(when, now, side="right"))
                np.add.at(values, of[done:stop], added[where[done:stop]])
                here = np.flatnonzero(turn[which] == now)
                np.subtract.at(values, target[here], off[which[here]])
                below += int((values < 0).sum())
                np.maximum(values, 0, out=values)
                done = stop
            np.add.at(values, of[done:], added[where[done:]])
            return which[lines], values - without, below

        wanted = _Buckets.of((rows << CELL_BITS) | cell(days, places, 0), first_hours)
        lines, by_day, clipped = play(wanted.days, ordered.days, stored.days, np.arange(len(rows)))
        self._change(rows[lines], days[lines], NO_HOUR, by_day)
        hourly = np.flatnonzero(places != NO_HOUR)
        lines, by_hour, _ = play(wanted.hours[hourly], ordered.hours, stored.hours, hourly)
        # An hour's cell counts for its day too: what the day is to change by stands in the day's own cell.
        self._change(rows[lines], days[lines], places[lines], by_hour)
        self._change(rows[lines], days[lines], NO_HOUR, -by_hour)
        return clipped

    def _change(self, rows: Ints, days: Ints, places: Array | int, values: Ints) -> None:
        for channel in range(_ORDERED):
            self.change(rows, cell(days, places, channel), values[:, channel])


@dataclass(frozen=True)
class _Buckets:
    """Numbers of the buckets that keys belong to."""

    days: Ints  # product and day
    hours: Ints  # product and UTC hour, -1 without hour: an hour may lie in two days

    @staticmethod
    def of(keys: Ints, first_hours: Ints) -> _Buckets:
        place = (keys >> 4) & NO_HOUR
        hours = ((keys >> CELL_BITS) << 24) | (first_hours[(keys >> 9) & 127] + place)
        return _Buckets(keys >> 9, np.where(place == NO_HOUR, -1, hours))


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
    lines = times[rows[starts]]
    newest = 2 + Modality.BEHAVIOR
    np.minimum(lines[:, 0], np.minimum.reduceat(at, starts), out=lines[:, 0])
    np.maximum(lines[:, 1], np.maximum.reduceat(at, starts), out=lines[:, 1])
    behaved = np.maximum.reduceat(np.where(behaviour, at, NEVER), starts)
    np.maximum(lines[:, newest], behaved, out=lines[:, newest])
    times[rows[starts]] = lines


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
