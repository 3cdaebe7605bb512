"""Runs a schedule: the runner as it is, on the cluster in memory, in one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from confluent_kafka import KafkaError

from featurizers.window_config import WindowConfig
from featurizers.windows import WindowStage
from streams.calendars import Platform
from streams.errors import BrokerError
from streams.ingest import ClockConfig, IngestClock, IngestConfig, IngestStage
from streams.runner import Runner, RunnerConfig
from streams.stage import StageSpec
from streams.topics import TOPICS, Topic
from tests.schedules import stand_ins
from tests.schedules.broker import Cluster
from tests.schedules.clients import Crash, Plan, Process, failure, installed
from tests.schedules.schedule import FLOWS, SLOTS, Schedule, Step
from tests.schedules.world import PARTITIONS

EVENTS_PARTITIONS = 2
PLATFORMS = {"shop": Platform("shop", "Europe/Rome")}
INGEST = IngestConfig(EVENTS_PARTITIONS, PLATFORMS, b"a secret of the tests")
WINDOWS = WindowConfig(PLATFORMS)
_SINGLE = ("trend.matured", "model.heads", "model.events", "trend.progress", "trend.skips")
_INSIDE = ("trend.events", "trend.reviews", "trend.images", "trend.windows", "trend.predictions", "trend.dlq")


class Broken(Exception):  # noqa: N818  an error of the worker's own code, whatever it is
    pass


class ScheduleError(AssertionError):
    """What a schedule has shown to be wrong."""


def topics() -> list[Topic]:
    partitions = {**PARTITIONS, **dict.fromkeys(_SINGLE, 1), **dict.fromkeys(_INSIDE, EVENTS_PARTITIONS)}
    return [replace(TOPICS[name], partitions=count) for name, count in partitions.items()] + [
        replace(TOPICS["trend.snapshots"], partitions=EVENTS_PARTITIONS)
    ]


def ingest_spec() -> StageSpec:
    return StageSpec(
        "ingest",
        tuple(PARTITIONS),
        lambda task: IngestStage(task, INGEST),
        batched=True,
        clock=lambda: IngestClock(ClockConfig(EVENTS_PARTITIONS)),
    )


def windows_spec() -> StageSpec:
    return StageSpec("windows", ("trend.events",), lambda task: WindowStage(task, WINDOWS))


SPECS: Mapping[str, Callable[[], StageSpec]] = {
    "ingest": stand_ins.ingest_spec,
    "windows": stand_ins.windows_spec,
    "inference": stand_ins.inference_spec,
    "labels": stand_ins.labels_spec,
    "learner": stand_ins.learner_spec,
}


def specs(flow: str) -> dict[str, Callable[[], StageSpec]]:
    """How to make each stage of a flow."""
    chosen = {name: SPECS[name] for name in FLOWS[flow]}
    if flow != "chain":
        chosen["ingest"] = ingest_spec
    if flow == "windows":
        chosen["windows"] = windows_spec
    return chosen


@dataclass(eq=False)
class Worker:
    """A runner in its process, and where it stands."""

    slot: int
    process: Process
    runner: Runner
    turns: Iterator[None]
    stopping: bool = False

    def turn(self) -> bool:
        """Take one turn; whether there will be another."""
        try:
            next(self.turns)
        except (Crash, StopIteration, BrokerError, Broken):
            self.process.closed = True
            return False
        return True


class Simulation:
    def __init__(
        self, schedule: Schedule, runner: type[Runner] = Runner, make: dict[str, Callable[[], StageSpec]] | None = None
    ) -> None:
        self.schedule = schedule
        self.cluster = Cluster(topics())
        self.specs = make or specs(schedule.flow)
        self.workers: dict[int, Worker] = {}
        self.zombies: list[Worker] = []
        self._runner = runner
        self._processes: dict[str, Process] = {}
        self._sent = 0
        counts = self.cluster.counts
        self._inputs = {
            name: [(topic, p) for topic in make().inputs for p in range(counts[topic])]
            for name, make in self.specs.items()
        }

    def run(self) -> None:
        """Everything that the schedule says, then until nothing moves any more."""
        with installed(self.cluster, self._processes):
            try:
                for step in self.schedule.steps:
                    self._do(step)
                self._drain()
            finally:
                for process in self._processes.values():
                    process.dead = True

    # -- steps

    def _do(self, step: Step) -> None:
        name, *arguments = step
        getattr(self, f"_{name}")(*arguments)

    def _send(self, count: int) -> None:
        for topic, partition, value in self.schedule.events[self._sent : self._sent + count]:
            self.cluster.append(topic, partition, None, value.encode())
        self._sent += count

    def _run(self, slot: int, turns: int, salt: int) -> None:
        random = Random(salt)
        if slot not in self.workers:
            self._start(slot)
        for _ in range(turns):
            worker = self.workers.get(slot)
            if worker is None or worker.process.frozen:
                return
            worker.process.random, worker.process.whole = random, False
            self._turn(slot, worker)
            self.cluster.pass_time(random.choice((1, 5, 30)))
        if random.random() < 0.8:
            self.cluster.settle()
        else:
            self.cluster.settle_some(random)

    def _flow(self, turns: int, salt: int) -> None:
        for slot in self._needed():
            self._run(slot, turns, salt + slot)

    def _turn(self, slot: int, worker: Worker) -> None:
        if not worker.turn() and self.workers.get(slot) is worker:
            del self.workers[slot]

    def _start(self, slot: int) -> None:
        stage, number = SLOTS[slot]
        process = Process(self.cluster, f"{stage}.{number}#{len(self._processes)}")
        self._processes[process.name] = process
        process.random = Random(len(self._processes))
        config = RunnerConfig(process.name, EVENTS_PARTITIONS, number, 100, 100, 900, 10_000, 50)
        # The worker is asked whether to stop before it is there.
        found: list[Worker] = []
        runner = self._runner(self.specs[stage](), config, lambda: bool(found) and found[0].stopping)
        found.append(Worker(slot, process, runner, runner.turns()))
        self.workers[slot] = found[0]

    def _heir(self, slot: int) -> None:
        worker = self.workers.pop(slot, None)
        if worker is not None:
            self.zombies.append(worker)
            self._start(slot)

    def _zombie(self, salt: int) -> None:
        free = [w for w in self.zombies if not w.process.frozen]
        if free:
            worker = free[salt % len(free)]
            worker.process.random = Random(salt)
            if not worker.turn():
                self.zombies.remove(worker)

    def _stop(self, slot: int) -> None:
        worker = self.workers.get(slot)
        if worker is not None and not worker.process.frozen:
            worker.stopping = True
            self._turn(slot, worker)

    def _time(self, ms: int) -> None:
        self.cluster.settle()
        self.cluster.pass_time(ms)

    def _rebalance(self, stage: str) -> None:
        group = self.cluster.groups.get(f"trendstream.{stage}")
        if group is not None:
            group.turn += 1
            group.rebalance()

    def _crash(self, slot: int, call: str, count: int, after: bool) -> None:
        worker = self.workers.get(slot)
        if worker is not None:
            worker.process.plans.append(Plan(call, count, after, worker.process.crash))

    def _fail(self, slot: int, call: str, count: int, how: str) -> None:
        worker = self.workers.get(slot)
        if worker is not None:
            runner = worker.runner

            def hit() -> None:
                producer: Any = runner._producer
                if how == "spoil":
                    producer.spoil()
                elif how == "unnoticed":
                    producer.commit_unnoticed()
                elif how == "lose":
                    producer.lose()
                elif how == "too soon":
                    producer.abort_too_soon()
                elif how == "delay":
                    producer.delay_abort()
                elif how == "break":
                    raise Broken
                elif how == "abort":
                    producer.spoil()
                    raise failure(KafkaError._STATE, abort=True)
                else:
                    raise failure(KafkaError._TIMED_OUT, retriable=how == "retry")

            worker.process.plans.append(Plan(call, count, False, hit))

    def _freeze(self, slot: int, call: str, count: int, steps: list[Step]) -> None:
        worker = self.workers.get(slot)
        if worker is None:
            return
        process = worker.process

        def hit() -> None:
            process.frozen = True
            random, whole = process.random, process.whole
            for step in steps:
                self._do(step)
            process.random, process.whole = random, whole
            process.frozen = False

        process.plans.append(Plan(call, count, False, hit))

    # -- the end

    def _drain(self) -> None:
        """No more faults: everybody works until nothing moves."""
        for process in self._processes.values():
            process.plans.clear()
        self._send(len(self.schedule.events))
        self.cluster.settle()
        # Sessions and transactions of the dead expire; those of zombies, too, that have just ended; silence is told.
        for wait in (11_000, 7_000):
            self.cluster.pass_time(wait)
            self._work()
        for slot in list(self.workers):
            self._stop(slot)
        self.cluster.settle()

    def _work(self) -> None:
        idle: dict[int, object] = {}  # what a slot knew when its turn did nothing
        for _ in range(300):
            before = self._written()
            for zombie in list(self.zombies):
                if zombie.slot not in self.workers or not zombie.turn():
                    self.zombies.remove(zombie)
                    if zombie.slot not in self.workers and not zombie.process.closed:
                        self.workers[zombie.slot] = zombie  # it came to its slot after its heir: the slot is its own
            for slot in self._needed():
                known = self._known(slot)
                if slot in self.workers and idle.get(slot) == known:
                    continue
                if slot not in self.workers:
                    self._start(slot)
                self.workers[slot].process.whole = True
                wrote = self._written()
                self._turn(slot, self.workers[slot])
                idle[slot] = known if wrote == self._written() else None
            self.cluster.settle()
            if not self.zombies and not self._left() and all(g.settled for g in self.cluster.groups.values()):
                return
            if before == self._written():
                idle.clear()
                self.cluster.pass_time(420)  # more than the clocks' intervals, and what is waited for a head
            else:
                self.cluster.pass_time(5)
        raise ScheduleError(f"the stages do not come to rest: {self._left() or 'a zombie lives on'}")

    def _known(self, slot: int) -> object:
        """All that can give a worker something to do, but time."""
        stage = SLOTS[slot][0]
        group = self.cluster.groups.get(f"trendstream.{stage}")
        heads = self.cluster.log["model.heads", 0].stable()
        ends = sum(self.cluster.log[task].stable() for task in self._inputs[stage])
        return (ends, heads, group and (group.generation, len(group.joining), len(group.members), group.settled))

    def _written(self) -> int:
        return self.cluster.written["records"]

    def _needed(self) -> list[int]:
        """Slots that have a worker, and the first of each stage."""
        slots = [i for i, (stage, _) in enumerate(SLOTS) if stage in self.specs]
        return [i for i in slots if SLOTS[i][1] == 0 or i in self.workers]

    def _left(self) -> str:
        """What some stage has still to take, or "" if there is nothing."""
        for name, topics_of in self._inputs.items():
            for task in topics_of:
                log = self.cluster.log[task]
                offset = self.cluster.offsets.get((f"trendstream.{name}", *task), 0)
                if log.open or log.fetch(offset, 1)[0]:
                    return f"{name} has not taken {task} from {offset} on"
        return ""
