"""The whole loop under a fixed load: from order to readable score.

As in Karimov et al., Benchmarking Distributed Stream Processing Systems (ICDE 2018): an event's time begins when the
schedule says that it is due, whether or not the driver was in time, and the driver never slows down for the system.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from deploy.following import ScoreFollower, order_latencies, stage_counters
from deploy.local_kafka import JARS, LocalKafka
from deploy.supervisor import start_worker
from deploy.topics import create_topics
from model.registry import save_bundle, untrained_bundle
from streams import kafka
from tests.bench.suite import BenchError, Part, Piece, Settings, Table, say

PARTITIONS = 4
LINES = 2  # of an order
RATES = (300, 2_000, 10_000)  # order lines a second
WARM_S, MEASURED_S = 15.0, 20.0
PRODUCTS = 20_000


@dataclass(frozen=True)
class Load:
    rate: float  # order lines a second
    seconds: float
    products: int


def offer(bootstrap: str, load: Load, began: float, first: int) -> None:
    """Send orders at a fixed rate from `began` (epoch s) on; `first` tells the orders of one call from another's."""
    rate, seconds, products = load.rate, load.seconds, load.products
    to = kafka.producer(bootstrap)
    draw = np.random.default_rng(first)
    weights = 1 / np.arange(1, products + 1)
    count = int(rate * seconds / LINES)
    lines = draw.choice(products, (count, LINES), p=weights / weights.sum())
    for number in range(count):
        due = began + number * LINES / rate
        if (wait := due - time.time()) > 0.002:
            to.poll(0)
            time.sleep(wait)
        at = int(due * 1000)
        listed = b",".join(b'{"product_id":"p%d","quantity":1,"unit_price":"9.99"}' % p for p in lines[number])
        order = b'{"platform":"shop","order_id":"%d-%d","buyer_id":"b%d","ordered_at":%d,"currency":"EUR",' % (
            *(first, number, number % 10_007, at),
        )
        value = order + b'"status":"placed","lines":[%s]}' % listed
        while True:
            try:
                to.produce("orders", value, partition=number % PARTITIONS, timestamp=int(due * 1000))
                break
            except BufferError:  # its time has begun all the same
                to.poll(0.05)
    to.flush(60)


@contextmanager
def loop(folder: Path) -> Iterator[str]:
    """A broker, and every worker on it, with a network that was never trained: it costs what a trained one costs."""
    shutil.rmtree(folder, ignore_errors=True)  # a broker keeps its records, and time never goes back
    folder.mkdir(parents=True)
    save_bundle(untrained_bundle(), folder / "models")
    with LocalKafka(folder / "kafka", jars=JARS) as local:
        create_topics(local.bootstrap, PARTITIONS)
        environment = {
            **os.environ,
            "TRENDSTREAM_BOOTSTRAP": local.bootstrap,
            "TRENDSTREAM_PARTITIONS": str(PARTITIONS),
            "TRENDSTREAM_PLATFORMS": '{"shop": {}}',
            "TRENDSTREAM_MODEL_DIR": str(folder / "models"),
            "TRENDSTREAM_DATABASE_URL": f"sqlite:///{folder / 'read-model.db'}",
            "OMP_NUM_THREADS": "1",
        }
        workers = start_worker(["all"], environment, folder / "workers.log")
        try:
            yield local.bootstrap
            if not workers.is_alive():
                raise BenchError(f"the workers ended with {workers.exitcode}; see {folder / 'workers.log'}")
        finally:
            workers.terminate()
            workers.join(60)
            workers.kill()


def _drive(connection: Connection, bootstrap: str, load: Load, first: int) -> None:
    connection.send("ready")
    offer(bootstrap, load, connection.recv(), first)


