"""Counts of a gamma-Poisson mixture: y | u ~ Poisson(mean u), u gamma with mean 1 and variance 1/r.

All functions work on arrays and broadcast; `r` may be inf (Poisson). Source: docs/forecast.md, "Predictive
distribution".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special  # scipy.stats would take every worker seconds to import

Floats = npt.NDArray[np.float64]
_SUMMED = (15, 47, 127, 255)  # counts up to which probabilities are added up, for what is beyond the one before
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
    """[n, m] of levels [n, m], mean and r [n]: most products sell less than once a day, so probabilities of counts are
    added up, further for the rows that want more; the inverse costs as much as a hundred counts."""
    k, left, first = np.empty(level.shape), np.arange(len(level)), 0
    n, mean = np.clip(r, 1e-6, MAX_R)[:, None], mean[:, None]
    chance = below = np.exp(-n * np.log1p(mean / n))  # of no unit at all
    here, size, odds = (below < level).astype(np.float64), n, mean / (n + mean)
    for last in _SUMMED:
        count = np.arange(first + 1, last + 1)
        chances = np.concatenate([chance, (size + (count - 1)) / count * odds], axis=1)  # each against one unit less
        chances.cumprod(axis=1, out=chances)
        chance = chances[:, -1:].copy()
        chances[:, :1] = below
        sums = chances.cumsum(axis=1)
        reached = np.ones((len(left), level.shape[1], len(count) + 1), np.bool_)
        np.greater_equal(sums[:, None, 1:], level[left, :, None], out=reached[:, :, :-1])
        here += reached.argmax(axis=2)
        k[left], first = here, last
        more = (here > last).any(axis=1)
        if not more.any():
            return k
        left, here, size, odds = left[more], here[more], size[more], odds[more]
        chance, below = chance[more], sums[more, -1:]
    i, j = np.nonzero(k > first)
    k[i, j] = _by_inverse(level[i, j], mean[i, 0], n[i, 0])
    return k


def _by_inverse(level: Floats, mean: Floats, r: Floats) -> Floats:
    """From the quantile of the gamma with the same mean and variance, which is a step or two away."""
    shape = 1 / (1 / mean + 1 / r)
    k: Floats = np.floor(special.gammaincinv(shape, level) * (mean / shape))
    left = np.arange(len(k))
    while len(left := left[cdf(k[left], mean[left], r[left]) < level[left]]):
        k[left] += 1
    left = np.arange(len(k))
    while len(left := left[cdf(k[left] - 1, mean[left], r[left]) >= level[left]]):
        k[left] -= 1
    return k
