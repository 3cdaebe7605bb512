"""A ring of buckets for every product and channel: exact sums, whatever the order of arrival.

Counts are int32 and revenue, which is money, int64; a bucket's place is its index modulo the ring's length.
"""

from __future__ import annotations

import numpy as np

from featurizers.state import Array, Column, Ints, Table
from streams.records import CHANNELS

REVENUE = CHANNELS.index("revenue")
_PLACE = [i - (i > REVENUE) for i in range(len(CHANNELS))]  # of a count channel among the counts
_COUNTS = len(CHANNELS) - 1
_COUNT_CHANNELS = [i for i in range(len(CHANNELS)) if i != REVENUE]


class Grid:
    """Two columns of a product table seen as one ring [products, channels, ring]."""

    def __init__(self, table: Table, name: str, ring: int) -> None:
        self._table = table
        self._counts, self._revenue = f"{name}_counts", f"{name}_revenue"
        self.ring = ring

    @staticmethod
    def columns(name: str, ring: int) -> dict[str, Column]:
        """What the product table must hold for a grid of this name."""
        return {
            f"{name}_counts": Column(np.int32, (_COUNTS, ring)),
            f"{name}_revenue": Column(np.int64, (ring,)),
        }

    def add(self, channel: str, rows: Array, buckets: Ints, values: Array | int) -> None:
        """Add to one channel: row, bucket index and value of each event [events]."""
        cells, where = self._cells(channel, rows, buckets)
        np.add.at(cells, where, np.asarray(values).astype(cells.dtype))

    def take_off(self, channel: str, rows: Array, buckets: Ints, values: Array | int) -> int:
        """Subtract, and stop at zero; the number of buckets that would have gone below it."""
        cells, where = self._cells(channel, rows, buckets)
        np.subtract.at(cells, where, np.asarray(values).astype(cells.dtype))
        touched = np.unique(where)
        below = touched[cells[touched] < 0]
        cells[below] = 0
        return len(below)

    def window(self, rows: Array, buckets: Ints) -> Ints:
        """[rows, channels, buckets] int64, in the order of `CHANNELS` and of the buckets given."""
        slots = buckets % self.ring
        window = np.empty((len(rows), len(CHANNELS), len(buckets)), np.int64)
        window[:, _COUNT_CHANNELS] = self._table[self._counts][rows][:, :, slots]
        window[:, REVENUE] = self._table[self._revenue][rows][:, slots]
        return window

    def channel(self, channel: str, buckets: Ints) -> Array:
        """[products, buckets] one channel of every product."""
        slots = buckets % self.ring
        index = CHANNELS.index(channel)
        if index == REVENUE:
            return self._table[self._revenue][:, slots]
        return self._table[self._counts][:, _PLACE[index]][:, slots]

    def clear(self, buckets: Ints) -> None:
        """Make the buckets' places empty for what comes."""
        slots = buckets % self.ring
        self._table[self._counts][:, :, slots] = 0
        self._table[self._revenue][:, slots] = 0

    def _cells(self, channel: str, rows: Array, buckets: Ints) -> tuple[Array, Ints]:
        index = CHANNELS.index(channel)
        place = rows.astype(np.int64)
        if index == REVENUE:
            return self._table[self._revenue].reshape(-1), place * self.ring + buckets % self.ring
        place = place * _COUNTS + _PLACE[index]
        return self._table[self._counts].reshape(-1), place * self.ring + buckets % self.ring
