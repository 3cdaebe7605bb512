"""Sums of every product, day, hour and channel, kept sparse: a log-structured merge of sorted cells.

A cell is a key and a value; cells of one key add up, so updates are appended and never looked up. The low 16 bits of a
key are, from the top, the day modulo 128, the hour within the day and the channel; above stands the product's row. New
cells come as sorted runs with 64-bit keys; eight runs of one level merge into one of the next. At the end of a day all
go into the base, blocks of rows with 32-bit keys, where days that left the ring are dropped, and days too old for the
hourly part of a window give up their hours. Runs and blocks never change once made: a snapshot holds on to them. How
cells are spread over runs is no part of the state: a snapshot holds them merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurizers.state import Array, Ints, dump_arrays, load_arrays
from streams.records import CHANNELS, DAYS

Keys = npt.NDArray[np.uint64]

# Channels stand in the order of the kinds of events that fill them, so that sorted events expand to sorted cells.
CELL_CHANNELS = (
    "units",
    "orders",
    "revenue",
    "returned",
    "reviews",
    "rating_sum",
    "views",
    "carts",
    "favourites",
    "out_ms",
)
PLACE = np.asarray([CHANNELS.index(name) if name in CHANNELS else -1 for name in CELL_CHANNELS])  # in `CHANNELS`
NO_HOUR = 31
HOURLY_DAYS = 3  # closed days that keep their hours: 48 hours reach into three where clocks change

ROW_BITS = 27
CELL_BITS = 16
DAY_SHIFT, HOUR_SHIFT = 9, 4
_DAY_MASK, _HOUR_MASK, _CHANNEL_MASK = 127, 31, 15
_INDEX_BITS = 64 - ROW_BITS - CELL_BITS
_AT_ONCE = 1 << 20  # cells of one sort, at most 2 ** _INDEX_BITS
_BLOCK_BITS = 14  # rows of a block of the base
_FAN = 8  # runs of a level that merge


def cell(day: Array | int, hour: Array | int, channel: Array | int) -> Array:
    """The low bits of a key: day index, hour within the day or NO_HOUR, index in `CELL_CHANNELS`."""
    return np.asarray(((np.asarray(day) & _DAY_MASK) << DAY_SHIFT) | (np.asarray(hour) << HOUR_SHIFT) | channel)


def keys_of(rows: Array, cells: Array | int) -> Keys:
    """[cells] keys of product rows and low bits."""
    return ((rows.astype(np.int64) << CELL_BITS) | cells).astype(np.uint64)


def sort_order(keys: Keys) -> tuple[Keys, Ints]:
    """Keys of rows and low bits in order, equal ones in order of arrival, and where each stood; at most 2 ** 21."""
    # One sort of whole words is several times as fast as a sort of indices.
    packed = (keys << np.uint64(_INDEX_BITS)) | np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    return packed >> np.uint64(_INDEX_BITS), (packed & np.uint64((1 << _INDEX_BITS) - 1)).astype(np.int64)


def starts_of(ordered: Array) -> Ints:
    """Where each run of equal values begins."""
    changes = np.empty(len(ordered), np.bool_)
    changes[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=changes[1:])
    return np.flatnonzero(changes)


@dataclass(frozen=True)
class Run:
    """Cells in order of their keys, each key once."""

    keys: Array  # uint64, or uint32 within a block
    values: Array  # int32 where all of them fit, else int64

    def between(self, low: int, high: int) -> Run:
        """The cells whose keys lie in [low, high)."""
        a, b = np.searchsorted(self.keys, np.asarray([low, high], self.keys.dtype)).tolist()
        return Run(self.keys[a:b], self.values[a:b])


EMPTY = Run(np.empty(0, np.uint64), np.empty(0, np.int32))


Change = Callable[["Run"], "Run"]


def merged(runs: Sequence[Run], change: Change | None = None) -> Run:
    """The cells of several runs with 64-bit keys; what adds up to zero is gone.

    `change` may drop cells and change their low bits, in a way that puts them out of order and makes keys meet.
    """
    runs = [run for run in runs if len(run.keys)]
    if not runs:
        return EMPTY
    first, last = (pick(int(run.keys[i]) >> CELL_BITS for run in runs) for pick, i in ((min, 0), (max, -1)))
    # A product has some thousand cells in each run, far fewer than one sort takes.
    if sum(len(run.keys) for run in runs) <= _AT_ONCE or first >= last:
        return _merged_at_once(runs if change is None else [change(run) for run in runs])
    largest = max(runs, key=lambda run: len(run.keys)).keys
    middle = max(int(largest[len(largest) // 2]) >> CELL_BITS, first + 1) << CELL_BITS
    halves = [merged([run.between(*ends) for run in runs], change) for ends in ((0, middle), (middle, 1 << 63))]
    return Run(np.concatenate([h.keys for h in halves]), narrow(np.concatenate([h.values for h in halves])))


def _merged_at_once(runs: Sequence[Run]) -> Run:
    keys, order = sort_order(np.concatenate([run.keys for run in runs]))
    if len(keys) == 0:
        return EMPTY
    values = np.concatenate([run.values for run in runs])[order]
    starts = starts_of(keys)
    keys, values = keys[starts], np.add.reduceat(values, starts, dtype=np.int64)
    some = values != 0
    if not some.all():
        keys, values = keys[some], values[some]
    return Run(keys, narrow(values))


def narrow(values: Array) -> Array:
    """The values as int32 where all of them fit, else int64."""
    limits = np.iinfo(np.int32)
    fits = len(values) == 0 or (values.min() >= limits.min and values.max() <= limits.max)
    return values.astype(np.int32 if fits else np.int64, copy=False)


@dataclass(frozen=True)
class Found:
    """Cells of some products, in no order; a key may come more than once."""

    which: Ints  # [cells] index into the rows that were asked for
    cells: Array  # [cells] low bits of the keys
    values: Array  # [cells]

    def ages(self, day: int) -> Ints:
        """[cells] days from each cell's day to `day`."""
        return (day - (self.cells >> DAY_SHIFT)) & _DAY_MASK

    @property
    def hours(self) -> Ints:
        return (self.cells >> HOUR_SHIFT) & _HOUR_MASK

    @property
    def channels(self) -> Ints:
        return self.cells & _CHANNEL_MASK


