"""A replay with something changed: stages feed each other in this process, from a fork on, into a shadow."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import msgspec

from streams.embedded import EmbeddedLog, EmbeddedRunner
from streams.replay.cut import boundary
from streams.replay.forks import Fork, Snapshots
from streams.replay.log import Log, skips, without
from streams.replay.plan import Plan
from streams.replay.rewriting import Rewriter
from streams.replay.shadow import Shadow
from streams.stage import Message, Output, Stage, StageSpec, TaskKey
from streams.topics import topics

_WAITING = msgspec.msgpack.Decoder(list[tuple[str, int, int, int, bytes | None, bytes | None]])


@dataclass
class _Input:
    """One partition of what the first stage reads."""

    fork: Fork
    position: int
    rewriter: Rewriter | None
    forward: bool = True  # still before the range: outputs are of days that stand


class Chain:
    """The stages of a plan as one circuit. Every output of the range goes to the shadow."""

    def __init__(
        self,
        plan: Plan,
        specs: Mapping[str, StageSpec],
        log: Log,
        shadow: Shadow,
        rewriter: Callable[[int], Rewriter | None] = lambda since: None,
    ) -> None:
        """`rewriter` makes one for a partition of trend.events, from an offset on."""
        self._plan = plan
        self._log = log
        self._shadow = shadow
        self.written: dict[str, int] = {}  # records by topic
        self._stages: dict[tuple[str, TaskKey], Stage] = {}
        self._passed_over = skips(log)
        self._specs = [specs[name] for name in plan.stages]
        self._inputs = {fork.task: _Input(fork, fork.start, rewriter(fork.begin)) for fork in plan.of(plan.stages[0])}
        self.total = sum(max(i.fork.end - i.fork.start, 0) for i in self._inputs.values())
        self._runner: EmbeddedRunner | None = None
        self._messages: Iterator[Message] | None = None

    @property
    def position(self) -> int:
        """Offsets behind it."""
        return sum(i.position - i.fork.start for i in self._inputs.values())

    def start(self) -> None:
        """Restore what the stages begin with."""
        for spec in self._specs:
            snapshots = Snapshots(self._log, spec, self._plan.partitions)
            for fork in self._plan.of(spec.name):
                forgets = self._plan.forgets(spec.name)
                stage = spec.make(fork.task) if forgets else snapshots.restore(fork)
                self._stages[spec.name, fork.task] = stage
                if spec.name != self._plan.stages[0] and not forgets:
                    self._catch_up(stage, fork)
        self._circuit()

    def step(self, records: int) -> int:
        """Fold some records of the input; offsets that this went on, 0 at the end."""
        if self._messages is None:
            self._look_ahead()
            self._messages = self._merged()
        before = self.position
        runner = self._runner
        assert runner is not None
        for message in islice(self._messages, records):
            mine = self._inputs[message.topic, message.partition]
            for given in [message] if mine.rewriter is None else mine.rewriter.rewrite(message):
                self._feed(mine, given)
            mine.position = message.offset + 1
        runner.advance()
        runner.forget()
        if self.position == before:
            for mine in self._inputs.values():
                mine.position = max(mine.position, mine.fork.end)
        return self.position - before

    @property
    def waiting(self) -> int:
        """Records of trend.windows whose heads have not come within the range; they are left out."""
        assert self._runner is not None
        return len(self._runner.waiting())

    @property
    def touched(self) -> dict[str, list[str]]:
        """Why a product's rows were changed, by product."""
        found: dict[str, set[str]] = {}
        for mine in self._inputs.values():
            for product, causes in (mine.rewriter.touched if mine.rewriter else {}).items():
                found.setdefault(product, set()).update(causes)
        return {product: sorted(causes) for product, causes in sorted(found.items())}

    def freeze(self) -> dict[str, bytes]:
        assert self._runner is not None
        inputs = {
            f"{topic}/{p}": {
                "position": mine.position,
                "forward": mine.forward,
                "watermark": mine.rewriter.watermark if mine.rewriter else [],
                "changed": mine.rewriter.changed if mine.rewriter else 0,
                "touched": {k: sorted(v) for k, v in mine.rewriter.touched.items()} if mine.rewriter else {},
            }
            for (topic, p), mine in self._inputs.items()
        }
        waiting = [(m.topic, m.partition, m.offset, m.timestamp, m.key, m.value) for m in self._runner.waiting()]
        ends = {f"{topic}/{p}": end for (topic, p), end in self._runner.log.following.items()}
        blobs = {
            "inputs": msgspec.json.encode({"inputs": inputs, "written": self.written, "ends": ends}),
            "waiting": msgspec.msgpack.encode(waiting),
        }
        for (name, (topic, p)), stage in self._stages.items():
            blobs |= {f"stage/{name}/{topic}/{p}/{blob}": data for blob, data in stage.snapshot().items()}
        return blobs

    def load(self, blobs: Mapping[str, bytes]) -> None:
        """The inverse of `freeze`, in place of `start`."""
        state = msgspec.json.decode(blobs["inputs"])
        self.written = state["written"]
        for spec in self._specs:
            for fork in self._plan.of(spec.name):
                stage = spec.make(fork.task)
                prefix = f"stage/{spec.name}/{fork.topic}/{fork.partition}/"
                stage.restore({k.removeprefix(prefix): v for k, v in blobs.items() if k.startswith(prefix)})
                self._stages[spec.name, fork.task] = stage
            for topic, versioned in spec.versioned.items():
                if topic in self._plan.writes():
                    for message in self._shadow.records(topic):
                        versioned.put(message)
        self._circuit()
        assert self._runner is not None
        for fields in _WAITING.decode(blobs["waiting"]):
            self._runner.log.put(Message(*fields))
        for place, end in state["ends"].items():
            topic, _, partition = place.rpartition("/")
            self._runner.log.following[topic, int(partition)] = end
        self._look_ahead()
        for place, of in state["inputs"].items():
            topic, _, partition = place.rpartition("/")
            mine = self._inputs[topic, int(partition)]
            mine.position, mine.forward = of["position"], of["forward"]
            if mine.rewriter is not None:
                mine.rewriter.load(of["watermark"], of["touched"], of["changed"])
        self._messages = self._merged()

    def _circuit(self) -> None:
        made = {t.name: t for t in topics(self._plan.partitions)}

        def of(spec: StageSpec) -> StageSpec:
            return replace(spec, make=lambda task: self._stages.get((spec.name, task)) or spec.make(task))

        self._runner = EmbeddedRunner(EmbeddedLog(made.values()), [of(s) for s in self._specs], self._take)

    def _take(self, message: Message) -> None:
        if self._plan.start <= boundary(message) < self._plan.to:
            self.written[message.topic] = self.written.get(message.topic, 0) + 1
            self._shadow.write(message)

    def _feed(self, mine: _Input, message: Message) -> None:
        assert self._runner is not None
        first = self._plan.stages[0]
        if not mine.forward or first != "windows":
            self._runner.log.put(message)
            return
        outputs = self._stages[first, mine.fork.task].fold([message])
        of_range = [o for o in outputs if _boundary(o) >= self._plan.start]
        if of_range:
            mine.forward = False
            self._runner.publish(of_range, message.timestamp)

    def _catch_up(self, stage: Stage, fork: Fork) -> None:
        """Fold published input for the state alone: all that belongs to days before the range."""
        if fork.stage != "learner":
            for message in self._read(fork, fork.start, fork.begin):
                stage.fold([message])
            return
        # All partitions lie in its one log, some of them ahead: what belongs to the range comes from the circuit.
        for message in self._read(fork, fork.start, self._log.range(fork.task)[1]):
            at = boundary(message)
            if 0 < at < self._plan.start or (not at and message.offset < fork.begin):
                stage.fold([message])

    def _look_ahead(self) -> None:
        if not self._plan.change.late:
            return
        for mine in self._inputs.values():
            if mine.rewriter is not None:
                mine.rewriter.look_ahead(self._read(mine.fork, mine.fork.start, mine.fork.end))

    def _merged(self) -> Iterator[Message]:
        """All partitions by record time: one that runs ahead would wait for heads that the others make."""
        parts = [self._read(mine.fork, mine.position, mine.fork.end) for _, mine in sorted(self._inputs.items())]
        return heapq.merge(*parts, key=lambda m: m.timestamp)

    def _read(self, fork: Fork, start: int, end: int) -> Iterator[Message]:
        return without(self._log.read(fork.task, start, end), self._passed_over.get(fork.stage, set()))


def _boundary(output: Output) -> int:
    return boundary(Message(output.topic, output.partition, 0, 0, output.key, output.value))
