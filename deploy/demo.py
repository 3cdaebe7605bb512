"""The demo: train on the first part of a year of sales, stream the rest through Kafka and all workers, and report.

Without Java, or where the settings say so, the same runs on the in-process log.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy import pipeline
from deploy.backtest import backtest
from deploy.errors import DeployError
from deploy.following import CloseFollower, ScoreFollower, order_latencies, stage_counters, wait_for
from deploy.local_kafka import VERSION, LocalKafka, find_java
from deploy.report import RunReport, write_report
from deploy.results import TOPICS, Results
from deploy.settings import Settings
from deploy.sources import COMPLETE_JOURNEY, PlatformEvent, Span
from deploy.sources.complete_journey import CompleteJourney
from deploy.sources.replayer import KafkaSink, Pace, Replayed, Replayer
from deploy.summary import Observation, Run, percentiles, summarise
from deploy.topics import create_topics
from deploy.training import before, start_history, train_bundle
from deploy.watch import Watch, timed
from model.registry import newest
from model.train import TrainConfig
from streams import kafka
from streams.records import DAYS
from streams.signals.read_model import ReadModel

OUT_OF_ORDER_MS = 60_000  # IngestConfig's: event time stands this far behind the newest order


@dataclass(frozen=True)
class DemoConfig:
    products: int = 200
    train_until: dt.date = dt.date(2017, 9, 1)
    live_from: dt.date = dt.date(2017, 12, 30)  # the days from here on play slowly, for latency
    live_rate: float = 50.0  # events a second of that part
    epochs: int = 3
    patience_s: float = 120.0  # without any progress, before the demo gives up


def choose_broker(settings: Settings) -> str:
    """ "settings", "local" or "in-process": which log the demo runs on."""
    if settings.bootstrap:
        return "settings"
    return "local" if find_java() else "in-process"


def run_demo(settings: Settings, folder: Path, watch: Watch, config: DemoConfig) -> RunReport:
    """Writes report.json, report.html and predictions.parquet into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings.model_copy(
        update={
            "platforms": {COMPLETE_JOURNEY.name: settings.platforms[COMPLETE_JOURNEY.name]},
            "model_dir": folder / "models",
            "database_url": f"sqlite:///{folder / 'read-model.db'}",
            "partitions": min(settings.partitions, 2),  # two cores
            "idle_ms": 1_500,
        }
    )
    where = choose_broker(settings)
    if where == "in-process":
        source = CompleteJourney(config.products, ranked_before=config.train_until)
        return backtest(
            source, settings, _instant(config.train_until), folder, watch, TrainConfig(epochs=config.epochs)
        )
    if where == "settings":
        return _on_kafka(settings, settings.bootstrap, f"kafka at {settings.bootstrap}", folder, watch, config)
    local = folder / "kafka"
    if LocalKafka(local, jars=settings.kafka_jars).running():
        raise DeployError(f"a demo is running in {folder} already; wait for it, or give another folder with --folder")
    shutil.rmtree(local, ignore_errors=True)  # each demo begins with an empty broker
    with LocalKafka(local, jars=settings.kafka_jars) as broker:
        return _on_kafka(settings, broker.bootstrap, f"kafka {VERSION}", folder, watch, config)


def _on_kafka(
    settings: Settings, bootstrap: str, name: str, folder: Path, watch: Watch, config: DemoConfig
) -> RunReport:
    _require_empty(bootstrap)
    create_topics(bootstrap, settings.partitions)
    seconds: dict[str, float] = {}
    observed = Observation(Results(since=_instant(config.train_until)))

    with timed(seconds, "training"):
        _train(settings, watch, config)
    for part in folder.glob("read-model.db*"):
        part.unlink()

    warm_from = config.train_until - dt.timedelta(days=DAYS)
    stream = CompleteJourney(config.products, Span(warm_from, None), ranked_before=config.train_until)
    live_from = _instant(config.live_from)
    events = observed.watch(stream)
    pending: list[PlatformEvent] = []
    total = stream.estimate
    with _workers(settings, bootstrap, folder) as workers, CloseFollower(bootstrap, settings.partitions) as closes:
        with timed(seconds, "stream"):
            watch.part(f"streaming {total:,} events through {name} and all workers", _days(warm_from, config))
            fast = _play(_until(events, live_from, pending), bootstrap, Pace())
            first = _instant(warm_from)
            _await(fast, closes, lambda: _tell(workers, closes, first, watch), config)
        with timed(seconds, "live"), ScoreFollower(bootstrap) as scores:
            watch.part(f"the last days at {config.live_rate:g} events a second, to measure latency", 0)
            since = int(time.time() * 1000)
            slow = _play(iter([*pending, *events]), bootstrap, Pace(rate=config.live_rate))
            _await(slow, closes, lambda: _tell(workers, closes, first, watch), config)
            time.sleep(settings.live_interval_ms / 1000 + 1.0)  # the last live windows
    watch.part("reading back what lies in the topics", 0)
    with timed(seconds, "report"):
        latencies = order_latencies(bootstrap, since, scores)
        for topic in (*TOPICS, "model.heads", "model.events"):
            observed.take(kafka.read(bootstrap, topic))
        counters = stage_counters(bootstrap)
        run = Run(
            broker=name,
            description={**stream.description, "train_until": config.train_until.isoformat()},
            produced={t: fast.produced.get(t, 0) + slow.produced.get(t, 0) for t in {*fast.produced, *slow.produced}},
            counters=counters,
            seconds=seconds,
            latency_ms={"order_to_score": percentiles(latencies["order_to_score"])},
            stage_latency_ms={
                "order to event": percentiles(latencies["ingest"]),
                "order to score": percentiles(latencies["order_to_score"]),
            },
            stage_rates=_rates(counters, seconds["stream"] + seconds["live"]),
        )
        read_model = ReadModel(settings.database_url)
        report = summarise(run, observed, read_model)
        read_model.close()
        observed.results.write_predictions(folder / "predictions.parquet")
    write_report(report, folder)
    return report


