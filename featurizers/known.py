"""What is known of a day before it comes: the holidays of the platform's country, and announced promotions.

An announcement holds from the instant at which it was made; made again with the same kind and start, the newer one
holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import holidays
import numpy as np

from featurizers.parking import Columns
from featurizers.state import Array, Column, Ints, Table
from streams.calendars import Calendar
from streams.records import AHEAD, DAYS, KNOWN

HOLIDAY = KNOWN.index("holiday")
FIRST_KIND = HOLIDAY + 1  # the kinds of promotions follow
_COLUMNS = {
    "product": Column(np.int32),  # row of the product
    "promotion": Column(np.int8),  # index in PROMOTION_KINDS
    "starts": Column(np.int64),
    "at": Column(np.int64),  # announced
    "ends": Column(np.int64),
    "percent": Column(np.int8),
}
NAMES = tuple(_COLUMNS)


class Announcements:
    """Promotions of one platform's products, in order of product, kind and start once they are read."""

    def __init__(self) -> None:
        self._table = Table(_COLUMNS)
        self._sorted = True

    def add(self, products: Ints, columns: Columns) -> None:
        """Take promotions [rows] of these product rows."""
        before = self._table.rows
        self._table.append(len(products))
        self._table["product"][before:] = products
        for name in NAMES[1:]:
            self._table[name][before:] = columns[name]
        self._sorted = self._sorted and len(products) == 0

    def forget(self, before: int) -> None:
        """Drop what ended at or before this instant."""
        self._settle()
        self._keep(self._table["ends"] > before)

    def percents(self, products: Ints, calendar: Calendar, open_day: int, country: str) -> Array:
        """[products, KNOWN, DAYS + AHEAD] int8: what is known of the days around the start of the open one.

        A promotion counts by the share of a day that it has; those of one kind add up, to at most 100.
        """
        days = np.arange(open_day - DAYS, open_day + AHEAD)
        known = np.zeros((len(products), len(KNOWN), len(days)), np.int32)
        if country:
            known[:, HOLIDAY] = np.where(_are_holidays(calendar, country, days), 100, 0)
        self._settle()
        mine = self._table["product"]
        low, high = np.searchsorted(mine, products), np.searchsorted(mine, products, side="right")
        counts = high - low
        if counts.any():
            where = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
            midnights = calendar.midnights[days[0] : days[-1] + 2]
            starts, ends = (self._table[name][where][:, None] for name in ("starts", "ends"))
            overlap = np.minimum(ends, midnights[1:]) - np.maximum(starts, midnights[:-1])  # [promotions, days] ms
            share = np.maximum(overlap, 0) / np.diff(midnights)
            percent = np.rint(share * self._table["percent"][where][:, None]).astype(np.int32)
            place = (np.repeat(np.arange(len(products)), counts), FIRST_KIND + self._table["promotion"][where])
            np.add.at(known, place, percent)
        return np.clip(known, -100, 100).astype(np.int8)

    def freeze(self) -> dict[str, Callable[[], bytes]]:
        self._settle()
        return self._table.freeze()

    def load(self, blobs: Mapping[str, bytes]) -> None:
        """The inverse of `freeze`, on fresh announcements."""
        self._table.load(*(blob for _, blob in sorted(blobs.items())))

    def _settle(self) -> None:
        if self._sorted:
            return
        order = np.lexsort([self._table[name] for name in ("at", "starts", "promotion", "product")])
        columns = {name: self._table[name][order] for name in NAMES}
        same = np.logical_and.reduce([columns[n][1:] == columns[n][:-1] for n in ("product", "promotion", "starts")])
        self._fill({name: column[np.append(~same, True)] for name, column in columns.items()})
        self._sorted = True

    def _keep(self, rows: Array) -> None:
        if not rows.all():
            self._fill({name: self._table[name][rows] for name in NAMES})

    def _fill(self, columns: Columns) -> None:
        table = Table(_COLUMNS)
        table.append(len(columns["product"]))
        for name, column in columns.items():
            table[name][:] = column
        self._table = table


def _are_holidays(calendar: Calendar, country: str, days: Ints) -> Array:
    dates = [calendar.date(day) for day in days.tolist()]
    return np.asarray([date in _of_year(country, date.year) for date in dates])


@lru_cache(maxsize=1024)
def _of_year(country: str, year: int) -> frozenset[object]:
    return frozenset(holidays.country_holidays(country, years=year))
