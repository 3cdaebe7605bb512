"""Several workers, each in a process of its own, forked from one that has imported what they need.

On two cores the imports of all workers (torch alone in five of them) take most of a minute when each does its own.
Nothing but modules lies in the process that is forked: no thread, no connection, no CUDA context.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import structlog

from deploy.errors import DeployError
from deploy.lifecycle import Stopper

WORKERS = ("ingest", "features", "windows", "inference", "labels", "learner", "signals")
ENCODERS = ("text", "image")
_LOG = structlog.get_logger()

_CONTEXT = multiprocessing.get_context("forkserver")
_OF_ENCODERS = ("deploy.workers", "featurizers.agents", "featurizers.text", "featurizers.image", "timm")
OF_ALL = (*_OF_ENCODERS, "featurizers.windows", "model.scoring", "model.labels", "model.learning", "deploy.sink")


def run_all(stop: Stopper) -> int:
    """Every worker; the first that ends takes the others with it. The worst exit code."""
    import_for_workers(OF_ALL)
    return _supervise([*((w,) for w in WORKERS if w != "features"), *_encoders()], stop)


def run_features(stop: Stopper) -> int:
    """Both encoders."""
    import_for_workers(_OF_ENCODERS)
    return _supervise(_encoders(), stop)


def import_for_workers(modules: Sequence[str]) -> None:
    """What the process that is forked imports; has an effect before the first `start_worker` alone."""
    _CONTEXT.set_forkserver_preload(list(modules))


def start_worker(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
) -> BaseProcess:
    """`trendstream worker <arguments>` as a process; its standard error is added to `log`."""
    environment = dict(os.environ if environment is None else environment)
    process = _CONTEXT.Process(target=_worker, args=(list(arguments), environment, log), name=" ".join(arguments))
    process.start()
    return process


def _worker(arguments: list[str], environment: dict[str, str], log: Path | None) -> None:
    if log is not None:
        with log.open("ab") as sink:
            os.dup2(sink.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    from deploy.cli import run

    sys.exit(run(["worker", *arguments]))


def _encoders() -> list[tuple[str, ...]]:
    return [("features", "--encoder", encoder) for encoder in ENCODERS]


def _supervise(commands: Sequence[Sequence[str]], stop: Stopper, patience_s: float = 30.0) -> int:
    """Run child processes until asked to stop or one of them ends; the worst exit code."""
    children = [start_worker(command) for command in commands]
    early: list[BaseProcess] = []
    try:
        while not early and not stop():
            wait([child.sentinel for child in children], 0.2)
            early = [child for child in children if not child.is_alive()]
    finally:
        for child in children:
            child.terminate()
        deadline = time.monotonic() + patience_s
        for child in children:
            child.join(max(deadline - time.monotonic(), 0))
        late = [child for child in children if child.is_alive()]
        for child in late:
            child.kill()
    for child in early:
        _LOG.error("a worker ended", worker=child.name, code=child.exitcode)
    if late:
        raise DeployError(
            f"{', '.join(c.name for c in late)} did not end within {patience_s:g} s of SIGTERM and had to be killed; "
            "nothing is lost, the next start goes on from the newest commit"
        )
    return max(abs(child.exitcode or 0) for child in early or children) or int(bool(early))
