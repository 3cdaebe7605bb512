"""How far forecasts spread, learnt from PIT values: r by horizon and sales class, and a map of levels by horizon.

Adaptive conformal calibration: a monotone map of probability levels per horizon. A forecast with distribution function
F says that F(Y) is uniform. Where it is not, the quantile that deserves level q is F^-1(map(q)), and P(Y <= k) is
map^-1(F(k)): one map, so quantiles and class probabilities agree. The map is held at fixed levels, with (0, 0) and
(1, 1) at its ends. Source: Gibbs and Candes, adaptive conformal inference under distribution shift (2021); the level
tracker of every knot is theirs.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.heads import KNOTS, LEAST, identity_map
from streams import negative_binomial
from streams.records import HORIZONS, SalesClass

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEVELS = identity_map()[0]  # [knots]
_ENDS = np.concatenate(([0.0], LEVELS, [1.0]))
GAP = 1e-3  # between neighbouring knots, so that the map can be turned round
TAILS = (0.1, 0.9)  # PIT values outside of them, that the dispersion is to make as many as it should


@dataclass(frozen=True)
class CalibrationConfig:
    """Half-lives in days."""

    common_information: float = 50.0  # of an epoch, that takes half of its common error out of the spread
    dispersion_rate: float = 2.0  # of log r, a one-day horizon's and an epoch's; longer ones go with 1 / days
    tails_half_life: float = 4.0  # of what is known of how far errors of the spread agree
    dispersion_rows: float = 50.0  # of a class: an epoch with so few moves its r half as far
    dispersion_half_life: float = 112.0  # back to the network's own
    dispersion_bounds: tuple[float, float] = (0.05, 1e4)
    conformal_rate: float = 0.1  # of a one-day horizon and an epoch; longer ones go with 1 / days
    conformal_rows: float = 50.0  # an epoch with so few rows moves the map half as far


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


# --------------------------------------------------------------------------------------------------------------------
# What an epoch's matured rows teach: delay and sales class [n], total, mean and r of the horizon, PIT.


def common_error(delay: Ints, total: Floats, mean: Floats, r: Floats, information: float) -> Floats:
    """[rows] factor that all forecasts of a longer horizon were off by in this epoch, to be left out of the spread.

    It is the level's, which has been learnt from the first bucket long before such a label comes: a spread that
    learnt it would widen for a month when all is over.
    """
    common = np.ones(len(delay))
    for h in range(1, len(HORIZONS)):
        mine = np.flatnonzero(delay == h)
        m = mean[mine]
        known = float((m / (1 + m / r[mine])).sum())
        ratio = max(float(total[mine].sum()), 1.0) / max(float(m.sum()), 1.0)
        common[mine] = ratio ** (known / (known + information))
    return common


def watch_tails(
    tails: Floats, delay: Ints, sales_class: Ints, pit: Floats, config: CalibrationConfig, elapsed: float
) -> tuple[Floats, Floats]:
    """`tails` [2, horizons, classes]: smoothed error of the share of rows in the tails, and its square. Returns it, and
    this epoch's error [horizons, classes]."""
    shape = tails.shape[1:]
    outside = ((pit < TAILS[0]) | (pit > TAILS[1])).astype(np.float64)
    cell = delay * len(SalesClass) + sales_class
    rows, found = (np.bincount(cell, weights, tails[0].size).reshape(shape) for weights in (None, outside))
    error = ((1 - (TAILS[1] - TAILS[0])) * rows - found) / (rows + config.dispersion_rows)
    lasting = 0.5 ** (elapsed / config.tails_half_life)
    return lasting * tails + (1 - lasting) * np.stack([error, error**2]), error


def track_dispersion(
    dispersion: Floats,
    network: Floats,
    tails: Floats,
    error: Floats,
    config: CalibrationConfig,
    close_every: float,
    elapsed: float,
) -> Floats:
    """Move each r [horizons, classes] until a fifth of the rows lies in the tails, and back to the network's own.

    Not by the variance: a few orders a hundred times the others would widen all forecasts of their class, for a
    quantile that they do not reach.
    """
    # Which rows of a day lie in the tails is mostly that day's own, so a horizon of less than a week moves as fast
    # as one of a week, unless its errors have agreed in direction. Source: Trigg and Leach, exponential smoothing
    # with an adaptive response rate (1967).
    days = np.array(HORIZONS, np.float64)[:, None]
    agreed = tails[0] ** 2 / np.maximum(tails[1], LEAST)
    rate = config.dispersion_rate * np.minimum(1.0, close_every / days) * np.maximum(agreed, np.minimum(1.0, days / 7))
    kept = 0.5 ** (elapsed / config.dispersion_half_life) * np.log(dispersion / network)
    moved: Floats = np.clip(network * np.exp(kept + rate * error), *config.dispersion_bounds)
    return moved


def track_maps(conformal: Floats, delay: Ints, pit: Floats, config: CalibrationConfig, close_every: float) -> Floats:
    """[horizons, knots]"""
    moved = conformal.copy()
    for h, days in enumerate(HORIZONS):
        mine = pit[delay == h]
        if len(mine):
            trust = len(mine) / (len(mine) + config.conformal_rows)
            moved[h] = track(conformal[h], mine, config.conformal_rate * min(1.0, close_every / days) * trust)
    return moved
