"""The whole loop under a fixed load: from order to readable score, and from the end of a day to the head in use."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.following import ScoreFollower
from deploy.local_kafka import JARS, LocalKafka
from deploy.supervisor import start_worker
from deploy.topics import create_topics
from model.registry import save_bundle, untrained_bundle
from streams import kafka
from streams.calendars import DAY
from streams.stage import Message
from tests.bench.answers import Answers, answers, days_passed, emissions, heads_used
from tests.bench.neighbours import Neighbours
from tests.bench.offered import LINES, Driver, Load, offer
from tests.bench.suite import BenchError, Part, Piece, Settings, Table, say

PARTITIONS = 4
RATES = (300.0, 1_000.0, 3_000.0, 10_000.0)  # order lines a second
WARM_S, MEASURED_S = 10.0, 20.0
GRACE_S = 3.0  # what is answered later than this after the load's end is not answered
PRODUCTS = 20_000
DAYS, DAY_S, SOLD_A_SECOND, ACTIVE = 32, 4.0, 200.0, 500  # of the part that closes days
# Live windows a partition and commit of ingest: some 1,500 a second in all. Two cores can score more of them, but what
# comes then waits longer than what is kept out.
LIVE_ROWS = 48
_READ = ("orders", "trend.events", "trend.windows", "trend.predictions")


@dataclass(frozen=True)
class Loop:
    """A running system."""

    bootstrap: str

    def mark(self) -> dict[str, dict[int, int]]:
        """Where the topics end now, by topic and partition."""
        return {t: {p: end for p, (_, end) in enumerate(kafka.end_offsets(self.bootstrap, t))} for t in _READ}

    def since(self, mark: Mapping[str, dict[int, int]], topic: str) -> Iterator[Message]:
        return kafka.read(self.bootstrap, topic, start=mark[topic])


@contextmanager
def loop(folder: Path, **environment: str) -> Iterator[Loop]:
    """A broker, and every worker on it, with a network that was never trained: it costs what a trained one costs."""
    shutil.rmtree(folder, ignore_errors=True)  # a broker keeps its records, and time never goes back
    folder.mkdir(parents=True)
    save_bundle(untrained_bundle(), folder / "models")
    with LocalKafka(folder / "kafka", jars=JARS, long_lived=True) as local:
        create_topics(local.bootstrap, PARTITIONS)
        settings = {
            **os.environ,
            "TRENDSTREAM_BOOTSTRAP": local.bootstrap,
            "TRENDSTREAM_PARTITIONS": str(PARTITIONS),
            "TRENDSTREAM_PLATFORMS": '{"shop": {}}',
            "TRENDSTREAM_MODEL_DIR": str(folder / "models"),
            "TRENDSTREAM_DATABASE_URL": f"sqlite:///{folder / 'read-model.db'}",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        workers = start_worker(["all"], settings, folder / "workers.log")
        try:

            def check() -> None:
                if not workers.is_alive():
                    raise BenchError(f"the workers ended with {workers.exitcode}; see {folder / 'workers.log'}")

            first_score(local.bootstrap, check)
            yield Loop(local.bootstrap)
            check()
        finally:
            workers.terminate()
            workers.join(60)
            workers.kill()


def first_score(bootstrap: str, check: Callable[[], None]) -> None:
    """Orders from before the first load, until one has its score: then all are at work."""
    began = time.time() - (DAYS + 2) * DAY / 1000
    with ScoreFollower(bootstrap) as scores:
        for number in range(1, 180):
            check()
            offer(bootstrap, Load(100, 1.0, 50, PARTITIONS, 1_000 + number), began + number)
            if scores.seen:
                return
            time.sleep(1.0)
    raise BenchError("no score came within 180 s")


@dataclass(frozen=True)
class Measured:
    """One rate."""

    rate: float
    answers: Answers
    live: float  # windows a second
    driver_late_s: float
    others: float  # share of the machine that went to other processes

    def as_json(self) -> dict[str, float | None]:
        numbers = {
            "lines_per_s": self.rate,
            **{f"p{q}": self.answers.quantile(q / 100) for q in (50, 99)},
            **{f"p{q}_not_held": self.answers.quantile(q / 100, held=False) for q in (50, 99)},
            "held": float(self.answers.held.mean()),
            "unanswered": self.answers.unanswered,
            "live_windows_per_s": self.live,
            "driver_late_s": self.driver_late_s,
            "others_share": self.others,
        }
        return {name: round(n, 3) if np.isfinite(n) else None for name, n in numbers.items()}


def at_rate(running: Loop, load: Load) -> Measured:
    mark = running.mark()
    with ScoreFollower(running.bootstrap) as scores:
        driver = Driver(running.bootstrap, load)
        began = driver.begin()
        neighbours = Neighbours()
        late = driver.end()
        others = neighbours.share()
        time.sleep(GRACE_S)
    since, until = (began + WARM_S) * 1000, (began + load.seconds) * 1000
    due = {(m.partition, m.offset): m.timestamp for m in running.since(mark, "orders") if since <= m.timestamp < until}
    live = emissions(running.since(mark, "trend.windows"))
    found = answers(due, running.since(mark, "trend.events"), live, scores.seen, LINES)
    return Measured(load.rate, found, sum(map(len, live.values())) / load.seconds, late, others)


def close_to_head(running: Loop, load: Load) -> npt.NDArray[np.float64]:
    """[closes] ms from the record of trend.events that lets a day end to the first prediction with its epoch's head, by
    the times at which both were handed to their producers. A head that never came is infinite."""
    mark = running.mark()
    driver = Driver(running.bootstrap, load)
    began = driver.begin()
    driver.end()
    time.sleep(GRACE_S)
    first = load.event_time(began + load.seconds / 4, began)  # before that outcomes are few
    passed = days_passed(running.since(mark, "trend.events"))
    used = heads_used(running.since(mark, "trend.predictions"))
    ends = [end for end in sorted(passed) if end > first]
    if not ends:
        raise BenchError("no day ended")
    return np.asarray([min((at for e, at in used.items() if e >= end), default=np.inf) - passed[end] for end in ends])


def drain(running: Loop) -> None:
    """Until nothing more is written: what one rate has left behind is no other's."""
    last: list[Any] = []
    deadline = time.monotonic() + 120
    while (now := [kafka.end_offsets(running.bootstrap, t) for t in ("trend.windows", "trend.scores")]) != last:
        if time.monotonic() > deadline:
            say("  the workers have not caught up within 120 s")
            return
        last = now
        time.sleep(2.0)


