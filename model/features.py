"""From rows of `trend.windows` to the arrays that the network reads: plain numpy, a function of each row alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from streams.calendars import HOUR
from streams.codecs import Rows
from streams.records import CHANNELS, DAYS, HOURS, Modality, SalesClass, WindowKind

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]

CATEGORY_BUCKETS = 256
SERIES = ("units", "orders", "returned", "price", "views", "carts", "favourites", "reviews", "rating")
BEHAVIOUR = slice(SERIES.index("views"), SERIES.index("favourites") + 1)  # what the behaviour modality fills
SALES = slice(SERIES.index("units"), SERIES.index("price") + 1)

BEHAVIOUR_CONTEXT = 3  # the first numbers of the context: daily views, carts, favourites
TREND_CONTEXT = slice(BEHAVIOUR_CONTEXT + 4, BEHAVIOUR_CONTEXT + 11)  # its numbers that are 0 when sales are as usual
CONTEXT = BEHAVIOUR_CONTEXT + 18 + 7 + len(SalesClass)
CATALOGUE = 4
LEVEL = 5
VECTORS = (Modality.TEXT, Modality.IMAGE, Modality.TITLE)

_CHANNEL = {name: i for i, name in enumerate(CHANNELS)}


@dataclass(frozen=True)
class Features:
    """What the network reads of n windows. A missing modality holds zeros; `present` says which they are."""

    days: Floats  # [n, DAYS, series] oldest day first
    hours: Floats  # [n, HOURS, series]
    vectors: Floats  # [n, 3, VECTOR] text, image, title
    context: Floats  # [n, CONTEXT] rate, age, weekday, sales class: always there
    catalogue: Floats  # [n, CATALOGUE]
    level: Floats  # [n, LEVEL] stock and lead time
    age: Floats  # [n, modalities] log days since the newest row of each modality, 0 where missing
    category: npt.NDArray[np.int64]  # [n] bucket of the category's name
    present: npt.NDArray[np.bool_]  # [n, modalities]

    def __len__(self) -> int:
        return len(self.category)

    def take(self, rows: npt.NDArray[np.int64]) -> Features:
        return Features(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def concatenate(parts: list[Features]) -> Features:
    return Features(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Features)})


@lru_cache(maxsize=100_000)
def category_bucket(category: str) -> int:
    """Bucket 0 is the unknown category."""
    return 1 + zlib.crc32(category.encode()) % (CATEGORY_BUCKETS - 1) if category else 0


def extract(rows: Rows) -> Features:
    """Features of a batch of WINDOWS rows."""
    n = len(rows)
    rate = np.maximum(rows["rate"], 0.0)  # [n]
    day = rows["day"].reshape(n, len(CHANNELS), DAYS).astype(np.float64)
    hour = rows["hour"].reshape(n, len(CHANNELS), HOURS).astype(np.float64)
    present = (rows["mask"][:, None] >> np.arange(len(Modality)) & 1).astype(bool)  # [n, modalities]
    price = _typical_price(day, rows["price"])
    days = _series(day, rate, price)
    hours = _series(hour, rate / 24, price)
    # The posterior of a live forecast counts the sales of the open day; to the network they are as expected.
    hours[_open_hours(rows), SALES] = 0.0
    codes, names = rows.coded("category")
    buckets = np.array([category_bucket(name) for name in names], np.int64)
    age = np.where(present, np.log1p(np.maximum(np.nan_to_num(rows["age"]), 0.0)) / 3, 0.0)
    vectors = np.stack([rows["text"], rows["image"], rows["title"]], axis=1)  # [n, 3, VECTOR]
    return Features(
        days=days.astype(np.float32),
        hours=hours.astype(np.float32),
        vectors=_where(present[:, list(VECTORS), None], vectors),
        context=_context(rows, day, rate),
        catalogue=_where(present[:, Modality.CATALOGUE, None], _catalogue(rows, price)),
        level=_where(present[:, Modality.LEVEL, None], _level(rows, rate)),
        age=age.astype(np.float32),
        category=np.where(present[:, Modality.CATALOGUE], buckets[codes], 0) if n else np.empty(0, np.int64),
        present=present,
    )


def _where(present: npt.NDArray[np.bool_], values: npt.NDArray[np.floating]) -> Floats:
    there: Floats = np.where(present & np.isfinite(values), values, 0.0).astype(np.float32)
    return there


def _typical_price(day: Doubles, listed: npt.NDArray[np.int64]) -> Doubles:
    """[n] mean price of the units in the window, the catalogue's where nothing sold, 0 where neither is known."""
    units, revenue = day[:, _CHANNEL["units"]].sum(axis=1), day[:, _CHANNEL["revenue"]].sum(axis=1)
    return np.where(units > 0, revenue / np.maximum(units, 1), np.maximum(listed, 0))


