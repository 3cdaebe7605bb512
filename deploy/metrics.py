"""Prometheus metrics of one worker: an observer of its runner, served over HTTP on a port of its own.

What belongs to a task (event time, counters, snapshot, head) is taken from its newest progress when it is scraped, so
it says what `trend.progress` says. Ages and delays are left to PromQL: `time() - trendstream_snapshot_taken_seconds`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.errors import ConfigurationError
from deploy.settings import Settings
from deploy.supervisor import ENCODERS, WORKERS
from streams.observing import Silent
from streams.records import HORIZONS
from streams.records.outside import Progress
from streams.stage import TaskKey

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_RECORDS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
_TASK = ("stage", "topic", "partition")
_STAGES = (*(w for w in WORKERS if w != "features"), *ENCODERS)
_DEAD = "dead."
_PORTS_A_SLOT = 10


class MetricsObserver(Silent):
    """Turns what a runner tells into metrics in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tasks = _Tasks()
        self.registry.register(self._tasks)

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"trendstream_{name}", about, ("stage", *labels), registry=self.registry)

        def histogram(name: str, about: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"trendstream_{name}", about, ("stage",), buckets=buckets, registry=self.registry)

        self._records = counter("records", "input records in commits")
        self._outputs = counter("outputs", "records published in commits")
        self._aborts = counter("aborts", "transactions that were thrown away")
        self._warnings = counter("warnings", "what a worker warned of")
        self._commit = histogram("commit_seconds", "how long a commit takes", _SECONDS)
        self._batch = histogram("batch_records", "input records in a commit", _RECORDS)
        self._delay = histogram("delay_seconds", "age of the newest record of a task when it is committed", _SECONDS)
        self._restore = histogram("restore_seconds", "how long a task takes to get its state back", _SECONDS)
        self._lag = Gauge("trendstream_lag_records", "offsets that are left to read", _TASK, registry=self.registry)

    def assigned(self, stage: str, tasks: Sequence[TaskKey]) -> None:
        self._lag.clear()
        self._tasks.keep(tasks)
        for each in (self._aborts, self._warnings):
            each.labels(stage)  # a rate needs the zero before the first one

    def restored(self, stage: str, task: TaskKey, snapshot: int, offset: int, seconds: float) -> None:
        self._restore.labels(stage).observe(seconds)

    def committed(self, stage: str, records: int, outputs: int, seconds: float) -> None:
        self._records.labels(stage).inc(records)
        self._outputs.labels(stage).inc(outputs)
        self._commit.labels(stage).observe(seconds)
        if records:
            self._batch.labels(stage).observe(records)

    def progressed(self, progress: Progress, delay_s: float | None) -> None:
        self._tasks.put(progress)
        if delay_s is not None:
            self._delay.labels(progress.stage).observe(max(delay_s, 0.0))

    def lagging(self, stage: str, task: TaskKey, records: int) -> None:
        self._lag.labels(stage, task[0], str(task[1])).set(records)

    def aborted(self, stage: str, reason: str) -> None:
        self._aborts.labels(stage).inc()

    def warned(self, stage: str, message: str) -> None:
        self._warnings.labels(stage).inc()


class _Tasks(Collector):
    """The newest progress of each task that the worker has, as metrics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[TaskKey, Progress] = {}

    def put(self, progress: Progress) -> None:
        with self._lock:
            self._newest[progress.topic, progress.partition] = progress

    def keep(self, tasks: Iterable[TaskKey]) -> None:
        with self._lock:
            self._newest = {key: self._newest[key] for key in tasks if key in self._newest}

    def describe(self) -> list[Metric]:
        return []  # or the registry would collect once to find names

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            found = list(self._newest.values())
        gauges = {
            name: GaugeMetricFamily(f"trendstream_{name}", about, labels=(*_TASK, *more))
            for name, about, more in (
                ("committed_offset", "next input offset", ()),
                ("event_time_seconds", "event time that the task has come to", ()),
                ("snapshot_taken_seconds", "when the newest snapshot was taken", ()),
                ("snapshot_behind_offsets", "folded since the newest snapshot", ()),
                ("head_epoch_seconds", "event time of the head in use", ("model", "head")),
                ("error_ratio", "absolute error of the medians over units sold, newest epoch", ("days", "of")),
                ("sources_idle", "sources that hold event time back no more", ()),
            )
        }
        counters = CounterMetricFamily("trendstream_task", "what the stage counts", labels=(*_TASK, "counter"))
        dead = CounterMetricFamily("trendstream_dead_letters", "by reason", labels=(*_TASK, "reason"))
        for p in found:
            task = (p.stage, p.topic, str(p.partition))
            gauges["committed_offset"].add_metric(task, p.offset)
            if p.snapshot_at:
                gauges["snapshot_taken_seconds"].add_metric(task, p.snapshot_at / 1000)
                gauges["snapshot_behind_offsets"].add_metric(task, p.offset - p.snapshot_offset)
            if "event_time" in p.report:
                gauges["event_time_seconds"].add_metric(task, float(p.report["event_time"]) / 1000)
            if "idle" in p.report:
                gauges["sources_idle"].add_metric(task, float(p.report["idle"]))
            if "head" in p.report:
                of = (*task, str(p.report["model"]), str(p.report["head"]))
                gauges["head_epoch_seconds"].add_metric(of, float(p.report["head_epoch"]) / 1000)
            for days, of_what, ratio in errors(p):
                gauges["error_ratio"].add_metric((*task, str(days), of_what), ratio)
            for name, value in p.counters.items():
                if name.startswith(_DEAD):
                    dead.add_metric((*task, name.removeprefix(_DEAD)), value)
                else:
                    counters.add_metric((*task, name), value)
        yield from (*gauges.values(), counters, dead)


def errors(progress: Progress) -> list[tuple[int, str, float]]:
    """Of the learner's newest epoch: horizon in days, `head` or `frozen`, error over units sold."""
    report, found = progress.report, []
    for days in HORIZONS:
        units = float(report.get(f"units_{days}", 0))
        for of, name in (("head", "error"), ("frozen", "frozen_error")):
            if units and f"{name}_{days}" in report:
                found.append((days, of, float(report[f"{name}_{days}"]) / units))
    return found


def port_of(settings: Settings, stage: str) -> int:
    """Where a worker serves its metrics: ten ports a slot, one of them a stage. 0: nowhere."""
    if not settings.metrics_port:
        return 0
    return settings.metrics_port + _PORTS_A_SLOT * settings.slot + _STAGES.index(stage)


def serve(observer: MetricsObserver, settings: Settings, stage: str) -> None:
    """Answer scrapes in a thread for as long as the process lives."""
    port = port_of(settings, stage)
    if not port:
        return
    try:
        start_http_server(port, settings.metrics_host, observer.registry)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"metrics of {stage} cannot be served on {settings.metrics_host}:{port}: {error}; give another "
            "TRENDSTREAM_METRICS_PORT, from which each stage and slot counts on"
        ) from error
