"""Fills the SQL read model from the outside topics, position and rows in one SQL transaction: nothing counts twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from streams import kafka
from streams.signals.read_model import READ_TOPICS, ReadModel
from streams.stage import Message


def run_sink(bootstrap: str, read_model: ReadModel, stop: Callable[[], bool], interval_s: float = 0.2) -> None:
    """Blocks until `stop()`. Starts where the SQL store says that it stands, not where a consumer group does."""
    counts = kafka.partition_counts(bootstrap)
    positions = read_model.positions()
    consumer = kafka.consumer(bootstrap, "trendstream.read-model")
    try:
        consumer.assign(
            [
                TopicPartition(topic, p, positions.get((topic, p), OFFSET_BEGINNING))
                for topic in READ_TOPICS
                for p in range(counts.get(topic, 0))
            ]
        )
        waiting: list[Message] = []
        last = time.monotonic()
        while not stop():
            records: list[Any] = consumer.consume(2_000, 0.05)
            waiting.extend(kafka.message(r) for r in records if r.error() is None)
            if waiting and (len(waiting) >= 2_000 or time.monotonic() - last >= interval_s):
                read_model.apply(waiting)
                waiting = []
                last = time.monotonic()
        if waiting:
            read_model.apply(waiting)
    finally:
        consumer.close()
