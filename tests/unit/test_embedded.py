from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from streams.embedded import EmbeddedLog, EmbeddedRunner, fold
from streams.errors import ConfigurationError
from streams.stage import Message, Output, StageSpec, TaskKey
from streams.topics import topics


class Doubling:
    """Doubles what it reads; holds back records above the newest head."""

    def __init__(self, task: TaskKey, heads: Heads, forced: list[int]) -> None:
        self._partition = task[1]
        self._heads = heads
        self._forced = forced

    def ready(self, message: Message) -> bool:
        return int(message.value or b"0") <= self._heads.newest

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs = []
        for message in messages:
            number = int(message.value or b"0")
            if number > self._heads.newest:
                self._forced.append(number)
            outputs.append(Output("trend.predictions", self._partition, str(2 * number).encode()))
        return outputs

    def snapshot(self) -> dict[str, bytes]:
        return {}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        return None

    def counters(self) -> dict[str, int]:
        return {"seen": 1}


class Heads:
    def __init__(self) -> None:
        self.newest = 1

    def put(self, message: Message) -> None:
        self.newest = max(self.newest, int(message.value or b"0"))


class Promoting:
    """Publishes n + 1 as a head for every 2n: the loop closes through data."""

    def __init__(self, task: TaskKey) -> None:
        del task

    def ready(self, message: Message) -> bool:
        return True

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        return [Output("model.heads", 0, str(int(m.value or b"0") // 2 + 1).encode()) for m in messages]

    def snapshot(self) -> dict[str, bytes]:
        return {}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        return None

    def counters(self) -> dict[str, int]:
        return {}


def _runner(loop: bool) -> tuple[EmbeddedRunner, list[int]]:
    heads, forced = Heads(), list[int]()
    doubling = StageSpec(
        "doubling", ("trend.windows",), lambda task: Doubling(task, heads, forced), versioned={"model.heads": heads}
    )
    promoting = StageSpec("promoting", ("trend.predictions",), Promoting)
    specs = [doubling, promoting] if loop else [doubling]
    return EmbeddedRunner(EmbeddedLog(topics(1)), specs), forced


def _values(runner: EmbeddedRunner, topic: str) -> list[int]:
    return [int(m.value or b"0") for m in runner.log.records(topic)]


def test_records_wait_for_the_heads_that_they_ask_for() -> None:
    runner, forced = _runner(loop=True)
    for number in (1, 2, 3, 4):
        runner.send("trend.windows", 0, str(number).encode(), None, 1_000)
    runner.run()
    assert _values(runner, "trend.predictions") == [2, 4, 6, 8]
    assert forced == []


def test_a_head_that_cannot_come_does_not_stop_the_run() -> None:
    runner, forced = _runner(loop=False)
    for number in (1, 3):
        runner.send("trend.windows", 0, str(number).encode(), None, 1_000)
    runner.run()
    assert _values(runner, "trend.predictions") == [2, 6]
    assert forced == [3]


def test_offsets_with_gaps_are_kept_as_given() -> None:
    log = EmbeddedLog(topics(1))
    log.append("trend.events", 0, b"1", None, 5, offset=3)
    log.append("trend.events", 0, b"2", None, 5, offset=9)
    log.append("trend.events", 0, b"3", None, 5)
    assert [m.offset for m in log.records("trend.events", 0)] == [3, 9, 10]


def test_an_offset_that_is_taken_is_refused() -> None:
    log = EmbeddedLog(topics(1))
    log.append("trend.events", 0, b"1", None, 5, offset=3)
    with pytest.raises(ConfigurationError, match="offset 3 is taken; the next free one is 4"):
        log.append("trend.events", 0, b"2", None, 5, offset=3)


def test_a_topic_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nowhere/0 is not in the log"):
        EmbeddedLog(topics(1)).append("nowhere", 0, b"", None, 0)


def test_the_oracle_folds_records_one_by_one() -> None:
    stage = Promoting(("trend.predictions", 0))
    outputs = fold(stage, [Message("trend.predictions", 0, i, 0, None, str(2 * i).encode()) for i in range(3)])
    assert [o.value for o in outputs] == [b"1", b"2", b"3"]
