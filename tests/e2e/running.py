"""Workers as processes on a real broker, and what lies in the topics afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from deploy.following import stage_counters
from deploy.supervisor import start_worker
from streams import kafka
from streams.codecs import decode_json
from streams.records.outside import Progress
from streams.stage import Message

ENCODERS = ("text", "image")


@dataclass
class Workers:
    """Worker processes by name: `ingest`, `windows`, …, `text` and `image` for the encoders, or `all`.

    A name may end with a slot: `windows/1`.
    """

    bootstrap: str
    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    processes: dict[str, BaseProcess] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        for name in names:
            stage, _, slot = name.partition("/")
            arguments = ["features", "--encoder", stage] if stage in ENCODERS else [stage]
            arguments += ["--slot", slot] if slot else []
            self.processes[name] = start_worker(arguments, self.environment(), self.log(name))

    def log(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}.log"

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TRENDSTREAM_BOOTSTRAP": self.bootstrap,
            "TRENDSTREAM_MODEL_DIR": str(self.folder / "models"),
            "TRENDSTREAM_DATABASE_URL": f"sqlite:///{self.folder / 'read-model.db'}",
            **self.settings,
        }

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].join(20)

    def stop(self) -> dict[str, int | None]:
        """Ask all to end; exit codes by name, None for one that goes on."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join(60)
        return {name: process.exitcode for name, process in self.processes.items()}

    def check(self) -> None:
        """Fail with the log of a worker that has ended by itself."""
        for name, process in self.processes.items():
            if not process.is_alive():
                log = self.log(name).read_text()[-3_000:]
                raise AssertionError(f"worker {name} ended with {process.exitcode}:\n{log}")

    def wait_until(self, done: Callable[[], bool], what: str, timeout: float = 180.0) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            self.check()
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
            time.sleep(0.5)

    def topic(self, name: str) -> dict[int, list[Message]]:
        """Committed records by partition."""
        found: dict[int, list[Message]] = {p: [] for p in range(kafka.partition_counts(self.bootstrap)[name])}
        for message in kafka.read(self.bootstrap, name):
            found[message.partition].append(message)
        return found

    def counters(self, stage: str) -> dict[str, int]:
        """Totals of a stage over its tasks, as its newest progress says."""
        return stage_counters(self.bootstrap).get(stage, {})

    def is_drained(self, stages: Mapping[str, str]) -> bool:
        """Whether each of these stages has committed all that lies in the topic it reads; input topics by stage.

        What counts is the newest record: the markers of transactions after it take offsets, too.
        """
        # Before the progress: ingest's word on event time never ends, and one more after it would always be too new.
        newest = {
            (stage, topic, partition): log[-1].offset
            for stage, topic in stages.items()
            for partition, log in self.topic(topic).items()
            if log
        }
        done: dict[tuple[str, str, int], int] = {}
        for message in kafka.read(self.bootstrap, "trend.progress"):
            progress = decode_json(message.value or b"", Progress)
            done[progress.stage, progress.topic, progress.partition] = progress.offset
        return all(done.get(task, 0) > offset for task, offset in newest.items())

    def is_quiet(self, *topics: str, seconds: float = 3.0) -> bool:
        """Whether nothing was added to these topics for that long."""
        before = [kafka.end_offsets(self.bootstrap, t) for t in topics]
        time.sleep(seconds)
        return before == [kafka.end_offsets(self.bootstrap, t) for t in topics]


@contextmanager
def running(bootstrap: str, folder: Path, **settings: str) -> Iterator[Workers]:
    """Workers that are ended whatever happens; `settings` are environment variables."""
    folder.mkdir(parents=True, exist_ok=True)
    workers = Workers(bootstrap, folder, settings)
    try:
        yield workers
    finally:
        for process in workers.processes.values():
            process.terminate()
        for process in workers.processes.values():
            process.join(20)
            process.kill()
