"""Where a replay takes a stage's state from: the newest snapshot before its range, or the first record of the log."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streams.errors import ReplayError, SnapshotError
from streams.records.outside import SnapshotManifest
from streams.replay.log import Log
from streams.snapshots import TOPIC, SnapshotReader, snapshot_partition
from streams.stage import Message, Stage, StageSpec, TaskKey


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a replay. Input in [start, begin) makes its state, input in [begin, end) is what is replayed."""

    stage: str
    topic: str
    partition: int
    snapshot: int  # its offset; -1: from the first record
    start: int
    begin: int  # where the output of the range begins, as far as the plan knows
    end: int

    @property
    def task(self) -> TaskKey:
        return self.topic, self.partition


class Snapshots:
    """The snapshots of one stage in `trend.snapshots`."""

    def __init__(self, log: Log, spec: StageSpec, partitions: int) -> None:
        """`partitions`: as many as the topics were made with."""
        self._log = log
        self._spec = spec
        self._partitions = partitions

    def manifests(self, task: TaskKey) -> list[SnapshotManifest]:
        """Oldest first."""
        if not self._spec.stateful:
            return []
        reader = SnapshotReader(self._spec.name)
        reader.put(m for m in self._records(task) if (m.key or b"").endswith(b"/manifest"))
        return reader.manifests(task)

    def restore(self, fork: Fork) -> Stage:
        """The stage as the fork's snapshot holds it. Raises ReplayError where the snapshot is gone or broken."""
        stage = self._spec.make(fork.task)
        if fork.snapshot < 0:
            return stage
        for manifest in self.manifests(fork.task):
            if manifest.offset == fork.snapshot:
                wanted = {c.key.encode() for c in manifest.chunks}
                reader = SnapshotReader(self._spec.name)
                whole = (m for m in self._records(fork.task) if m.key in wanted or _is_of(m, manifest))
                reader.put(whole)
                blobs = next((b for m, b in reader.before(fork.task, fork.snapshot) if m == manifest), None)
                if blobs is not None:
                    try:
                        stage.restore(blobs)
                        return stage
                    except SnapshotError as error:
                        raise ReplayError(f"{_named(fork)}: {error}") from error
        raise ReplayError(f"{_named(fork)} is gone or has lost a part; plan the replay again")

    def kept(self, fork: Fork) -> Fork:
        """The fork, from an older snapshot where its own has been thinned out: the state at its begin is the same."""
        if fork.snapshot < 0 or any(m.offset == fork.snapshot for m in self.manifests(fork.task)):
            return fork
        return self.choose(fork.task, fork.snapshot, fork.begin, fork.end)

    def choose(self, task: TaskKey, limit: int, begin: int, end: int) -> Fork:
        """The fork for a range; `limit` is the last offset at which a snapshot may lie. Raises ReplayError where the
        state can no longer be made."""
        first, _ = self._log.range(task)
        kept = [m.offset for m in self.manifests(task) if m.offset >= first]
        usable = [offset for offset in kept if offset <= limit]
        if self._spec.stateful and not usable and first > 0:
            earliest = f"its oldest snapshot is at offset {min(kept)}" if kept else "it has no snapshot"
            raise ReplayError(
                f"{self._spec.name}: {task[0]}/{task[1]} is kept from offset {first} only, and the range begins at "
                f"{limit}; {earliest}: begin the replay later"
            )
        return Fork(
            stage=self._spec.name,
            topic=task[0],
            partition=task[1],
            snapshot=max(usable, default=-1),
            start=max(usable, default=first) if self._spec.stateful else begin,
            begin=begin,
            end=end,
        )

    def _records(self, task: TaskKey) -> Iterable[Message]:
        place = (TOPIC, snapshot_partition(self._spec.name, task, self._partitions))
        return self._log.read(place, *self._log.range(place))


def _is_of(message: Message, manifest: SnapshotManifest) -> bool:
    base = f"{manifest.stage}/{manifest.topic}/{manifest.partition}/{manifest.offset:020d}/manifest"
    return message.key == base.encode()


def _named(fork: Fork) -> str:
    return f"the snapshot of {fork.stage} {fork.topic}/{fork.partition} at offset {fork.snapshot}"
