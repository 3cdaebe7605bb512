"""A worker's restore of windows from a real broker: the snapshot, and the input since."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local_kafka import JARS, LocalKafka
from deploy.topics import create_topics, set_offsets
from featurizers.window_config import WindowConfig
from featurizers.windows import WindowStage
from streams import kafka
from streams.memory import keep_freed_memory
from streams.observing import Silent
from streams.runner import Runner, RunnerConfig
from streams.snapshots import Upload
from streams.stage import Blob, Message, Output, StageSpec, TaskKey

_TASK = ("trend.events", 0)
_PATIENCE_S = 300.0  # for the broker to take a snapshot


class _AssignedError(Exception):
    """The fold goes on: nothing more is asked of this worker, a last snapshot least of all."""


class _Ends(Silent):
    def assigned(self, stage: str, tasks: Sequence[TaskKey]) -> None:
        if tasks:
            raise _AssignedError


def restore_s(config: WindowConfig, blobs: Mapping[str, Blob], log: Sequence[Message], folder: Path) -> float:
    """Seconds by the clock from a worker's start until its fold goes on: it joins the group, reads and checks the
    snapshot, takes it, and reads and folds what the log has since."""
    with LocalKafka(folder, jars=JARS) as local:
        create_topics(local.bootstrap, 1)
        upload = Upload("windows", _TASK, 0, blobs, int(time.time() * 1000), 1)
        kafka.append(local.bootstrap, upload, _PATIENCE_S)
        kafka.append(local.bootstrap, [upload.manifest])
        kafka.append(local.bootstrap, [Output(*_TASK, message.value) for message in log], _PATIENCE_S)
        set_offsets(local.bootstrap, "trendstream.windows", {_TASK: len(log)})
        spec = StageSpec("windows", ("trend.events",), lambda task: WindowStage(task, config))
        keep_freed_memory()  # as every worker does
        began = time.monotonic()
        try:
            Runner(spec, RunnerConfig(local.bootstrap, 1), lambda: False, _Ends()).run()
        except _AssignedError:
            return time.monotonic() - began
    raise AssertionError("a runner that is not told to stop has ended")
