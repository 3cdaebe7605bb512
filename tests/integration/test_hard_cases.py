"""What goes wrong around a stage on a real broker, and what the runner says and does then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from deploy.errors import ConfigurationError
from deploy.local_kafka import LocalKafka
from deploy.topics import check_offset, create_topics, skip_record
from streams import kafka
from streams.errors import BrokerError, MemoryLimitError, PoisonError, SnapshotError, StreamsError
from streams.memory import resident_mib
from streams.observing import Silent
from streams.records.outside import Skip
from streams.runner import Runner, RunnerConfig
from streams.stage import Message, Output, StageSpec, TaskKey
from tests.conftest import JARS
from tests.integration.summing import Summing

pytestmark = pytest.mark.kafka
PARTITIONS = 2


class Careful(Summing):
    """Sums, but takes no "poison"; its snapshots carry a version."""

    version = "1"

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        if any(m.value == b"poison" for m in messages):
            raise ValueError("no integer")
        return super().fold(messages)

    def snapshot(self) -> dict[str, bytes]:
        return {**super().snapshot(), "version": self.version.encode()}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        if blobs["version"] != self.version.encode():
            raise SnapshotError(f"a snapshot of version {blobs['version'].decode()}, this is {self.version}")
        super().restore(blobs)


class Newer(Careful):
    version = "2"


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, stage: str, message: str) -> None:
        self.warnings.append(message)


class Hoarding(Careful):
    """Takes 64 MiB with each record."""

    def __init__(self, task: TaskKey) -> None:
        super().__init__(task)
        self.hoard: list[Any] = []

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        self.hoard += [np.ones(8 << 20) for _ in messages]
        return super().fold(messages)

    def counters(self) -> dict[str, int]:
        return {"products": len(self.hoard)}


class Worker:
    """A runner in a thread, on a topic of its own, whose stage has a name of its own."""

    def __init__(self, bootstrap: str, topic: str, stage: type[Careful] = Careful, memory_limit_mib: int = 0) -> None:
        self.heard = Heard()
        self.error: StreamsError | None = None
        self._stop = threading.Event()
        spec = StageSpec(f"careful-{topic}", (topic,), stage)
        config = RunnerConfig(bootstrap, PARTITIONS, commit_interval_ms=20, snapshot_interval_ms=100)
        config = replace(config, memory_limit_mib=memory_limit_mib)
        self._runner = Runner(spec, config, self._stop.is_set, self.heard)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._runner.run()
        except StreamsError as error:
            self.error = error

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def fails(self) -> str:
        self._thread.join(60)
        assert self.error is not None
        return str(self.error)


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LocalKafka(tmp_path_factory.mktemp("kafka"), jars=JARS) as local:
        create_topics(local.bootstrap, PARTITIONS)
        yield local.bootstrap


class Outputs:
    """What comes to trend.events after this was made."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._begin = {p: end for p, (_, end) in enumerate(kafka.end_offsets(bootstrap, "trend.events"))}

    def of(self, partition: int) -> list[str]:
        read = kafka.read(self._bootstrap, "trend.events", [partition], self._begin)
        return [(m.value or b"").decode() for m in read]

    def wait_for(self, last: str, partition: int = 0) -> None:
        deadline = time.monotonic() + 60
        while last not in self.of(partition):
            assert time.monotonic() < deadline, f"{last} did not come: {self.of(partition)}"
            time.sleep(0.1)


def _send(bootstrap: str, topic: str, *values: str, partition: int = 0) -> None:
    to = kafka.producer(bootstrap)
    for value in values:
        kafka.send(to, topic, partition, value.encode())
    assert to.flush(30) == 0


def _run(bootstrap: str, topic: str, until: str, stage: type[Careful] = Careful) -> Worker:
    """A worker that has started, published `until` and ended."""
    outputs = Outputs(bootstrap)
    worker = Worker(bootstrap, topic, stage)
    outputs.wait_for(until)
    worker.end()
    assert worker.error is None
    return worker


def _forget_snapshots(bootstrap: str, topic: str) -> int:
    to = kafka.producer(bootstrap)
    keys = [(m.partition, m.key) for m in kafka.read(bootstrap, "trend.snapshots") if m.value is not None]
    mine = [(partition, key) for partition, key in keys if key and key.startswith(f"careful-{topic}/".encode())]
    for partition, key in mine:
        kafka.send(to, "trend.snapshots", partition, None, key)
    assert to.flush(30) == 0
    return len(mine)


def _delete_records(bootstrap: str, topic: str, before: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})  # its futures end with it
    for future in admin.delete_records([TopicPartition(topic, 0, before)]).values():
        future.result(30)


def test_a_record_that_cannot_be_folded_stops_the_stage_with_its_place_and_can_be_passed_over(bootstrap: str) -> None:
    topic, outputs = "behaviors", Outputs(bootstrap)
    _send(bootstrap, topic, "1", "2", "poison", "4")
    worker = Worker(bootstrap, topic)
    said = worker.fails()
    assert isinstance(worker.error, PoisonError)
    assert f"careful-{topic} cannot fold {topic}/0 offset 2: ValueError: no integer" in said
    assert f"topics skip careful-{topic} {topic} 0 2" in said
    again = Worker(bootstrap, topic)
    assert again.fails() == said, "it is not lost by a restart"
    skip = Skip(stage=f"careful-{topic}", topic=topic, partition=0, offset=2, reason="test", by="me", at=0)
    skip_record(bootstrap, skip)
    third = Worker(bootstrap, topic)
    outputs.wait_for("3:7")
    third.end()
    assert outputs.of(0) == ["0:1", "1:3", "3:7"]
    assert f"passed over {topic}/0 offset 2, as trend.skips says" in third.heard.warnings
    _forget_snapshots(bootstrap, topic)
    _send(bootstrap, topic, "5")
    fourth = _run(bootstrap, topic, "4:12")  # folded again from the first record, the skip too
    assert f"passed over {topic}/0 offset 2, as trend.skips says" in fourth.heard.warnings


