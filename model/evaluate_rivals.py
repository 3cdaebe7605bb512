"""The simple rivals: what each expects of a window; a negative binomial around it makes it a distribution.

The dispersion r is fitted by sales class and horizon on the method's own errors in the tuning range, so that a simple
mean is not beaten for want of quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model import error_metrics
from model.dispersion import DISPERSION, MIN_ROWS, fit_dispersion
from model.evaluate import Cases, Forecasts, counts
from model.evaluate_panel import Panel
from streams.records import HORIZONS, SalesClass

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COLD_DAYS = 28  # of a product's age, to which the cold start's own rows belong
NEIGHBOURS = 20
LONGEST = max(HORIZONS)
AGE_BIN = 7  # days

# Expected units [rows, horizons] of rows of the panel, from what is known at the boundary `origin`, at most theirs.
Mean = Callable[[Panel, Ints, int], Floats]


def moving_average(panel: Panel, rows: Ints, origin: int) -> Floats:
    return error_metrics.moving_average(panel.units[rows])


def seasonal_naive(panel: Panel, rows: Ints, origin: int) -> Floats:
    return error_metrics.seasonal_naive(panel.units[rows])


def baseline(panel: Panel, rows: Ints, origin: int) -> Floats:
    return np.cumsum(panel.baseline[rows], axis=1)


@dataclass(frozen=True)
class Tsb:
    """Teunter, Syntetos and Babai's method on each product's days; statsforecast."""

    demand: float = 0.1  # smoothing of the size
    probability: float = 0.1  # and of the probability of a day with sales

    def __call__(self, panel: Panel, rows: Ints, origin: int) -> Floats:
        from statsforecast.models import TSB

        return _per_series(panel, rows, TSB(self.demand, self.probability))


def auto_ets(panel: Panel, rows: Ints, origin: int) -> Floats:
    """Exponential smoothing with a weekly season, its form by information criterion; statsforecast."""
    from statsforecast.models import AutoETS

    return _per_series(panel, rows, AutoETS(season_length=7))


def _per_series(panel: Panel, rows: Ints, model: Any) -> Floats:
    found = np.zeros((len(rows), len(HORIZONS)))
    for i, row in enumerate(rows.tolist()):
        days = panel.units_by_day[panel.product[row], : panel.day[row] - panel.first].astype(np.float64)
        sold = np.flatnonzero(days)
        if not len(sold):
            continue
        series = days[sold[0] :]
        if len(series) < 2 * 7:  # too short for a season of a week
            found[i] = series.mean() * np.array(HORIZONS)
            continue
        ahead = np.maximum(np.nan_to_num(model.forecast(y=series, h=LONGEST)["mean"]), 0.0)
        found[i] = np.cumsum(ahead)[np.array(HORIZONS) - 1]
    return found


# --------------------------------------------------------------------------------------------------------------------
# Cold start: what is known of a product that has hardly sold.


def category_at_age(panel: Panel, rows: Ints, origin: int) -> Floats:
    """Mean units of products of the category at that age, drawn to the mean of all where there are few."""
    found = np.empty((len(rows), len(HORIZONS)))
    bins, categories = panel.age[rows] // AGE_BIN, panel.category[rows]
    for h in range(len(HORIZONS)):
        known = _young(panel, origin, h)
        units, age = panel.outcomes(known)[:, h].astype(np.float64), panel.age[known] // AGE_BIN
        shape = (COLD_DAYS // AGE_BIN + 1, len(panel.categories))
        total, count = np.zeros(shape), np.zeros(shape)
        np.add.at(total, (age, panel.category[known]), units)
        np.add.at(count, (age, panel.category[known]), 1.0)
        overall = (total.sum(axis=1) + 1e-3) / np.maximum(count.sum(axis=1), 1.0)  # [age bins]
        mean = (total + NEIGHBOURS * overall[:, None]) / (count + NEIGHBOURS)
        found[:, h] = mean[np.minimum(bins, shape[0] - 1), categories]
    return found


def neighbours(vectors: str) -> Mean:
    """Mean units of the products nearest by `title` or `image`, at that age; NaN where the product has none."""

    def mean(panel: Panel, rows: Ints, origin: int) -> Floats:
        found = np.full((len(rows), len(HORIZONS)), np.nan)
        own = _unit(getattr(panel, vectors)[rows])
        there = np.flatnonzero(np.abs(own).sum(axis=1) > 0)
        for h in range(len(HORIZONS)):
            known = _young(panel, origin, h)
            others = _unit(getattr(panel, vectors)[known])
            units, age = panel.outcomes(known)[:, h].astype(np.float64), panel.age[known] // AGE_BIN
            for a in np.unique(panel.age[rows[there]] // AGE_BIN).tolist():
                mine = there[panel.age[rows[there]] // AGE_BIN == a]
                pool = np.flatnonzero((age == a) & (np.abs(others).sum(axis=1) > 0))
                if not len(pool):
                    continue
                likeness = own[mine] @ others[pool].T
                # A product is no neighbour of itself.
                likeness[panel.product[rows[mine]][:, None] == panel.product[known[pool]][None]] = -np.inf
                nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :NEIGHBOURS]
                found[mine, h] = units[pool][nearest].mean(axis=1)
        return found

    return mean


def _young(panel: Panel, origin: int, h: int) -> Ints:
    rows = panel.labelled(origin, h)
    return rows[panel.age[rows] < COLD_DAYS]


def _unit(vectors: npt.NDArray[np.float32]) -> Floats:
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norm > 0, vectors / np.maximum(norm, 1e-9), 0.0).astype(np.float64)


# --------------------------------------------------------------------------------------------------------------------


def weekly(days: Ints, start: int) -> dict[int, Ints]:
    """Places of days by their origin: the first day of the week, counted from `start`, that they lie in."""
    origins = start + (days - start) // 7 * 7
    return {int(o): np.flatnonzero(origins == o) for o in np.unique(origins)}


Progress = Callable[[int], None]


def expected(mean: Mean, panel: Panel, rows: Ints, start: int, progress: Progress | None = None) -> Floats:
    """[rows, horizons] the mean of every row, asked at weekly origins from `start`; `progress` hears how many rows."""
    found = np.full((len(rows), len(HORIZONS)), np.nan)
    done = 0
    for origin, places in weekly(panel.day[rows], start).items():
        found[places] = mean(panel, rows[places], origin)
        done += len(places)
        if progress:
            progress(done)
    return found


def forecast(
    mean: Mean,
    name: str,
    panel: Panel,
    rows: Ints,
    cases: Cases,
    start: int,
    tuning: Ints,
    tuning_start: int,
    progress: Progress | None = None,
) -> Forecasts:
    """Forecasts of `rows` (which are `cases`), with r from the errors on the rows `tuning`."""
    tried = expected(mean, panel, tuning, tuning_start, progress)
    r = dispersion(panel.outcomes(tuning), tried, panel.sales_class[tuning])
    values = expected(mean, panel, rows, start, (lambda done: progress(len(tuning) + done)) if progress else None)
    good = np.flatnonzero(np.isfinite(values).all(axis=1))
    found = Forecasts.empty(len(rows))
    if len(good):
        part = cases.take(good)
        found.put(good, counts(part, values[good], r.T[part.sales_class], name))
    return found


def dispersion(total: Ints, mean: Floats, sales_class: Ints) -> Floats:
    """r [horizons, sales classes] around `mean` [n, horizons]."""
    return np.stack([by_class(total[:, h], mean[:, h], sales_class) for h in range(len(HORIZONS))])


def by_class(total: Ints, mean: Floats, sales_class: Ints) -> Floats:
    """r [sales classes] around `mean` [n] of one horizon; a class with few rows takes that of all."""
    known = (total >= 0) & np.isfinite(mean)
    if known.sum() < MIN_ROWS:
        return np.full(len(SalesClass), DISPERSION)
    r = np.full(len(SalesClass), fit_dispersion(total[known], mean[known]))
    for c in SalesClass:
        mine = known & (sales_class == c)
        if mine.sum() >= MIN_ROWS:
            r[c] = fit_dispersion(total[mine], mean[mine])
    return r


def draw_series(panel: Panel, rows: Ints, wanted: int) -> Ints:
    """Product codes for the per-series methods: as many of each sales class, by that of their first row."""
    products, first = np.unique(panel.product[rows], return_index=True)
    classes = panel.sales_class[rows[first]]
    share = wanted // len(SalesClass)
    drawn = [np.random.default_rng(0).permutation(products[classes == c])[:share] for c in SalesClass]
    return np.sort(np.concatenate(drawn))


SIMPLE: Mapping[str, Mean] = {
    "moving_average": moving_average,
    "seasonal_naive": seasonal_naive,
    "baseline": baseline,
}
PER_SERIES: Mapping[str, Mean] = {"auto_ets": auto_ets, "tsb": Tsb()}
CATEGORY = "category_at_age"
COLD: Mapping[str, Mean] = {
    CATEGORY: category_at_age,
    "text_neighbours": neighbours("title"),
    "picture_neighbours": neighbours("image"),
}
