"""A run: a cluster, workers and a load; disturbances as the schedule says; then peace, and the checks."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.errors import DeployError
from deploy.following import CloseFollower, _Follower
from deploy.settings import Settings, load_settings, variable
from deploy.topics import create_topics
from streams.errors import StreamsError
from streams.stage import Message
from tests.chaos.checks import CHECKS, Finished, finished
from tests.chaos.cluster import Cluster
from tests.chaos.fleet import Ending, Fleet, kind_of
from tests.chaos.load import Load
from tests.chaos.schedule import ABOUT, Disturbance, first_workers, make_schedule
from tests.e2e.running import ENCODERS

DRAIN_S = 240.0
SOURCES = ("ingest", "text")  # the stages that write trend.events


@dataclass(frozen=True)
class Plan:
    """One run; equal plans have equal schedules."""

    seed: int
    disturbances: int = 50
    workers: int = 2  # a stage
    partitions: int = 4
    day_s: float = 5.0  # wall clock of one day of event time


@dataclass
class Report:
    """What `report.json` holds."""

    plan: dict[str, Any]
    disturbances: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind
    endings: dict[str, int] = field(default_factory=dict)  # of workers that were not killed, by kind
    checks: dict[str, str] = field(default_factory=dict)  # name to "" or what is wrong
    numbers: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return bool(self.checks) and not any(self.checks.values())


class CommitFollower(_Follower):
    """When a commit of the windows stage could be read: it has something to do as long as anybody runs.

    All stages share the partition, so that an open transaction of any of them hides what comes after it.
    """

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap, "trend.progress", from_end=False)
        self.times = [time.monotonic()]

    def take(self, message: Message, now: float) -> None:
        if (message.key or b"").startswith(b"windows/"):
            self.times.append(time.monotonic())

    def longest_gap(self, since: float, until: float) -> float:
        """Seconds without a commit in this span, what began before it included."""
        inside = [t for t in self.times if since <= t <= until]
        before = max((t for t in self.times if t < since), default=since)
        marks = [before, *inside, until]
        return max(b - a for a, b in itertools.pairwise(marks))


class Run:
    """Brings a plan to its end; `say` takes lines for whoever looks on."""

    def __init__(self, plan: Plan, folder: Path, jars: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._jars = jars
        self._say = say
        self._spans: list[tuple[str, float]] = []  # kind, and when it began
        self._began = time.monotonic()
        self._endings: list[Ending] = []

    def _tell(self, line: str) -> None:
        self._say(f"[{time.monotonic() - self._began:4.0f} s] {line}")

    def execute(self) -> Report:
        """The report, also when a check failed; what went wrong before is a check that failed."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        report = Report(plan=vars(self._plan))
        logging.getLogger("streams.librdkafka").setLevel(logging.CRITICAL)  # brokers that are away are no news here
        try:
            self._execute(report)
        except (AssertionError, DeployError, StreamsError) as error:
            report.checks["the run comes to its end"] = str(error)
        report.endings = dict(Counter(map(kind_of, self._endings)))
        report.seconds = round(time.monotonic() - self._began, 1)
        (self._folder / "report.json").write_text(json.dumps(vars(report), indent=1) + "\n")
        if report.passed:
            for log in self._folder.glob("*.log"):
                log.unlink()
        return report

    def settings(self, bootstrap: str) -> Settings:
        return load_settings(
            bootstrap=bootstrap,
            partitions=self._plan.partitions,
            model_dir=self._folder / "models",
            database_url=f"sqlite:///{self._folder / 'read-model.db'}",
            # Three brokers and many workers on few cores: fewer and larger commits than by default.
            commit_interval_ms=300,
            control_interval_ms=500,
            live_interval_ms=1_000,
            # A source that is away for a while holds the days open: so each unit is in its day's close window.
            idle_ms=600_000,
            snapshot_interval_s=3,
        )

    def _execute(self, report: Report) -> None:
        plan = self._plan
        schedule = make_schedule(plan.seed, plan.disturbances, plan.workers)
        self._say("\n".join(map(str, schedule)))
        with ExitStack() as stack:
            cluster = stack.enter_context(Cluster(self._folder, self._jars))
            create_topics(cluster.bootstrap, plan.partitions)
            cluster.wait_in_sync(lambda: None)
            self._tell("three brokers are up")
            settings = self.settings(cluster.bootstrap)
            fleet = Fleet(cluster.proxied, self._folder, _environment(settings), endings=self._endings)
            stack.callback(fleet.kill_all)
            commits = stack.enter_context(CommitFollower(cluster.bootstrap))
            closes = stack.enter_context(CloseFollower(cluster.bootstrap, plan.partitions))
            load = Load(cluster.bootstrap, plan.partitions, plan.seed, plan.day_s)
            fleet.start(*first_workers(plan.workers))
            load.start()
            stack.callback(load.finish)
            self._wait(fleet, lambda: closes.boundary > 0, "the first day is closed")
            began = time.monotonic()
            for disturbance in schedule:
                fleet.wait(disturbance.pause_s)
                self._progress(disturbance, began)
                self._spans.append((disturbance.kind, time.monotonic()))
                _APPLY[disturbance.kind](cluster, fleet, disturbance)
            self._end_load(cluster, fleet, load, closes)
            report.disturbances = self._table(commits, time.monotonic())
            self._drain(cluster, fleet)
            self._tell("checking")
            self._check(report, finished(cluster.bootstrap, settings, load, self._endings))

    def _progress(self, disturbance: Disturbance, began: float) -> None:
        done, of = disturbance.number - 1, self._plan.disturbances
        left = f", about {(time.monotonic() - began) / done * (of - done):.0f} s left" if done else ""
        self._tell(f"{disturbance.number}/{of} {disturbance.kind} {disturbance.whom}{left}")

    def _wait(self, fleet: Fleet, done: Callable[[], bool], what: str, timeout_s: float = DRAIN_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
            fleet.wait(0.5)

    def _end_load(self, cluster: Cluster, fleet: Fleet, load: Load, closes: CloseFollower) -> None:
        self._tell("the load ends")
        cluster.wait_in_sync(fleet.tend)
        load.finish()
        self._wait(fleet, lambda: not load.is_alive(), "every event is delivered")
        assert not load.failures, f"{len(load.failures)} events were not delivered: {load.failures[0]}"
        self._wait(fleet, lambda: closes.boundary >= load.boundary, "the last day is closed in every partition")

    def _drain(self, cluster: Cluster, fleet: Fleet) -> None:
        """Sources first: nobody is left with input that came while he ended."""
        looking = Fleet(cluster.bootstrap, self._folder)
        following = ("trend.windows", "trend.scores", "trend.matured", "signals.ads", "model.heads")
        self._wait(fleet, lambda: looking.is_quiet("trend.reviews", *following), "nothing more comes")
        self._tell("the workers end")
        fleet.dismiss(*fleet.of_stage(*SOURCES))
        self._wait(fleet, lambda: looking.is_quiet("trend.events", *following), "the sources have ended")
        fleet.dismiss(*list(fleet.processes))

    def _table(self, commits: CommitFollower, ended: float) -> dict[str, dict[str, Any]]:
        table: dict[str, dict[str, Any]] = {}
        ends = [at for _, at in self._spans[1:]] + [ended]
        for (kind, since), until in zip(self._spans, ends, strict=True):
            row = table.setdefault(kind, {"count": 0, "longest_s_without_commit": 0.0})
            row["count"] += 1
            gap = round(commits.longest_gap(since, until), 1)
            row["longest_s_without_commit"] = max(row["longest_s_without_commit"], gap)
        return table

    def _check(self, report: Report, run: Finished) -> None:
        report.numbers = run.numbers()
        for name, check in CHECKS.items():
            try:
                check(run)
                report.checks[name] = ""
            except AssertionError as error:
                report.checks[name] = str(error) or "failed"


def _environment(settings: Settings) -> dict[str, str]:
    """What workers are told beside their broker."""
    own = {variable(name): str(getattr(settings, name)) for name in sorted(settings.model_fields_set - {"bootstrap"})}
    return {**own, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _kill_worker(cluster: Cluster, fleet: Fleet, what: Disturbance) -> None:
    fleet.kill(what.whom)
    del fleet.processes[what.whom]
    fleet.wait(what.lasts_s)
    fleet.start(what.whom)


def _stop_worker(cluster: Cluster, fleet: Fleet, what: Disturbance) -> None:
    stage, _, slot = what.whom.partition("/")
    group = f"trendstream.{stage}"
    name = "" if stage in ENCODERS else f"{group}.{slot}"  # encoders have none
    before = cluster.members(group)
    fleet.stop_still(what.whom)
    woken = time.monotonic() + what.lasts_s
    fleet.start(what.whom)
    # On a busy machine it needs its time to come up.
    while not [member for member, own in cluster.members(group).items() if own == name and member not in before]:
        assert time.monotonic() < woken + 60, f"the heir of {what.whom} is no member after {what.lasts_s + 60:.0f} s"
        fleet.wait(0.5)
    fleet.wait(woken - time.monotonic())
    fleet.wake_and_see_it_end()


def _kill_broker(cluster: Cluster, fleet: Fleet, what: Disturbance) -> None:
    broker = cluster.brokers[int(what.whom.split()[1]) - 1]
    cluster.wait_in_sync(fleet.tend)  # never a second one away
    broker.kill()
    fleet.wait(what.lasts_s)
    broker.start()
    cluster.wait_in_sync(fleet.tend)


def _cut_connections(cluster: Cluster, fleet: Fleet, what: Disturbance) -> None:
    cluster.proxy.cut()
    fleet.wait(what.lasts_s)
    cluster.proxy.mend()


def _restart_all(cluster: Cluster, fleet: Fleet, what: Disturbance) -> None:
    killed = fleet.kill_all()
    cluster.kill()
    time.sleep(what.lasts_s)
    cluster.start()
    fleet.start(*killed)
    cluster.wait_in_sync(fleet.tend)


def _join_worker(cluster: Cluster, fleet: Fleet, what: Disturbance) -> None:
    fleet.start(what.whom)


def _leave_worker(cluster: Cluster, fleet: Fleet, what: Disturbance) -> None:
    fleet.dismiss(what.whom)


_APPLY: dict[str, Callable[[Cluster, Fleet, Disturbance], None]] = {
    "kill-worker": _kill_worker,
    "stop-worker": _stop_worker,
    "kill-broker": _kill_broker,
    "cut-connections": _cut_connections,
    "restart-all": _restart_all,
    "join-worker": _join_worker,
    "leave-worker": _leave_worker,
}
assert _APPLY.keys() == ABOUT.keys()