def test_a_skip_of_a_record_that_is_not_there_is_refused(bootstrap: str) -> None:
    for topic, partition, offset in (("images", 0, 0), ("images", 9, 0), ("nowhere", 0, 0)):
        with pytest.raises(ConfigurationError, match=topic):
            check_offset(bootstrap, (topic, partition), offset)


def test_an_emptied_snapshot_topic_is_said_and_the_log_is_folded_again_from_its_start(bootstrap: str) -> None:
    topic = "reviews"
    _send(bootstrap, topic, "1", "2", "3")
    _run(bootstrap, topic, "2:6")
    assert _forget_snapshots(bootstrap, topic) > 0
    _send(bootstrap, topic, "4")
    worker = _run(bootstrap, topic, "3:10")
    assert [w for w in worker.heard.warnings if "no usable snapshot" in w and "3 offsets" in w]


def test_without_snapshots_and_without_the_first_records_no_wrong_state_is_made(bootstrap: str) -> None:
    topic = "images"
    _send(bootstrap, topic, "1", "2", "3")
    _run(bootstrap, topic, "2:6")
    _send(bootstrap, topic, "4")
    _delete_records(bootstrap, topic, 2)
    _run(bootstrap, topic, "3:10")  # a snapshot is there: what is gone from the log is not needed
    _forget_snapshots(bootstrap, topic)
    _send(bootstrap, topic, "5")
    said = Worker(bootstrap, topic).fails()
    assert "no snapshot can be used" in said
    assert "kept only from 2" in said
    assert "reset the group" in said


def test_a_snapshot_of_another_version_or_cut_short_is_passed_over_and_said(bootstrap: str) -> None:
    topic = "products"
    _send(bootstrap, topic, "1", "2")
    _run(bootstrap, topic, "1:3")
    _send(bootstrap, topic, "3")
    newer = _run(bootstrap, topic, "2:6", Newer)
    assert [w for w in newer.heard.warnings if "passed over: a snapshot of version 1, this is 2" in w]
    to = kafka.producer(bootstrap)
    for message in kafka.read(bootstrap, "trend.snapshots"):
        key = (message.key or b"").decode()
        if key.startswith(f"careful-{topic}/") and message.value is not None and not key.endswith("/manifest"):
            kafka.send(to, "trend.snapshots", message.partition, message.value[:1], message.key)
    assert to.flush(30) == 0
    _send(bootstrap, topic, "4")
    torn = _run(bootstrap, topic, "3:10", Newer)
    assert [w for w in torn.heard.warnings if "a chunk is missing or broken" in w]


def test_a_stage_that_outgrows_its_memory_ends_before_the_machine_swaps(bootstrap: str) -> None:
    topic, outputs = "orders", Outputs(bootstrap)
    limit = int(resident_mib()) + 100
    _send(bootstrap, topic, "1")
    worker = Worker(bootstrap, topic, Hoarding, limit)
    outputs.wait_for("0:1")
    time.sleep(1.5)  # it is measured once a second
    assert worker.error is None
    _send(bootstrap, topic, "2", "3")
    said = worker.fails()
    assert isinstance(worker.error, MemoryLimitError)
    assert f"{limit:,} MiB is the limit (TRENDSTREAM_MEMORY_LIMIT_MIB)" in said
    assert "3 products" in said
    assert "--slot" in said
    again = Worker(bootstrap, topic)  # with more memory it goes on, and nothing is lost
    outputs.wait_for("2:6")
    again.end()
    assert outputs.of(0) == ["0:1", "1:3", "2:6"]


def _add_partition(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_partitions([NewPartitions(topic, PARTITIONS + 1)]).values():
        future.result(30)
    deadline = time.monotonic() + 30
    while kafka.partition_counts(bootstrap)[topic] != PARTITIONS + 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_partition_that_the_platform_adds_is_one_more_source(bootstrap: str) -> None:
    topic, outputs = "inventory.levels", Outputs(bootstrap)
    _send(bootstrap, topic, "1")
    worker = Worker(bootstrap, topic, Inside)
    outputs.wait_for("0:1")
    _add_partition(bootstrap, topic)
    _send(bootstrap, topic, "7", partition=PARTITIONS)
    outputs.wait_for("0:7", PARTITIONS - 1)
    worker.end()


class Inside(Careful):
    """Writes the output of any source partition to one that trend.events has."""

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        return [Output(o.topic, min(o.partition, PARTITIONS - 1), o.value) for o in super().fold(messages)]


def test_a_partition_added_to_a_topic_of_ours_stops_the_stage_before_it_reads(bootstrap: str) -> None:
    topic = "trend.reviews"
    _send(bootstrap, topic, "1")
    _run(bootstrap, topic, "0:1")
    _add_partition(bootstrap, topic)
    worker = Worker(bootstrap, topic)
    said = worker.fails()
    assert isinstance(worker.error, BrokerError)
    assert f"{topic} has a partition {PARTITIONS}, but was made with {PARTITIONS}" in said
