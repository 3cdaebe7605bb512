"""The only file that talks to librdkafka: how producers and consumers are set, and how a topic is read to its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, overload

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.errors import BrokerError, UnreachableError
from streams.stage import Message, Output, TaskKey

_LOG = logging.getLogger("streams.librdkafka")
MAX_RECORD_BYTES = 8 * 1024 * 1024
LOST_AFTER_S = 10.0  # as long as a transaction may last


def consumer(bootstrap: str, group: str, instance: str = "", wait_ms: int = 50) -> Consumer:
    """A read-committed consumer that never commits by itself and reports the end of partitions.

    `fetch.queue.backoff.ms` is low: with its default of 1000 a consumer that outruns librdkafka's queue sleeps. What
    is fetched ahead is a quarter of its default: with more a worker that is behind takes 200 MiB and is no faster. A
    fetch is 1 MiB a partition, its default; a larger record comes alone.
    """
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 1,
        "fetch.wait.max.ms": wait_ms,
        "queued.max.messages.kbytes": 16_384,
        "session.timeout.ms": 6_000,
        "heartbeat.interval.ms": 1_000,
        "partition.assignment.strategy": "range",
        "allow.auto.create.topics": False,
        "topic.metadata.refresh.interval.ms": 10_000,  # how soon a partition that the platform adds is noticed
    }
    if instance:
        settings["group.instance.id"] = instance
    return Consumer(settings, logger=_LOG)


def producer(bootstrap: str, transactional_id: str = "", transaction_timeout_ms: int = 10_000) -> Producer:
    """An idempotent producer; with a transactional id, one whose records appear when their transaction commits."""
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 2,
        "message.max.bytes": MAX_RECORD_BYTES,
        "queue.buffering.max.kbytes": 262_144,
    }
    if transactional_id:
        settings["transactional.id"] = transactional_id
        settings["transaction.timeout.ms"] = transaction_timeout_ms
    return Producer(settings, logger=_LOG)


def send(
    to: Producer,
    topic: str,
    partition: int,
    value: bytes | None,
    key: bytes | None = None,
    on_delivery: Any = None,
) -> None:
    """Hand a record to the producer, waiting while its queue is full."""
    more: dict[str, Any] = {"on_delivery": on_delivery} if on_delivery else {}
    while True:
        try:
            to.produce(topic, value=value, key=key, partition=partition, **more)
            return
        except BufferError:
            to.poll(0.05)


def append(bootstrap: str, records: Iterable[Output], timeout: float = 10.0) -> None:
    """Write records outside of any stage, and return when the brokers have them. Raises BrokerError."""
    failed: list[str] = []

    def delivered(error: Any, record: Any) -> None:
        if error is not None:
            failed.append(f"{record.topic()}: {error.str()}")

    to = producer(bootstrap)
    for record in records:
        send(to, record.topic, record.partition, record.value, record.key, delivered)
    left = to.flush(timeout)
    if left or failed:
        what = failed[0] if failed else f"{bootstrap} did not take {left} records within {timeout:g} s"
        raise BrokerError(f"{what}; try again")


def send_offsets(
    to: Producer, positions: list[TopicPartition], group: Any, timeout: float, lost_after: float = LOST_AFTER_S
) -> None:
    """`send_offsets_to_transaction` that comes back.

    librdkafka's own (2.16) stays away for minutes, whatever its time-out, where the coordinator of the group has left
    the cluster for a moment (its issues 5456 and 5511). Then this raises a KafkaException that asks for an abort; the
    producer is still in that call, refuses any other one with _CONFLICT, and has to be replaced.
    """
    raised: list[BaseException] = []

    def send() -> None:
        try:
            to.send_offsets_to_transaction(positions, group, timeout)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=send, name="send-offsets", daemon=True)
    thread.start()
    for _ in range(10):  # a process that was stopped for longer gives it time all the same
        thread.join(lost_after / 10)
    if raised:
        raise raised[0]
    if thread.is_alive():
        reason = f"send_offsets_to_transaction has not come back for {lost_after:g} s"
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, reason, False, False, True))


def message(record: Any) -> Message:
    """confluent-kafka's message as ours."""
    return Message(
        record.topic(), record.partition(), record.offset(), record.timestamp()[1], record.key(), record.value()
    )


