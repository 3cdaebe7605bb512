"""The topics as a replay reads them: on a broker, or in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Protocol

from confluent_kafka import KafkaError, TopicPartition

from streams import kafka
from streams.codecs import decode_json
from streams.embedded import EmbeddedLog
from streams.errors import UnreachableError
from streams.records.outside import Skip
from streams.stage import Message, TaskKey

Place = tuple[str, int, int]  # topic, partition, offset


class Log(Protocol):
    """Committed records alone. It moves no group's offsets."""

    def partitions(self, topic: str) -> int:
        """0 where the topic does not exist."""

    def range(self, task: TaskKey) -> tuple[int, int]:
        """First offset that is kept, and the next that will be written."""

    def first(self, task: TaskKey, offset: int) -> Message | None:
        """The first record at or after an offset."""

    def read(self, task: TaskKey, start: int, end: int) -> Iterator[Message]:
        """Records in [start, end), as far as they are there."""


class KafkaLog:
    """Reads with the group `trendstream.replay`, which never commits an offset."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._counts = kafka.partition_counts(bootstrap)
        self._prober = kafka.consumer(bootstrap, _GROUP, wait_ms=10)

    def close(self) -> None:
        self._prober.close()

    def partitions(self, topic: str) -> int:
        return self._counts.get(topic, 0)

    def range(self, task: TaskKey) -> tuple[int, int]:
        found: tuple[int, int] = self._prober.get_watermark_offsets(TopicPartition(*task), timeout=10.0)
        return found

    def first(self, task: TaskKey, offset: int) -> Message | None:
        self._prober.assign([TopicPartition(*task, offset)])
        for _ in range(_TRIES):
            records: list[Any] = self._prober.consume(1, 1.0)
            for record in records:
                error = record.error()
                if error is None:
                    return kafka.message(record)
                if error.code() == KafkaError._PARTITION_EOF:
                    return None
                raise UnreachableError(f"reading {task[0]}/{task[1]}: {error.str()}")
        raise UnreachableError(f"reading {task[0]}/{task[1]}: nothing arrived for {_TRIES} s from {self._bootstrap}")

    def read(self, task: TaskKey, start: int, end: int) -> Iterator[Message]:
        if start >= end:
            return iter(())
        records = kafka.read(self._bootstrap, task[0], [task[1]], {task[1]: start}, group=_GROUP)
        return takewhile(lambda m: m.offset < end, records)


class MemoryLog:
    """The log of `streams/embedded.py`."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log

    def partitions(self, topic: str) -> int:
        return len(self._log.partitions(topic))

    def range(self, task: TaskKey) -> tuple[int, int]:
        records = self._log.records(*task)
        return (records[0].offset, records[-1].offset + 1) if records else (0, 0)

    def first(self, task: TaskKey, offset: int) -> Message | None:
        return next((m for m in self._log.records(*task) if m.offset >= offset), None)

    def read(self, task: TaskKey, start: int, end: int) -> Iterator[Message]:
        return (m for m in list(self._log.records(*task)) if start <= m.offset < end)


def skips(log: Log) -> dict[str, set[Place]]:
    """By stage, the records that it passes over by command: in a replay, too."""
    found: dict[str, set[Place]] = {}
    task = ("trend.skips", 0)
    for message in log.read(task, *log.range(task)):
        if message.value is not None:
            skip = decode_json(message.value, Skip)
            found.setdefault(skip.stage, set()).add((skip.topic, skip.partition, skip.offset))
    return found


def without(messages: Iterator[Message], passed_over: set[Place]) -> Iterator[Message]:
    return (m for m in messages if (m.topic, m.partition, m.offset) not in passed_over)


_GROUP = "trendstream.replay"
_TRIES = 30
