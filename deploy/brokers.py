"""Which broker a command works with: the one in the settings, else the local one that runs."""

from __future__ import annotations

from deploy.errors import ConfigurationError
from deploy.local_kafka import LocalKafka
from deploy.settings import Settings


def find_bootstrap(settings: Settings) -> str:
    """Address of the broker in the settings, else of the local broker. Raises ConfigurationError if there is none."""
    if settings.bootstrap:
        return settings.bootstrap
    running = LocalKafka(settings.kafka_folder, jars=settings.kafka_jars).running()
    if running is None:
        raise ConfigurationError(
            "no broker: TRENDSTREAM_BOOTSTRAP is not set and no local broker runs; start one with "
            "`trendstream broker start`"
        )
    return running.bootstrap
