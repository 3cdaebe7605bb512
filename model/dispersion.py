"""How far counts spread around the means that a network gives: r of negative binomials, by sales class."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from model.dataset import Dataset
from model.features import Doubles
from streams.records import HORIZONS, SalesClass

DISPERSION = 2.0  # r before any history has been seen: counts spread about twice as far as a Poisson's at a mean of 6
R_BOUNDS = (0.02, 1e4)  # of a fitted r
MIN_ROWS = 50  # with labels, to fit an r of a sales class of its own


def horizon_dispersion(parts: list[tuple[Dataset, Doubles, Doubles]]) -> tuple[Doubles, list[list[int]]]:
    """r [horizons, sales classes] of horizon sums, and how many rows each was fitted on.

    `parts`: rows with their f [n, delays] and spread [n, horizons], best first. A class with few rows takes the r of
    all classes, a horizon with few rows the next part, and without any the default.
    """
    r = np.full((len(HORIZONS), len(SalesClass)), DISPERSION)
    rows = np.zeros(r.shape, np.int64)
    for h in range(len(HORIZONS)):
        for dataset, f, spread in parts:
            whole = (dataset.units[:, : h + 1] >= 0).all(axis=1)
            if whole.sum() < MIN_ROWS:
                continue
            units = dataset.units[whole, : h + 1].sum(axis=1)
            mean = (dataset.baseline * np.exp(f))[whole, : h + 1].sum(axis=1)
            r[h], rows[h] = _by_class(units, mean, np.exp(spread[whole, h]), dataset.sales_class[whole])
            break
    return r, rows.tolist()


def _by_class(
    units: npt.NDArray[np.int64], mean: Doubles, factor: Doubles, sales_class: npt.NDArray[np.int64]
) -> tuple[Doubles, list[int]]:
    pooled = fit_dispersion(units, mean, factor)
    r, rows = np.full(len(SalesClass), pooled), [0] * len(SalesClass)
    for c in SalesClass:
        mine = sales_class == c
        if mine.sum() >= MIN_ROWS:
            r[c], rows[c] = fit_dispersion(units[mine], mean[mine], factor[mine]), int(mine.sum())
    return r, rows


def fit_dispersion(units: npt.NDArray[np.int64], mean: Doubles, factor: Doubles | float = 1.0) -> float:
    """The r that makes the units likeliest under NB(mean, r * factor), within R_BOUNDS."""
    y, m = units.astype(np.float64), np.maximum(mean, 1e-9)

    def loss(log_r: float) -> float:
        r = math.exp(log_r) * factor
        each = special.gammaln(y + r) - special.gammaln(r) - (y + r) * np.log1p(m / r) - y * np.log(r)
        return -float(each.sum())

    found = optimize.minimize_scalar(loss, bounds=tuple(map(math.log, R_BOUNDS)), method="bounded")
    return float(math.exp(found.x))