def _train(settings: Settings, watch: Watch, config: DemoConfig) -> None:
    until = _instant(config.train_until)
    past = CompleteJourney(config.products, Span(None, config.train_until), ranked_before=config.train_until)
    watch.part("reading the sales and the encoders", 0)
    total = past.estimate
    history = start_history(past, settings, until)
    watch.part("folding the history into windows", total)
    history.feed(before(past, until), watch.done)
    watch.part("training the network", 0)
    train_bundle(history, settings, TrainConfig(epochs=config.epochs, device=pipeline.device(settings)), watch.trained)
    if newest(settings.model_dir) is None:
        raise DeployError(f"training left no model in {settings.model_dir}")


@contextmanager
def _workers(settings: Settings, bootstrap: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """All workers as processes; their log is in the folder."""
    log = folder / "workers.log"
    environment = {
        **os.environ,
        "TRENDSTREAM_BOOTSTRAP": bootstrap,
        "TRENDSTREAM_PARTITIONS": str(settings.partitions),
        "TRENDSTREAM_PLATFORMS": json.dumps({k: v.model_dump() for k, v in settings.platforms.items()}),
        "TRENDSTREAM_MODEL_DIR": str(settings.model_dir),
        "TRENDSTREAM_DATABASE_URL": settings.database_url,
        "TRENDSTREAM_IDLE_MS": str(settings.idle_ms),
        "OMP_NUM_THREADS": "1",  # two cores are shared by nine processes
    }
    with log.open("wb") as out:
        command = [sys.executable, "-m", "deploy.cli", "worker", "all"]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            code = process.wait(90)
    if code != 0:
        raise DeployError(f"the workers ended with {code}; see {log}")


def _play(events: Iterator[PlatformEvent], bootstrap: str, pace: Pace) -> Replayed:
    played = Replayer(events, KafkaSink(bootstrap), kafka.partition_counts(bootstrap), pace).run()
    if played.failed:
        raise DeployError(f"{sum(played.failed.values())} events were not delivered: {played.errors[0]}")
    return played


def _until(events: Iterator[PlatformEvent], instant: int, pending: list[PlatformEvent]) -> Iterator[PlatformEvent]:
    """Events before `instant`; the first one after it goes to `pending`."""
    for event in events:
        if event.at >= instant:
            pending.append(event)
            return
        yield event


def _await(played: Replayed, closes: CloseFollower, check: Callable[[], None], config: DemoConfig) -> None:
    calendar = COMPLETE_JOURNEY.calendar
    boundary = calendar.start(int(calendar.day(played.last - OUT_OF_ORDER_MS)))
    if not wait_for(boundary, closes, check, config.patience_s):
        day = calendar.date(int(calendar.day(closes.boundary)))
        raise DeployError(f"the workers stand still at {day}; their log says why")


def _tell(workers: subprocess.Popen[bytes], closes: CloseFollower, first: int, watch: Watch) -> None:
    if workers.poll() is not None:
        raise DeployError(f"the workers ended with {workers.returncode}; their log says why")
    if closes.boundary > first:
        watch.done(round((closes.boundary - first) / 86_400_000))


def _require_empty(bootstrap: str) -> None:
    there = kafka.partition_counts(bootstrap)
    for topic in ("orders", "trend.events", "trend.scores"):
        if topic in there and any(end > begin for begin, end in kafka.end_offsets(bootstrap, topic)):
            raise DeployError(
                f"topic {topic} at {bootstrap} holds records: the demo would mix with them; unset "
                "TRENDSTREAM_BOOTSTRAP to use a broker of its own"
            )


def _rates(counters: dict[str, dict[str, int]], seconds: float) -> dict[str, float]:
    """Rows of each stage a second, over the time in which events were streamed."""
    rows = {"ingest": "read", "windows": "events", "inference": "windows", "labels": "outcomes", "signals": "rows"}
    return {s: round(counters.get(s, {}).get(name, 0) / max(seconds, 1e-9), 1) for s, name in rows.items()}


def _days(first: dt.date, config: DemoConfig) -> int:
    return (config.live_from - first).days


def _instant(date: dt.date) -> int:
    calendar = COMPLETE_JOURNEY.calendar
    return calendar.start(calendar.index(date))
