"""The same stages on an in-process log: tests, backtests, and a demo without a broker.

The log keeps the offsets that it is given, so a partition copied from Kafka (with the gaps that transactions leave)
folds to the same bytes. Tasks take turns in a fixed order; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from streams.errors import ConfigurationError
from streams.stage import Clock, Message, Output, Stage, StageSpec, TaskKey, TaskStatus
from streams.topics import Topic


class EmbeddedLog:
    """Topics as lists of records in memory."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self._partitions: dict[TaskKey, list[Message]] = {(t.name, p): [] for t in topics for p in range(t.partitions)}
        self.following: dict[TaskKey, int] = {}  # next free offset, where something was ever added

    def append(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        timestamp: int,
        offset: int | None = None,
    ) -> Message:
        """Add a record; `offset` may leave gaps but never goes back."""
        following = self.following.get((topic, partition), 0)
        if offset is not None and offset < following:
            raise ConfigurationError(f"{topic}/{partition}: offset {offset} is taken; the next free one is {following}")
        message = Message(topic, partition, following if offset is None else offset, timestamp, key, value)
        self.put(message)
        return message

    def put(self, message: Message) -> None:
        """Add a record as it lies elsewhere; several may share an offset, where a replay has put one in between."""
        self._records((message.topic, message.partition)).append(message)
        self.following[message.topic, message.partition] = message.offset + 1

    def forget(self, key: TaskKey, count: int) -> None:
        """Drop the oldest records of a partition."""
        del self._records(key)[:count]

    def tasks(self) -> list[TaskKey]:
        """Every topic and partition."""
        return sorted(self._partitions)

    def records(self, topic: str, partition: int | None = None) -> list[Message]:
        """What lies in a topic: one partition, or all of them one after the other."""
        if partition is not None:
            return self._records((topic, partition))
        return [m for (name, _), records in sorted(self._partitions.items()) if name == topic for m in records]

    def partitions(self, topic: str) -> list[int]:
        return sorted(p for name, p in self._partitions if name == topic)

    def _records(self, key: TaskKey) -> list[Message]:
        try:
            return self._partitions[key]
        except KeyError:
            raise ConfigurationError(f"{key[0]}/{key[1]} is not in the log; add it to streams/topics.py") from None


@dataclass
class _Task:
    spec: StageSpec
    stage: Stage
    records: list[Message]
    next: int = 0  # index into records
    last_input_at: int = 0


@dataclass
class EmbeddedRunner:
    """Runs stages over an `EmbeddedLog` until nothing moves.

    `now` is the time of the records written so far; it drives control rows and is the timestamp of what they cause.
    """

    log: EmbeddedLog
    specs: Sequence[StageSpec]
    on_output: Callable[[Message], None] | None = None
    now: int = 0
    batch: int = 2_000  # records of one poll of a batched stage
    _tasks: dict[str, dict[TaskKey, _Task]] = field(default_factory=dict)
    _clocks: dict[str, Clock] = field(default_factory=dict)
    _versioned: dict[str, list[StageSpec]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.specs = list(self.specs)
        for spec in self.specs:
            self._start(spec, from_end=False)

    def add(self, spec: StageSpec) -> None:
        """Start one more stage, which reads what comes from now on."""
        self.specs = [*self.specs, spec]
        self._start(spec, from_end=True)

    def _start(self, spec: StageSpec, from_end: bool) -> None:
        tasks = self._tasks[spec.name] = {}
        for key in [(topic, p) for topic in spec.inputs for p in self.log.partitions(topic)]:
            records = self.log.records(*key)
            tasks[key] = _Task(spec, spec.make(key), records, len(records) if from_end else 0)
        if spec.clock is not None:
            self._clocks[spec.name] = spec.clock()
            self._tick()  # before anything is folded, others hear which sources there are
        for topic in spec.versioned:
            self._versioned.setdefault(topic, []).append(spec)
            for message in self.log.records(topic):
                spec.versioned[topic].put(message)

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None, timestamp: int) -> None:
        """Add a platform record from outside."""
        self.now = max(self.now, timestamp)
        self.log.append(topic, partition, value, key, timestamp)

    def run(self) -> None:
        """Fold everything that is there; a stage that waits for versioned data that cannot come goes on without."""
        while True:
            moved = self._round(force=False)
            if not moved and not self._round(force=True):
                return

    def advance(self) -> None:
        """Fold what can be folded; a stage that waits for versioned data goes on waiting."""
        while self._round(force=False):
            pass

    def waiting(self) -> list[Message]:
        """Records that some stage has yet to read."""
        return [m for key in self.log.tasks() for m in self.log.records(*key)[self._read_by_all(key) :]]

    def forget(self) -> None:
        """Drop from the log what every stage has read: a long log is not kept whole."""
        for key in self.log.tasks():
            count = self._read_by_all(key)
            self.log.forget(key, count)
            for tasks in self._tasks.values():
                if key in tasks:
                    tasks[key].next -= count

    def _read_by_all(self, key: TaskKey) -> int:
        return min((t[key].next for t in self._tasks.values() if key in t), default=len(self.log.records(*key)))

    def tick(self, now: int) -> None:
        """Let the clocks write control rows at `now`, and fold what follows."""
        self.now = max(self.now, now)
        self._tick()
        self.run()

    def stages(self, name: str) -> dict[TaskKey, Stage]:
        return {key: task.stage for key, task in self._tasks[name].items()}

    def counters(self) -> dict[str, dict[str, int]]:
        """Totals by stage over its tasks."""
        totals: dict[str, dict[str, int]] = {}
        for name, tasks in self._tasks.items():
            of_stage = totals.setdefault(name, {})
            for task in tasks.values():
                for counter, value in task.stage.counters().items():
                    of_stage[counter] = of_stage.get(counter, 0) + value
        return totals

    def _round(self, force: bool) -> bool:
        moved = False
        for spec in self.specs:
            for task in self._tasks[spec.name].values():
                moved |= self._batch(task) if spec.batched else self._records(task, force)
                if moved and force:
                    return True  # one forced record may free all the others
            if spec.batched and moved:
                self._tick()
        return moved

    def _batch(self, task: _Task) -> bool:
        messages = task.records[task.next : task.next + self.batch]
        if not messages:
            return False
        task.next += len(messages)
        task.last_input_at = self.now
        self.publish(task.stage.fold(messages), messages[-1].timestamp)
        return True

    def _records(self, task: _Task, force: bool) -> bool:
        moved = False
        while task.next < len(task.records):
            message = task.records[task.next]
            if not task.stage.ready(message):
                if not force:
                    return moved
                force = False
            task.next += 1
            moved = True
            self.publish(task.stage.fold([message]), message.timestamp)
        return moved

    def _tick(self) -> None:
        for name, clock in self._clocks.items():
            status = {
                k: TaskStatus(t.stage, t.next >= len(t.records), t.last_input_at) for k, t in self._tasks[name].items()
            }
            self.publish(clock.tick(status, self.now), self.now)

    def publish(self, outputs: Iterable[Output], timestamp: int) -> None:
        """Add what a stage has written; others read it."""
        for output in outputs:
            message = self.log.append(output.topic, output.partition, output.value, output.key, timestamp)
            for spec in self._versioned.get(output.topic, ()):
                spec.versioned[output.topic].put(message)
            if self.on_output is not None:
                self.on_output(message)


def fold(stage: Stage, messages: Iterable[Message]) -> list[Output]:
    """One undisturbed fold of an input log as it lies: the oracle of the determinism contract."""
    return [output for message in messages for output in stage.fold([message])]