def _offered(bootstrap: str, load: Load, first: int) -> tuple[float, Callable[[], None]]:
    """A driver in a process of its own: when it begins, and what waits for its end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    driver = context.Process(target=_drive, args=(there, bootstrap, load, first))
    driver.start()
    here.recv()  # imports take seconds: a load that begins before they are done would begin with a burst
    began = time.time() + 2.0
    here.send(began)

    def wait() -> None:
        driver.join()
        if driver.exitcode:
            raise BenchError(f"the driver ended with {driver.exitcode}")

    return began, wait


def first_score(bootstrap: str) -> None:
    with ScoreFollower(bootstrap) as scores:
        deadline = time.monotonic() + 180
        number = 0
        while not scores.seen:
            if time.monotonic() > deadline:
                raise BenchError("no score came within 180 s")
            number += 1
            offer(bootstrap, Load(100, 0.5, 50), time.time(), -number % 1_000_000)


def at_rate(bootstrap: str, rate: float, first: int) -> dict[str, float]:
    """Quantiles of a load of so many order lines a second, ms."""
    before = stage_counters(bootstrap)["windows"]
    with ScoreFollower(bootstrap) as scores:
        began, wait = _offered(bootstrap, Load(rate, WARM_S + MEASURED_S, PRODUCTS), first)
        wait()
        behind = time.time() - began - WARM_S - MEASURED_S
        time.sleep(3.0)  # what is answered later than that was not answered in time
        ended = time.time()
        since = int((began + WARM_S) * 1000)
        found = np.asarray(order_latencies(bootstrap, since, scores)["order_to_score"])
        after = stage_counters(bootstrap)["windows"]
    due = rate * MEASURED_S
    some = len(found) > 0
    return {
        "rate": rate,
        "p50": float(np.quantile(found, 0.5)) if some else float("nan"),
        "p99": float(np.quantile(found, 0.99)) if some else float("nan"),
        "answered": len(found) / due,
        "live": (after["live"] - before["live"]) / (ended - began),
        "held": after["live_held"] - before["live_held"],
        "driver_late_s": behind,
    }


def drain(bootstrap: str) -> None:
    """Until nothing more is written: what one rate has left behind is no other's."""
    topics = ("trend.events", "trend.windows", "trend.scores", "signals.ads")
    last: list[Any] = []
    deadline = time.monotonic() + 180
    while (now := [kafka.end_offsets(bootstrap, t) for t in topics]) != last:
        if time.monotonic() > deadline:
            say("  the workers have not caught up within 180 s")
            return
        last = now
        time.sleep(3.0)


def measure(folder: Path, rates: Sequence[float] = RATES) -> list[dict[str, float]]:
    found = []
    with loop(folder) as bootstrap:
        first_score(bootstrap)
        for number, rate in enumerate(rates, 1):
            say(f"  {rate:,.0f} order lines a second for {WARM_S + MEASURED_S:.0f} s")
            found.append(at_rate(bootstrap, rate, number * 1_000_000))
            if rate != rates[-1]:
                drain(bootstrap)
    return found


def run(settings: Settings) -> Piece:
    found = measure(settings.folder / "latency")
    rows = [
        (
            f"{one['rate']:,.0f} lines/s",
            f"{one['p50']:,.0f}",
            f"{one['p99']:,.0f}",
            f"{one['answered']:.1%}",
            f"{one['live']:,.0f}",
            f"{one['held']:,.0f}",
        )
        for one in found
    ]
    head = (
        "order to readable score",
        "p50 ms",
        "p99 ms",
        "answered within 3 s of the end",
        "live windows/s",
        "held back",
    )
    top = found[-1]
    keys = {
        "latency_ms": {
            "order_to_score": {"p50": top["p50"], "p99": top["p99"]},
            "order_to_score_by_rate": found,
        }
    }
    return Piece(
        keys,
        [
            Table("All workers and the broker on the cores of this machine, encoders idle", head, rows),
        ],
    )


PART = Part("latency", "order to readable score at fixed rates", lambda _: 240, run)
