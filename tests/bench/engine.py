"""The equal job: trendstream, its peers and the limit, in one run, on one topic, each checked against pandas."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from deploy.errors import LocalKafkaError
from deploy.local_kafka import JARS, LocalKafka
from deploy.topics import create_topics
from streams import kafka
from streams.errors import BrokerError
from streams.restore import PROGRESS
from streams.snapshots import TOPIC as SNAPSHOTS
from tests.bench import orders, workers
from tests.bench.environments import python_of
from tests.bench.job import CLOSING, PARTITIONS
from tests.bench.suite import ROOT, BenchError, Part, Piece, Settings, Table, say

QUIET_S = 2.0  # an output topic that has not grown for so long is complete
_SILENT = logging.getLogger("tests.bench.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False  # its broker ends before it does
SUMS = ["count", "units", "revenue"]


@dataclass(frozen=True)
class Engine:
    """One engine of the comparison. `module` is run with broker, input, output, events and a folder for state."""

    name: str
    module: str
    environment: str  # "": trendstream's own
    results: str  # final: a window comes once; updates: the newest of a window holds; none
    share: float  # of the events that it gets: a slow one would take minutes for all
    expected_rate: float  # events/s, for the estimate alone
    state: str = ""  # beginning of the names of the topics that hold its state


ENGINES = {
    e.name: e
    for e in (
        Engine("limit", "tests.bench.limit", "", "none", 1.0, 500_000),
        Engine("trendstream", "tests.bench.hourly", "", "final", 1.0, 300_000, "trend."),
        Engine("pathway", "tests.bench.peers.pathway_hourly", "pathway", "updates", 1.0, 50_000),
        Engine("bytewax", "tests.bench.peers.bytewax_hourly", "bytewax", "final", 1.0, 40_000),
        Engine("quix", "tests.bench.peers.quix_hourly", "quix", "final", 0.2, 15_000, "changelog__"),
        Engine("faust", "tests.bench.peers.faust_hourly", "faust", "updates", 0.02, 1_500),
    )
}
PEERS = tuple(e.name for e in ENGINES.values() if e.environment)


@dataclass(frozen=True)
class Result:
    """One engine's run. `state_share` is bytes of its state in Kafka per byte of its input; None where not counted."""

    engine: str
    events: int
    events_per_s: float
    per_cpu_s: float  # events per second of the worker's CPU time: what others take of the core is not in it
    peak_mib: float
    right: bool
    state_share: float | None