class Polled(Sequence[Message]):
    """Records of one partition as they were polled. A `Message` is made when it is asked for: a stage that takes
    whole polls, and only their columns, pays for none."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Message: ...

    @overload
    def __getitem__(self, index: slice) -> Polled: ...

    def __getitem__(self, index: int | slice) -> Message | Polled:
        found = self._records[index]
        return Polled(found) if isinstance(index, slice) else message(found)

    def __iter__(self) -> Iterator[Message]:
        return map(message, self._records)

    def values(self) -> list[bytes | None]:
        return [record.value() for record in self._records]

    def offsets(self) -> list[int]:
        return [record.offset() for record in self._records]

    def timestamps(self) -> list[int]:
        return [record.timestamp()[1] for record in self._records]


def runs(records: list[Any], inputs: Sequence[str]) -> Iterator[tuple[TaskKey, bool, list[Any]]]:
    """Polled records of these topics cut where the partition changes, in their order: task, whether they stand for
    errors, records.

    librdkafka hands out what it fetched of a partition in one piece, so a poll is a few runs. Each question to a record
    takes 20 to 30 ns, so none is asked whose answer is known.
    """
    partitions, failed = [r.partition() for r in records], [r.error() is not None for r in records]
    topics = set(inputs) if len(inputs) == 1 else {r.topic() for r in records}
    # A tuple for each record would call up the garbage collector every few hundred of them.
    if len(topics) == 1 and not any(failed):
        (topic,) = topics
        places = (((topic, partition), False, run) for partition, run in groupby(partitions))
    else:
        cut = groupby(zip([r.topic() for r in records], partitions, failed, strict=True))
        places = (((topic, partition), errors, run) for (topic, partition, errors), run in cut)
    start = 0
    for key, errors, run in places:
        end = start + len(list(run))
        yield key, errors, records[start:end]
        start = end


def sleep(seconds: float, stop: Callable[[], bool]) -> None:
    """But no longer than until `stop()`."""
    end = time.monotonic() + seconds
    while not stop() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def wait_for_broker(bootstrap: str, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Until a broker answers or `stop()`, with longer and longer pauses; each try that failed is said."""
    pause = 1.0
    while not stop():
        try:
            partition_counts(bootstrap, timeout=3.0)
            return
        except UnreachableError as error:
            say(f"{error}; trying again in {pause:g} s")
            sleep(pause, stop)
            pause = min(2 * pause, 30.0)


def partition_counts(bootstrap: str, timeout: float = 10.0) -> dict[str, int]:
    """Topics that exist, with their number of partitions. Raises UnreachableError where no broker answers."""
    try:
        listed = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=timeout).topics
    except KafkaException as error:
        raise UnreachableError(
            f"no Kafka answers at {bootstrap!r} ({error.args[0].str()}); start one with `trendstream broker start`, "
            "or set TRENDSTREAM_BOOTSTRAP"
        ) from error
    return {name: len(t.partitions) for name, t in listed.items() if not name.startswith("__")}


def ranges(bootstrap: str, counts: Mapping[str, int], timeout: float = 10.0) -> dict[TaskKey, tuple[int, int]]:
    """First and end offset (the next one to be read) of each of so many partitions of these topics.

    By a consumer: `AdminClient.list_offsets` of confluent-kafka 2.16 was seen to end its process with a segmentation
    fault now and then.
    """
    reader = consumer(bootstrap, "trendstream.offsets")
    try:
        return {
            (topic, p): reader.get_watermark_offsets(TopicPartition(topic, p), timeout=timeout)
            for topic, count in counts.items()
            for p in range(count)
        }
    except KafkaException as error:
        raise UnreachableError(f"offsets of topics {', '.join(counts)}: {error.args[0].str()}") from error
    finally:
        reader.close()


