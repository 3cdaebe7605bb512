"""The whole loop under a fixed load: order to readable score, and close to the head in use.

As in Karimov et al., Benchmarking Distributed Stream Processing Systems (ICDE 2018): an event's time begins when the
schedule says that it is due, whether or not the driver was in time, and the driver never slows down for the system.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deploy.following import ScoreFollower, order_latencies, stage_counters
from deploy.local_kafka import JARS, LocalKafka
from deploy.supervisor import start_worker
from deploy.topics import create_topics
from model.registry import save_bundle, untrained_bundle
from streams import kafka
from streams.codecs import decode
from streams.records import CLOSES, PREDICTIONS
from tests.bench.suite import BenchError, Part, Piece, Settings, Table, say

PARTITIONS = 4
LINES = 2  # of an order
RATES = (500, 2_000, 10_000)  # order lines a second
WARM_S, MEASURED_S = 15.0, 20.0
PRODUCTS = 20_000
DAY_MS = 86_400_000
DAYS, DAY_S, DAY_PRODUCTS, DAY_RATE = 24, 2.0, 200, 200  # the second run: a day of event time in so many seconds


def offer(bootstrap: str, rate: float, seconds: float, products: int, faster: float, began: float, first: int) -> None:
    """Send orders at a fixed rate of lines from `began` (epoch s) on; event time runs `faster` than the clock."""
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
        at = int((began + (due - began) * faster) * 1000)
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
def _loop(folder: Path) -> Iterator[str]:
    """A broker, and every worker on it, with a network that was never trained: it costs what a trained one costs."""
    folder.mkdir(parents=True, exist_ok=True)
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


def _offered(bootstrap: str, *arguments: Any) -> Callable[[], None]:
    """A driver in a process of its own; the function waits for its end."""
    driver = multiprocessing.get_context("spawn").Process(target=offer, args=(bootstrap, *arguments))
    driver.start()

    def wait() -> None:
        driver.join()
        if driver.exitcode:
            raise BenchError(f"the driver ended with {driver.exitcode}")

    return wait


def _first_score(bootstrap: str) -> None:
    with ScoreFollower(bootstrap) as scores:
        deadline = time.monotonic() + 180
        number = 0
        while not scores.seen:
            if time.monotonic() > deadline:
                raise BenchError("no score came within 180 s")
            number += 1
            offer(bootstrap, 100, 0.5, 50, 1.0, time.time(), -number % 1_000_000)


def at_rate(bootstrap: str, rate: float, first: int) -> dict[str, float]:
    """Quantiles of a load of so many order lines a second, ms."""
    before = stage_counters(bootstrap)["windows"]
    began = time.time() + 3.0
    with ScoreFollower(bootstrap) as scores:
        wait = _offered(bootstrap, rate, WARM_S + MEASURED_S, PRODUCTS, 1.0, began, first)
        wait()
        behind = time.time() - began - WARM_S - MEASURED_S
        time.sleep(3.0)  # what is answered later than that was not answered in time
        ended = time.time()
        since = int((began + WARM_S) * 1000)
        found = np.asarray(order_latencies(bootstrap, since, scores)["order_to_score"])
        after = stage_counters(bootstrap)["windows"]
        _drain(bootstrap)
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


def _drain(bootstrap: str) -> None:
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


def heads(bootstrap: str) -> dict[str, float]:
    """From the last partition's close of a boundary to the first prediction with that epoch's head, ms."""
    before = {m.offset for m in kafka.read(bootstrap, "model.heads")}
    began = time.time() + 1.0
    _offered(bootstrap, DAY_RATE, DAYS * DAY_S, DAY_PRODUCTS, DAY_MS / 1000 / DAY_S, began, 9_000_000)()
    _drain(bootstrap)
    closed: dict[int, dict[int, int]] = {}
    for message in kafka.read(bootstrap, "trend.windows"):
        rows = decode(message.value or b"")
        if rows.record is CLOSES:
            for end in rows["end"].tolist():
                closed.setdefault(end, {})[message.partition] = message.timestamp
    used: dict[int, int] = {}
    for message in kafka.read(bootstrap, "trend.predictions"):
        rows = decode(message.value or b"")
        if rows.record is PREDICTIONS:
            for epoch in set(rows["head_epoch"].tolist()):
                used[epoch] = min(used.get(epoch, message.timestamp), message.timestamp)
    took = [
        used[end] - max(times.values())
        for end, times in closed.items()
        if end in used and len(times) == PARTITIONS and min(times.values()) >= began * 1000
    ]
    made = len(list(kafka.read(bootstrap, "model.heads"))) - len(before)
    if not took:
        raise BenchError(f"no head of {made} was used by a prediction")
    return {"p50": float(np.quantile(took, 0.5)), "p99": float(np.quantile(took, 0.99)), "heads": len(took)}


def measure(folder: Path, rates: Sequence[float] = RATES) -> tuple[list[dict[str, float]], dict[str, float]]:
    found = []
    with _loop(folder) as bootstrap:
        _first_score(bootstrap)
        for number, rate in enumerate(rates, 1):
            say(f"  {rate:,.0f} order lines a second for {WARM_S + MEASURED_S:.0f} s")
            found.append(at_rate(bootstrap, rate, number * 1_000_000))
            say(f"  {found[-1]}")
        say(f"  {DAYS} days in {DAYS * DAY_S:.0f} s")
        epochs = heads(bootstrap)
    return found, epochs


def run(settings: Settings) -> Piece:
    found, epochs = measure(settings.folder / "latency")
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
    close = [(f"{epochs['heads']:.0f} epochs", f"{epochs['p50']:,.0f}", f"{epochs['p99']:,.0f}")]
    top = found[-1]
    keys = {
        "latency_ms": {
            "order_to_score": {"p50": top["p50"], "p99": top["p99"]},
            "order_to_score_by_rate": found,
            "outcome_to_head": epochs,
        }
    }
    return Piece(
        keys,
        [
            Table("All workers and the broker on the cores of this machine, encoders idle", head, rows),
            Table("A day's end passed in every partition, until its head is in use", ("", "p50 ms", "p99 ms"), close),
        ],
    )


PART = Part("latency", "order to readable score at fixed rates, close to head in use", lambda _: 400, run)
