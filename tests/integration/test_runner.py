"""The Kafka runner on a real broker: what it promises when workers die, stop and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local_kafka import LocalKafka
from deploy.topics import create_topics
from streams import kafka
from streams.codecs import decode_json
from streams.embedded import fold
from streams.records.outside import Progress
from streams.runner import Runner, RunnerConfig
from streams.stage import Message, Output, StageSpec
from tests.conftest import JARS
from tests.integration.summing import Summing

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
PARTITIONS = 4


@dataclass(frozen=True)
class Topics:
    """The input and the output of one test's stage: all tests share a broker."""

    bootstrap: str
    source: str
    output: str

    def start(self, mode: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.integration.summing", self.bootstrap, mode, self.source, self.output]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def produce(self, first: int, count: int, partitions: int = PARTITIONS) -> None:
        to = kafka.producer(self.bootstrap)
        for i in range(first, first + count):
            kafka.send(to, self.source, i % partitions, str(i).encode())
        assert to.flush(30) == 0

    def wait_for(self, rows: int, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while sum(1 for _ in kafka.read(self.bootstrap, self.output)) < rows:
            assert time.monotonic() < deadline, f"fewer than {rows} outputs after {timeout} s"
            time.sleep(0.2)

    def check(self) -> None:
        """The outputs of every partition are the fold of its input."""
        for partition in range(PARTITIONS):
            log: Iterator[Message] = kafka.read(self.bootstrap, self.source, [partition])
            expected = [o.value for o in fold(Summing((self.source, partition), self.output), log)]
            assert [m.value for m in kafka.read(self.bootstrap, self.output, [partition])] == expected


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LocalKafka(tmp_path_factory.mktemp("kafka"), jars=JARS) as local:
        create_topics(local.bootstrap, PARTITIONS)
        yield local.bootstrap


def _end(worker: subprocess.Popen[bytes]) -> int:
    worker.send_signal(signal.SIGTERM)
    return worker.wait(20)


def test_kills_in_mid_run_lose_or_repeat_nothing(bootstrap: str) -> None:
    topics = Topics(bootstrap, "orders", "trend.events")
    topics.produce(0, 4_000)
    worker = topics.start("stateful")
    for round_ in range(3):
        topics.wait_for(500 + 4_000 * round_)
        worker.kill()
        worker.wait(10)
        topics.produce(4_000 * (round_ + 1), 4_000)
        worker = topics.start("stateful")
    topics.wait_for(16_000)
    assert _end(worker) == 0
    topics.check()


def test_a_clean_end_and_start_goes_on_from_the_snapshot(bootstrap: str) -> None:
    topics = Topics(bootstrap, "behaviors", "trend.windows")
    topics.produce(0, 400)
    worker = topics.start("stateful")
    topics.wait_for(400)
    assert _end(worker) == 0
    topics.produce(400, 400)
    worker = topics.start("stateful")
    topics.wait_for(800)
    assert _end(worker) == 0
    topics.check()
    progress = [decode_json(m.value or b"", Progress) for m in kafka.read(bootstrap, "trend.progress")]
    newest = {p.partition: p for p in progress if p.topic == topics.source}
    assert {p: newest[p].counters["seen"] for p in newest} == {0: 200, 1: 200, 2: 200, 3: 200}


def test_a_stage_without_snapshots_keeps_its_small_state_in_its_progress(bootstrap: str) -> None:
    topics = Topics(bootstrap, "reviews", "trend.predictions")
    topics.produce(0, 400)
    worker = topics.start("stateless")
    topics.wait_for(400)
    worker.kill()
    worker.wait(10)
    topics.produce(400, 400)
    worker = topics.start("stateless")
    topics.wait_for(800)
    assert _end(worker) == 0
    topics.check()


def test_a_zombie_that_comes_back_is_fenced(bootstrap: str) -> None:
    topics = Topics(bootstrap, "images", "trend.reviews")
    topics.produce(0, 400)
    zombie = topics.start("stateful")
    topics.wait_for(400)
    zombie.send_signal(signal.SIGSTOP)
    heir = topics.start("stateful")
    topics.produce(400, 400)
    topics.wait_for(800)
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(30) != 0
    topics.produce(800, 400)
    topics.wait_for(1_200)
    assert _end(heir) == 0
    topics.check()


def test_a_partition_that_was_held_back_stays_so_after_an_abort(bootstrap: str) -> None:
    topics = Topics(bootstrap, "products", "trend.images")
    topics.produce(0, 8, partitions=1)
    asked: list[int] = []
    held = True

    class Holding(Summing):
        def ready(self, message: Message) -> bool:
            asked.append(message.offset)
            return not held or message.offset < 4

    def stop() -> bool:
        nonlocal held
        if held and 4 in asked:  # it is paused: let an abort come, and the reason to wait go
            held = False
            runner._reset("a broker was away")
        return time.monotonic() > deadline or max(asked, default=0) == 7

    config = RunnerConfig(bootstrap, 1, commit_interval_ms=20)
    spec = StageSpec("holding", (topics.source,), lambda task: Holding(task, topics.output), ready_timeout_ms=60_000)
    deadline = time.monotonic() + 20
    runner = Runner(spec, config, stop)
    runner.run()
    topics.check()


def test_what_comes_one_by_one_between_two_commits_is_folded_one_by_one(bootstrap: str) -> None:
    topics = Topics(bootstrap, "inventory.levels", "trend.dlq")
    folded, times = 0, []

    class Gathering(Summing):
        def fold(self, messages: Sequence[Message]) -> list[Output]:
            nonlocal folded
            folded += len(messages)
            times.append(time.monotonic())
            return super().fold(messages)

    def send() -> None:
        to = kafka.producer(bootstrap)
        for number in range(60):
            kafka.send(to, topics.source, 0, str(number).encode())
            to.flush(30)
            time.sleep(0.01)

    def stop() -> bool:
        if runner._tasks and sender.ident is None:
            sender.start()
        return time.monotonic() > deadline or folded == 60

    sender = threading.Thread(target=send)
    config = RunnerConfig(bootstrap, PARTITIONS, commit_interval_ms=200, control_interval_ms=200)
    deadline = time.monotonic() + 30
    spec = StageSpec("gathering", (topics.source,), lambda task: Gathering(task, topics.output), batched=True)
    runner = Runner(spec, config, stop)
    runner.run()
    sender.join()
    topics.check()
    assert folded == 60
    assert len(times) <= (times[-1] - times[0]) / 0.2 + 3, "a fold a commit, and the first record's at once"