class Cells:
    """The cells of one platform's products."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, Run]] = []  # level and run, levels never rising
        self._base: dict[int, Run] = {}  # by block

    def push(self, run: Run) -> None:
        """Take new cells."""
        if len(run.keys) == 0:
            return
        level = 0
        self._runs.append((level, run))
        while len(self._runs) >= _FAN and self._runs[-_FAN][0] == level:
            together = merged([run for _, run in self._runs[-_FAN:]])
            del self._runs[-_FAN:]
            level += 1
            self._runs.append((level, together))

    def of_rows(self, rows: Ints) -> Found:
        """Every cell of these products [rows]."""
        return self.within(rows, np.zeros(len(rows), np.int64), np.full(len(rows), (1 << CELL_BITS) - 1))

    def within(self, rows: Ints, low: Ints, high: Ints) -> Found:
        """The cells of these products [rows] whose low bits lie in [low, high]."""
        found = [_within(run, rows, low, high, np.arange(len(rows))) for _, run in self._runs]
        blocks = rows >> _BLOCK_BITS
        for block in np.unique(blocks).tolist() if self._base else ():
            if block in self._base:
                here = np.flatnonzero(blocks == block)
                inside = rows[here] & ((1 << _BLOCK_BITS) - 1)
                found.append(_within(self._base[block], inside, low[here], high[here], here))
        if not found:
            return Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
        which, cells, values = (np.concatenate(part) for part in zip(*found, strict=True))
        return Found(which, cells, values)

    def of_day(self, day: int, count: int) -> tuple[Ints, Ints]:
        """[count] units and time out of stock, ms, of each product on a day."""
        totals = (np.zeros(count, np.int64), np.zeros(count, np.int64))
        runs = [(0, run) for _, run in self._runs]
        for first, run in [*((block << _BLOCK_BITS, run) for block, run in self._base.items()), *runs]:
            low = run.keys.astype(np.uint16)
            at = np.flatnonzero((low >> DAY_SHIFT) == (day & _DAY_MASK))
            channels = low[at] & _CHANNEL_MASK
            for channel, total in zip(("units", "out_ms"), totals, strict=True):
                here = at[channels == CELL_CHANNELS.index(channel)]
                rows = first + (run.keys[here] >> run.keys.dtype.type(CELL_BITS)).astype(np.int64)
                np.add.at(total, rows, run.values[here].astype(np.int64))
        return totals

    def compact(self, open_day: int) -> None:
        """Move all cells to the base, for the days that a window at the start of `open_day` or later may ask for."""
        runs = [run for _, run in self._runs]
        for block in range(self._blocks()):
            run = _block(block, runs, self._base.get(block), lambda run: _aged(run, open_day))
            if len(run.keys):
                self._base[block] = run
            else:
                self._base.pop(block, None)
        self._runs.clear()

    def _blocks(self) -> int:
        top = max((int(run.keys[-1]) for _, run in self._runs), default=-1)
        return max(max(self._base, default=-1), top >> (CELL_BITS + _BLOCK_BITS)) + 1

    def freeze(self) -> dict[str, Callable[[], bytes]]:
        """Blobs by name, as this moment left them; each is merged and encoded when it is called."""
        runs = [run for _, run in self._runs]

        def blob(block: int, base: Run | None) -> Callable[[], bytes]:
            return lambda: _dump(_block(block, runs, base))

        return {f"{block:06d}": blob(block, self._base.get(block)) for block in range(self._blocks())}

    def load(self, blobs: dict[str, bytes]) -> None:
        """The inverse of `freeze`, on fresh cells."""
        for name, blob in blobs.items():
            self._base[int(name)] = _load(blob)  # a block whose cells add up to zero is a block, until the day ends


def _within(run: Run, rows: Ints, low: Ints, high: Ints, which: Ints) -> tuple[Ints, Ints, Array]:
    """Index into `which`, low bits and values of one run's cells that lie in [low, high] of some rows."""
    kind, rows = run.keys.dtype, rows << CELL_BITS
    low = np.searchsorted(run.keys, (rows | low).astype(kind))
    counts = np.searchsorted(run.keys, (rows | high).astype(kind), side="right") - low
    ends = np.cumsum(counts)
    at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(low - ends + counts, counts)
    cells = run.keys[at].astype(np.uint16).astype(np.int64)
    return np.repeat(which, counts), cells, run.values[at]


