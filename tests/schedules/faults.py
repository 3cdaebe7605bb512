"""Runners with one fault each, to show that the schedules find it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from streams import kafka
from streams.codecs import decode_json
from streams.records.outside import Progress
from streams.restore import PROGRESS, Restored, Restorer, progress_key
from streams.runner import Runner, _Task
from streams.snapshots import SnapshotReader
from streams.stage import Message, Output, TaskKey


class OffsetsBeforeOutputs(Runner):
    """Commits what it has consumed, and publishes what it made of it afterwards."""

    def _fold(self, task: _Task, messages: list[Message]) -> None:
        self.late: list[Output] = getattr(self, "late", [])
        self.late += task.stage.fold(messages)
        task.position = messages[-1].offset + 1
        task.dirty = True

    def _commit(self, snapshots: bool) -> None:
        super()._commit(snapshots)
        late, self.late = getattr(self, "late", []), []
        self._publish(late)
        super()._commit(snapshots)


class KeepsItsState(Runner):
    """Goes on after an abort with the state that it had."""

    def _reset(self, reason: str) -> None:
        self._abort(reason)


class ForgetsToAbort(Runner):
    """Restores its state after a failure, but leaves the failed outputs in the transaction."""

    def _abort(self, reason: str) -> None:
        self._observer.aborted(self._spec.name, reason)


class _FromTheNewest(Restorer):
    def _from_snapshots(self, key: TaskKey, first: int, committed: int, snapshots: SnapshotReader) -> Restored:
        restored = super()._from_snapshots(key, first, committed, snapshots)
        found = next(snapshots.before(key, 2**62), None)
        if found is None:
            return restored
        stage = self._spec.make(key)
        stage.restore(found[1] or {})
        return replace(restored, stage=stage)


class ManifestsOutside(Runner):
    """Writes manifests beside their chunks, not in the commit, and restores from the newest."""

    restorer = _FromTheNewest

    def _snapshot_chunks(self) -> list[tuple[_Task, Any]]:
        taken = super()._snapshot_chunks()
        for _, snapshot in taken:
            assert self._chunks is not None
            kafka.send(self._chunks, *_fields(snapshot.manifest))
            self._chunks.flush(30)
        return taken


class _OldProgress(Restorer):
    def _progress_states(self, offsets: Mapping[TaskKey, int]) -> dict[TaskKey, Progress]:
        found = {m.key: m.value or b"" for m in kafka.read(self._bootstrap, PROGRESS)}
        keys = {k: progress_key(self._spec.name, k) for k in offsets}
        return {k: decode_json(found[name], Progress) for k, name in keys.items() if name in found}


class OldProgress(Runner):
    """Takes the newest progress that it can see, whatever offset it belongs to."""

    restorer = _OldProgress


class PositionBeyondWaiting(Runner):
    """Commits the end of a poll though some of it is still held back."""

    def _take(self, key: TaskKey, task: _Task, messages: list[Message]) -> None:
        super()._take(key, task, messages)
        task.position = messages[-1].offset + 1


def _fields(output: Output) -> tuple[str, int, bytes | None, bytes | None]:
    return output.topic, output.partition, output.value, output.key


FAULTS = (OffsetsBeforeOutputs, KeepsItsState, ForgetsToAbort, ManifestsOutside, OldProgress, PositionBeyondWaiting)
