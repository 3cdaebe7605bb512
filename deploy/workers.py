"""Worker processes: one stage each on Kafka, or all of them, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from deploy import pipeline
from deploy.errors import ConfigurationError, DeployError
from deploy.lifecycle import Stopper
from deploy.settings import Settings, cautions
from deploy.sink import run_sink
from featurizers import agents
from featurizers.agents import AgentConfig
from streams import kafka
from streams.runner import Runner, RunnerConfig
from streams.signals.read_model import ReadModel
from streams.stage import StageSpec, TaskKey

WORKERS = ("ingest", "features", "windows", "inference", "labels", "learner", "signals")
_LOG = structlog.get_logger()


class LoggedRunner:
    """An observer that writes what a runner does to the log; commits are summed up every ten seconds."""

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


def runner_config(settings: Settings, bootstrap: str) -> RunnerConfig:
    return RunnerConfig(
        bootstrap=bootstrap,
        partitions=settings.partitions,
        slot=settings.slot,
        commit_interval_ms=settings.commit_interval_ms,
        control_interval_ms=settings.control_interval_ms,
        snapshot_interval_ms=settings.snapshot_interval_s * 1000,
        transaction_timeout_ms=settings.transaction_timeout_ms,
    )


def run_worker(name: str, settings: Settings, bootstrap: str, stop: Stopper) -> int:
    """Blocks until SIGTERM; the exit code. Raises an error of the package's trees when it cannot go on."""
    if name not in WORKERS:
        raise ConfigurationError(f"no worker {name!r}; choose one of {', '.join(WORKERS)}, or all")
    kafka.require_broker(bootstrap)
    for line in cautions(settings):
        _LOG.warning(line)
    if name == "features":
        return _supervise([_command("features", "--encoder", e) for e in ("text", "image")], stop)
    spec = _SPECS[name](settings)
    runner = Runner(spec, runner_config(settings, bootstrap), stop, LoggedRunner())
    if name != "signals":
        runner.run()
        return 0
    with _Sink(settings, bootstrap, stop) as sink:
        runner.run()
    return sink.code


def run_encoder(kind: str, settings: Settings, bootstrap: str, stop: Stopper) -> int:
    """The text or image encoder on Faust; blocks until SIGTERM."""
    kafka.require_broker(bootstrap)
    config = AgentConfig(bootstrap, settings.partitions, settings.slot)
    agents.run_encoder(pipeline.encoder_spec(kind, settings), config, stop, LoggedRunner())
    return 0


def run_all(stop: Stopper) -> int:
    """Every worker in a process of its own; the first that ends takes the others with it."""
    return _supervise([_command(name) for name in WORKERS], stop)


_SPECS: dict[str, Callable[[Settings], StageSpec]] = {
    "ingest": pipeline.ingest_spec,
    "windows": pipeline.windows_spec,
    "inference": lambda settings: pipeline.inference_spec(settings, pipeline.current_bundle(settings)),
    "labels": pipeline.labels_spec,
    "learner": lambda settings: pipeline.learner_spec(settings, pipeline.current_bundle(settings)),
    "signals": pipeline.signals_spec,
}


class _Sink:
    """The read model's consumer beside the signals stage, in a thread; its failure ends the worker."""

    def __init__(self, settings: Settings, bootstrap: str, stop: Stopper) -> None:
        self.code = 0
        self._model = ReadModel(settings.database_url)
        self._bootstrap = bootstrap
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name="read-model")

    def _run(self) -> None:
        try:
            run_sink(self._bootstrap, self._model, self._stop)
        except Exception as error:
            _LOG.error("the read model cannot go on", error=str(error))
            self.code = 1
            self._stop.ask()

    def __enter__(self) -> _Sink:
        self._model.migrate()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.ask()
        self._thread.join(30)
        self._model.close()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli", "worker", *arguments]


def _supervise(commands: Sequence[list[str]], stop: Stopper, patience_s: float = 30.0) -> int:
    """Run child processes until asked to stop or one of them ends; the worst exit code."""
    children = [subprocess.Popen(command) for command in commands]
    try:
        while not stop.wait(0.2):
            ended = [c for c in children if c.poll() is not None]
            if ended:
                _LOG.error("a worker ended", command=ended[0].args[3:], code=ended[0].returncode)  # type: ignore[index]
                break
    finally:
        early = [c.returncode for c in children if c.poll() is not None]
        for child in children:
            if child.poll() is None:
                child.terminate()
        codes = [_wait(c, patience_s) for c in children]
    if early:
        return max((abs(code) for code in early), default=0) or 1
    return max(abs(code) for code in codes)


def _wait(child: subprocess.Popen[bytes], patience_s: float) -> int:
    try:
        return child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        raise DeployError(
            f"worker {child.args!r} did not end within {patience_s:g} s of SIGTERM and was killed"
        ) from None
