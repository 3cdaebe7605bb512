"""What moved on the day that a score tells of: a product's numbers beside its four weeks before, and what was announced
for the day."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streams.records import AHEAD, CHANNELS, DAYS, KNOWN, WindowKind

_USUAL_DAYS = 28


@dataclass(frozen=True)
class Movement:
    """A number of the day, and its mean over the days before (of a live window's day, of as much of a day)."""

    name: str
    value: float
    usual: float

    @property
    def ratio(self) -> float:
        return self.value / self.usual if self.usual else math.inf


def movements(window: Mapping[str, Any], digits: int) -> list[Movement]:
    """What differs most first; `digits` are those of the money's minor unit."""
    grid = np.asarray(window["day"], np.float64).reshape(len(CHANNELS), DAYS)
    days = min(_USUAL_DAYS, max(int(window["age_days"]) - 1, 1))
    if window["kind"] == WindowKind.LIVE:
        today, before, share = np.asarray(window["open"], np.float64), grid[:, -days:], float(window["open_share"])
    else:
        today, before, share = grid[:, -1], grid[:, -days - 1 : -1], 1.0
    now, usual = _numbers(today, digits), _numbers(before.sum(axis=1) / days * share, digits)
    found = [Movement(name, value, usual.get(name, 0.0)) for name, value in now.items() if value or usual.get(name)]
    return sorted(found, key=lambda each: -abs(math.log((each.value + 0.01) / (each.usual + 0.01))))


def _numbers(sums: npt.NDArray[np.float64], digits: int) -> dict[str, float]:
    """Of each channel, with the mean price and rating in place of their sums."""
    found = dict(zip(CHANNELS, sums.tolist(), strict=True))
    revenue, stars = found.pop("revenue"), found.pop("rating_sum")
    if found["units"] > 0:
        found["price paid"] = revenue / found["units"] / 10**digits
    if found["reviews"] > 0:
        found["rating"] = stars / found["reviews"]
    return found


def announced(window: Mapping[str, Any]) -> dict[str, int]:
    """What was known of the day before it came, in percent: promotions, and whether it is a holiday."""
    column = DAYS if window["kind"] == WindowKind.LIVE else DAYS - 1
    known = np.asarray(window["known"]).reshape(len(KNOWN), DAYS + AHEAD)[:, column]
    return {name: int(percent) for name, percent in zip(KNOWN, known, strict=True) if percent}
