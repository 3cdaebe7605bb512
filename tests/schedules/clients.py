"""What stands in for confluent-kafka's clients, and the processes that crash, freeze or fail at any of their calls."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from streams import kafka, patience, restore, runner, versioned
from streams.stage import TaskKey
from tests.schedules.broker import Cluster, Group, GroupKey, Partition, Record

ANY = "any"  # a plan for whatever call comes
F = TypeVar("F", bound=Callable[..., Any])


class Crash(BaseException):
    """The process is gone: no code of its own runs any more."""


@dataclass
class Plan:
    """What hits a process at the `count`th of its calls of one name from now."""

    call: str
    count: int
    after: bool  # once the call has taken effect
    hit: Callable[[], None]


class Process:
    """One worker process: its calls to the broker, and what is planned to hit them."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.dead = False
        self.frozen = False
        self.closed = False
        self.plans: list[Plan] = []
        self.random = Random(0)
        self.whole = True  # polls deliver all that is there

    @property
    def beats(self) -> bool:
        return not (self.dead or self.frozen or self.closed)

    def crash(self) -> None:
        self.dead = True
        raise Crash

    def due(self, call: str) -> list[Plan]:
        """The plans that this call meets."""
        if self.dead:
            raise Crash
        found = []
        for plan in self.plans:
            if plan.call in (call, ANY):
                plan.count -= 1
                if plan.count <= 0:
                    found.append(plan)
        if found:
            self.plans = [plan for plan in self.plans if plan not in found]
        return found


def _call(method: F) -> F:
    """A call to the broker: something may hit the process before it takes effect, or after."""
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, *args: Any, **more: Any) -> Any:
        process: Process = self.process
        if not process.plans and not process.dead:
            return method(self, *args, **more)
        plans = process.due(name)
        for plan in plans:
            if not plan.after:
                plan.hit()
        if process.dead:
            raise Crash
        result = method(self, *args, **more)
        for plan in plans:
            if plan.after:
                plan.hit()
        return result

    return call  # type: ignore[return-value]


def failure(code: int, fatal: bool = False, retriable: bool = False, abort: bool = False) -> KafkaException:
    return KafkaException(KafkaError(code, "simulated", fatal, retriable, abort))


class _Failed:
    """A record that only says what went wrong with a partition, or that it has ended."""

    def __init__(self, code: int, task: TaskKey = ("", -1)) -> None:
        self._code, self._task = code, task

    def topic(self) -> str:
        return self._task[0]

    def partition(self) -> int:
        return self._task[1]

    def error(self) -> KafkaError:
        return KafkaError(self._code)


@dataclass
class _Place:
    """How far a consumer is in one partition."""

    partition: Partition
    position: int
    told_end: int = -1  # position at which the end was last reported


