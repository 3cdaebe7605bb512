"""Fills the SQL read model from the outside topics, position and rows in one SQL transaction: nothing counts twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from confluent_kafka import OFFSET_BEGINNING, TopicPartition

from deploy.lifecycle import Stopper
from streams import kafka
from streams.signals.read_model import READ_TOPICS, ReadModel
from streams.stage import Message

_LOG = structlog.get_logger()


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


class ReadModelSink:
    """The read model's consumer beside the signals stage, in a thread; its failure ends the worker."""

    def __init__(self, database_url: str, bootstrap: str, stop: Stopper) -> None:
        self.code = 0
        self._model = ReadModel(database_url)
        self._bootstrap = bootstrap
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name="read-model")

    def _run(self) -> None:
        try:
            run_sink(self._bootstrap, self._model, self._stop)
        except Exception as error:
            _LOG.error("the read model cannot go on", error=str(error))
            self.code = 1
            self._stop.ask()

    def __enter__(self) -> ReadModelSink:
        self._model.migrate()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.ask()
        self._thread.join(30)
        self._model.close()
