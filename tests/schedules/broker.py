"""A Kafka cluster in memory: what its clients may see and when, with transactions and groups, without a network.

What a commit makes true becomes visible partition by partition: in Kafka too, markers are written one after the other.
An open transaction holds a partition's last stable offset back for all readers. Time is what the scheduler says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from streams.stage import Message, TaskKey
from streams.topics import Topic

SESSION_MS = 6_000
START_MS = 1_714_953_600_000  # 2024-05-06, a Monday

GroupKey = tuple[str, str, int]  # group, topic, partition


class Beating(Protocol):
    """A process as its group sees it."""

    @property
    def beats(self) -> bool: ...


class Record:
    """A record as a partition holds it, and as confluent-kafka would hand it out."""

    __slots__ = ("_key", "_offset", "_partition", "_timestamp", "_topic", "_value", "transaction")

    def __init__(
        self, task: TaskKey, offset: int, timestamp: int, key: bytes | None, value: bytes | None, transaction: Any
    ) -> None:
        self._topic, self._partition = task
        self._offset, self._timestamp, self._key, self._value = offset, timestamp, key, value
        self.transaction: Transaction | None = transaction

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (1, self._timestamp)

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def error(self) -> None:
        return None


@dataclass(eq=False)
class Transaction:
    owner: str  # transactional id
    started: int
    timeout: int
    committed: bool | None = None  # None while it is open
    partitions: list[Partition] = field(default_factory=list)  # whose marker is not written
    offsets: dict[GroupKey, int] = field(default_factory=dict)  # that are not applied


class Partition:
    def __init__(self, task: TaskKey, written: Counter[str]) -> None:
        self.task = task
        self._written = written  # of the whole cluster
        self.records: list[Record | None] = []  # by offset; None is a marker
        self.open: dict[Transaction, int] = {}  # first offset of each transaction without a marker here

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, transaction: Transaction | None = None
    ) -> None:
        if transaction is not None and transaction not in self.open:
            self.open[transaction] = len(self.records)
            transaction.partitions.append(self)
        self.put(Record(self.task, len(self.records), timestamp, key, value, transaction))

    def put(self, record: Record | None) -> None:
        self.records.append(record)
        self._written["records"] += 1

    def stable(self) -> int:
        """The last stable offset: where a read-committed reader meets the end."""
        return min(self.open.values()) if self.open else len(self.records)

    def fetch(self, position: int, limit: int) -> tuple[list[Record], int]:
        """Committed records from a position on, and the position after them."""
        found: list[Record] = []
        end = self.stable()
        while position < end and len(found) < limit:
            record = self.records[position]
            position += 1
            if record is not None and (record.transaction is None or record.transaction.committed):
                found.append(record)
        return found, position

    def messages(self) -> list[Message]:
        """Everything committed, as it lies."""
        return [
            Message(*self.task, r.offset(), r.timestamp()[1], r.key(), r.value())
            for r in self.fetch(0, len(self.records))[0]
        ]


@dataclass(eq=False)
class Member:
    consumer: Any
    process: Beating
    seen: int
    assigned: list[TaskKey] = field(default_factory=list)
    told: bool = True  # whether the consumer has been given `assigned`


class Group:
    """Static members of one group, rebalanced eagerly: everybody revokes and joins again, then all are assigned."""

    def __init__(self, partitions: list[TaskKey]) -> None:
        self.partitions = partitions
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.joining: set[str] = set()  # who has not yet come to the present rebalance
        self.turn = 0  # rotates the assignment, so that a rebalance moves partitions

    @property
    def settled(self) -> bool:
        """Whether every member knows what is assigned to it."""
        return not self.joining and all(member.told for member in self.members.values())

    def join(self, instance: str, consumer: Any, process: Beating, now: int) -> None:
        member = self.members.get(instance)
        if member is None:
            self.members[instance] = Member(consumer, process, now)
            self.rebalance()
            self.joined(instance)
        elif member.consumer is not consumer:  # a static member that is back: its place is kept, its old self fenced
            member.consumer, member.process, member.seen, member.told = consumer, process, now, False
            self.joined(instance)

    def rebalance(self) -> None:
        self.joining = set(self.members)

    def joined(self, instance: str) -> None:
        if instance in self.joining:
            self.joining.discard(instance)
            self._complete()

    def expire(self, now: int) -> None:
        gone = []
        for instance, member in self.members.items():
            if member.process.beats:
                member.seen = now
            elif now - member.seen > SESSION_MS:
                gone.append(instance)
        for instance in gone:
            del self.members[instance]
            self.joining.discard(instance)
        if gone:
            self.rebalance()
            self._complete()

    def _complete(self) -> None:
        if self.joining or not self.members:
            return
        self.generation += 1
        names = sorted(self.members)
        names = names[self.turn % len(names) :] + names[: self.turn % len(names)]
        for member in self.members.values():
            member.assigned, member.told = [], False
        for i, task in enumerate(self.partitions):
            self.members[names[i % len(names)]].assigned.append(task)


class Cluster:
    """Topics, the transaction coordinator, the groups' offsets, and the clock."""

    def __init__(self, topics: Iterable[Topic]) -> None:
        self.now = START_MS
        self.counts = {t.name: t.partitions for t in topics}
        self.written: Counter[str] = Counter()
        self.log = {
            (name, p): Partition((name, p), self.written) for name, count in self.counts.items() for p in range(count)
        }
        self.groups: dict[str, Group] = {}
        self.offsets: dict[GroupKey, int] = {}
        self._epochs: dict[str, int] = {}
        self._open: dict[str, Transaction] = {}
        self._ending: list[Transaction] = []  # decided, with markers still to write

    # -- time

    def pass_time(self, ms: int) -> None:
        self.now += ms
        for owner, transaction in list(self._open.items()):
            if self.now - transaction.started > transaction.timeout:
                self._epochs[owner] += 1
                self.end(owner, committed=False)
        for group in self.groups.values():
            group.expire(self.now)

    # -- records

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        self.log[topic, partition].append(self.now, key, value)

    def messages(self, topic: str) -> Iterator[list[Message]]:
        """Committed records of each partition of a topic."""
        for partition in range(self.counts[topic]):
            yield self.log[topic, partition].messages()

    # -- transactions

    def epoch(self, owner: str) -> int:
        return self._epochs.get(owner, 0)

    def register(self, owner: str) -> int:
        """A producer of this transactional id starts: whoever had the id is fenced, what it left open is aborted."""
        self.end(owner, committed=False)
        self.settle(owner)
        self._epochs[owner] = self.epoch(owner) + 1
        return self._epochs[owner]

    def transaction(self, owner: str, timeout: int) -> Transaction:
        """The open transaction of an id, begun if there is none."""
        found = self._open.get(owner)
        if found is None:
            found = self._open[owner] = Transaction(owner, self.now, timeout)
        return found

    def end(self, owner: str, committed: bool) -> None:
        """Decide the open transaction; readers will see it once its markers are written."""
        transaction = self._open.pop(owner, None)
        if transaction is not None:
            transaction.committed = committed
            self._ending.append(transaction)

    def settle(self, owner: str | None = None) -> None:
        """Write all markers that are due, of one transactional id or of all."""
        for transaction in self._ending:
            if owner is None or transaction.owner == owner:
                while transaction.partitions or transaction.offsets:
                    self._mark(transaction, 0)
        self._ending = [t for t in self._ending if t.partitions or t.offsets]

    def settle_some(self, random: Random) -> None:
        """Write some of the markers that are due, in any order."""
        for transaction in self._ending:
            while (left := len(transaction.partitions) + bool(transaction.offsets)) and random.random() < 0.7:
                self._mark(transaction, random.randrange(left))
        self._ending = [t for t in self._ending if t.partitions or t.offsets]

    def _mark(self, transaction: Transaction, place: int) -> None:
        if place < len(transaction.partitions):
            partition = transaction.partitions.pop(place)
            del partition.open[transaction]
            partition.put(None)
        else:
            if transaction.committed:
                self.offsets.update(transaction.offsets)
            transaction.offsets.clear()

    def committed(self, group: str, task: TaskKey) -> int:
        """The group's offset, once no transaction may change it any more; -1001 where there is none."""
        key = (group, *task)
        while any(key in t.offsets for t in self._open.values()):
            self.pass_time(1_000)  # the reader waits: the transaction's owner is gone, or it could not have been asked
        for transaction in self._ending:
            if key in transaction.offsets:
                if transaction.committed:
                    self.offsets.update(transaction.offsets)
                transaction.offsets.clear()
        return self.offsets.get(key, -1001)
