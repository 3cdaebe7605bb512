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
from streams.records import AHEAD, CHANNELS, DAYS, DELAYS, HORIZONS, HOURS, KNOWN, Modality, SalesClass, WindowKind

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]

CATEGORY_BUCKETS = 256
SERIES = ("units", "orders", "returned", "price", "views", "carts", "favourites", "reviews", "rating")
BEHAVIOUR = slice(SERIES.index("views"), SERIES.index("favourites") + 1)  # what the behaviour modality fills
SALES = slice(SERIES.index("units"), SERIES.index("price") + 1)
DAY_SERIES = (*SERIES, *KNOWN)  # of the days alone: what the calendar and announcements say of them

SPANS = (1, 3, 7, 14, 28, DAYS)  # days before `end`
WEEKS = DAYS // 7
HALF_LIVES = (2.0, 7.0, 28.0)  # days; the baseline's own is 14

# The context: behaviour, the product, how sales stand against what is usual, prices, and what belongs to neither.
BEHAVIOUR_CONTEXT = 3  # daily views, carts, favourites
_TRENDS = BEHAVIOUR_CONTEXT + 4
TREND_CONTEXT = slice(_TRENDS, _TRENDS + len(SPANS) + WEEKS + len(HALF_LIVES) + 4)  # 0 when sales are as usual
PRICE_CONTEXT = slice(TREND_CONTEXT.stop, TREND_CONTEXT.stop + 2)  # 0 when prices are
CONTEXT = PRICE_CONTEXT.stop + 4 + DELAYS + 7 + len(SalesClass)
CATALOGUE = 4
LEVEL = 5
VECTORS = (Modality.TEXT, Modality.IMAGE, Modality.TITLE)

_CHANNEL = {name: i for i, name in enumerate(CHANNELS)}
_DECAYED = [0.5 ** (np.arange(DAYS - 1, -1, -1) / half_life) for half_life in HALF_LIVES]
BUCKETS = tuple(zip((0, *HORIZONS[:-1]), HORIZONS, strict=True))  # days of each delay bucket


@dataclass(frozen=True)
class Features:
    """What the network reads of n windows. A missing modality holds zeros; `present` says which they are."""

    days: Floats  # [n, DAYS, day series] oldest day first
    hours: Floats  # [n, HOURS, series]
    ahead: Floats  # [n, DELAYS, KNOWN] what is known of the days of each delay bucket: their mean
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
    day = rows["day"].reshape(n, len(CHANNELS), DAYS)
    hour = rows["hour"].reshape(n, len(CHANNELS), HOURS)
    known = rows["known"].reshape(n, len(KNOWN), DAYS + AHEAD).astype(np.float32) / 100
    present = (rows["mask"][:, None] >> np.arange(len(Modality)) & 1).astype(bool)  # [n, modalities]
    price = _typical_price(day, rows["price"])
    hours = _series(hour, rate / 24, price)
    # The posterior of a live forecast counts the sales of the open day; to the network they are as expected.
    hours[_open_hours(rows), SALES] = 0.0
    days = np.concatenate([_series(day, rate, price), known[:, :, :DAYS].transpose(0, 2, 1)], axis=2)
    ahead = [known[:, :, DAYS + a : DAYS + b].mean(axis=2) for a, b in BUCKETS]
    codes, names = rows.coded("category")
    buckets = np.array([category_bucket(name) for name in names], np.int64)
    age = np.where(present, np.log1p(np.maximum(np.nan_to_num(rows["age"]), 0.0)) / 3, 0.0)
    vectors = np.stack([rows["text"], rows["image"], rows["title"]], axis=1)  # [n, 3, VECTOR]
    return Features(
        days=days,
        hours=hours,
        ahead=np.stack(ahead, axis=1),
        vectors=_where(present[:, list(VECTORS), None], vectors),
        context=_context(rows, day, rate, price, known[:, 1:, :DAYS].max(axis=1).clip(0)),
        catalogue=_where(present[:, Modality.CATALOGUE, None], _catalogue(rows, price)),
        level=_where(present[:, Modality.LEVEL, None], _level(rows, rate)),
        age=age.astype(np.float32),
        category=np.where(present[:, Modality.CATALOGUE], buckets[codes], 0) if n else np.empty(0, np.int64),
        present=present,
    )


def _where(present: npt.NDArray[np.bool_], values: npt.NDArray[np.floating]) -> Floats:
    there: Floats = np.where(present & np.isfinite(values), values, 0.0).astype(np.float32)
    return there


def _typical_price(day: npt.NDArray[np.int64], listed: npt.NDArray[np.int64]) -> Doubles:
    """[n] mean price of the units in the window, the catalogue's where nothing sold, 0 where neither is known."""
    units, revenue = day[:, _CHANNEL["units"]].sum(axis=1), day[:, _CHANNEL["revenue"]].sum(axis=1)
    return np.where(units > 0, revenue / np.maximum(units, 1), np.maximum(listed, 0))