def _series(grid: Doubles, rate: Doubles, price: Doubles) -> Doubles:
    """[n, buckets, series]: logs relative to what is usual for the product; a channel without events is zero."""
    channel = {name: grid[:, i] for name, i in _CHANNEL.items()}  # each [n, buckets]
    usual = np.log1p(rate)[:, None]
    paid = channel["revenue"] / np.maximum(channel["units"], 1)
    known = (channel["units"] > 0) & (price[:, None] > 0) & (paid > 0)
    rating = channel["rating_sum"] / np.maximum(channel["reviews"], 1)
    columns = {
        "units": np.log1p(channel["units"]) - usual,
        "orders": np.log1p(channel["orders"]) - usual,
        "returned": np.log1p(channel["returned"]),
        "price": np.where(known, np.log(np.where(known, paid / np.maximum(price[:, None], 1e-9), 1.0)), 0.0),
        "views": _relative(channel["views"]),
        "carts": _relative(channel["carts"]),
        "favourites": _relative(channel["favourites"]),
        "reviews": np.log1p(channel["reviews"]),
        "rating": np.where(channel["reviews"] > 0, (rating - 3) / 2, 0.0),
    }
    series: Doubles = np.clip(np.stack([columns[name] for name in SERIES], axis=2), -8.0, 8.0)
    return series


def _relative(counts: Doubles) -> Doubles:
    relative: Doubles = np.log1p(counts) - np.log1p(counts.mean(axis=1, keepdims=True))
    return relative


def _open_hours(rows: Rows) -> npt.NDArray[np.bool_]:
    """[n, HOURS] the hour buckets of a live window that begin at or after `end`."""
    live = rows["kind"] == WindowKind.LIVE
    count = np.where(live, (rows["as_of"] - rows["end"]) // HOUR + 1, 0)
    return np.arange(HOURS)[None, :] >= HOURS - count[:, None]


def _context(rows: Rows, day: Doubles, rate: Doubles) -> Floats:
    behaviour = [np.log1p(day[:, _CHANNEL[name]].mean(axis=1)) for name in ("views", "carts", "favourites")]
    units = day[:, _CHANNEL["units"]]
    usual = np.log1p(rate)
    sold = units > 0
    silent = np.where(sold.any(axis=1), np.argmax(sold[:, ::-1], axis=1), DAYS)
    numbers = [
        usual,
        np.log(rate + 0.01) / 3,
        np.log1p(rows["age_days"].clip(0)) / 4,
        np.log1p(silent) / 4,
        *(np.log1p(units[:, -span:].mean(axis=1)) - usual for span in (1, 3, 7, 14, 28, DAYS)),
        np.log1p(units[:, -7]) - usual,  # the weekday that comes next, a week ago
        *(sold[:, -span:].mean(axis=1) for span in (7, 28)),
        np.log1p(units.std(axis=1)) - usual,
        np.log1p(day[:, _CHANNEL["returned"]].sum(axis=1)),
    ]
    # Weekday factors are in the baseline: what a bucket expects per day, against the rate.
    widths = np.array([1.0, 6.0, 21.0])
    weekly = np.log((rows["baseline"] / widths + 0.01) / (rate + 0.01)[:, None])  # [n, delays]
    weekday = np.eye(7)[rows["weekday"] % 7]
    sales_class = np.eye(len(SalesClass))[rows["sales_class"]]
    context = np.concatenate([np.stack(behaviour + numbers, axis=1), weekly, weekday, sales_class], axis=1)
    clipped: Floats = np.clip(context, -8.0, 8.0).astype(np.float32)
    return clipped


def _catalogue(rows: Rows, price: Doubles) -> Doubles:
    listed = rows["price"]
    known = listed > 0
    both = known & (price > 0)
    cost = rows["unit_cost"]
    columns = [
        np.log1p(np.maximum(listed, 0)) / 10,
        known,
        np.where(both, np.log(np.where(both, listed / np.maximum(price, 1e-9), 1.0)), 0.0),
        np.where(known & (cost > 0), cost / np.maximum(listed, 1), 0.0),
    ]
    return np.clip(np.stack(columns, axis=1).astype(np.float64), -8.0, 8.0)


def _level(rows: Rows, rate: Doubles) -> Doubles:
    on_hand, on_order = (np.maximum(np.nan_to_num(rows[name]), 0.0) for name in ("on_hand", "on_order"))
    columns = [
        np.log1p(on_hand) / 4,
        np.log1p(on_order) / 4,
        np.log1p(np.maximum(np.nan_to_num(rows["lead_time_days"]), 0.0)) / 3,
        np.log1p(on_hand / (rate + 0.01)) / 4,  # days of cover
        np.isnan(rows["on_hand"]),
    ]
    return np.clip(np.stack(columns, axis=1).astype(np.float64), -8.0, 8.0)
