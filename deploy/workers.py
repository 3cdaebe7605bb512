"""One stage on Kafka in this process. `deploy/supervisor.py` runs several, each in a process of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from deploy import pipeline
from deploy.lifecycle import Stopper, run_beside
from deploy.settings import Settings, cautions
from streams import kafka
from streams.memory import set_up_worker, usual_limit_mib
from streams.observing import Observer, Several, Silent
from streams.runner import Runner, RunnerConfig
from streams.stage import StageSpec, TaskKey

_LOG = structlog.get_logger()
_PATIENCE_S = 8.0  # once the worker was asked to end


class LoggedRunner(Silent):
    """Writes what a runner does to the log; commits are summed up every ten seconds."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every = every_s
        self._records = self._outputs = self._commits = 0
        self._since = time.monotonic()

    def assigned(self, stage: str, tasks: Sequence[TaskKey]) -> None:
        _LOG.info("assigned", stage=stage, tasks=[f"{topic}/{p}" for topic, p in tasks])

    def restored(self, stage: str, task: TaskKey, snapshot: int, offset: int, seconds: float) -> None:
        _LOG.info(
            "restored", stage=stage, task=f"{task[0]}/{task[1]}", snapshot=snapshot, offset=offset, s=round(seconds, 3)
        )

    def committed(self, stage: str, records: int, outputs: int, seconds: float) -> None:
        self._records += records
        self._outputs += outputs
        self._commits += 1
        passed = time.monotonic() - self._since
        if passed >= self._every:
            _LOG.info(
                "committed",
                stage=stage,
                records=self._records,
                outputs=self._outputs,
                commits=self._commits,
                s=round(passed, 1),
            )
            self._records = self._outputs = self._commits = 0
            self._since = time.monotonic()

    def aborted(self, stage: str, reason: str) -> None:
        _LOG.warning("aborted", stage=stage, reason=reason)

    def warned(self, stage: str, message: str) -> None:
        _LOG.warning(message, stage=stage)


def observer(settings: Settings, stage: str) -> Observer:
    """What listens to a worker: its log, and Prometheus where the settings name a port."""
    if not settings.metrics_port:
        return LoggedRunner()
    from deploy.metrics import MetricsObserver, serve

    metrics = MetricsObserver()
    serve(metrics, settings, stage)
    return Several(LoggedRunner(), metrics)


def runner_config(settings: Settings, bootstrap: str) -> RunnerConfig:
    return RunnerConfig(
        bootstrap=bootstrap,
        partitions=settings.partitions,
        slot=settings.slot,
        commit_interval_ms=settings.commit_interval_ms,
        control_interval_ms=settings.control_interval_ms,
        snapshot_interval_ms=settings.snapshot_interval_s * 1000,
        transaction_timeout_ms=settings.transaction_timeout_ms,
        memory_limit_mib=settings.memory_limit_mib or usual_limit_mib(),
    )


def run_worker(name: str, settings: Settings, bootstrap: str, stop: Stopper) -> int:
    """Blocks until SIGTERM; the exit code. Raises an error of the package's trees when it cannot go on."""
    kafka.wait_for_broker(bootstrap, stop, _LOG.warning)  # before models are loaded
    if stop():
        return 0
    for line in cautions(settings):
        _LOG.warning(line)
    spec = _SPECS[name](settings)
    runner = Runner(spec, runner_config(settings, bootstrap), stop, observer(settings, name))
    set_up_worker()
    if name != "signals":
        _run(runner.run, stop)
        return 0
    from deploy.sink import ReadModelSink  # brings SQLAlchemy

    with ReadModelSink(settings.database_url, bootstrap, stop) as sink:
        _run(runner.run, stop)
    return sink.code


def _run(work: Callable[[], None], stop: Stopper) -> None:
    if not run_beside(work, stop, _PATIENCE_S):
        _LOG.warning(
            f"the work in hand did not end within {_PATIENCE_S:g} s (a broker that does not answer, or a large last "
            "snapshot); nothing is lost: the next start goes on from the newest commit"
        )
        _leave()


def _leave() -> NoReturn:
    """End without waiting for threads that wait for a broker."""
    sys.stderr.flush()
    os._exit(0)


def run_encoder(kind: str, settings: Settings, bootstrap: str, stop: Stopper) -> int:
    """The text or image encoder on Faust; blocks until SIGTERM."""
    kafka.wait_for_broker(bootstrap, stop, _LOG.warning)  # before models are loaded
    if stop():
        return 0
    from featurizers import agents  # brings Faust

    config = agents.AgentConfig(bootstrap, settings.partitions)
    spec, told = pipeline.encoder_spec(kind, settings), observer(settings, kind)
    _run(lambda: agents.run_encoder(spec, config, stop, told), stop)
    _leave()  # Faust's own threads are no daemons, and may go on for long without a broker


_SPECS: dict[str, Callable[[Settings], StageSpec]] = {
    "ingest": pipeline.ingest_spec,
    "windows": pipeline.windows_spec,
    "inference": lambda settings: pipeline.inference_spec(settings, pipeline.current_bundle(settings)),
    "labels": pipeline.labels_spec,
    "learner": lambda settings: pipeline.learner_spec(settings, pipeline.current_bundle(settings)),
    "signals": pipeline.signals_spec,
}
