"""Adaptive conformal calibration: a monotone map of probability levels per horizon, learnt from PIT values.

A forecast with distribution function F says that F(Y) is uniform. Where it is not, the quantile that deserves level q
is F^-1(map(q)), and P(Y <= k) is map^-1(F(k)): one map, so quantiles and class probabilities agree. The map is held at
fixed levels, with (0, 0) and (1, 1) at its ends. Source: Gibbs and Candes, adaptive conformal inference under
distribution shift (2021); the level tracker of every knot is theirs.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.heads import KNOTS, identity_map
from streams import negative_binomial

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEVELS = identity_map()[0]  # [knots]
_ENDS = np.concatenate(([0.0], LEVELS, [1.0]))
GAP = 1e-3  # between neighbouring knots, so that the map can be turned round


def forward(knots: Floats, level: npt.ArrayLike) -> Floats:
    """The level to ask the forecast for, to get what deserves `level`."""
    return np.interp(np.asarray(level, np.float64), _ENDS, np.concatenate(([0.0], knots, [1.0])))


def backward(knots: Floats, probability: npt.ArrayLike) -> Floats:
    """The calibrated P(Y <= k) of the forecast's own."""
    return np.interp(np.asarray(probability, np.float64), np.concatenate(([0.0], knots, [1.0])), _ENDS)


def track(knots: Floats, pit: Floats, rate: float) -> Floats:
    """Move each knot [knots] towards the PIT quantile of its level, by at most `rate`, and keep them apart."""
    share = (pit[:, None] <= knots[None, :]).mean(axis=0)
    moved = np.maximum.accumulate(knots + rate * (LEVELS - share))
    order = np.arange(1, KNOTS + 1) * GAP
    apart = np.maximum.accumulate(np.maximum(moved, order) - order) + order
    highest: Floats = np.minimum(apart, 1 - order[::-1])
    return highest


def randomised_pit(units: npt.ArrayLike, mean: npt.ArrayLike, r: npt.ArrayLike, v: npt.ArrayLike) -> Floats:
    """F(y - 1) + v p(y): uniform for a correct forecast of counts when v is."""
    y = np.asarray(units, np.float64)
    below = negative_binomial.cdf(y - 1, mean, r)
    return below + np.asarray(v) * (negative_binomial.cdf(y, mean, r) - below)


def pseudo_uniform(products: Sequence[str], codes: npt.NDArray[np.integer], end: Ints, delay: Ints) -> Floats:
    """[n] numbers in (0, 1) that look random and are a function of the row: crc32 of the product, then splitmix64."""
    crc = np.fromiter((zlib.crc32(name.encode()) for name in products), np.uint64, len(products))
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        z = crc[codes] * np.uint64(0x9E3779B97F4A7C15) + end.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        z = z + (delay.astype(np.uint64) + np.uint64(1)) * np.uint64(0x8CB92BA72F3D8DD7)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    uniform: Floats = ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return uniform
