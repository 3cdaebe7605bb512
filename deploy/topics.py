"""The topics on a broker: make them from the table in streams/topics.py, list them, read them for people."""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]

from deploy.errors import ConfigurationError, TopicError
from streams import kafka
from streams.codecs import encode_json
from streams.errors import BrokerError, UnreachableError
from streams.kafka import partition_counts, read
from streams.records.outside import Skip
from streams.replay.shadow import PROGRESS, shadow_topic
from streams.stage import Message, Output, TaskKey
from streams.topics import TOPICS, Topic, topics

_SILENT = logging.getLogger("deploy.topics.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False  # every failure comes back as an error; the library's own lines would only repeat it


@dataclass(frozen=True)
class TopicState:
    """One topic as it lies on the broker."""

    topic: Topic
    partitions: int  # 0: it is not there
    ends: tuple[int, ...]  # end offset of each partition
    records: int  # end offsets less first offsets: an upper bound, marks of transactions count too


def answers(bootstrap: str, timeout_s: float = 2.0) -> bool:
    """Whether a broker answers at that address and takes part in its cluster."""
    try:
        return bool(_admin(bootstrap).list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


def create_topics(bootstrap: str, partitions: int, timeout_s: float = 30.0) -> list[str]:
    """Make the topics that are missing; names of the new ones. They can be written and read when this returns.

    Raises TopicError when one is there with another number of partitions: records would go to the wrong task.
    """
    there = partition_counts(bootstrap, timeout_s)
    missing = []
    for topic in topics(partitions):
        found = there.get(topic.name)
        if found is None:
            missing.append(topic)
        elif found != topic.partitions:
            raise TopicError(
                f"topic {topic.name} has {found} partitions on {bootstrap}, and should have {topic.partitions}; set "
                "TRENDSTREAM_PARTITIONS to what the topics were made with, or delete them and begin anew"
            )
    if missing:
        _make(_admin(bootstrap), missing, timeout_s)
        _wait_usable(bootstrap, {t.name: t.partitions for t in missing}, timeout_s)
    return [t.name for t in missing]


def create_shadow_topics(bootstrap: str, replay: str, names: Iterable[str], partitions: int) -> None:
    """Make what is missing of a replay's own topics, each like the one that it is the shadow of."""
    wanted = [replace(t, name=shadow_topic(replay, t.name)) for t in topics(partitions) if t.name in set(names)]
    wanted.append(Topic(shadow_topic(replay, PROGRESS), "none", "checkpoint", "steps of a replay", 1))
    there = partition_counts(bootstrap)
    missing = [t for t in wanted if t.name not in there]
    if missing:
        _make(_admin(bootstrap), missing, 30.0)
        _wait_usable(bootstrap, {t.name: t.partitions for t in missing}, 30.0)


def describe_topics(bootstrap: str, timeout_s: float = 10.0) -> list[TopicState]:
    """Every topic of the table, in its order."""
    there = partition_counts(bootstrap, timeout_s)
    held = {name: there[name] for name in TOPICS if name in there}
    ranges = kafka.ranges(bootstrap, held, timeout_s)
    states = []
    for topic in TOPICS.values():
        count = held.get(topic.name, 0)
        own = [ranges[topic.name, p] for p in range(count)]
        states.append(TopicState(topic, count, tuple(end for _, end in own), sum(end - first for first, end in own)))
    return states


def topic_settings(bootstrap: str, names: Sequence[str], timeout_s: float = 10.0) -> dict[str, dict[str, str]]:
    """What the broker keeps of a topic and how: the settings of `Topic.configuration`, by topic."""
    admin = _admin(bootstrap)  # it must live for as long as its answers are waited for
    asked = admin.describe_configs([ConfigResource("topic", name) for name in names])
    try:
        found = {resource.name: future.result(timeout_s) for resource, future in asked.items()}
    except KafkaException as error:
        raise TopicError(f"settings of {', '.join(names)}: {error.args[0].str()}") from error
    kept = Topic("", "", "", "").configuration()
    return {name: {key: entries[key].value for key in kept} for name, entries in found.items()}


def active_groups(bootstrap: str, timeout_s: float = 10.0) -> set[str]:
    """Groups with a consumer in them. Asked by their list: a client whose first question is about one group was seen to
    wait for its coordinator for good (confluent-kafka 2.16)."""
    admin = _admin(bootstrap)
    try:
        found = admin.list_consumer_groups(request_timeout=timeout_s).result(timeout_s)
    except KafkaException as error:
        raise UnreachableError(f"groups on {bootstrap}: {error.args[0].str()}") from error
    idle = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
    return {group.group_id for group in found.valid if group.state not in idle}


def set_offsets(bootstrap: str, group: str, offsets: Mapping[TaskKey, int], timeout_s: float = 10.0) -> None:
    """Let a group go on from these offsets. Raises TopicError while any of its consumers runs."""
    if group in active_groups(bootstrap, timeout_s):
        raise TopicError(
            f"group {group} has running consumers; stop all workers of the stage, wait ten seconds, try again"
        )
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(*task, offset) for task, offset in offsets.items()])
    admin = _admin(bootstrap)
    admin.list_topics(timeout=timeout_s)  # before it looks for a coordinator: see `active_groups`
    for future in admin.alter_consumer_group_offsets([wanted], request_timeout=timeout_s).values():
        try:
            failed = [p for p in future.result(2 * timeout_s).topic_partitions if p.error is not None]
        except KafkaException as error:
            raise TopicError(f"offsets of {group} could not be set: {error.args[0].str()}") from error
        if failed:
            raise TopicError(f"offset of {failed[0].topic}/{failed[0].partition} could not be set: {failed[0].error}")


