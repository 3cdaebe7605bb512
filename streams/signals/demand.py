"""Demand over any number of days, from a forecast that knows 1, 7 and 28.

    units sold     open_units |<------------------ the demand over `days` ------------------>|
                 end ------ as_of ------- 1 ------------------- 7 ---------------------- 28 ------>
    filled with                  M_0 - open        M_1                       M_2           the rate of M_2

Within a delay bucket demand is spread evenly. Dispersion is interpolated as 1/r, the variance of the common factor, so
that a Poisson (r = inf) has its place on the line; beyond the horizons the nearest one holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams import negative_binomial
from streams.calendars import DAY
from streams.codecs import Rows
from streams.records import HORIZONS, WindowKind

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_EDGES = np.array((0, *HORIZONS), np.float64)  # days
_LEAST_REST = 1 / 1440  # days: a minute is the least that is left of an open day


@dataclass(frozen=True)
class Demand:
    """What is still to be sold after what each window has seen."""

    mean: Floats  # [rows, delays] units left in each delay bucket
    dispersion: Floats  # [rows, horizons] r of each horizon's sum
    elapsed: Floats  # [rows] days of the first bucket that are over

    @staticmethod
    def of(rows: Rows) -> Demand:
        """From a PREDICTIONS batch. A live row's means count from `end`: units sold since then are taken off."""
        live = rows["kind"] == WindowKind.LIVE
        mean = np.array(rows["mean"], np.float64)  # [rows, delays]
        sold = np.where(live, rows["open_units"], 0)
        mean[:, 0] = np.maximum(mean[:, 0] - sold, 0.0)
        elapsed = np.where(live, (rows["as_of"] - rows["end"]) / DAY, 0.0)
        return Demand(mean, np.asarray(rows["dispersion"], np.float64), np.clip(elapsed, 0.0, 1 - _LEAST_REST))

    @property
    def usable(self) -> Bools:
        """[rows] whether mean and dispersion are numbers that a distribution can have."""
        known = np.isfinite(self.mean).all(axis=1) & (self.mean >= 0).all(axis=1)
        return np.asarray(known & (self.dispersion > 0).all(axis=1))

    def over(self, days: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Mean and dispersion of the units sold within `days` [rows] from what the window has seen."""
        until = self.elapsed + np.asarray(days, np.float64)  # [rows] days from `end`
        mean = np.zeros(len(self.elapsed))
        for bucket in range(len(HORIZONS)):
            start = self.elapsed if bucket == 0 else _EDGES[bucket]
            width = _EDGES[bucket + 1] - start
            share = (until - start) / width
            if bucket < len(HORIZONS) - 1:  # the last bucket's rate goes on
                share = np.minimum(share, 1.0)
            mean = mean + self.mean[:, bucket] * np.maximum(share, 0.0)
        return mean, 1.0 / np.maximum(self._spread(until), 1.0 / negative_binomial.MAX_R)

    def _spread(self, until: Floats) -> Floats:
        # [rows] 1/r on the line between the horizons on both sides
        inverse = 1.0 / self.dispersion
        spread = inverse[:, 0]
        for right in range(1, len(HORIZONS)):
            left_day, right_day = HORIZONS[right - 1], HORIZONS[right]
            weight = np.clip((until - left_day) / (right_day - left_day), 0.0, 1.0)
            spread = spread + weight * (inverse[:, right] - inverse[:, right - 1])
        return np.asarray(spread, np.float64)


def units(count: float) -> str:
    """A count for a sentence: `1 unit`, `2.5 units`."""
    return "1 unit" if count == 1 else f"{count:,.10g} units"


def span(days: float) -> str:
    """A time for a sentence: `1 day`, `8.5 days`."""
    return "1 day" if days == 1 else f"{days:,.10g} days"