class Consumer:
    def __init__(self, process: Process, group: str, instance: str) -> None:
        self.process = process
        self._name, self._instance = group, instance
        self._group: Group | None = None
        self._places: dict[TaskKey, _Place] = {}
        self._paused: set[TaskKey] = set()  # librdkafka keeps it over a new assignment
        self._generation = -1
        self._owned: list[TaskKey] = []
        self._callbacks: tuple[Any, Any] = (None, None)
        self._budget = 0
        self._said_fenced = False

    @_call
    def subscribe(self, topics: Sequence[str], on_assign: Any, on_revoke: Any) -> None:
        cluster = self.process.cluster
        partitions = [(t, p) for t in sorted(topics) for p in range(cluster.counts[t])]
        self._group = cluster.groups.setdefault(self._name, Group(partitions))
        self._callbacks = (on_assign, on_revoke)
        self._group.join(self._instance, self, self.process, cluster.now)

    @_call
    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        log = self.process.cluster.log
        self._places = {
            (p.topic, p.partition): _Place(log[p.topic, p.partition], 0 if p.offset == OFFSET_BEGINNING else p.offset)
            for p in partitions
        }

    @_call
    def poll(self, timeout: float) -> Any:
        random = self.process.random
        self._budget = 10_000 if self.process.whole else random.choice((0, 1, 2, 5, 10_000))
        found = self._next(1)
        return found[0] if found else None

    @_call
    def consume(self, count: int, timeout: float) -> list[Any]:
        if self._group is None:  # a reader of its own, without a group
            self._budget = count
        return self._next(min(count, self._budget))

    @_call
    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused |= {(p.topic, p.partition) for p in partitions}

    @_call
    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self._paused -= {(p.topic, p.partition) for p in partitions}

    @_call
    def committed(self, partitions: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
        cluster = self.process.cluster
        return [
            TopicPartition(p.topic, p.partition, cluster.committed(self._name, (p.topic, p.partition)))
            for p in partitions
        ]

    @_call
    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0.0, cached: bool = False
    ) -> tuple[int, int]:
        return (0, self.process.cluster.log[partition.topic, partition.partition].stable())

    def consumer_group_metadata(self) -> tuple[Consumer, int]:
        return (self, self._generation)

    def close(self) -> None:
        """A static member does not leave; its partitions are revoked all the same."""
        if self._group is not None:
            if not self.process.dead:
                self._revoke()
            self.process.closed = True

    def current(self, generation: int) -> bool:
        """Whether the group still counts this consumer, at this generation, as its member."""
        assert self._group is not None
        member = self._group.members.get(self._instance)
        return member is not None and member.consumer is self and generation == self._group.generation

    def offset_key(self, task: TaskKey) -> GroupKey:
        return (self._name, *task)

    def _next(self, limit: int) -> list[Any]:
        if self._group is not None and (failed := self._serve(self._group)) is not None:
            return [failed]
        found: list[Any] = []
        keys = sorted(self._places)
        if not self.process.whole:
            self.process.random.shuffle(keys)
        for key in keys:
            place = self._places[key]
            if key in self._paused:
                continue
            records: list[Record] = []
            if limit > len(found):
                records, place.position = place.partition.fetch(place.position, limit - len(found))
                self._budget -= len(records)
                found += records
            if place.position >= place.partition.stable() and place.told_end != place.position and limit > len(found):
                place.told_end = place.position
                found.append(_Failed(KafkaError._PARTITION_EOF, key))
        return found

    def _serve(self, group: Group) -> _Failed | None:
        """Rebalance callbacks, as a poll serves them."""
        if self._instance not in group.members or self._instance in group.joining:
            self._revoke()  # which takes its time: the group may have gone on
        member = group.members.get(self._instance)
        if member is not None and member.consumer is not self:
            if self._said_fenced:
                return None
            self._said_fenced = True
            return _Failed(KafkaError.FENCED_INSTANCE_ID)
        if member is None:
            group.join(self._instance, self, self.process, self.process.cluster.now)
        elif not self._owned:
            group.joined(self._instance)
        member = group.members[self._instance]
        if not member.told and not group.joining:
            member.told = True
            self._generation = group.generation
            self._owned = list(member.assigned)
            self._callbacks[0](self, [TopicPartition(*task) for task in self._owned])
        return None

    def _revoke(self) -> None:
        owned, self._owned = self._owned, []
        if owned:
            try:
                self._callbacks[1](self, [TopicPartition(*task) for task in owned])
            finally:
                self._places = {}


