"""A tiny stateful stage and a process that runs it: what the runner's tests kill and restart."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Mapping, Sequence

from streams.runner import Runner, RunnerConfig
from streams.stage import Message, Output, StageSpec, TaskKey


class Summing:
    """Writes the running sum of the integers of its input partition."""

    def __init__(self, task: TaskKey, output: str = "trend.events") -> None:
        self._output, self._partition = output, task[1]
        self.total = 0
        self.seen = 0

    def ready(self, message: Message) -> bool:
        return True

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs = []
        for message in messages:
            self.total += int(message.value or b"0")
            self.seen += 1
            outputs.append(Output(self._output, self._partition, f"{message.offset}:{self.total}".encode()))
        return outputs

    def snapshot(self) -> dict[str, bytes]:
        return {"sum": f"{self.total},{self.seen}".encode()}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        self.total, self.seen = (int(part) for part in blobs["sum"].split(b","))

    def counters(self) -> dict[str, int]:
        return {"seen": self.seen}


def main() -> None:
    bootstrap, stateful, topic, output = sys.argv[1], sys.argv[2] == "stateful", sys.argv[3], sys.argv[4]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = RunnerConfig(
        bootstrap, 4, commit_interval_ms=20, snapshot_interval_ms=200, transaction_timeout_ms=5_000, max_poll=50
    )
    spec = StageSpec(f"summing-{topic}", (topic,), lambda task: Summing(task, output), stateful=stateful)
    Runner(spec, config, stop.is_set).run()


if __name__ == "__main__":
    main()