class EqualJob:
    """A broker with the orders on it, on which engines run one after the other."""

    def __init__(self, local: LocalKafka, folder: Path, events: int) -> None:
        self._local = local
        self._folder = folder
        self._orders = orders.draw(events)
        self._sources: dict[int, tuple[str, int]] = {}  # by events: topic, bytes
        self._runs = 0
        self._admin = AdminClient({"bootstrap.servers": local.bootstrap}, logger=_SILENT)
        create_topics(local.bootstrap, PARTITIONS)

    def run(self, engine: Engine) -> Result:
        self._runs += 1
        events = max(int(len(self._orders) * engine.share), 1)
        source, source_bytes = self._source(events)
        output = f"hourly-{engine.name}-{self._runs}"
        self._make(output)
        state = self._folder / output
        python = str(python_of(engine.environment, self._folder)) if engine.environment else sys.executable
        command = [
            *(python, "-m", engine.module, self._local.bootstrap, source, output),
            *(str(events + PARTITIONS), str(state)),
        ]
        own_cores = workers.cores()
        with workers.on_first_core():
            ran = workers.run(
                command,
                self._folder / f"{output}.log",
                self._settled(output) if engine.results != "none" else lambda: True,
                timeout_s=60 + 10 * events / engine.expected_rate,
                core=own_cores[1] if len(own_cores) > 1 else None,
            )
        shutil.rmtree(state, ignore_errors=True)
        right, newest = True, 0.0
        if engine.results != "none":
            windows, newest = self._windows(output, engine.results)
            right = windows is not None and windows.equals(orders.expected(self._orders.first(events)))
        spent = max(ran.last, newest) - ran.first
        return Result(
            engine=engine.name,
            events=events,
            events_per_s=events / spent,
            per_cpu_s=events / ran.cpu_s,
            peak_mib=ran.peak_mib,
            right=right,
            state_share=self._state_bytes(engine.state, output) / source_bytes if engine.state else None,
        )

    def _source(self, events: int) -> tuple[str, int]:
        """The topic of the first `events` orders, filled once."""
        if events not in self._sources:
            topic = f"orders-{events}"
            self._make(topic)
            say(f"  sending {events:,} orders")
            self._sources[events] = topic, orders.send(self._local.bootstrap, topic, self._orders.first(events))
        return self._sources[events]

    def _make(self, topic: str) -> None:
        # Records say when they were appended: that is when a result was there.
        config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1", "max.message.bytes": "8388608"}
        self._admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=config)])[topic].result()
        deadline = time.monotonic() + 30
        while True:  # the broker says "made" before every partition can be read
            try:
                self._ends(topic)
                return
            except (BrokerError, KafkaException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _settled(self, topic: str) -> Callable[[], bool]:
        ends, since = self._ends(topic), time.monotonic()

        def settled() -> bool:
            nonlocal ends, since
            time.sleep(0.2)
            now = self._ends(topic)
            if now != ends:
                ends, since = now, time.monotonic()
            return time.monotonic() - since > QUIET_S

        return settled

    def _ends(self, topic: str) -> list[tuple[int, int]]:
        return kafka.end_offsets(self._local.bootstrap, topic)

    def _windows(self, topic: str, results: str) -> tuple[pd.DataFrame | None, float]:
        """Closed windows as `orders.expected` has them (None: one came twice), and when the newest came, epoch s."""
        rows: list[dict[str, Any]] = []
        newest = 0
        for message in kafka.read(self._local.bootstrap, topic):
            newest = max(newest, message.timestamp)
            value = message.value or b""
            if value.startswith(b"{"):
                rows.append(msgspec.json.decode(value))
            else:
                rows.extend(pa.ipc.open_stream(value).read_next_batch().to_pylist())
        frame = pd.DataFrame(rows, columns=["product", "start", *SUMS, "diff", "time"])
        frame = frame[(frame["product"] != CLOSING) & (frame["diff"] != -1)]
        if results == "updates":
            frame = frame.sort_values("time", kind="stable").drop_duplicates(["product", "start"], keep="last")
        elif frame.duplicated(["product", "start"]).any():
            return None, newest / 1000
        return frame.set_index(["product", "start"])[SUMS].sort_index().astype("int64"), newest / 1000

    def _state_bytes(self, topics: str, output: str) -> int:
        """Bytes of keys and values, before compression, that a run has written to the topics of its state."""
        total = 0
        for topic in kafka.partition_counts(self._local.bootstrap):
            if topic.startswith(topics) and (output in topic or topic in (SNAPSHOTS, PROGRESS)):
                for message in kafka.read(self._local.bootstrap, topic):
                    key = message.key or b""
                    if output in topic or key.startswith(f"{output}/".encode()):
                        total += len(key) + len(message.value or b"")
        return total


@contextmanager
def broker(folder: Path) -> Iterator[LocalKafka]:
    """An empty broker on the first core."""
    shutil.rmtree(folder, ignore_errors=True)
    local = LocalKafka(folder, jars=ROOT / JARS)
    try:
        with workers.on_first_core():
            local.start()
        yield local
    except LocalKafkaError as error:
        raise BenchError(str(error)) from error
    finally:
        local.stop()
        shutil.rmtree(folder, ignore_errors=True)


def run(settings: Settings) -> Piece:
    engines = [ENGINES[name] for name in settings.engines]
    for engine in engines:
        if engine.environment:
            python_of(engine.environment, settings.folder)
    say(f"  {workers.placement()}")
    results: list[Result] = []
    with broker(settings.folder / "broker") as local:
        job = EqualJob(local, settings.folder, settings.events)
        for turn in range(settings.repeat):
            for engine in engines:
                say(f"  {engine.name}, {turn + 1} of {settings.repeat}: {_seconds(engine, settings):.0f} s or so")
                try:
                    results.append(job.run(engine))
                except BenchError as error:  # the others are worth knowing all the same
                    say(f"  {engine.name}: {error}")
                    results.append(Result(engine.name, 0, 0.0, 0.0, 0.0, False, None))
                else:
                    done = results[-1]
                    say(f"  {engine.name}: {done.events_per_s:,.0f} events/s, {done.per_cpu_s:,.0f} per CPU second")
    return piece([_best(results, engine.name) for engine in engines])


def _best(results: list[Result], engine: str) -> Result:
    """The fastest of the repeated runs: what disturbs a run on a shared machine only ever slows it. It is right only
    if every run was."""
    own = [r for r in results if r.engine == engine]
    fastest = max(own, key=lambda r: r.events_per_s)
    return replace(fastest, right=all(r.right for r in own))


def piece(results: list[Result]) -> Piece:
    """Keys and rows; a ratio is there only if both of its sides ran."""
    rates = {r.engine: r.events_per_s for r in results}
    shares = {r.engine: r.state_share for r in results}
    own, limit = rates.get("trendstream"), rates.get("limit")
    best = max((rates[p] for p in PEERS if rates.get(p)), default=None)
    per_cpu = {r.engine: r.per_cpu_s for r in results}
    best_per_cpu = max((per_cpu[p] for p in PEERS if per_cpu.get(p)), default=None)
    job: dict[str, Any] = {
        r.engine: {
            "events_per_s": round(r.events_per_s),
            "events_per_cpu_s": round(r.per_cpu_s),
            "peak_mib": round(r.peak_mib),
            "right": r.right,
        }
        for r in results
    }
    job["ratio_to_best_peer"] = _ratio(own, best)
    job["ratio_to_limit"] = _ratio(own, limit)
    job["cpu_ratio_to_best_peer"] = _ratio(per_cpu.get("trendstream"), best_per_cpu)
    job["cpu_ratio_to_limit"] = _ratio(per_cpu.get("trendstream"), per_cpu.get("limit"))
    rows = [
        [
            r.engine,
            f"{r.events:,}",
            f"{r.events_per_s:,.0f}",
            f"{r.per_cpu_s:,.0f}",
            _text(_ratio(own, r.events_per_s)),
            f"{r.peak_mib:,.0f}",
            "-" if ENGINES[r.engine].results == "none" else "yes" if r.right else "NO",
            "-" if r.state_share is None else f"{r.state_share:.2%}",
        ]
        for r in results
    ]
    head = ["engine", "events", "events/s", "per CPU s", "trendstream is", "peak MiB", "right", "state per input byte"]
    keys = {"equal_job": job, "state_bytes_ratio_to_quix": _ratio(shares.get("trendstream"), shares.get("quix"))}
    return Piece(keys, [Table("The equal job: hourly windows by product, one core", head, rows)])


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one is not None and other else None


def _text(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f} x"


def _seconds(engine: Engine, settings: Settings) -> float:
    return 12 + settings.events * engine.share / engine.expected_rate


def _estimate(settings: Settings) -> float:
    return 30 + settings.repeat * sum(_seconds(ENGINES[name], settings) for name in settings.engines)


PART = Part("engine", "the same job on trendstream, its peers and the limit of librdkafka and msgspec", _estimate, run)
