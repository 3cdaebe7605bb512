"""The state of a stage's tasks at their committed offsets, made again.

A stage with snapshots takes the newest that can be used and folds the rest of its input once more; a small state lies
in its progress, committed with the offsets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import TopicPartition

from streams import kafka
from streams.codecs import decode_json
from streams.errors import BrokerError, SnapshotError
from streams.observing import Observer
from streams.poison import Guard
from streams.records.outside import Progress, SnapshotManifest
from streams.snapshots import TOPIC as SNAPSHOTS
from streams.snapshots import SnapshotReader, snapshot_partition
from streams.stage import Message, Output, Stage, StageSpec, TaskKey

PROGRESS = "trend.progress"


class EndedError(Exception):
    """The worker was told to stop while it restored."""


@dataclass(frozen=True)
class Restored:
    stage: Stage
    position: int  # next input offset
    manifests: Sequence[SnapshotManifest] = ()
    snapshot: SnapshotManifest | None = None  # the one that it was made from
    strays: Sequence[Output] = ()  # tombstones of chunks that no manifest names


class Restorer:
    def __init__(
        self,
        spec: StageSpec,
        bootstrap: str,
        partitions: int,
        guard: Guard,
        observer: Observer,
        stop: Callable[[], bool],
        max_poll: int,
    ) -> None:
        self._spec = spec
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._guard = guard
        self._observer = observer
        self._stop = stop
        self._batch = max_poll if spec.batched else 1  # records that are folded at once

    def restore(self, keys: Sequence[TaskKey], consumer: Any) -> dict[TaskKey, Restored]:
        """Raises SnapshotError where a state cannot be made again, BrokerError where the progress that belongs to the
        offsets does not come, PoisonError, and EndedError."""
        if not keys:
            return {}
        self._guard.read_skips(self._bootstrap)
        committed = consumer.committed([TopicPartition(*k) for k in keys], timeout=_ANSWER_S)
        offsets = {(p.topic, p.partition): p.offset for p in committed}
        firsts = {k: int(consumer.get_watermark_offsets(TopicPartition(*k), timeout=_ANSWER_S)[0]) for k in keys}
        if self._spec.stateful:
            snapshots = SnapshotReader(self._spec.name)
            wanted = {snapshot_partition(self._spec.name, k, self._partitions) for k in keys}
            snapshots.put(kafka.read(self._bootstrap, SNAPSHOTS, sorted(wanted)))
            return {k: self._from_snapshots(k, firsts[k], offsets[k], snapshots) for k in keys}
        states = self._progress_states({k: offset for k, offset in offsets.items() if offset >= 0})
        restored = {}
        for key in keys:
            stage = self._spec.make(key)
            if key in states:
                stage.restore(states[key].state)
            restored[key] = Restored(stage, firsts[key] if offsets[key] < 0 else offsets[key])
        return restored

    def _from_snapshots(self, key: TaskKey, first: int, committed: int, snapshots: SnapshotReader) -> Restored:
        started = time.monotonic()
        stage, taken = self._newest(key, committed, snapshots)
        begin = taken.offset if taken else first
        if committed > begin:
            if begin < first or (taken is None and first > 0):
                found = f"usable snapshot ends at offset {begin}" if taken else "snapshot can be used"
                raise SnapshotError(
                    f"{self._spec.name}: of {key[0]}/{key[1]} {'the newest' if taken else 'no'} {found}, but its "
                    f"records are kept only from {first}: the state cannot be made again. Put trend.snapshots back "
                    f"from a copy, or reset the group trendstream.{self._spec.name} to {first} to begin anew with what "
                    f"is kept; to prevent it, lengthen the retention of {key[0]} or take snapshots more often"
                )
            if taken is None:
                self._observer.warned(
                    self._spec.name,
                    f"{key[0]}/{key[1]} has no usable snapshot: its {committed - first} offsets are folded again "
                    "from the first; if it ran for long before, trend.snapshots was emptied",
                )
            self._refold(stage, key, begin, committed)
        position = committed if committed >= 0 else begin
        self._observer.restored(self._spec.name, key, begin, position, time.monotonic() - started)
        strays = snapshots.strays(key, self._partitions)
        return Restored(stage, position, snapshots.manifests(key), taken, strays)

    def _newest(self, key: TaskKey, committed: int, snapshots: SnapshotReader) -> tuple[Stage, SnapshotManifest | None]:
        """The stage as of the newest snapshot that can be used; a fresh one where none can."""
        for manifest, blobs in snapshots.before(key, committed):
            stage = self._spec.make(key)
            why = "a chunk is missing or broken"
            if blobs is not None:
                try:
                    stage.restore(blobs)
                    return stage, manifest
                except SnapshotError as error:
                    why = str(error)
            self._observer.warned(
                self._spec.name, f"the snapshot of {key[0]}/{key[1]} at offset {manifest.offset} is passed over: {why}"
            )
        return self._spec.make(key), None

    def _refold(self, stage: Stage, key: TaskKey, begin: int, end: int) -> None:
        """Fold the input in [begin, end) for its state alone: its outputs are published already."""
        batch: list[Message] = []
        for message in kafka.read(self._bootstrap, key[0], [key[1]], {key[1]: begin}):
            if message.offset >= end:
                break
            if self._stop():
                raise EndedError
            batch.append(message)
            if len(batch) >= self._batch:
                self._guard.fold(stage, batch)
                batch = []
        if batch:
            self._guard.fold(stage, batch)

    def _progress_states(self, offsets: Mapping[TaskKey, int]) -> dict[TaskKey, Progress]:
        """The progress of each task at its committed offset. All tasks of all stages share one partition, so another
        worker's open transaction may hide it; an older one would not belong to the offset: wait for it."""
        wanted = {progress_key(self._spec.name, k): k for k in offsets}
        deadline = time.monotonic() + 60
        while True:
            found: dict[TaskKey, Progress] = {}
            for message in kafka.read(self._bootstrap, PROGRESS):
                if message.key in wanted and message.value is not None:
                    found[wanted[message.key]] = decode_json(message.value, Progress)
            behind = [k for k, offset in offsets.items() if k not in found or found[k].offset != offset]
            if not behind:
                return found
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{self._spec.name}: {PROGRESS} does not hold the state of {behind} at the committed offsets "
                    f"{[offsets[k] for k in behind]} within 60 s; were the offsets of the group set by hand?"
                )
            time.sleep(0.1)


def progress_key(stage: str, task: TaskKey) -> bytes:
    return f"{stage}/{task[0]}/{task[1]}".encode()


_ANSWER_S = 5.0