def _series(grid: npt.NDArray[np.int64], rate: Doubles, price: Doubles) -> Floats:
    """[n, buckets, series]: logs relative to what is usual for the product; a channel without events is zero."""
    series = np.zeros((len(grid), grid.shape[2], len(SERIES)), np.float32)
    usual = np.log1p(rate).astype(np.float32)[:, None]

    def put(name: str, values: Floats) -> None:
        series[:, :, SERIES.index(name)] = values

    channel = {name: grid[:, i] for name, i in _CHANNEL.items()}  # each [n, buckets]
    put("units", _log1p(channel["units"]) - usual)
    put("orders", _log1p(channel["orders"]) - usual)
    # The other channels are empty for most products and days.
    i, t = np.nonzero((channel["units"] > 0) & (channel["revenue"] > 0) & (price[:, None] > 0))
    paid = channel["revenue"][i, t] / channel["units"][i, t]
    series[i, t, SERIES.index("price")] = np.log(paid / np.maximum(price[i], 1e-9))
    if channel["returned"].any():
        put("returned", _log1p(channel["returned"]))
    for name in ("views", "carts", "favourites"):
        if channel[name].any():
            mean = np.log1p(channel[name].mean(axis=1, keepdims=True)).astype(np.float32)
            put(name, _log1p(channel[name]) - mean)
    i, t = np.nonzero(channel["reviews"])
    reviews = channel["reviews"][i, t]
    series[i, t, SERIES.index("reviews")] = np.log1p(reviews)
    series[i, t, SERIES.index("rating")] = (channel["rating_sum"][i, t] / reviews - 3) / 2
    return np.clip(series, -8.0, 8.0, out=series)


_LOGS = np.log1p(np.arange(1024)).astype(np.float32)


def _log1p(counts: npt.NDArray[np.int64]) -> Floats:
    """log(1 + count): most counts are small, and looked up."""
    logs: Floats = _LOGS[np.clip(counts, 0, len(_LOGS) - 1)]
    large = counts >= len(_LOGS)
    if large.any():
        logs[large] = np.log1p(counts[large])
    return logs


def _open_hours(rows: Rows) -> npt.NDArray[np.bool_]:
    """[n, HOURS] the hour buckets of a live window that begin at or after `end`."""
    live = rows["kind"] == WindowKind.LIVE
    count = np.where(live, (rows["as_of"] - rows["end"]) // HOUR + 1, 0)
    return np.arange(HOURS)[None, :] >= HOURS - count[:, None]


def _context(rows: Rows, day: npt.NDArray[np.int64], rate: Doubles, price: Doubles, promoted: Floats) -> Floats:
    """[n, CONTEXT]; `promoted` [n, DAYS] is the share of a day that some promotion has."""
    behaviour = [np.log1p(day[:, _CHANNEL[name]].mean(axis=1)) for name in ("views", "carts", "favourites")]
    units = day[:, _CHANNEL["units"]].astype(np.float64)
    revenue = day[:, _CHANNEL["revenue"]]
    sold = units > 0
    silent = np.where(sold.any(axis=1), np.argmax(sold[:, ::-1], axis=1), DAYS)
    product = [
        np.log1p(rate),
        np.log(rate + 0.01) / 3,
        np.log1p(rows["age_days"].clip(0)) / 4,
        np.log1p(silent) / 4,
    ]
    trends = [
        *(_against(units[:, -span:].sum(axis=1), span * rate) for span in SPANS),
        *(_against(units[:, 7 * week : 7 * week + 7].sum(axis=1), 7 * rate) for week in range(WEEKS)),
        *(_against(units @ weights, weights.sum() * rate) for weights in _DECAYED),
        _against(units[:, -7], rate),  # the weekday that comes next, a week ago
        _against(units[:, ::7].sum(axis=1), WEEKS * rate),  # and in all weeks
        _against((units * promoted).sum(axis=1), promoted.sum(axis=1) * rate),
        _against((units * (1 - promoted)).sum(axis=1), (1 - promoted).sum(axis=1) * rate),
    ]
    prices = [_price(revenue[:, -span:].sum(axis=1), units[:, -span:].sum(axis=1), price) for span in (7, 28)]
    others = [
        *(sold[:, -span:].mean(axis=1) for span in (7, 28)),
        np.log1p(units.std(axis=1)) - np.log1p(rate),
        np.log1p(day[:, _CHANNEL["returned"]].sum(axis=1)),
    ]
    # Weekday factors are in the baseline: what a bucket expects per day, against the rate.
    widths = np.array([b - a for a, b in BUCKETS], np.float64)
    weekly = np.log((rows["baseline"] / widths + 0.01) / (rate + 0.01)[:, None])  # [n, delays]
    weekday = np.eye(7)[rows["weekday"] % 7]
    sales_class = np.eye(len(SalesClass))[rows["sales_class"]]
    numbers = np.stack([*behaviour, *product, *trends, *prices, *others], axis=1)
    context = np.concatenate([numbers, weekly, weekday, sales_class], axis=1)
    clipped: Floats = np.clip(context, -8.0, 8.0).astype(np.float32)
    return clipped


def _against(units: Doubles, usual: Doubles) -> Doubles:
    """Log of units against the usual ones, one of each added: nothing sold says little where little was usual."""
    return np.asarray(np.log((units + 1) / (usual + 1)), np.float64)


def _price(revenue: Doubles, units: Doubles, price: Doubles) -> Doubles:
    """[n] log of the mean price paid against the typical one, 0 where nothing was paid."""
    known = (units > 0) & (revenue > 0) & (price > 0)
    return np.log(np.where(known, revenue / np.maximum(units * price, 1e-9), 1.0))


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
