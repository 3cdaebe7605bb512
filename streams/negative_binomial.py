"""Counts of a gamma-Poisson mixture: y | u ~ Poisson(mean u), u gamma with mean 1 and variance 1/r.

All functions work on arrays and broadcast; `r` may be inf (Poisson). Source: docs/forecast.md, "Predictive
distribution".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special  # scipy.stats takes every worker seconds to import: only where nothing else will do

Floats = npt.NDArray[np.float64]
_SUMMED = 24  # counts that are reached by adding up: an inverse costs as much as fifty of them
MAX_R = 1e8  # beyond it the mixture is a Poisson to float precision


def _shape(mean: npt.ArrayLike, r: npt.ArrayLike) -> tuple[Floats, Floats]:
    m = np.maximum(np.asarray(mean, np.float64), 1e-12)
    n = np.clip(np.asarray(r, np.float64), 1e-6, MAX_R)
    return n, n / (n + m)


def cdf(k: npt.ArrayLike, mean: npt.ArrayLike, r: npt.ArrayLike) -> Floats:
    """P(Y <= k); 0 for negative k."""
    n, p = _shape(mean, r)
    floor = np.floor(np.asarray(k, np.float64))
    return np.where(floor < 0, 0.0, special.betainc(n, np.maximum(floor, 0) + 1, p))


def pmf(k: npt.ArrayLike, mean: npt.ArrayLike, r: npt.ArrayLike) -> Floats:
    """P(Y = k)."""
    n, p = _shape(mean, r)
    y = np.asarray(k, np.float64)
    ways = special.gammaln(y + n) - special.gammaln(y + 1) - special.gammaln(n)
    return np.asarray(np.exp(ways + n * np.log(p) + special.xlog1py(y, -p)), np.float64)


def quantile(q: npt.ArrayLike, mean: npt.ArrayLike, r: npt.ArrayLike) -> Floats:
    """Smallest integer k with P(Y <= k) >= q."""
    level, mean, r = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (q, mean, r)))
    k = np.zeros(level.shape)
    # Most products sell less than once a day: no inverse is needed where no unit at all is likely enough.
    some = ~(cdf(0.0, mean, r) >= level)
    k[some] = _by_sum(level[some], mean[some], r[some])
    return k


def _by_sum(level: Floats, mean: Floats, r: Floats) -> Floats:
    """Quantiles above zero [rows]: probabilities of the first counts are added up, the inverse is for what is left."""
    n = np.clip(r, 1e-6, MAX_R)
    k, left, more = np.zeros(len(level)), np.arange(len(level)), mean / (n + mean)
    each = np.exp(-n * np.log1p(mean / n))  # of no unit at all
    total = each.copy()
    for count in range(1, _SUMMED + 1):
        each *= (n + (count - 1)) / count * more
        total += each
        done = total >= level[left]
        k[left[done]] = count
        rest = ~done
        left, n, more, each, total = left[rest], n[rest], more[rest], each[rest], total[rest]
        if not len(left):
            return k
    k[left] = _by_inverse(level[left], mean[left], r[left])
    return k


def _by_inverse(level: Floats, mean: Floats, r: Floats) -> Floats:
    n, p = _shape(mean, r)
    with np.errstate(invalid="ignore"):
        k = np.maximum(np.ceil(special.nbdtrik(level, n, p)), 0.0)
    # The inverse is a float's width off at times: the definition has the last word.
    k = np.where(cdf(k - 1, mean, r) >= level, k - 1, k)
    k = np.where(cdf(k, mean, r) < level, k + 1, k)
    unknown = np.isnan(k)
    if unknown.any():
        from scipy import stats

        k[unknown] = stats.nbinom.ppf(level[unknown], n[unknown], p[unknown])
    return np.asarray(k, np.float64)
