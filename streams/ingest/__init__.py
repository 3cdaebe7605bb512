"""From platform events to clean columns, and dead letters for the rest."""

from streams.ingest.clock import ClockConfig, IngestClock
from streams.ingest.config import IngestConfig
from streams.ingest.privacy import unseal
from streams.ingest.reasons import Reason
from streams.ingest.stage import IngestStage

__all__ = ["ClockConfig", "IngestClock", "IngestConfig", "IngestStage", "Reason", "unseal"]
