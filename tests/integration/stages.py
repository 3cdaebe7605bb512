"""Real stages on real Kafka, each in a thread of the test's own process: up in no time, for tests of one or two."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.settings import Settings
from deploy.workers import runner_config
from streams.errors import StreamsError
from streams.observing import Observer
from streams.runner import Runner
from streams.stage import StageSpec


@contextmanager
def running(bootstrap: str, settings: Settings, *specs: StageSpec, observer: Observer | None = None) -> Iterator[None]:
    """Run these stages for the block; an error of one fails it."""
    stop = threading.Event()
    errors: list[StreamsError] = []

    def run(spec: StageSpec) -> None:
        try:
            Runner(spec, runner_config(settings, bootstrap), stop.is_set, observer).run()
        except StreamsError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(spec,), name=spec.name) for spec in specs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not errors


def wait_until(done: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.1)
