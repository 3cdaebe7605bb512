"""Counts of a gamma-Poisson mixture: y | u ~ Poisson(mean u), u gamma with mean 1 and variance 1/r.

All functions work on arrays and broadcast; `r` may be inf (Poisson). Source: docs/forecast.md, "Predictive
distribution".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special  # scipy.stats takes every worker seconds to import: only where nothing else will do

Floats = npt.NDArray[np.float64]
_SUMMED = (15, 127)  # counts that are reached by adding up, first and for what is beyond
_BLOCK = 2048  # rows at a time: their probabilities stay in the cache
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
    return quantiles(np.asarray(q, np.float64)[..., None], mean, r)[..., 0]


def quantiles(levels: npt.ArrayLike, mean: npt.ArrayLike, r: npt.ArrayLike) -> Floats:
    """`quantile` [..., m] of several levels [..., m] at each mean and r [...]."""
    each = np.asarray(levels, np.float64)
    shape = np.broadcast_shapes(each.shape[:-1], np.shape(mean), np.shape(r))
    level = np.broadcast_to(each, (*shape, each.shape[-1])).reshape(-1, each.shape[-1])
    means, rs = (np.broadcast_to(np.asarray(v, np.float64), shape).ravel() for v in (mean, r))
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(level), _BLOCK)]
    found = [_quantiles(level[block], means[block], rs[block]) for block in blocks]
    return np.concatenate(found or [level]).reshape(*shape, each.shape[-1])


def _quantiles(level: Floats, mean: Floats, r: Floats) -> Floats:
    """[n, m] of levels [n, m], mean and r [n]: most products sell less than once a day, so probabilities of the first
    counts are added up, and the inverse, which costs as much as a hundred of them, is for what is left."""
    k, left, counts = np.zeros(level.shape), np.arange(len(level)), 0
    for counts in _SUMMED:
        k[left] = _by_sum(level[left], mean[left], r[left], counts)
        left = left[(k[left] > counts).any(axis=1)]
        if not len(left):
            return k
    i, j = np.nonzero(k > counts)
    k[i, j] = _by_inverse(level[i, j], mean[i], r[i])
    return k


def _by_sum(level: Floats, mean: Floats, r: Floats, counts: int) -> Floats:
    """Quantiles [n, m]; `counts` + 1 stands for all beyond `counts`."""
    n = np.clip(r, 1e-6, MAX_R)[:, None]
    count = np.arange(1, counts + 1)
    chance = np.empty((len(n), counts + 1))
    chance[:, :1] = np.exp(-n * np.log1p(mean[:, None] / n))  # of no unit at all
    chance[:, 1:] = (n + (count - 1)) / count * (mean[:, None] / (n + mean[:, None]))  # against one unit less
    below = chance.cumprod(axis=1).cumsum(axis=1)
    return np.stack([(below < level[:, i, None]).sum(axis=1) for i in range(level.shape[1])], axis=1)


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
