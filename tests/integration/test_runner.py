"""The Kafka runner on a real broker: what it promises when workers die, stop and come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams import kafka
from streams.codecs import decode_json
from streams.embedded import fold
from streams.records import Progress
from streams.runner import Runner, RunnerConfig
from streams.stage import Message, StageSpec
from tests.integration.summing import Summing

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


def _start(bootstrap: str, mode: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.integration.summing", bootstrap, mode]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def _produce(bootstrap: str, first: int, count: int, partitions: int = 4) -> None:
    to = kafka.producer(bootstrap)
    for i in range(first, first + count):
        kafka.send(to, "orders", i % partitions, str(i).encode())
    assert to.flush(30) == 0


def _outputs(bootstrap: str, partition: int) -> list[bytes | None]:
    return [m.value for m in kafka.read(bootstrap, "trend.events", [partition])]


def _wait_for(bootstrap: str, rows: int, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while sum(1 for _ in kafka.read(bootstrap, "trend.events")) < rows:
        assert time.monotonic() < deadline, f"fewer than {rows} outputs after {timeout} s"
        time.sleep(0.2)


def _expected(bootstrap: str, partition: int) -> list[bytes | None]:
    log: Iterator[Message] = kafka.read(bootstrap, "orders", [partition])
    return [o.value for o in fold(Summing(("orders", partition)), log)]


def _end(worker: subprocess.Popen[bytes]) -> int:
    worker.send_signal(signal.SIGTERM)
    return worker.wait(20)


def test_kills_in_mid_run_lose_or_repeat_nothing(fresh_kafka: Any) -> None:
    bootstrap = fresh_kafka.bootstrap
    fresh_kafka.create_topics(4)
    _produce(bootstrap, 0, 4_000)
    worker = _start(bootstrap, "stateful")
    for round_ in range(3):
        _wait_for(bootstrap, 500 + 4_000 * round_)
        worker.kill()
        worker.wait(10)
        _produce(bootstrap, 4_000 * (round_ + 1), 4_000)
        worker = _start(bootstrap, "stateful")
    _wait_for(bootstrap, 16_000)
    assert _end(worker) == 0
    for partition in range(4):
        assert _outputs(bootstrap, partition) == _expected(bootstrap, partition)


def test_a_clean_end_and_start_goes_on_from_the_snapshot(fresh_kafka: Any) -> None:
    bootstrap = fresh_kafka.bootstrap
    fresh_kafka.create_topics(4)
    _produce(bootstrap, 0, 400)
    worker = _start(bootstrap, "stateful")
    _wait_for(bootstrap, 400)
    assert _end(worker) == 0
    _produce(bootstrap, 400, 400)
    worker = _start(bootstrap, "stateful")
    _wait_for(bootstrap, 800)
    assert _end(worker) == 0
    for partition in range(4):
        assert _outputs(bootstrap, partition) == _expected(bootstrap, partition)
    progress = [decode_json(m.value or b"", Progress) for m in kafka.read(bootstrap, "trend.progress")]
    newest = {p.partition: p for p in progress}
    assert {p: newest[p].counters["seen"] for p in newest} == {0: 200, 1: 200, 2: 200, 3: 200}


def test_a_stage_without_snapshots_keeps_its_small_state_in_its_progress(fresh_kafka: Any) -> None:
    bootstrap = fresh_kafka.bootstrap
    fresh_kafka.create_topics(4)
    _produce(bootstrap, 0, 400)
    worker = _start(bootstrap, "stateless")
    _wait_for(bootstrap, 400)
    worker.kill()
    worker.wait(10)
    _produce(bootstrap, 400, 400)
    worker = _start(bootstrap, "stateless")
    _wait_for(bootstrap, 800)
    assert _end(worker) == 0
    for partition in range(4):
        assert _outputs(bootstrap, partition) == _expected(bootstrap, partition)


def test_a_zombie_that_comes_back_is_fenced(fresh_kafka: Any) -> None:
    bootstrap = fresh_kafka.bootstrap
    fresh_kafka.create_topics(4)
    _produce(bootstrap, 0, 400)
    zombie = _start(bootstrap, "stateful")
    _wait_for(bootstrap, 400)
    zombie.send_signal(signal.SIGSTOP)
    heir = _start(bootstrap, "stateful")
    _produce(bootstrap, 400, 400)
    _wait_for(bootstrap, 800)
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(30) != 0
    _produce(bootstrap, 800, 400)
    _wait_for(bootstrap, 1_200)
    assert _end(heir) == 0
    for partition in range(4):
        assert _outputs(bootstrap, partition) == _expected(bootstrap, partition)


def test_a_partition_that_was_held_back_stays_so_after_an_abort(fresh_kafka: Any) -> None:
    bootstrap = fresh_kafka.bootstrap
    fresh_kafka.create_topics(1)
    _produce(bootstrap, 0, 8, partitions=1)
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
    spec = StageSpec("holding", ("orders",), Holding, ready_timeout_ms=60_000)
    deadline = time.monotonic() + 20
    runner = Runner(spec, config, stop)
    runner.run()
    assert _outputs(bootstrap, 0) == _expected(bootstrap, 0)
