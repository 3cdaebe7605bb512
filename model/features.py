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
_VECTORS = np.array(VECTORS)
_LIVE = int(WindowKind.LIVE)  # to compare with the enum takes as long as with all rows

_CHANNEL = {name: i for i, name in enumerate(CHANNELS)}
_DECAYED = [0.5 ** (np.arange(DAYS - 1, -1, -1) / half_life) for half_life in HALF_LIVES]
BUCKETS = tuple(zip((0, *HORIZONS[:-1]), HORIZONS, strict=True))  # days of each delay bucket
# [DAYS, sums] 1 for each day of a sum: sums of counts are exact in float64, in whatever order a matrix product adds up.
_AGO = np.arange(DAYS, 0, -1)  # days before `end` that a day began
_SPANS = np.stack([span >= _AGO for span in SPANS], axis=1).astype(np.float64)
_WEEKS = np.stack([week == (_AGO - 1) // 7 for week in reversed(range(WEEKS))], axis=1).astype(np.float64)
_SAME_WEEKDAY = np.stack([_AGO == 7, _AGO % 7 == 0], axis=1).astype(np.float64)  # as the next day's: last week's, all
_WEEK_AND_MONTH = _SPANS[:, [SPANS.index(7), SPANS.index(28)]]
_WEEKDAYS, _SALES_CLASSES = np.eye(7), np.eye(len(SalesClass))


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
    totals = day.sum(axis=2)  # [n, channels]
    price = _typical_price(totals, rows["price"])
    hours = _series(hour, hour.sum(axis=2), rate / 24, price, len(SERIES))
    # The posterior of a live forecast counts the sales of the open day; to the network they are as expected.
    hours[_open_hours(rows), SALES] = 0.0
    days = _series(day, totals, rate, price, len(DAY_SERIES))
    days[:, :, len(SERIES) :] = known[:, :, :DAYS].transpose(0, 2, 1)
    ahead = [known[:, :, DAYS + a : DAYS + b].mean(axis=2) for a, b in BUCKETS]
    codes, names = rows.coded("category")
    buckets = np.array([category_bucket(name) for name in names], np.int64)
    age = np.where(present, np.log1p(np.fmax(rows["age"], 0.0)) / 3, 0.0)
    vectors = np.stack([rows["text"], rows["image"], rows["title"]], axis=1)  # [n, 3, VECTOR]
    return Features(
        days=days,
        hours=hours,
        ahead=np.stack(ahead, axis=1),
        vectors=_where(present[:, _VECTORS, None], vectors),
        context=_context(rows, day, totals, rate, price, known[:, 1:, :DAYS].max(axis=1).clip(0)),
        catalogue=_where(present[:, Modality.CATALOGUE, None], _catalogue(rows, price)),
        level=_where(present[:, Modality.LEVEL, None], _level(rows, rate)),
        age=age.astype(np.float32),
        category=np.where(present[:, Modality.CATALOGUE], buckets[codes], 0) if n else np.empty(0, np.int64),
        present=present,
    )


def _where(present: npt.NDArray[np.bool_], values: npt.NDArray[np.floating]) -> Floats:
    there: Floats = np.where(present & np.isfinite(values), values, 0.0).astype(np.float32)
    return there


def _typical_price(totals: npt.NDArray[np.int64], listed: npt.NDArray[np.int64]) -> Doubles:
    """[n] mean price of the units in the window, the catalogue's where nothing sold, 0 where neither is known."""
    units, revenue = totals[:, _CHANNEL["units"]], totals[:, _CHANNEL["revenue"]]
    return np.where(units > 0, revenue / np.maximum(units, 1), np.maximum(listed, 0))


def _series(
    grid: npt.NDArray[np.int64], totals: npt.NDArray[np.int64], rate: Doubles, price: Doubles, width: int
) -> Floats:
    """[n, buckets, width], of which the first are SERIES: logs relative to what is usual for the product; a channel
    without events is zero. `totals` [n, channels] are of the grid [n, channels, buckets]."""
    series = np.zeros((len(grid), grid.shape[2], width), np.float32)
    usual = np.log1p(rate).astype(np.float32)[:, None]
    for name in ("units", "orders"):
        series[:, :, SERIES.index(name)] = _log1p(grid[:, _CHANNEL[name]]) - usual
    units, revenue = grid[:, _CHANNEL["units"]], grid[:, _CHANNEL["revenue"]]
    here = np.flatnonzero(np.minimum(units, revenue) > 0)
    paid, typical = revenue.reshape(-1)[here] / units.reshape(-1)[here], price[here // grid.shape[2]]
    relative = np.log(np.where(typical > 0, paid / np.maximum(typical, 1e-9), 1.0))
    series.reshape(-1, width)[here, SERIES.index("price")] = relative
    # The other channels count what happens and nothing that takes it back. They are empty for most products and days.
    there = np.asarray(totals.any(axis=0))
    if there[_CHANNEL["returned"]]:
        series[:, :, SERIES.index("returned")] = _log1p(grid[:, _CHANNEL["returned"]])
    for name in ("views", "carts", "favourites"):
        if there[_CHANNEL[name]]:
            mean = np.log1p(totals[:, _CHANNEL[name], None] / grid.shape[2]).astype(np.float32)
            series[:, :, SERIES.index(name)] = _log1p(grid[:, _CHANNEL[name]]) - mean
    if there[_CHANNEL["reviews"]]:
        i, t = np.nonzero(grid[:, _CHANNEL["reviews"]])
        reviews, ratings = grid[i, _CHANNEL["reviews"], t], grid[i, _CHANNEL["rating_sum"], t]
        series[i, t, SERIES.index("reviews")] = np.log1p(reviews)
        series[i, t, SERIES.index("rating")] = (ratings / reviews - 3) / 2
    return np.clip(series, -8.0, 8.0, out=series)


_LOGS = np.log1p(np.arange(1024)).astype(np.float32)


def _log1p(counts: npt.NDArray[np.int64]) -> Floats:
    """log(1 + count): most counts are small, and looked up."""
    logs: Floats = _LOGS.take(counts, mode="clip")
    if counts.max(initial=0) >= len(_LOGS):
        large = counts >= len(_LOGS)
        logs[large] = np.log1p(counts[large])
    return logs


def _open_hours(rows: Rows) -> npt.NDArray[np.bool_]:
    """[n, HOURS] the hour buckets of a live window that begin at or after `end`."""
    live = rows["kind"] == _LIVE
    count = np.where(live, (rows["as_of"] - rows["end"]) // HOUR + 1, 0)
    return np.arange(HOURS)[None, :] >= HOURS - count[:, None]


def _context(
    rows: Rows,
    day: npt.NDArray[np.int64],
    totals: npt.NDArray[np.int64],
    rate: Doubles,
    price: Doubles,
    promoted: Floats,
) -> Floats:
    """[n, CONTEXT]; `promoted` [n, DAYS] is the share of a day that some promotion has."""
    units, total = day[:, _CHANNEL["units"]].astype(np.float64), totals[:, _CHANNEL["units"]]
    sold, off = units > 0, units - (total / DAYS)[:, None]
    counts = [
        *(totals[:, _CHANNEL[name]] / DAYS for name in ("views", "carts", "favourites")),
        rate,
        rows["age_days"].clip(0),
        np.where(sold.any(axis=1), np.argmax(sold[:, ::-1], axis=1), DAYS),  # days without a sale
        np.sqrt((off * off).sum(axis=1) / DAYS),
        totals[:, _CHANNEL["returned"]],
    ]
    logs = np.log1p(np.stack(counts, axis=1))
    behaviour, usual, age, silent, spread, returned = np.split(logs, (3, 4, 5, 6, 7), axis=1)
    shares = np.stack([promoted, 1 - promoted], axis=1)  # [n, 2, DAYS]
    trends = [
        *((units @ days, days.sum(axis=0)) for days in (_SPANS, _WEEKS)),
        *(((units @ weights)[:, None], weights.sum()) for weights in _DECAYED),
        (units @ _SAME_WEEKDAY, _SAME_WEEKDAY.sum(axis=0)),
        ((units[:, None] * shares).sum(axis=2), shares.sum(axis=2)),
    ]
    # Weekday factors are in the baseline: what a bucket expects per day, against the rate.
    widths = np.array([b - a for a, b in BUCKETS], np.float64)
    context = [
        behaviour,
        usual,
        np.log(rate + 0.01)[:, None] / 3,
        age / 4,
        silent / 4,
        *(_against(sums, days * rate[:, None]) for sums, days in trends),
        _price(day[:, _CHANNEL["revenue"]] @ _WEEK_AND_MONTH, units @ _WEEK_AND_MONTH, price[:, None]),
        sold @ _WEEK_AND_MONTH / _WEEK_AND_MONTH.sum(axis=0),
        spread - usual,
        returned,
        np.log((rows["baseline"] / widths + 0.01) / (rate + 0.01)[:, None]),  # [n, delays]
        _WEEKDAYS[rows["weekday"] % 7],
        _SALES_CLASSES[rows["sales_class"]],
    ]
    clipped: Floats = np.clip(np.concatenate(context, axis=1), -8.0, 8.0).astype(np.float32)
    return clipped


def _against(units: Doubles, usual: Doubles) -> Doubles:
    """Log of units against the usual ones, one of each added: nothing sold says little where little was usual."""
    return np.asarray(np.log((units + 1) / (usual + 1)), np.float64)


def _price(revenue: Doubles, units: Doubles, price: Doubles) -> Doubles:
    """Log of the mean price paid against the typical one, 0 where nothing was paid."""
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
    known = np.fmax(np.stack([rows[name] for name in ("on_hand", "on_order", "lead_time_days")]), 0.0)  # NaN: 0
    cover = known[0] / (rate + 0.01)  # days
    logs = np.log1p([*known, cover]) / np.array([[4], [4], [3], [4]])
    level: Doubles = np.clip(np.stack([*logs, np.isnan(rows["on_hand"])], axis=1), -8.0, 8.0)
    return level
