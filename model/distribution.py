"""What a forecast says: units over each horizon as gamma-Poisson counts, their quantiles, and the trend classes.

    y_b | u ~ Poisson(M_b u), u gamma with mean 1, one u for all buckets;  Y_h = sum of y_b ~ NB(M_h, r_h')
    M_b = mu_b exp(s2_b / 2)        1/r_h' = (1 + 1/r_h) exp(s2_h) - 1

Definitions: docs/forecast.md, "Predictive distribution" and "Baseline and class".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from model.calibration import backward, forward
from model.heads import LEAST
from streams import negative_binomial
from streams.records import CLASSES, DELAYS, QUANTILES, THRESHOLDS, Trend

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MEDIAN = QUANTILES.index(0.5)
_SURGE, _RISE, _FALL = (THRESHOLDS.index(name) for name in ("surge", "rise", "fall"))


@dataclass(frozen=True, eq=False)
class Forecast:
    """Rows of forecasts. Units count from the window's `end`, those already sold in an open day included. What not all
    readers want is worked out when it is read."""

    mean: Floats  # [n, delays] M_b
    total: Floats  # [n, horizons] M_h
    dispersion: Floats  # [n, horizons] r of what is still to come
    trend: Floats  # [n, horizons] log2((M_h + 1/2) / (B_h + 1/2))
    _seen: Floats  # [n] units of the open day
    _rest: Floats  # [n, horizons] mean of what is still to come
    _thresholds: Ints  # [n, horizons, 3]
    _conformal: Floats  # [horizons, knots]

    @cached_property
    def quantiles(self) -> Floats:
        """[n, horizons, quantiles]"""
        return self._at(QUANTILES)

    @cached_property
    def median(self) -> Floats:
        """[n, horizons]"""
        known = "quantiles" in vars(self)
        return self.quantiles[:, :, MEDIAN] if known else self._at((QUANTILES[MEDIAN],))[:, :, 0]

    @cached_property
    def probabilities(self) -> Floats:
        """[n, horizons, classes]"""
        return classify(self._rest, self.dispersion, self._thresholds, self._conformal, self._seen)

    def _at(self, levels: Sequence[float]) -> Floats:
        asked = np.stack([forward(knots, levels) for knots in self._conformal])  # [horizons, levels]
        units = negative_binomial.quantiles(asked, self._rest, self.dispersion)
        return np.maximum.accumulate(units, axis=1) + self._seen[:, None, None]


def predict(
    mu: Floats,
    s2: Floats,
    dispersion: Floats,
    baseline: Floats,
    thresholds: Ints,
    conformal: Floats,
    open_units: npt.NDArray[np.integer] | None = None,
    open_share: Floats | None = None,
) -> Forecast:
    """From mu and s2 [n, delays] (see heads.correct), r [n, horizons] of each row's sales class, baseline [n, delays],
    thresholds [n, horizons, 3] and the head's conformal map [horizons, knots].

    `open_units` and `open_share` [n]: what a live window has seen of the first bucket, and its share that is over.
    """
    n = len(mu)
    mean = np.maximum(mu * np.exp(s2 / 2), LEAST)
    r = spread(mean, s2, dispersion)
    seen = np.zeros(n) if open_units is None else np.asarray(open_units, np.float64)
    rest, left = mean, r
    if open_units is not None:
        share = np.zeros(n) if open_share is None else np.clip(open_share, 0.0, 1.0)
        rest, left = remaining(mean, r, seen, share)
    rest_total = accumulate(rest)
    total = rest_total + seen[:, None]
    first = rest.copy()
    first[:, 0] += seen
    trend = np.log2((total + 0.5) / (accumulate(baseline) + 0.5))
    return Forecast(first, total, left, trend, seen, rest_total, thresholds, conformal)


def accumulate(buckets: Floats) -> Floats:
    """Sums over horizons [n, horizons] of buckets [n, delays]."""
    return np.cumsum(buckets, axis=1)


def spread(mean: Floats, s2: Floats, dispersion: Floats) -> Floats:
    """r_h' [n, horizons]: r_h widened by the uncertainty of the mean, s2 weighted by the buckets' means."""
    s2_total = accumulate(mean * s2) / accumulate(mean)
    inverse = (1 + 1 / dispersion) * np.exp(s2_total) - 1
    return 1 / np.maximum(inverse, 1 / negative_binomial.MAX_R)


def remaining(mean: Floats, r: Floats, seen: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Means [n, delays] and r [n, horizons] of what is still to come, after `seen` units [n] in a share of the first
    bucket.

    Sums over longer horizons spread less (r_28 > r_1), so a part of one day's surprise is that day's own. Of u, with
    variance 1/r_1 on the day, only 1/r_h is taken to last over horizon h; the best linear estimate of that part is
    1 + (k - m) / r_h / (1 + m / r_1). Where r_h = r_1 this is the gamma posterior, exactly.
    """
    rest = mean.copy()
    rest[:, 0] *= 1 - share
    m, k = (mean[:, 0] * share)[:, None], seen[:, None]
    day = 1 / r[:, :1]
    lasting = np.minimum(1 / r, day)
    information = 1 + day * m
    factor = 1 + lasting * (k - m) / information
    left = factor / np.maximum(lasting * (1 - lasting * m / information), 1 / negative_binomial.MAX_R)
    return np.maximum(rest * factor, LEAST), np.clip(left, 1e-6, negative_binomial.MAX_R)


def at_most(k: Floats, total: Floats, r: Floats, conformal: Floats) -> Floats:
    """Calibrated F(k) [n, horizons, m] of the sum over each horizon; k [n, horizons, m], total and r [n, horizons],
    conformal [horizons, knots].

    A longer horizon never has fewer units than a shorter one: its distribution function is the least of theirs, as its
    quantiles are the largest.
    """
    longer, shorter = np.tril_indices(DELAYS)  # each horizon with all that are not longer
    below = negative_binomial.cdf(k[:, longer], total[:, shorter, None], r[:, shorter, None])  # [n, pairs, m]
    for h in range(DELAYS):
        below[:, shorter == h] = backward(conformal[h], below[:, shorter == h])
    least: Floats = np.minimum.reduceat(below, np.flatnonzero(shorter == 0), axis=1)
    return least


def classify(total: Floats, r: Floats, thresholds: Ints, conformal: Floats, seen: Floats) -> Floats:
    """Probabilities [n, horizons, classes] of sums with mean `total` and r [n, horizons], `seen` units [n] ahead."""
    k = thresholds.astype(np.float64)  # [n, horizons, 3]
    last = np.stack([k[:, :, _SURGE] - 1, k[:, :, _RISE] - 1, k[:, :, _FALL]], axis=2) - seen[:, None, None]
    below = at_most(last, total, r, conformal)
    surge = np.where(k[:, :, _SURGE] < 0, 1.0, below[:, :, 0])
    rise = np.minimum(np.where(k[:, :, _RISE] < 0, 1.0, below[:, :, 1]), surge)
    fall = np.minimum(np.where(k[:, :, _FALL] < 0, 0.0, below[:, :, 2]), rise)
    out = np.empty((len(total), DELAYS, len(CLASSES)))
    out[:, :, Trend.SURGING] = 1 - surge
    out[:, :, Trend.RISING] = surge - rise
    out[:, :, Trend.FALLING] = fall
    out[:, :, Trend.STEADY] = rise - fall
    return out
