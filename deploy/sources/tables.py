"""From the cells of a data set's tables to what records hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from streams.calendars import Platform


def instants(local: pd.Series[Any], platform: Platform) -> npt.NDArray[np.int64]:
    """UTC ms of a platform's local times, -1 where there is none. An hour that summer time skips moves on to the next
    one; of an hour that comes twice it is the first."""
    stamps = pd.to_datetime(local).dt.tz_localize(
        platform.timezone, nonexistent="shift_forward", ambiguous=np.ones(len(local), bool)
    )
    utc = stamps.dt.tz_convert("UTC").dt.tz_localize(None)
    return np.asarray(utc.astype("datetime64[ms]").astype("int64").where(utc.notna(), -1), np.int64)


def money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
