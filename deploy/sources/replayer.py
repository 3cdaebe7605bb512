"""Plays a source into the platform topics, at a chosen speed, and counts what was taken and what was refused."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaException

from deploy.errors import ReplayError
from deploy.sources import PlatformEvent
from streams import kafka
from streams.errors import ConfigurationError
from streams.partitioning import partition_of
from streams.topics import PLATFORM_TOPICS, TOPICS

_KEPT_ERRORS = 5  # messages shown; all are counted


class Sink(Protocol):
    """Where records go: Kafka, or the in-process log."""

    def send(self, topic: str, partition: int, key: bytes, value: bytes, timestamp: int) -> None:
        """Take a record. `timestamp` is now, epoch ms."""

    def flush(self) -> None:
        """Return when every record is delivered or has failed."""

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Topic and message of each record that was not delivered, so far."""


@dataclass
class FunctionSink:
    """Hands records to a function, such as the in-process log's."""

    take: Callable[[str, int, bytes, bytes, int], object]
    failures: list[tuple[str, str]] = field(default_factory=list)

    def send(self, topic: str, partition: int, key: bytes, value: bytes, timestamp: int) -> None:
        self.take(topic, partition, key, value, timestamp)

    def flush(self) -> None:
        """Nothing waits: every record was taken at once."""


class KafkaSink:
    """An idempotent producer, which stamps a record with the time at which it takes it: now.

    Event time stays in the payload: a topic of records dated in the past would be emptied by its retention.
    """

    def __init__(self, bootstrap: str) -> None:
        self._producer = kafka.producer(bootstrap)
        self.failures: list[tuple[str, str]] = []

    def send(self, topic: str, partition: int, key: bytes, value: bytes, timestamp: int) -> None:
        try:
            kafka.send(self._producer, topic, partition, value, key, on_delivery=self._delivered)
        except KafkaException as error:  # refused before it was sent
            self.failures.append((topic, error.args[0].str()))
        self._producer.poll(0)

    def flush(self) -> None:
        if self._producer.flush(60):
            self._producer.purge()  # what still waits is reported as failed, topic by topic
            self._producer.flush(5)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self.failures.append((message.topic(), error.str()))


@dataclass(frozen=True)
class Pace:
    """How fast to play: `rate` events a second, or event time at `speed` times its own; neither: as fast as it goes."""

    rate: float | None = None
    speed: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.speed is not None:
            raise ConfigurationError("give a rate or a speed, not both")
        for name, value in (("rate", self.rate), ("speed", self.speed)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigurationError(f"{name} is {value:g}; it must be a number above 0")

    def due(self, number: int, elapsed_ms: int) -> float:
        """Seconds after the start at which event `number` is due, `elapsed_ms` of event time after the first."""
        if self.rate is not None:
            return number / self.rate
        return elapsed_ms / 1000 / self.speed if self.speed is not None else 0.0


@dataclass(frozen=True)
class Replayed:
    produced: dict[str, int]  # by topic: records that the sink took and did not fail
    failed: dict[str, int]
    errors: list[str]  # the first few, for people
    first: int  # event time, ms; 0 when there were none
    last: int
    seconds: float

    @property
    def total(self) -> int:
        return sum(self.produced.values())


@dataclass(frozen=True)
class Replayer:
    """Sends each event to the partition that its key gives, with the time of sending as the record's own.

    `partitions` is the number of partitions of each platform topic; a topic that is not in it raises ReplayError.
    """

    source: Iterable[PlatformEvent]
    sink: Sink
    partitions: Mapping[str, int]
    pace: Pace = Pace()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    def run(self, on_progress: Callable[[int, int], None] | None = None, every: int = 200) -> Replayed:
        """Play to the end. `on_progress` gets the number of events sent and the newest event time."""
        sent: Counter[str] = Counter()
        too_large: list[tuple[str, str]] = []
        begin = self.clock()
        first = last = number = 0
        for number, event in enumerate(self.source, start=1):
            first = first or event.at
            last = event.at
            wait = begin + self.pace.due(number - 1, event.at - first) - self.clock()
            if wait > 0:
                self.sleep(wait)
            sent[event.topic] += 1
            limit = TOPICS[event.topic].max_bytes
            if len(event.value) > limit:
                # Seen here, a record that the broker would refuse takes none of its neighbours with it.
                too_large.append(
                    (event.topic, f"a record of {len(event.value):,} bytes is above the limit of {limit:,}")
                )
            else:
                self._send(event)
            if on_progress and number % every == 0:
                on_progress(number, last)
        self.sink.flush()
        if on_progress:
            on_progress(number, last)
        failures = [*too_large, *self.sink.failures]
        failed = Counter(topic for topic, _ in failures)
        return Replayed(
            produced={t: sent[t] - failed[t] for t in PLATFORM_TOPICS if sent[t]},
            failed=dict(failed),
            errors=list(dict.fromkeys(f"{topic}: {text}" for topic, text in failures))[:_KEPT_ERRORS],
            first=first,
            last=last,
            seconds=self.clock() - begin,
        )

    def _send(self, event: PlatformEvent) -> None:
        count = self.partitions.get(event.topic)
        if not count:
            raise ReplayError(f"topic {event.topic} does not exist; make it with `trendstream topics create`")
        partition = partition_of(event.key, count)
        self.sink.send(event.topic, partition, event.key.encode(), event.value, time.time_ns() // 1_000_000)