def committed(bootstrap: str, group: str, tasks: Iterable[TaskKey], timeout: float = 10.0) -> dict[TaskKey, int]:
    """Next offset that a group reads of each partition; below zero where it has committed none."""
    reader = consumer(bootstrap, group)
    try:
        found = reader.committed([TopicPartition(*task) for task in tasks], timeout=timeout)
        return {(p.topic, p.partition): p.offset for p in found}
    except KafkaException as error:
        raise UnreachableError(f"offsets of group {group}: {error.args[0].str()}") from error
    finally:
        reader.close()


def offsets_at(bootstrap: str, topic: str, since: int, timeout: float = 10.0) -> dict[int, int]:
    """The first offset of each partition whose record time is `since` (epoch ms) or later; its end where none is."""
    count = partition_counts(bootstrap).get(topic, 0)
    ends = ranges(bootstrap, {topic: count}, timeout)
    reader = consumer(bootstrap, "trendstream.offsets")
    try:
        found = reader.offsets_for_times([TopicPartition(topic, p, since) for p in range(count)], timeout=timeout)
    except KafkaException as error:
        raise UnreachableError(f"offsets of topic {topic}: {error.args[0].str()}") from error
    finally:
        reader.close()
    return {p.partition: p.offset if p.offset >= 0 else ends[topic, p.partition][1] for p in found}


def oldest_after(bootstrap: str, positions: Mapping[TaskKey, int], timeout: float = 10.0) -> dict[TaskKey, Message]:
    """The first committed record at or after each position; where there is none, that partition is left out."""
    found: dict[TaskKey, Message] = {}
    reader = consumer(bootstrap, "trendstream.reader")
    try:
        reader.assign([TopicPartition(*task, max(offset, 0)) for task, offset in positions.items()])
        open_tasks = set(positions)
        deadline = time.monotonic() + timeout
        while open_tasks:
            records: list[Any] = reader.consume(100, 0.2)
            for record in records:
                task, error = (record.topic(), record.partition()), record.error()
                if task in open_tasks and error is None:
                    found[task] = message(record)
                    reader.pause([TopicPartition(*task)])
                if error is None or error.code() == KafkaError._PARTITION_EOF:
                    open_tasks.discard(task)
            if time.monotonic() > deadline:
                raise UnreachableError(f"{len(open_tasks)} partitions could not be read within {timeout:g} s")
    finally:
        reader.close()
    return found


def end_offsets(bootstrap: str, topic: str) -> list[tuple[int, int]]:
    """First and next offset of each partition of a topic."""
    count = partition_counts(bootstrap).get(topic)
    if count is None:
        raise BrokerError(f"topic {topic} does not exist at {bootstrap}; `trendstream topics create` makes it")
    return list(ranges(bootstrap, {topic: count}).values())


def read(
    bootstrap: str,
    topic: str,
    partitions: Iterable[int] | None = None,
    start: Mapping[int, int] | None = None,
    timeout: float = 60.0,
    group: str = "trendstream.reader",
) -> Iterator[Message]:
    """Every committed record that lies in a topic now, partition by partition as they arrive, then stop.

    `start` gives first offsets by partition; no offset of the group is committed. Stops at each partition's end; raises
    UnreachableError when nothing arrives for `timeout` seconds.
    """
    count = partition_counts(bootstrap).get(topic)
    if count is None:
        raise BrokerError(f"topic {topic} does not exist at {bootstrap}; `trendstream topics create` makes it")
    wanted = list(range(count)) if partitions is None else list(partitions)
    reader = consumer(bootstrap, group)
    try:
        begin = start or {}
        reader.assign([TopicPartition(topic, p, begin.get(p, OFFSET_BEGINNING)) for p in wanted])
        open_partitions = set(wanted)
        silent = 0.0  # seconds asked in vain; how long the caller takes between two records does not count
        while open_partitions:
            asked = time.monotonic()
            records = reader.consume(500, 0.2)
            silent = 0.0 if records else silent + time.monotonic() - asked
            for record in records:
                error = record.error()
                if error is None:
                    yield message(record)
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(record.partition())
                else:
                    raise UnreachableError(f"reading {topic}: {error.str()}")
            if silent > timeout:
                raise UnreachableError(f"reading {topic}: nothing arrived for {timeout:g} s from {bootstrap}")
    finally:
        reader.close()
