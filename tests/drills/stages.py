"""Real stages on real Kafka, each in a thread of the test's own process: up in no time, down when it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from deploy.settings import Settings
from deploy.workers import runner_config
from streams.errors import StreamsError
from streams.observing import Observer
from streams.runner import Runner
from streams.stage import StageSpec


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
