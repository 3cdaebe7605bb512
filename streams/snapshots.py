"""Snapshots of stage tasks in the compacted topic `trend.snapshots`: chunks, then a manifest beside its input offset.

The manifest is written inside a commit; chunks before it, flushed. A large state goes out over several commits, so a
snapshot's offset may lie before that of the commit that brings its manifest. A manifest whose chunks are not all there,
or are not what it says, is not whole and is passed over. Older snapshots thin out as a ladder, so that a replay can
fork far back.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from streams.codecs import decode_json, encode_json
from streams.partitioning import partition_of
from streams.records.outside import Chunk, SnapshotManifest
from streams.stage import Blob, Message, Output, TaskKey

TOPIC = "trend.snapshots"
CHUNK_BYTES = 900_000
_MANIFEST = "manifest"


def _prefix(stage: str, task: TaskKey) -> str:
    return f"{stage}/{task[0]}/{task[1]}"


def snapshot_partition(stage: str, task: TaskKey, partitions: int) -> int:
    return partition_of(_prefix(stage, task), partitions)


class Upload:
    """A snapshot on its way out: its chunks, cut from one blob at a time, and then its manifest for the commit."""

    def __init__(
        self, stage: str, task: TaskKey, offset: int, blobs: Mapping[str, Blob], taken_at: int, partitions: int
    ) -> None:
        """Of a state that holds everything before `offset`."""
        self._partition = snapshot_partition(stage, task, partitions)
        self._base = f"{_prefix(stage, task)}/{offset:020d}"
        self._described = SnapshotManifest(
            stage=stage, topic=task[0], partition=task[1], offset=offset, taken_at=taken_at, chunks=[]
        )
        self._chunks = self._cut(blobs)

    def __iter__(self) -> Iterator[Output]:
        """The chunks that have not been handed out yet."""
        return self._chunks

    @property
    def described(self) -> SnapshotManifest:
        """Once the chunks are handed out."""
        return self._described

    @property
    def manifest(self) -> Output:
        return Output(TOPIC, self._partition, encode_json(self._described), f"{self._base}/{_MANIFEST}".encode())

    def _cut(self, blobs: Mapping[str, Blob]) -> Iterator[Output]:
        for name in sorted(blobs):
            blob = blobs[name]()
            for part, start in enumerate(range(0, max(len(blob), 1), CHUNK_BYTES)):
                piece = blob[start : start + CHUNK_BYTES]
                # The time keeps it apart from a chunk of the same offset that a worker before left behind: whoever
                # clears that away may be late, and must not hit this one.
                key = f"{self._base}/{self._described.taken_at}/{name}/{part:06d}"
                chunk = Chunk(key=key, bytes=len(piece), sha256=hashlib.sha256(piece).hexdigest())
                self._described.chunks.append(chunk)
                yield Output(TOPIC, self._partition, piece, key.encode())


def drop(described: SnapshotManifest, partitions: int) -> list[Output]:
    """Tombstones of a snapshot, its manifest first, so that no reader finds a manifest without its chunks."""
    task = (described.topic, described.partition)
    partition = snapshot_partition(described.stage, task, partitions)
    base = f"{_prefix(described.stage, task)}/{described.offset:020d}/{_MANIFEST}"
    return [Output(TOPIC, partition, None, key.encode()) for key in (base, *(c.key for c in described.chunks))]


def ladder(taken: Sequence[SnapshotManifest]) -> list[SnapshotManifest]:
    """Snapshots that are not needed any more: the two newest stay, and of the older ones one per doubling of age."""
    newest = sorted(taken, key=lambda m: m.offset, reverse=True)
    unneeded: list[SnapshotManifest] = []
    rungs: set[int] = set()
    for manifest in reversed(newest[2:]):  # the oldest of each rung stays, or a rung would never grow old
        age = max(newest[0].taken_at - manifest.taken_at, 1)
        rung = age.bit_length()
        if rung in rungs:
            unneeded.append(manifest)
        rungs.add(rung)
    return unneeded


@dataclass
class SnapshotReader:
    """Collects one stage's records of `trend.snapshots` and finds what a task restores from."""

    stage: str
    _manifests: dict[TaskKey, dict[int, SnapshotManifest]] = field(default_factory=lambda: defaultdict(dict))
    _chunks: dict[str, bytes] = field(default_factory=dict)

    def put(self, messages: Iterable[Message]) -> None:
        for message in messages:
            key = (message.key or b"").decode()
            if not key.startswith(f"{self.stage}/"):
                continue
            if not key.endswith(f"/{_MANIFEST}"):
                if message.value is None:
                    self._chunks.pop(key, None)
                else:
                    self._chunks[key] = message.value
                continue
            _, topic, partition, offset, _ = key.split("/")
            of_task = self._manifests[(topic, int(partition))]
            if message.value is None:
                of_task.pop(int(offset), None)
            else:
                of_task[int(offset)] = decode_json(message.value, SnapshotManifest)

    def tasks(self) -> list[TaskKey]:
        """Those of which anything is there."""
        return sorted(task for task, manifests in self._manifests.items() if manifests)

    def manifests(self, task: TaskKey) -> list[SnapshotManifest]:
        return [m for _, m in sorted(self._manifests.get(task, {}).items())]

    def before(self, task: TaskKey, offset: int) -> Iterator[tuple[SnapshotManifest, dict[str, bytes] | None]]:
        """Snapshots at or before an input offset, newest first, with their blobs; None where a chunk is missing."""
        for manifest in reversed(self.manifests(task)):
            if manifest.offset <= offset:
                yield manifest, self._blobs(manifest)

    def strays(self, task: TaskKey, partitions: int) -> list[Output]:
        """Tombstones of chunks whose manifest was never committed."""
        partition, base = snapshot_partition(self.stage, task, partitions), f"{_prefix(self.stage, task)}/"
        known = {chunk.key for manifest in self.manifests(task) for chunk in manifest.chunks}
        strays = [key for key in self._chunks if key.startswith(base) and key not in known]
        return [Output(TOPIC, partition, None, key.encode()) for key in strays]

    def _blobs(self, manifest: SnapshotManifest) -> dict[str, bytes] | None:
        parts: dict[str, list[bytes]] = {}
        prefix = _prefix(manifest.stage, (manifest.topic, manifest.partition))
        base = f"{prefix}/{manifest.offset:020d}/{manifest.taken_at}/"
        for chunk in manifest.chunks:
            piece = self._chunks.get(chunk.key)
            if piece is None or hashlib.sha256(piece).hexdigest() != chunk.sha256:
                return None
            name = chunk.key.removeprefix(base).rpartition("/")[0]  # which may hold slashes itself
            parts.setdefault(name, []).append(piece)
        return {name: b"".join(pieces) for name, pieces in parts.items()}
