"""What ingest can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streams.calendars import Platform
from streams.errors import ConfigurationError
from streams.records import DAYS
from streams.topics import DAY_MS


@dataclass(frozen=True)
class IngestConfig:
    """Settings of every ingest task; times in ms unless the name says days."""

    partitions: int  # of trend.events and its like
    platforms: Mapping[str, Platform]
    secret: bytes = field(repr=False)  # pseudonym and sealing keys are derived from it
    dedupe_days: int = 7
    max_future_ms: int = DAY_MS  # beyond the record's own time
    out_of_order_ms: int = 60_000
    max_text: int = 5_000  # characters
    max_quantity: int = 100_000
    max_price_minor: int = 1_000_000_000
    max_bytes: int = 900_000  # of one internal record
    ring_days: int = DAYS

    def __post_init__(self) -> None:
        if len(self.secret) < 16:
            raise ConfigurationError(f"the secret has {len(self.secret)} bytes; give at least 16 random ones")
        if self.partitions < 1:
            raise ConfigurationError(f"partitions is {self.partitions}; give at least 1")
        if not self.platforms:
            raise ConfigurationError("no platform is configured; name at least one, or every event is a dead letter")

    @property
    def dedupe_ms(self) -> int:
        return self.dedupe_days * DAY_MS

    @property
    def ring_ms(self) -> int:
        return self.ring_days * DAY_MS
