"""What the windows can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurizers.baseline import BaselineConfig
from streams.calendars import Platform


@dataclass(frozen=True)
class WindowConfig:
    platforms: Mapping[str, Platform]  # by name; rows of any other platform are counted and dropped
    live_interval_ms: int = 100  # on the records' time, which goes in steps of a commit of ingest: with each of them
    live_rows: int = 200  # live windows of a platform at most per interval; the rest waits
    active_days: int = 56  # a product without any event for this long gets no close window
    vector_half_life: float = 3.0  # days, of a vector in its pool: what reviews say of now, not of last month
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    max_bytes: int = 900_000  # of one record of trend.windows
