"""`--code same`: fold what a stage read, and compare with what it published, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgspec
import numpy as np

from streams.codecs import decode
from streams.records.inside import CLOSES, MATURED, PREDICTIONS
from streams.replay.cut import boundary, cut, is_correction
from streams.replay.forks import Fork
from streams.replay.log import Log, Place, without
from streams.replay.plan import OUTPUTS
from streams.stage import Message, Output, Stage, TaskKey

_IDS = ("score_id", "signal_id", "version", "event_id")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first record that a task's fold gives otherwise than it lies there."""

    stage: str
    topic: str
    partition: int
    offset: int  # of the published record; -1 where there is none
    what: str
    made_of: str  # the input record, and what else went into it


class Check:
    """One task: its input is folded, and each output met by the next record that the task published."""

    def __init__(
        self, fork: Fork, stage: Stage, log: Log, start: int, to: int, passed_over: set[Place] | None = None
    ) -> None:
        self.fork = fork
        self.total = max(fork.end - fork.start, 0)
        self.position = fork.start
        self.equal = 0  # records
        self.bytes = 0
        self.difference: Difference | None = None
        self._stage = stage
        self._log = log
        self._start, self._to = start, to
        self._passed_over = passed_over or set()
        self._begun = False
        self._messages: Iterator[Message] | None = None
        self._published: dict[TaskKey, _Published] = {}

    def step(self, records: int) -> int:
        """Fold some records; offsets that this went on, 0 at the end."""
        if self.position >= self.fork.end:
            return 0
        if self._messages is None:
            messages = self._log.read(self.fork.task, self.position, self.fork.end)
            self._messages = without(messages, self._passed_over)
        before = self.position
        for message in islice(self._messages, records):
            self._fold(message)
            self.position = message.offset + 1
            if self.difference is not None:
                break
        if self.position == before or self.difference is not None:
            self.position = self.fork.end  # what follows from a difference would differ as well
        return self.position - before

    def freeze(self) -> dict[str, bytes]:
        state = {"position": self.position, "equal": self.equal, "bytes": self.bytes, "begun": self._begun}
        offsets = {f"{topic}/{p}": published.offset for (topic, p), published in self._published.items()}
        return {"check": msgspec.json.encode({**state, "offsets": offsets}), **_prefixed(self._stage.snapshot())}

    def load(self, blobs: dict[str, bytes]) -> None:
        """The inverse of `freeze`, on a fresh check whose stage has been restored from nothing."""
        state = msgspec.json.decode(blobs["check"])
        self.position, self.equal, self.bytes, self._begun = (
            state[name] for name in ("position", "equal", "bytes", "begun")
        )
        for place, offset in state["offsets"].items():
            topic, _, partition = place.rpartition("/")
            self._of((topic, int(partition))).go_on(offset)
        self._stage.restore(_unprefixed(blobs))

    def _fold(self, message: Message) -> None:
        for output in self._stage.fold([message]):
            at = boundary(Message(output.topic, output.partition, 0, 0, output.key, output.value))
            self._begun = self._begun or at >= self._start
            if not self._begun or at < self._start or at >= self._to:
                continue  # of a day before or after the range
            self._compare(message, output)
            if self.difference is not None:
                return

    def _compare(self, message: Message, output: Output) -> None:
        published = self._of((output.topic, output.partition)).match(output)
        if published is not None and (published.key, published.value) == (output.key, output.value):
            self.equal += 1
            self.bytes += len(output.value or b"")
            return
        what = "it was never published" if published is None else explained(output.value, published.value)
        since = f"the snapshot at {self.fork.snapshot}" if self.fork.snapshot >= 0 else f"offset {self.fork.start}"
        self.difference = Difference(
            stage=self.fork.stage,
            topic=output.topic,
            partition=output.partition,
            offset=-1 if published is None else published.offset,
            what=what,
            made_of=f"{message.topic}/{message.partition} offset {message.offset}, on the state since {since}"
            + _heads(output),
        )

    def _of(self, place: TaskKey) -> _Published:
        if place not in self._published:
            self._published[place] = _Published(self._log, place, self._start, self.fork.partition)
        return self._published[place]


