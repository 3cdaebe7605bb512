"""What a stage is: a fold over one ordered input log, with a state that can be written down.

A stage task owns one partition of one input topic. It never reads a clock, a socket or a random number: its outputs and
its state are a function of the records folded so far (and of versioned data such as heads). `streams/runner.py` runs
stages on Kafka, `streams/embedded.py` on an in-process log; both use the same `StageSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

TaskKey = tuple[str, int]  # input topic and partition


@dataclass(frozen=True, slots=True)
class Message:
    """One Kafka record as it lies in a topic. `timestamp` is the record's own time, epoch ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Output:
    """A record to publish. The partition is always given."""

    topic: str
    partition: int
    value: bytes | None  # None: a tombstone
    key: bytes | None = None


@runtime_checkable
class Columns(Protocol):
    """Messages that need not be made for their columns to be read."""

    def values(self) -> list[bytes | None]: ...

    def offsets(self) -> list[int]: ...

    def timestamps(self) -> list[int]: ...


def values(messages: Sequence[Message]) -> list[bytes | None]:
    return messages.values() if isinstance(messages, Columns) else [m.value for m in messages]


def offsets(messages: Sequence[Message]) -> list[int]:
    return messages.offsets() if isinstance(messages, Columns) else [m.offset for m in messages]


def timestamps(messages: Sequence[Message]) -> list[int]:
    return messages.timestamps() if isinstance(messages, Columns) else [m.timestamp for m in messages]


class Stage(Protocol):
    """One task. `fold` takes records of its input in offset order; the unit of all but ingest is one record."""

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        """Advance the state by these records and return what they cause, in order."""

    def ready(self, message: Message) -> bool:
        """Whether the fold can take this record now; False only while versioned data that it needs is missing."""

    def snapshot(self) -> dict[str, bytes]:
        """Named blobs that hold the whole state; {} for a stage that has none."""

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        """The inverse of `snapshot`, on a fresh task."""

    def counters(self) -> dict[str, int]:
        """Totals since the beginning of the log, part of the state: what was accepted, dropped, emitted."""


Fact = int | float | str


class Reports(Protocol):
    """A stage that tells more of now than totals."""

    def report(self) -> dict[str, Fact]:
        """`event_time`: how far it has come, UTC ms; and what else its operator asks for: what holds the watermark
        back, the head in use, the newest error."""


def reported(stage: Stage) -> dict[str, Fact]:
    # Asking for the attribute is a hundred times as fast as isinstance() of a protocol, and every commit asks.
    return cast(Reports, stage).report() if hasattr(stage, "report") else {}


Blob = Callable[[], bytes]


class Freezes(Protocol):
    """A stage whose state is too large to be encoded while the fold waits."""

    def freeze(self) -> Mapping[str, Blob]:
        """What `snapshot` would return now, each blob encoded when it is called: the fold may go on before that."""


def frozen(stage: Stage) -> Mapping[str, Blob]:
    """The state of any stage as of now, to be encoded blob by blob."""
    if hasattr(stage, "freeze"):
        return cast(Freezes, stage).freeze()

    def encoded(blob: bytes) -> Blob:
        return lambda: blob

    return {name: encoded(blob) for name, blob in stage.snapshot().items()}


@dataclass(frozen=True)
class TaskStatus:
    """What the shell knows of an input partition, for stages whose clock writes control rows."""

    stage: Stage
    caught_up: bool  # nothing of the partition is left to read
    last_input_at: int  # wall clock ms of the newest poll with data, or of the assignment


class Clock(Protocol):
    """Control rows written on a clock of the worker's own; outputs become input of the next stage."""

    def tick(self, tasks: Mapping[TaskKey, TaskStatus], now: int) -> list[Output]:
        """Called at least every `control_interval` by the shell; `now` is wall clock, epoch ms."""

    def paused(self, tasks: Mapping[TaskKey, TaskStatus]) -> set[TaskKey]:
        """Input partitions that are too far ahead of the others in event time and must wait."""


class VersionedData(Protocol):
    """Data that a stage takes up while it runs, such as heads: read from its topic beside the input log."""

    def put(self, message: Message) -> None: ...


@dataclass(frozen=True)
class StageSpec:
    """How to run a stage anywhere."""

    name: str
    inputs: tuple[str, ...]
    make: Callable[[TaskKey], Stage]
    stateful: bool = True
    batched: bool = False  # ingest alone: fold whole polls of a partition, not single records
    clock: Callable[[], Clock] | None = None
    versioned: Mapping[str, VersionedData] = field(default_factory=dict)  # by topic
    ready_timeout_ms: int = 0  # how long `ready` may hold a partition back