def read_topic(
    bootstrap: str,
    name: str,
    *,
    partition: int | None = None,
    offset: int = 0,
    since: int | None = None,
    latest: int | None = None,
    timeout_s: float = 10.0,
) -> Iterator[Message]:
    """Every committed record that lies in the topic now, from `offset` or a record time (epoch ms) on, or only the
    `latest` newest ones, oldest first.

    Raises TopicError for a topic that is not there, ConfigurationError for a partition that it does not have.
    """
    count = partition_counts(bootstrap, timeout_s).get(name)
    if count is None:
        raise TopicError(f"topic {name} is not on {bootstrap}; see `trendstream topics list`")
    if partition is not None and not 0 <= partition < count:
        raise ConfigurationError(f"topic {name} has no partition {partition}; it has 0 to {count - 1}")
    chosen = range(count) if partition is None else (partition,)
    if latest is None:
        # One after the other: offsets in order are what a person looks for.
        start = dict.fromkeys(chosen, offset) if offset else None
        if since is not None:
            start = kafka.offsets_at(bootstrap, name, since, timeout_s)
        return itertools.chain.from_iterable(read(bootstrap, name, [p], start, timeout_s) for p in chosen)
    ranges = kafka.ranges(bootstrap, {name: count}, timeout_s)
    # Marks of transactions take offsets too, one a commit at most beside one record at least: twice is far enough.
    start = {p: max(ranges[name, p][0], ranges[name, p][1] - 2 * latest) for p in chosen}
    newest = heapq.nlargest(
        latest,
        read(bootstrap, name, chosen, start, timeout=timeout_s),
        key=lambda m: (m.timestamp, m.partition, m.offset),
    )
    return reversed(newest)


def check_offset(bootstrap: str, task: TaskKey, offset: int, beyond: int = 0, timeout_s: float = 10.0) -> None:
    """Raises ConfigurationError where a partition does not hold this offset, or the one `beyond` its last one."""
    topic, partition = task
    count = partition_counts(bootstrap, timeout_s).get(topic, 0)
    if not 0 <= partition < count:
        raise ConfigurationError(
            f"topic {topic} has {count} partitions on {bootstrap}, and none with number {partition}"
        )
    first, end = kafka.ranges(bootstrap, {topic: count}, timeout_s)[task]
    if not first <= offset < end + beyond:
        raise ConfigurationError(f"{topic}/{partition} holds offsets {first} to {end - 1}, not {offset}")


def skip_record(bootstrap: str, skip: Skip, timeout_s: float = 10.0) -> None:
    """Let a stage pass over one record of its input, from its next start on."""
    key = f"{skip.stage}/{skip.topic}/{skip.partition}/{skip.offset}".encode()
    kafka.append(bootstrap, [Output("trend.skips", 0, encode_json(skip), key)], timeout_s)


def _make(admin: AdminClient, missing: list[Topic], timeout_s: float) -> None:
    asked = admin.create_topics(
        [NewTopic(t.name, t.partitions, replication_factor=-1, config=t.configuration()) for t in missing],
        operation_timeout=timeout_s,
    )
    for name, future in asked.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was quicker
                raise TopicError(f"topic {name} could not be made: {error.args[0].str()}") from error


def _wait_usable(bootstrap: str, wanted: dict[str, int], timeout_s: float) -> None:
    # The broker says "made" before every partition can be read and written.
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if wanted.items() <= partition_counts(bootstrap, timeout_s).items():
                kafka.ranges(bootstrap, wanted, timeout_s)
                return
        except BrokerError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise TopicError(f"topics {', '.join(wanted)} were made, but {bootstrap} does not show all of them")
        time.sleep(0.02)


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}, logger=_SILENT)
