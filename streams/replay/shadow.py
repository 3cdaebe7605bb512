"""What a replay writes: Parquet files in its folder, or topics that carry its id. Nothing else is written by it.

Both are committed in numbered steps, together with a checkpoint of the replay, so that one that was stopped or killed
goes on without a gap and without a repeat.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from streams import kafka
from streams.errors import ReplayError
from streams.stage import Message

_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.large_binary()),
    ]
)


class Shadow(Protocol):
    def write(self, message: Message) -> None: ...

    def commit(self, number: int) -> None:
        """What was written since the commit before becomes true, under this number."""

    def committed(self) -> int:
        """The newest number; 0 before the first. What was written beyond it is gone."""

    def records(self, topic: str) -> Iterator[Message]:
        """What was committed, each partition in order."""


class ParquetShadow:
    """`<folder>/<topic>/<number>.parquet`: partition, offset, timestamp, key, value of each record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = folder / "COMMITTED"
        self._waiting: dict[str, list[Message]] = defaultdict(list)

    def write(self, message: Message) -> None:
        self._waiting[message.topic].append(message)

    def commit(self, number: int) -> None:
        for topic, messages in self._waiting.items():
            columns = {name: [getattr(m, name) for m in messages] for name in _SCHEMA.names}
            path = self._folder / topic / f"{number:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")
        self._waiting.clear()
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._mark.with_suffix(".part")
        part.write_text(str(number))
        part.replace(self._mark)

    def committed(self) -> int:
        self._waiting.clear()
        return int(self._mark.read_text()) if self._mark.exists() else 0

    def records(self, topic: str) -> Iterator[Message]:
        last = self.committed()
        for path in sorted((self._folder / topic).glob("*.parquet")):
            if int(path.stem) > last:
                continue  # of a commit that did not come to its end; the next one writes it again
            for batch in pq.ParquetFile(path).iter_batches(1_000):
                for row in batch.to_pylist():
                    yield Message(topic, row["partition"], row["offset"], row["timestamp"], row["key"], row["value"])


class TopicShadow:
    """Topics `replay.<id>.<topic>`, written in transactions of the replay's own."""

    def __init__(self, bootstrap: str, replay: str) -> None:
        self._bootstrap = bootstrap
        self._replay = replay
        self._producer: Any = None
        self._open = False

    def write(self, message: Message) -> None:
        self._begin()
        name = shadow_topic(self._replay, message.topic)
        kafka.send(self._producer, name, message.partition, message.value, message.key)
        self._producer.poll(0)

    def commit(self, number: int) -> None:
        self._begin()
        kafka.send(self._producer, shadow_topic(self._replay, PROGRESS), 0, str(number).encode(), b"checkpoint")
        self._producer.commit_transaction(30)
        self._open = False

    def committed(self) -> int:
        if self._open:
            self._producer.abort_transaction(30)
            self._open = False
        self._connect()  # which ends the open transaction of a run that was killed
        records = kafka.read(self._bootstrap, shadow_topic(self._replay, PROGRESS))
        return max((int(m.value or b"0") for m in records), default=0)

    def records(self, topic: str) -> Iterator[Message]:
        name = shadow_topic(self._replay, topic)
        if name not in kafka.partition_counts(self._bootstrap):
            raise ReplayError(f"topic {name} is not on {self._bootstrap}: run the replay first")
        for m in kafka.read(self._bootstrap, name):
            yield Message(topic, m.partition, m.offset, m.timestamp, m.key, m.value)

    def _connect(self) -> None:
        if self._producer is None:
            self._producer = kafka.producer(self._bootstrap, f"trendstream.replay.{self._replay}", _TIMEOUT_MS)
            self._producer.init_transactions(30)

    def _begin(self) -> None:
        self._connect()
        if not self._open:
            self._producer.begin_transaction()
            self._open = True


PROGRESS = "progress"
_TIMEOUT_MS = 900_000  # the most that brokers allow: a slow rate rests for long within a transaction


def shadow_topic(replay: str, topic: str) -> str:
    return f"replay.{replay}.{topic}"
