"""Versioned data, such as heads, beside a stage's input: all that is there before it begins, then what comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from streams import kafka
from streams.errors import UnreachableError
from streams.kafka_errors import is_fatal
from streams.stage import VersionedData


class VersionedReader:
    def __init__(self, bootstrap: str, group: str, data: Mapping[str, VersionedData], stop: Callable[[], bool]) -> None:
        """Feeds `data`, by topic; without any, nothing is asked of the broker."""
        self._data = data
        self._stop = stop
        self._consumer = kafka.consumer(bootstrap, group) if data else None

    def start(self, counts: Mapping[str, int]) -> None:
        """Read all versions that are there, of topics with so many partitions, or until `stop()`. Raises
        UnreachableError where they do not come, KafkaException."""
        if self._consumer is None:
            return
        partitions = [TopicPartition(t, p, OFFSET_BEGINNING) for t in self._data for p in range(counts[t])]
        self._consumer.assign(partitions)
        behind = {(p.topic, p.partition) for p in partitions}
        deadline = time.monotonic() + _PATIENCE_S
        while behind and not self._stop():
            behind -= self._read(0.1)
            if time.monotonic() > deadline:
                raise UnreachableError(f"{sorted(behind)} could not be read to their end within {_PATIENCE_S:g} s")

    def poll(self) -> None:
        """Take what has come. Raises KafkaException for an error that does not pass."""
        self._read(0.0)

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    def _read(self, timeout: float) -> set[tuple[str, int]]:
        """The partitions whose end was reached."""
        ended: set[tuple[str, int]] = set()
        if self._consumer is None:
            return ended
        records: list[Any] = self._consumer.consume(500, timeout)
        for record in records:
            error = record.error()
            if error is None:
                self._data[record.topic()].put(kafka.message(record))
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add((record.topic(), record.partition()))
            elif is_fatal(error):
                raise KafkaException(error)
        return ended


_PATIENCE_S = 60.0