class Producer:
    def __init__(self, process: Process, owner: str, timeout: int) -> None:
        self.process = process
        self._owner, self._timeout = owner, timeout
        self._epoch = -1
        self._unsent: list[tuple[str, int, bytes | None, bytes | None]] = []
        self._must_abort = False
        self._aborting = False  # an abort was begun: nothing else is allowed until it is done
        self._done = False  # committed already, though the caller was told to try again
        self._lost = False  # in a call that does not come back

    @_call
    def init_transactions(self, timeout: float) -> None:
        self._epoch = self.process.cluster.register(self._owner)

    @_call
    def begin_transaction(self) -> None:
        self._check()
        self.process.cluster.settle(self._owner)

    @_call
    def produce(self, topic: str, value: bytes | None = None, key: bytes | None = None, partition: int = -1) -> None:
        if self._must_abort:
            raise failure(KafkaError._STATE)
        self._unsent.append((topic, partition, key, value))
        if self._owner and not self.process.random.randrange(2):
            self._send()

    def poll(self, timeout: float) -> int:
        return 0

    @_call
    def flush(self, timeout: float) -> int:
        self._send()
        return 0

    @_call
    def send_offsets_to_transaction(
        self, positions: Sequence[TopicPartition], metadata: tuple[Consumer, int], timeout: float
    ) -> None:
        self._check()
        consumer, generation = metadata
        if self._must_abort or not consumer.current(generation):
            self._must_abort = True
            raise failure(KafkaError.ILLEGAL_GENERATION, abort=True)
        transaction = self.process.cluster.transaction(self._owner, self._timeout)
        for p in positions:
            transaction.offsets[consumer.offset_key((p.topic, p.partition))] = p.offset

    @_call
    def commit_transaction(self, timeout: float) -> None:
        if self._done:
            self._done = False
            return
        self._check()
        if self._must_abort or self._aborting:
            raise failure(KafkaError._STATE, abort=True)
        self._send()
        self.process.cluster.end(self._owner, committed=True)

    def commit_unnoticed(self) -> None:
        """The commit takes effect, but its caller hears that it should try again."""
        self._check()
        if not self._must_abort:
            self._send()
            self.process.cluster.end(self._owner, committed=True)
            self._done = True
        raise failure(KafkaError._TIMED_OUT, retriable=True)

    def spoil(self) -> None:
        """A record could not be delivered: nothing but an abort helps."""
        self._must_abort = True

    @_call
    def abort_transaction(self, timeout: float) -> None:
        self._check()
        self._unsent.clear()
        self._must_abort = self._aborting = False
        self.process.cluster.end(self._owner, committed=False)

    def lose(self) -> None:
        """The call does not come back, and its caller has given up: this producer takes no other."""
        self._lost = True
        raise failure(KafkaError._TIMED_OUT, abort=True)

    def abort_too_soon(self) -> None:
        """The coordinator knows of no transaction yet, and the producer takes that for its end."""
        self._check()
        self._lost = True
        raise failure(KafkaError.INVALID_TXN_STATE, fatal=True)

    def delay_abort(self) -> None:
        """The abort takes longer than its caller waits."""
        self._aborting = True
        raise failure(KafkaError._TIMED_OUT, retriable=True)

    def _check(self) -> None:
        if self._lost:
            raise failure(KafkaError._CONFLICT, retriable=True)
        if self._epoch != self.process.cluster.epoch(self._owner):
            raise failure(KafkaError._FENCED, fatal=True)

    def _send(self) -> None:
        cluster = self.process.cluster
        unsent, self._unsent = self._unsent, []
        if not self._owner:
            for topic, partition, key, value in unsent:
                cluster.log[topic, partition].append(cluster.now, key, value)
        elif self._epoch == cluster.epoch(self._owner):  # else the broker takes nothing, and the commit will say so
            for topic, partition, key, value in unsent:
                transaction = cluster.transaction(self._owner, self._timeout)
                cluster.log[topic, partition].append(cluster.now, key, value, transaction)


@contextmanager
def installed(cluster: Cluster, processes: dict[str, Process]) -> Iterator[None]:
    """Let `streams.kafka` make these clients, for the process that a bootstrap names; time is the cluster's."""
    time = SimpleNamespace(
        monotonic=lambda: cluster.now / 1000,
        time=lambda: cluster.now / 1000,
        sleep=lambda seconds: cluster.pass_time(math.ceil(seconds * 1000)),
    )
    replaced: list[tuple[Any, str, Any]] = [
        (kafka, "consumer", lambda bootstrap, group, instance="": Consumer(processes[bootstrap], group, instance)),
        (kafka, "producer", lambda bootstrap, owner="", timeout=0: Producer(processes[bootstrap], owner, timeout)),
        (kafka, "partition_counts", lambda bootstrap: cluster.counts),
        (kafka, "send_offsets", Producer.send_offsets_to_transaction),
        *((module, "time", time) for module in (kafka, patience, restore, runner, versioned)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