def run(settings: Settings) -> Piece:
    found = []
    with loop(settings.folder / "latency", TRENDSTREAM_LIVE_ROWS=str(LIVE_ROWS)) as running:
        say(f"  {DAYS} days of {DAY_S:g} s each, {ACTIVE:,} products")
        closing = Load(SOLD_A_SECOND, DAYS * DAY_S, ACTIVE, PARTITIONS, 1, DAY_S)
        heads = close_to_head(running, closing)
        for number, rate in enumerate(RATES, 2):
            drain(running)
            say(f"  {rate:,.0f} order lines a second for {WARM_S + MEASURED_S:.0f} s")
            found.append(at_rate(running, Load(rate, WARM_S + MEASURED_S, PRODUCTS, PARTITIONS, number)))
    return piece(found, heads)


def piece(found: list[Measured], heads: npt.NDArray[np.float64]) -> Piece:
    rows = [
        (
            f"{one.rate:,.0f} lines/s",
            *(f"{one.answers.quantile(q):,.0f}" for q in (0.5, 0.99)),
            f"{one.answers.held.mean():.1%}",
            *(f"{one.answers.quantile(q, held=False):,.0f}" for q in (0.5, 0.99)),
            f"{one.answers.unanswered:.1%}",
            f"{one.live:,.0f}",
            f"{one.driver_late_s * 1000:,.0f}",
            f"{one.others:.0%}",
        )
        for one in found
    ]
    head = [*("order to readable score", "p50 ms", "p99 ms", "held back", "others p50", "p99")]
    head += ["unanswered", "live windows/s", "driver late ms", "taken by others"]
    in_use = {f"p{q}": float(np.quantile(heads, q / 100, method="higher")) for q in (50, 99)}
    top = found[-1].as_json()
    keys = {
        "latency_ms": {
            "order_to_score": {"p50": top["p50"], "p99": top["p99"], "by_rate": [one.as_json() for one in found]},
            "outcome_to_head": {q: round(ms) if np.isfinite(ms) else None for q, ms in in_use.items()},
        }
    }
    closes = (f"{len(heads)} days of {ACTIVE:,} products", *(f"{ms:,.0f}" for ms in in_use.values()))
    return Piece(
        keys,
        [
            Table("All workers and the broker on the cores of this machine, encoders idle", head, rows),
            Table("From the watermark's passing to the head in use", ("end of a day", "p50 ms", "p99 ms"), [closes]),
        ],
    )


PART = Part("latency", "order to readable score, and end of a day to its head, at fixed rates", lambda _: 330, run)