class _Published:
    """What one task has published to a partition, from a boundary on."""

    def __init__(self, log: Log, place: TaskKey, start: int, task_partition: int) -> None:
        self._log = log
        self._place = place
        self._start = start
        self._partition = task_partition
        self._records: Iterator[Message] | None = None
        self._by_key: dict[bytes | None, Message] | None = None
        self.offset = -1  # next to read; -1: where the boundary begins

    def go_on(self, offset: int) -> None:
        self.offset = offset

    def match(self, output: Output) -> Message | None:
        """The record that stands where this output should."""
        if self._place[0] in OUTPUTS["learner"]:
            return self._of_learner(output)
        if self._records is None:
            first = cut(self._log, self._place, self._start) if self.offset < 0 else self.offset
            self._records = self._log.read(self._place, first, self._log.range(self._place)[1])
        for message in self._records:
            self.offset = message.offset + 1
            if self._is_mine(message):
                return message
        return None

    def _is_mine(self, message: Message) -> bool:
        if self._place[0] != "trend.matured":
            return not is_correction(message.value)
        rows = decode(message.value or b"")  # all tasks of labels write to one partition
        return rows.record in (MATURED, CLOSES) and int(rows["partition"][0]) == self._partition

    def _of_learner(self, output: Output) -> Message | None:
        # Others publish heads and events there, too, and a compacted topic has gaps: met by their ids, not by place.
        if self._by_key is None:
            self._by_key = {}
            for message in self._log.read(self._place, *self._log.range(self._place)):
                self._by_key.setdefault(_identity(message.value), message)
        return self._by_key.get(_identity(output.value))


def explained(found: bytes | None, published: bytes | None) -> str:
    """Where two records differ, for a person."""
    if found is None or published is None:
        return "one of them is empty"
    if found[:1] == b"{" and published[:1] == b"{":
        mine, theirs = msgspec.json.decode(found), msgspec.json.decode(published)
        names = [n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n)]
        which = next((str(mine[name]) for name in _IDS if name in mine), "")
        if not names:
            return f"{which}: equal values, written otherwise"
        name = min(names)
        return f"{which}: {name} is {_short(mine.get(name))} here, and {_short(theirs.get(name))} was published"
    mine, theirs = decode(found), decode(published)
    if mine.record is not theirs.record or len(mine) != len(theirs):
        return (
            f"{len(mine)} rows of {mine.record.name} here, and {len(theirs)} rows of {theirs.record.name} "
            "were published"
        )
    for name in mine.record.schema.names:
        one, other = mine[name], theirs[name]
        unequal = one != other
        if one.dtype.kind == "f":
            unequal &= ~(np.isnan(one) & np.isnan(other))
        rows = np.flatnonzero(unequal.reshape(len(mine), -1).any(axis=1))
        if len(rows):
            row = int(rows[0])
            of = str(mine["product"][row]) if "product" in mine.record.schema.names else f"row {row}"
            return f"{of}: {name} is {_short(one[row])} here, and {_short(other[row])} was published"
    return "equal values, written otherwise"


def _heads(output: Output) -> str:
    if output.topic == "trend.predictions" and output.value is not None:
        rows = decode(output.value)
        if rows.record is PREDICTIONS:
            return f", network {rows['model'][0]}, heads {', '.join(sorted(set(rows['head'].tolist())))}"
    if output.topic == "trend.scores" and output.value is not None:
        score = msgspec.json.decode(output.value)
        return f", network {score['model']}, head {score['head']}"
    return ""


def _identity(value: bytes | None) -> bytes | None:
    fields = msgspec.json.decode(value) if value else {}
    return next((str(fields[name]).encode() for name in ("event_id", "version") if name in fields), None)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else text[:117] + "…"


def _prefixed(blobs: dict[str, bytes]) -> dict[str, bytes]:
    return {f"stage/{name}": blob for name, blob in blobs.items()}


def _unprefixed(blobs: dict[str, bytes]) -> dict[str, bytes]:
    return {name.removeprefix("stage/"): blob for name, blob in blobs.items() if name.startswith("stage/")}
