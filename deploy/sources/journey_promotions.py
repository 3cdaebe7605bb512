"""Complete Journey's promotions: in which shops a product stood on display or in the mailer, week by week.

The package says nothing of when they were announced: seven days before the week begins is assumed, since mailers are
printed ahead.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.sources import COMPLETE_JOURNEY as PLATFORM
from deploy.sources.simulated import Ints
from streams.calendars import DAY

KINDS = ("display", "mailer")
NOTICE = 7 * DAY  # ms, assumed
SECOND_WEEK = dt.date(2017, 1, 2)  # the first week of the package has one day


@dataclass(frozen=True)
class Promotions:
    """One row a product, week and kind; times in UTC ms."""

    product: Ints  # number of the product in the package, or its place among the chosen ones
    kind: Ints  # index in KINDS
    percent: Ints  # of the shops, 1 to 100
    starts: Ints
    ends: Ints
    at: Ints  # announced

    def take(self, rows: Ints) -> Promotions:
        return Promotions(**{name: column[rows] for name, column in vars(self).items()})


NONE = Promotions(*(np.empty(0, np.int64) for _ in range(6)))


def read_promotions(path: Path, products: Ints) -> Promotions:
    """Those of these products, from the package's table: 20 million rows of product, shop and week; some seconds."""
    locations = [f"{kind}_location" for kind in KINDS]
    table = pq.read_table(
        path, columns=["product_id", "store_id", "week", *locations], read_dictionary=locations, use_threads=False
    )
    shops = pc.count_distinct(table["store_id"]).as_py()
    table = table.filter(pc.is_in(table["product_id"], pa.array(products)))
    number, week = table["product_id"].to_numpy(), table["week"].to_numpy()
    groups, place = np.unique(number * 64 + week, return_inverse=True)
    parts = []
    for kind, location in enumerate(locations):
        there = pc.not_equal(table[location].cast(pa.string()), "0").to_numpy()
        count = np.bincount(place[there], minlength=len(groups))  # a product may stand in a mailer twice
        some = np.flatnonzero(count)
        percent = np.ceil(100 * np.minimum(count[some] / shops, 1)).astype(np.int64)
        parts.append((groups[some] // 64, np.full(len(some), kind), percent, groups[some] % 64))
    number, kinds, percent, weeks = (np.concatenate(column) for column in zip(*parts, strict=True))
    first = PLATFORM.calendar.index(SECOND_WEEK) + (weeks - 2) * 7
    midnights = PLATFORM.calendar.midnights
    return Promotions(number, kinds, percent, midnights[first], midnights[first + 7], midnights[first] - NOTICE)


def within(promotions: Promotions, numbers: Ints, known: Ints, end: int) -> Promotions:
    """Promotions of the products with these `numbers` by their place, in order of announcement: none before a product
    is `known` [products] (UTC ms), and none at or after the `end`. What is on or planned then is announced then."""
    order = np.argsort(numbers)
    place = order[np.searchsorted(numbers[order], promotions.product).clip(max=len(numbers) - 1)]
    mine = numbers[place] == promotions.product
    at = np.maximum(promotions.at, known[place])
    keep = np.flatnonzero(mine & (at < end) & (promotions.ends > at))
    keep = keep[np.lexsort((promotions.starts[keep], promotions.kind[keep], place[keep], at[keep]))]
    found = promotions.take(keep)
    return Promotions(place[keep], found.kind, found.percent, found.starts, found.ends, at[keep])
