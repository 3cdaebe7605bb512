"""Real stages on real Kafka, each in a thread of the test's own process: up in no time, down when it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from deploy import pipeline
from deploy.inspection import RUNNERS, inspect
from deploy.settings import Settings
from deploy.workers import runner_config
from model.registry import Bundle
from streams import kafka
from streams.errors import StreamsError
from streams.observing import Observer
from streams.runner import Runner
from streams.stage import Message, StageSpec


class Stages:
    """Stages by name, each made anew whenever it starts, as a process would."""

    def __init__(
        self,
        settings: Settings,
        specs: Mapping[str, Callable[[], StageSpec]],
        observers: Mapping[str, Observer] | None = None,
    ) -> None:
        self._settings = settings
        self._specs = specs
        self._observers = observers or {}
        self._running: dict[str, tuple[threading.Event, threading.Thread]] = {}
        self.errors: list[StreamsError] = []

    def start(self, *names: str) -> None:
        for name in names or self._specs:
            stop = threading.Event()
            thread = threading.Thread(target=self._run, args=(name, stop), name=name)
            thread.start()
            self._running[name] = stop, thread

    def stop(self, *names: str) -> None:
        chosen = names or tuple(self._running)
        for name in chosen:
            self._running[name][0].set()
        for name in chosen:
            self._running.pop(name)[1].join(60)

    def _run(self, name: str, stop: threading.Event) -> None:
        config = runner_config(self._settings, self._settings.bootstrap)
        try:
            Runner(self._specs[name](), config, stop.is_set, self._observers.get(name)).run()
        except StreamsError as error:
            self.errors.append(error)


def loop(settings: Settings, bundle: Bundle) -> dict[str, Callable[[], StageSpec]]:
    """Every stage but the encoders."""
    return {
        "ingest": lambda: pipeline.ingest_spec(settings),
        "windows": lambda: pipeline.windows_spec(settings),
        "inference": lambda: pipeline.inference_spec(settings, bundle),
        "labels": lambda: pipeline.labels_spec(settings),
        "learner": lambda: pipeline.learner_spec(settings, bundle),
        "signals": lambda: pipeline.signals_spec(settings),
    }


def drained(bootstrap: str, until: int, *names: str) -> bool:
    """Whether these stages (all of the loop without names) have read all there is, and every partition's event time has
    come to an instant, UTC ms."""
    at = inspect(bootstrap, 2, 0)
    reached = [task.event_time or 0 for task in at.of("windows")]
    left = [task.left for name in names or RUNNERS for task in at.of(name)]
    return not any(left) and min(reached) >= until


def logs(bootstrap: str) -> dict[str, dict[int, list[Message]]]:
    """Every topic but the snapshots, by partition."""
    found: dict[str, dict[int, list[Message]]] = {}
    for name, count in kafka.partition_counts(bootstrap).items():
        if name != "trend.snapshots":
            found[name] = {p: [] for p in range(count)}
            for message in kafka.read(bootstrap, name):
                found[name][message.partition].append(message)
    return found


@contextmanager
def stages(
    settings: Settings,
    specs: Mapping[str, Callable[[], StageSpec]],
    observers: Mapping[str, Observer] | None = None,
) -> Iterator[Stages]:
    """Not started yet; stopped at the end, whatever happens. A stage that has failed fails the block."""
    made = Stages(settings, specs, observers)
    try:
        yield made
    finally:
        made.stop()
    assert not made.errors


def wait_until(done: Callable[[], bool], what: str, timeout: float = 90.0) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.2)
