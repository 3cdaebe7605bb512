"""How the installation stands, as far as its topics tell: what each task has left, its watermark, snapshot and head."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deploy.dead_letters import DLQ, REDRIVES, Selection, letters
from deploy.topics import active_groups, topic_settings
from streams import kafka
from streams.codecs import decode_json
from streams.records.outside import Head, Progress
from streams.snapshots import TOPIC as SNAPSHOTS
from streams.snapshots import SnapshotReader
from streams.topics import PLATFORM_TOPICS, TIME_TOPICS, TOPICS

INPUTS: dict[str, tuple[str, ...]] = {
    "ingest": PLATFORM_TOPICS,
    "text": ("trend.reviews",),
    "image": ("trend.images",),
    "windows": ("trend.events",),
    "inference": ("trend.windows",),
    "labels": ("trend.predictions",),
    "learner": ("trend.matured",),
    "signals": ("trend.predictions",),
}
RUNNERS = tuple(stage for stage in INPUTS if stage not in ("text", "image"))  # they commit their progress
_TRIES, _BETWEEN_TRIES_S = 6, 2.0
STATEFUL = ("ingest", "windows", "labels", "learner")  # they restore from snapshots


Place = tuple[str, str, int]  # stage, topic, partition


@dataclass(frozen=True)
class TaskState:
    """One input partition of a stage. Offsets are the next one to be read; below zero where there is none."""

    stage: str
    topic: str
    partition: int
    first: int  # kept
    end: int
    committed: int
    left: int  # offsets to read, 0 where only the marks of transactions are left
    waiting_since: int | None  # record time of the oldest record that is left, UTC ms
    progress: Progress | None
    progress_at: int = 0  # when it was committed, UTC ms

    @property
    def place(self) -> Place:
        return self.stage, self.topic, self.partition

    @property
    def odds(self) -> tuple[Place, int, int] | None:
        """Place, offset and that of its progress, where they differ: a commit writes both together."""
        if self.stage not in RUNNERS or self.progress is None or self.committed == self.progress.offset:
            return None
        return self.place, self.committed, self.progress.offset

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.partition}"

    @property
    def holds_time(self) -> bool:
        """Whether others wait for its event time: a catalogue may be silent for months."""
        return self.stage != "ingest" or self.topic in TIME_TOPICS

    @property
    def restorable(self) -> bool:
        """Whether its input is kept from its newest snapshot on, or from its beginning, as its progress says."""
        snapshot = self.progress.snapshot_offset if self.progress else -1
        return max(snapshot, 0) >= self.first

    @property
    def event_time(self) -> int | None:
        """How far it has come, UTC ms."""
        at = self.progress.report.get("event_time") if self.progress else None
        return int(at) if at is not None else None


@dataclass(frozen=True)
class Held:
    """A task's snapshots as they lie in the topic: offset and time of the whole ones, newest last."""

    whole: tuple[tuple[int, int], ...] = ()
    broken: int = 0


@dataclass(frozen=True)
class Installation:
    now: int  # UTC ms
    partitions: int  # that the settings say
    topics: Mapping[str, int]  # partitions by topic, of those that are there
    settings: Mapping[str, Mapping[str, str]]  # of each topic on the broker
    workers: Mapping[str, int]  # that run, by stage
    tasks: tuple[TaskState, ...]
    head: Head | None  # the newest
    dead: Mapping[str, int]  # open dead letters by reason
    # What only `doctor` asks:
    snapshots: Mapping[Place, Held] = field(default_factory=dict)
    by_hand: frozenset[Place] = frozenset()  # tasks whose offset was set by somebody
    cautions: tuple[str, ...] = ()  # of the settings
    read_model: str = ""  # what is wrong with it
    bundle: str = ""  # version of the newest; none: not trained

    def of(self, stage: str) -> list[TaskState]:
        return [task for task in self.tasks if task.stage == stage]

    @property
    def event_time(self) -> int | None:
        """The newest that ingest has accepted."""
        return max((t.event_time for t in self.of("ingest") if t.event_time is not None), default=None)


