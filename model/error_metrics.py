"""Error of a forecast, and the two simple forecasts that every other one has to beat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from streams.records import HORIZONS

Floats = npt.NDArray[np.float64]

WEEK = 7
AVERAGED_DAYS = 28


def wape(actual: npt.ArrayLike, forecast: npt.ArrayLike) -> float:
    """Sum of absolute errors over the sum of actual units; NaN where nothing was sold at all."""
    y, f = np.asarray(actual, np.float64), np.asarray(forecast, np.float64)
    if y.shape != f.shape:
        raise ValueError(f"{y.shape} actual values cannot be compared with {f.shape} forecasts")
    sold = float(np.abs(y).sum())
    return float(np.abs(y - f).sum()) / sold if sold else float("nan")


def moving_average(units: npt.ArrayLike) -> Floats:
    """[rows, horizons] units over each horizon at the mean rate of the last 28 days.

    `units` is [rows, days], oldest day first, before the window's end.
    """
    day = _grid(units)
    rate: Floats = day[:, -AVERAGED_DAYS:].mean(axis=1)
    return np.asarray(rate[:, None] * np.array(HORIZONS), np.float64)


def seasonal_naive(units: npt.ArrayLike) -> Floats:
    """[rows, horizons] units over each horizon if every day repeats the newest known day of its weekday."""
    day = _grid(units)
    week = day[:, -WEEK:]
    repeated = np.tile(week, (1, -(-max(HORIZONS) // WEEK)))  # [rows, days ahead]
    return np.stack([repeated[:, :days].sum(axis=1) for days in HORIZONS], axis=1)


def _grid(units: npt.ArrayLike) -> Floats:
    day = np.asarray(units, np.float64)
    if day.ndim != 2 or day.shape[1] < AVERAGED_DAYS:
        raise ValueError(f"units of shape {day.shape}; needed are [rows, days] with at least {AVERAGED_DAYS} days")
    return day
