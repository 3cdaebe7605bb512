from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from streams.records.outside import SnapshotManifest
from streams.snapshots import CHUNK_BYTES, SnapshotReader, Upload, drop, ladder
from streams.stage import Blob, Message, Output, TaskKey

TASK = ("trend.events", 3)


def _messages(outputs: list[Output]) -> list[Message]:
    return [Message(o.topic, o.partition, i, 0, o.key, o.value) for i, o in enumerate(outputs)]


@dataclass(frozen=True)
class Snapshot:
    """What to publish for one snapshot: `chunks` first, then `manifest` inside the commit."""

    described: SnapshotManifest
    chunks: list[Output]
    manifest: Output


def take(
    stage: str, task: TaskKey, offset: int, blobs: Mapping[str, bytes], taken_at: int, partitions: int
) -> Snapshot:
    """All of a snapshot at once."""
    upload = Upload(
        stage, task, offset, {name: partial(bytes, blob) for name, blob in blobs.items()}, taken_at, partitions
    )
    chunks = list(upload)
    return Snapshot(upload.described, chunks, upload.manifest)


def _reader(*snapshots: Snapshot) -> SnapshotReader:
    reader = SnapshotReader("windows")
    for snapshot in snapshots:
        reader.put(_messages([*snapshot.chunks, snapshot.manifest]))
    return reader


def _newest(reader: SnapshotReader, before: int) -> tuple[SnapshotManifest, dict[str, bytes]] | None:
    return next(((manifest, blobs) for manifest, blobs in reader.before(TASK, before) if blobs is not None), None)


@given(
    st.dictionaries(
        st.sampled_from(["a", "rings", "platform-0/rings", "platform-1/rings", "platform-1/events/7"]),
        st.binary(max_size=50),
        max_size=3,
    )
)
def test_blobs_come_back_as_they_went(blobs: dict[str, bytes]) -> None:
    found = _newest(_reader(take("windows", TASK, 17, blobs, 5, 4)), 17)
    assert found is not None
    assert found[1] == blobs
    assert found[0].offset == 17


def test_large_blobs_are_cut_below_the_brokers_limit() -> None:
    blob = bytes(range(256)) * 8_000
    snapshot = take("windows", TASK, 17, {"rings": blob}, 5, 4)
    assert max(len(c.value or b"") for c in snapshot.chunks) <= CHUNK_BYTES
    found = _newest(_reader(snapshot), 20)
    assert found is not None
    assert found[1] == {"rings": blob}


def test_a_snapshot_beyond_the_committed_offset_is_not_taken() -> None:
    reader = _reader(take("windows", TASK, 10, {"a": b"old"}, 1, 4), take("windows", TASK, 20, {"a": b"new"}, 2, 4))
    found = _newest(reader, 19)
    assert found is not None
    assert found[1] == {"a": b"old"}


def test_a_snapshot_that_misses_a_chunk_is_passed_over() -> None:
    reader = _reader(take("windows", TASK, 10, {"a": b"old"}, 1, 4))
    torn = take("windows", TASK, 20, {"a": b"new"}, 2, 4)
    reader.put(_messages([torn.manifest]))
    found = _newest(reader, 100)
    assert found is not None
    assert found[0].offset == 10


def test_another_stages_snapshots_are_not_ours() -> None:
    snapshot = take("labels", TASK, 10, {"a": b"x"}, 1, 4)
    reader = SnapshotReader("windows")
    reader.put(_messages([*snapshot.chunks, snapshot.manifest]))
    assert _newest(reader, 100) is None


def test_tombstones_remove_a_snapshot_whole() -> None:
    snapshot = take("windows", TASK, 10, {"a": b"x", "b": b"y"}, 1, 4)
    reader = _reader(snapshot)
    reader.put(_messages(drop(snapshot.described, 4)))
    assert _newest(reader, 100) is None
    assert reader.manifests(TASK) == []


def test_a_large_state_is_encoded_while_the_fold_waits_or_changes_on_its_way() -> None:
    encoded: list[str] = []

    def blob(name: str) -> Blob:
        return lambda: (encoded.append(name), name.encode())[1]

    upload = Upload("windows", TASK, 17, {name: blob(name) for name in "bac"}, 5, 4)
    assert encoded == []
    first = next(iter(upload))
    assert encoded == ["a"]
    rest = list(upload)
    assert (encoded, next(iter(upload), None)) == (["a", "b", "c"], None)
    reader = SnapshotReader("windows")
    reader.put(_messages([first, *rest]))
    assert reader.strays(TASK, 4) == [Output(o.topic, o.partition, None, o.key) for o in (first, *rest)]
    reader.put(_messages([upload.manifest]))
    assert reader.strays(TASK, 4) == []
    assert next(iter(reader.before(TASK, 20)))[1] == {name: name.encode() for name in "abc"}


@given(st.integers(3, 200), st.integers(1, 120_000))
def test_the_ladder_stays_short_and_reaches_back(count: int, interval: int) -> None:
    kept: list[SnapshotManifest] = []
    for i in range(count):
        kept.append(SnapshotManifest(stage="w", topic="t", partition=0, offset=i, taken_at=1 + i * interval, chunks=[]))
        for manifest in ladder(kept):
            kept.remove(manifest)
    assert kept[0].offset == 0
    assert [m.offset for m in kept[-2:]] == [count - 2, count - 1]
    assert len(kept) <= 2 + (count * interval).bit_length()
    ages = [kept[-1].taken_at - m.taken_at for m in kept[:-2]]
    assert all(older.bit_length() > newer.bit_length() for older, newer in pairwise(ages))