def inspect(bootstrap: str, partitions: int, now: int) -> Installation:
    """All but the snapshots. Raises UnreachableError where no broker answers."""
    counts = kafka.partition_counts(bootstrap)
    there = {name: count for name, count in counts.items() if name in TOPICS}
    inputs = {topic for topics in INPUTS.values() for topic in topics if topic in there}
    ranges = kafka.ranges(bootstrap, {topic: there[topic] for topic in inputs})
    told = (
        {(p.stage, p.topic, p.partition): (at, p) for at, p in _progress(bootstrap)}
        if "trend.progress" in there
        else {}
    )
    tasks: list[TaskState] = []
    for stage, topics in INPUTS.items():
        own = [(topic, p) for topic in topics for p in range(there.get(topic, 0))]
        committed = kafka.committed(bootstrap, f"trendstream.{stage}", own) if own else {}
        behind = {
            task: max(committed[task], ranges[task][0]) for task in own if max(committed[task], 0) < ranges[task][1]
        }
        oldest = kafka.oldest_after(bootstrap, behind) if behind else {}
        for task in own:
            first, end = ranges[task]
            at, progress = told.get((stage, *task), (0, None))
            left = end - oldest[task].offset if task in oldest else 0
            since = oldest[task].timestamp if task in oldest else None
            tasks.append(TaskState(stage, *task, first, end, committed[task], left, since, progress, at))
    active = active_groups(bootstrap)
    return Installation(
        now=now,
        partitions=partitions,
        topics=there,
        settings=topic_settings(bootstrap, list(there)) if there else {},
        workers={s: _workers(tasks, s) if f"trendstream.{s}" in active else 0 for s in INPUTS},
        tasks=tuple(tasks),
        head=_newest_head(bootstrap) if "model.heads" in there else None,
        dead=_open_letters(bootstrap) if {DLQ, REDRIVES} <= set(there) else {},
    )


def inspect_offsets(bootstrap: str, partitions: int, now: Callable[[], int]) -> Installation:
    """`inspect`, and which offsets were set by hand: those that stay at odds with their progress. Another worker's open
    transaction may hide the newest progress of all tasks until it times out."""
    at = inspect(bootstrap, partitions, now())
    odd = {task.odds for task in at.tasks if task.odds}
    for _ in range(_TRIES):
        if not odd:
            break
        time.sleep(_BETWEEN_TRIES_S)
        at = inspect(bootstrap, partitions, now())
        odd &= {task.odds for task in at.tasks if task.odds}
    return replace(at, by_hand=frozenset(place for place, _, _ in odd))


def progress(bootstrap: str) -> list[Progress]:
    """The newest of every task."""
    return [newest for _, newest in _progress(bootstrap)]


def held_snapshots(bootstrap: str) -> dict[Place, Held]:
    """What `trend.snapshots` holds of every task. Reads the whole topic, as a restore does; one stage at a time."""
    found = {}
    for stage in STATEFUL:
        reader = SnapshotReader(stage)
        reader.put(kafka.read(bootstrap, SNAPSHOTS))
        for topic, partition in reader.tasks():
            looked = list(reader.before((topic, partition), 2**62))
            whole = [(m.offset, m.taken_at) for m, blobs in reversed(looked) if blobs is not None]
            found[stage, topic, partition] = Held(tuple(whole), len(looked) - len(whole))
    return found


def _workers(tasks: Sequence[TaskState], stage: str) -> int:
    """Of a stage of which any runs: as many as have committed the newest progress of its tasks."""
    return len({task.progress.slot for task in tasks if task.stage == stage and task.progress}) or 1


def _progress(bootstrap: str) -> list[tuple[int, Progress]]:
    newest: dict[tuple[str, str, int], tuple[int, Progress]] = {}
    for message in kafka.read(bootstrap, "trend.progress"):
        if message.value is not None:
            told = decode_json(message.value, Progress)
            newest[told.stage, told.topic, told.partition] = (message.timestamp, told)
    return list(newest.values())


def _open_letters(bootstrap: str) -> dict[str, int]:
    return Counter(letter.dead.reason for letter in letters(bootstrap, Selection()) if letter.redrive is None)


def _newest_head(bootstrap: str) -> Head | None:
    heads = [decode_json(m.value, Head) for m in kafka.read(bootstrap, "model.heads") if m.value is not None]
    return max(heads, key=lambda head: head.epoch, default=None)
