"""Days of a platform's own calendar, stored as UTC instants. A day is half open, and may have 23 or 25 hours."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

HOUR = 3_600_000  # ms
DAY = 24 * HOUR
_FIRST = dt.date(1970, 1, 1)
_LAST = dt.date(2100, 1, 1)


@dataclass(frozen=True)
class Platform:
    """A platform that may send events: its name, IANA time zone, currency (ISO 4217) and country (ISO 3166)."""

    name: str
    timezone: str = "UTC"
    currency: str = "EUR"
    country: str = ""  # whose holidays count; "" for none

    @cached_property
    def calendar(self) -> Calendar:
        return Calendar(self.timezone)


@dataclass(frozen=True)
class Calendar:
    """Day indices count local days from 1970-01-01 in the time zone."""

    timezone: str

    @cached_property
    def midnights(self) -> npt.NDArray[np.int64]:
        """[days] UTC epoch ms at which each local day begins."""
        zone = ZoneInfo(self.timezone)
        days = (_LAST - _FIRST).days
        starts = (dt.datetime.combine(_FIRST + dt.timedelta(d), dt.time(), zone) for d in range(days))
        return np.fromiter((int(s.timestamp() * 1000) for s in starts), np.int64, days)

    def day(self, at: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Day index that each instant (UTC ms) falls in."""
        return np.searchsorted(self.midnights, np.asarray(at, np.int64), side="right").astype(np.int64) - 1

    def start(self, day: int) -> int:
        """UTC ms at which a day begins; the end of the day before it."""
        return int(self.midnights[day])

    def weekday(self, day: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Monday 0 … Sunday 6."""
        return (np.asarray(day, np.int64) + 3) % 7  # 1970-01-01 was a Thursday

    def date(self, day: int) -> dt.date:
        return _FIRST + dt.timedelta(days=int(day))

    def index(self, date: dt.date) -> int:
        return (date - _FIRST).days
