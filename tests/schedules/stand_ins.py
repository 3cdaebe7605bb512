"""Cheap stages that notice everything: a digest runs over all that they read, so one record lost, repeated or out of
order, or one state that does not belong to its offset, changes every output after it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from streams.stage import Message, Output, StageSpec, TaskKey, TaskStatus
from tests.schedules.world import PARTITIONS


class Chain:
    """Writes the running digest of its input partition to a partition of another topic."""

    def __init__(self, task: TaskKey, topic: str, partition: int) -> None:
        self._task, self._topic, self._partition = task, topic, partition
        self._digest = b""
        self.seen = 0

    def ready(self, message: Message) -> bool:
        return True

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        return [Output(self._topic, self._partition, self._step(message)) for message in messages]

    def _step(self, message: Message, more: str = "") -> bytes:
        self.seen += 1
        said = b"%s|%d|%s|%s" % (self._digest, message.offset, message.value, more.encode())
        self._digest = hashlib.blake2b(said, digest_size=8).hexdigest().encode()
        return b"%d/%d:%s:%s" % (self._task[1], message.offset, self._digest, more.encode())

    def snapshot(self) -> dict[str, bytes]:
        return {"digest": self._digest, "seen": str(self.seen).encode()}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        self._digest, self.seen = blobs["digest"], int(blobs["seen"])

    def counters(self) -> dict[str, int]:
        return {"seen": self.seen}


class Entering(Chain):
    """Takes whole polls of a platform topic and spreads them over both partitions of trend.events."""

    def __init__(self, task: TaskKey) -> None:
        super().__init__(task, "trend.events", 0)
        self._name = f"{task[0]}/".encode()

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        steps = [self._name + self._step(message) for message in messages]
        return [Output("trend.events", m.offset % 2, step) for m, step in zip(messages, steps, strict=True)]


class Ticking:
    """Control rows whenever what is known has changed, and at intervals while data comes."""

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()

    def tick(self, tasks: Mapping[TaskKey, TaskStatus], now: int) -> list[Output]:
        lively = any(now - status.last_input_at < 1_000 for status in tasks.values())
        known = (*((key, status.caught_up) for key, status in sorted(tasks.items())), lively and now // 250)
        if known == self._last:
            return []
        self._last = known
        return [Output("trend.events", partition, b"tick") for partition in range(2)]

    def paused(self, tasks: Mapping[TaskKey, TaskStatus]) -> set[TaskKey]:
        behind = {key for key, status in tasks.items() if not status.caught_up}
        return set() if not behind else {key for key in tasks if key > min(behind)}


class Versions:
    """The newest number that came from the topic of heads."""

    def __init__(self) -> None:
        self.newest = 0

    def put(self, message: Message) -> None:
        self.newest = max(self.newest, int(message.value or b"0"))


class Following(Chain):
    """Waits for the head of some records before, and writes which one it used; `recorded` is what it used before."""

    def __init__(self, task: TaskKey, versions: Versions, recorded: Mapping[int, str] | None = None) -> None:
        super().__init__(task, "trend.predictions", task[1])
        self._versions, self._recorded = versions, recorded

    def ready(self, message: Message) -> bool:
        return self._versions.newest * 4 >= self.seen * 3 // 2 - 3

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        return [Output(self._topic, self._partition, self._step(m, self._head(m))) for m in messages]

    def _head(self, message: Message) -> str:
        return str(self._versions.newest) if self._recorded is None else self._recorded[message.offset]


class Teaching(Chain):
    """Publishes a head with every fourth record."""

    def __init__(self, task: TaskKey) -> None:
        super().__init__(task, "model.events", 0)

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs = []
        for message in messages:
            outputs += super().fold([message])
            if self.seen % 4 == 0:
                outputs.append(Output("model.heads", 0, str(self.seen // 4).encode()))
        return outputs


def recorded_heads(predictions: Sequence[Message]) -> dict[int, str]:
    """The head that each offset of a partition was folded with, as the predictions say."""
    found = {}
    for message in predictions:
        where, _, head = (message.value or b"").decode().split(":")
        found[int(where.split("/")[1])] = head
    return found


def ingest_spec() -> StageSpec:
    return StageSpec("ingest", tuple(PARTITIONS), Entering, batched=True, clock=Ticking)


def windows_spec() -> StageSpec:
    return StageSpec("windows", ("trend.events",), lambda task: Chain(task, "trend.windows", task[1]))


def inference_spec(recorded: Mapping[int, str] | None = None) -> StageSpec:
    versions = Versions()
    return StageSpec(
        "inference",
        ("trend.windows",),
        lambda task: Following(task, versions, recorded),
        stateful=False,
        versioned={"model.heads": versions},
        ready_timeout_ms=200,
    )


def labels_spec() -> StageSpec:
    return StageSpec("labels", ("trend.predictions",), lambda task: Chain(task, "trend.matured", 0))


def learner_spec() -> StageSpec:
    return StageSpec("learner", ("trend.matured",), Teaching)