def _block(block: int, runs: Sequence[Run], base: Run | None, change: Change | None = None) -> Run:
    """All cells of one block of rows, with the block's own keys."""
    shift = CELL_BITS + _BLOCK_BITS
    first, after = block << shift, (block + 1) << shift
    parts = [run.between(first, after) for run in runs]
    parts = [Run(part.keys - np.uint64(first), part.values) for part in parts]
    if base is not None:
        parts.append(Run(base.keys.astype(np.uint64), base.values))
    together = merged(parts, change)
    return Run(together.keys.astype(np.uint32), together.values)


def _aged(run: Run, open_day: int) -> Run:
    """Cells of the ring alone, without hours where no window can ask for them any more; out of order."""
    low = run.keys.astype(np.uint16)
    ages = (np.uint16(open_day & _DAY_MASK) - (low >> np.uint16(DAY_SHIFT))) & np.uint16(_DAY_MASK)
    keys = np.where(ages > HOURLY_DAYS, run.keys | np.uint64(NO_HOUR << HOUR_SHIFT), run.keys)
    inside = ages <= DAYS
    return Run(keys[inside], run.values[inside])


def _dump(run: Run) -> bytes:
    return dump_arrays({"keys": run.keys, "values": run.values})


def _load(blob: bytes) -> Run:
    arrays = load_arrays(blob)
    return Run(arrays["keys"], arrays["values"])
