"""Looks on while workers run: how far event time has come, and when scores can be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, TopicPartition

from streams import kafka
from streams.codecs import decode, decode_json
from streams.records import EventKind, product_key
from streams.records.inside import CLOSES, EVENTS
from streams.records.outside import Progress, Score
from streams.stage import Message


class _Follower:
    """A read-committed consumer of one topic in a thread."""

    def __init__(self, bootstrap: str, topic: str, from_end: bool) -> None:
        self._consumer = kafka.consumer(bootstrap, "trendstream.follower", wait_ms=5)
        count = kafka.partition_counts(bootstrap)[topic]
        start = OFFSET_END if from_end else OFFSET_BEGINNING
        self._consumer.assign([TopicPartition(topic, p, start) for p in range(count)])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow-{topic}", daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            records: list[Any] = self._consumer.consume(500, 0.02)
            now = time.time() * 1000
            for record in records:
                if record.error() is None:
                    self.take(kafka.message(record), now)

    def take(self, message: Message, now: float) -> None:
        raise NotImplementedError


class CloseFollower(_Follower):
    """The newest boundary that every partition has passed, as the learner sees it."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        super().__init__(bootstrap, "trend.matured", from_end=False)
        self._passed = dict.fromkeys(range(partitions), 0)

    def take(self, message: Message, now: float) -> None:
        rows = decode(message.value or b"")
        if rows.record is CLOSES:
            for partition, end in zip(rows["partition"].tolist(), rows["end"].tolist(), strict=True):
                self._passed[partition] = max(self._passed.get(partition, 0), end)

    @property
    def boundary(self) -> int:
        """UTC ms; 0 before the first."""
        return min(self._passed.values())


class ScoreFollower(_Follower):
    """When each score could first be read: wall clock ms by product and offset of trend.events."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap, "trend.scores", from_end=True)
        self.seen: dict[str, list[tuple[int, float]]] = {}

    def take(self, message: Message, now: float) -> None:
        score = decode_json(message.value or b"", Score)
        key = product_key(score.platform, score.product_id)
        self.seen.setdefault(key, []).append((score.events_offset, now))


def order_latencies(bootstrap: str, since: int, scores: ScoreFollower) -> dict[str, list[float]]:
    """Milliseconds from the orders that were produced at or after `since` (wall clock) to what they caused.

    `order_to_score`: until the first score of the product that knows of the order could be read; `ingest`: until its
    row was written to trend.events. Orders whose score has not come are left out.
    """
    produced = {(m.partition, m.offset): m.timestamp for m in kafka.read(bootstrap, "orders") if m.timestamp >= since}
    found: dict[str, list[float]] = {"order_to_score": [], "ingest": []}
    for message in kafka.read(bootstrap, "trend.events"):
        if message.timestamp < since:
            continue
        rows = decode(message.value or b"")
        if rows.record is not EVENTS:
            continue
        placed = rows["kind"] == EventKind.ORDER
        origins = zip(rows["source_partition"][placed].tolist(), rows["source_offset"][placed].tolist(), strict=True)
        for product, origin in zip(rows["product"][placed], origins, strict=True):
            at = produced.get(origin)
            if at is None:
                continue
            found["ingest"].append(message.timestamp - at)
            for offset, seen in scores.seen.get(product, ()):
                if offset >= message.offset:
                    found["order_to_score"].append(seen - at)
                    break
    return found


def stage_counters(bootstrap: str) -> dict[str, dict[str, int]]:
    """Totals of every stage over its tasks, as their newest progress says."""
    newest: dict[tuple[str, str, int], dict[str, int]] = {}
    for message in kafka.read(bootstrap, "trend.progress"):
        progress = decode_json(message.value or b"", Progress)
        newest[(progress.stage, progress.topic, progress.partition)] = progress.counters
    totals: dict[str, dict[str, int]] = {}
    for (stage, _, _), counters in newest.items():
        of_stage = totals.setdefault(stage, {})
        for name, value in counters.items():
            of_stage[name] = of_stage.get(name, 0) + value
    return totals


def wait_for(boundary: int, closes: CloseFollower, check: Callable[[], None], timeout_s: float) -> bool:
    """Until every partition has passed `boundary`; False if nothing moves for `timeout_s`. `check` may raise."""
    last, moved = closes.boundary, time.monotonic()
    while closes.boundary < boundary:
        check()
        if closes.boundary != last:
            last, moved = closes.boundary, time.monotonic()
        if time.monotonic() - moved > timeout_s:
            return False
        time.sleep(0.1)
    return True
