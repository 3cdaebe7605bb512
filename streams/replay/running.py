"""Runs a plan, at the rate that it is held to, from one checkpoint to the next; it can be stopped and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from streams.errors import ReplayError
from streams.replay.chain import Chain
from streams.replay.checking import Check, Difference
from streams.replay.forks import Snapshots
from streams.replay.log import Log, skips
from streams.replay.plan import Plan
from streams.replay.rewriting import Rewriter
from streams.replay.shadow import Shadow
from streams.stage import StageSpec

_CHECKPOINT_S = 10.0
_LONGEST_REST_S = 0.5  # between two looks at the rate


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison with the published records found for one task."""

    stage: str
    topic: str
    partition: int
    records: int  # equal ones
    bytes: int
    difference: Difference | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has come to; `done` once it is at its end."""

    replay: str
    done: bool = False
    checked: list[Checked] = []
    written: dict[str, int] = {}  # records by topic
    waiting: int = 0  # records of trend.windows that were left out since their heads had not come
    touched: dict[str, list[str]] = {}  # products whose rows were changed, and why
    seconds: float = 0.0  # of work, without rests

    def difference(self) -> Difference | None:
        return next((c.difference for c in self.checked if c.difference is not None), None)


@dataclass
class Pace:
    """Holds the work to a share of one core: after each step it rests for what the rate says.

    The rate is asked for again and again, so it can be changed while the replay runs.
    """

    rate: Callable[[], int]  # per cent, 1 to 100
    stop: Callable[[], bool]
    sleep: Callable[[float], None] = time.sleep
    worked: float = 0.0

    def rest(self, worked: float) -> None:
        self.worked += worked
        rested = 0.0
        while not self.stop():
            left = worked * (100 / self.rate() - 1) - rested
            if left <= 0:
                return
            nap = min(left, _LONGEST_REST_S)
            self.sleep(nap)
            rested += nap


class Work(Protocol):
    """One thing after the other that a plan is made of."""

    @property
    def total(self) -> int: ...

    @property
    def position(self) -> int: ...

    def step(self, records: int) -> int: ...

    def freeze(self) -> dict[str, bytes]: ...


class _State(msgspec.Struct):
    result: Result
    work: int  # which of the plan's is going on
    behind: int  # offsets of those before it
    blobs: dict[str, bytes]


@dataclass
class Run:
    """A replay in its folder: `plan.json`, `checkpoint-<n>`, `result.json`."""

    plan: Plan
    specs: Mapping[str, StageSpec]
    log: Log
    shadow: Shadow
    folder: Path
    rewriter: Callable[[int], Rewriter | None] = lambda since: None
    checkpoint_s: float = _CHECKPOINT_S
    records: int = 50  # of one step: between two looks at the rate and at the stop

    def run(self, pace: Pace, told: Callable[[int, str], None] = lambda done, note: None) -> Result:
        """Until the end, or until the pace's `stop()`; then it can be called again. `told` hears offsets done."""
        number, state = self._newest()
        result = state.result if state else Result(replay=self.plan.replay)
        if result.done:
            return result
        before, pace.worked = result.seconds, 0.0
        at, behind = (state.work, state.behind) if state else (0, 0)
        blobs = (state.blobs or None) if state else None
        works = self.works()
        while at < len(works) and not pace.stop():
            begun = time.monotonic()
            work = works[at](blobs)
            saved = time.monotonic()
            pace.rest(saved - begun)  # what came before the range was folded for its state
            blobs, ended = None, False
            while not ended and not pace.stop():
                begun = time.monotonic()
                ended = work.step(self.records) == 0
                worked = time.monotonic() - begun
                told(behind + self._behind(work), self._note(work))
                # Before the rest, which may be long: a shadow in topics has a transaction open.
                if time.monotonic() - saved >= self.checkpoint_s and not ended:
                    number += 1
                    so_far = self._told(result, work, before + pace.worked + worked)
                    self._save(number, _State(so_far, at, behind, work.freeze()))
                    saved = time.monotonic()
                pace.rest(worked)
            result = self._told(result, work, before + pace.worked, ended)
            if not ended:
                self._save(number + 1, _State(result, at, behind, work.freeze()))
                return result
            behind, at = behind + work.total, at + 1
        result = msgspec.structs.replace(result, done=at == len(works))
        self._save(number + 1, _State(result, at, behind, {}))
        return result

    @property
    def total(self) -> int:
        """Offsets to read."""
        first = self.plan.stages[0]
        forks = [f for f in self.plan.forks if not self.plan.chained or f.stage == first]
        return sum(max(f.end - f.start, 0) for f in forks)

    def works(self) -> list[Callable[[dict[str, bytes] | None], Work]]:
        """What the plan is made of, one after the other: each is made of a checkpoint, or of its fork."""
        if self.plan.chained:
            return [self._chain]
        return [lambda blobs, i=i: self._check(i, blobs) for i in range(len(self.plan.forks))]  # type: ignore[misc]

    def _chain(self, blobs: dict[str, bytes] | None) -> Chain:
        chain = Chain(self.plan, self.specs, self.log, self.shadow, self.rewriter)
        if blobs is None:
            chain.start()
        else:
            chain.load(blobs)
        return chain

    def _check(self, index: int, blobs: dict[str, bytes] | None) -> Check:
        fork = self.plan.forks[index]
        spec = self.specs[fork.stage]
        stage = spec.make(fork.task) if blobs else Snapshots(self.log, spec, self.plan.partitions).restore(fork)
        passed_over = skips(self.log).get(fork.stage)
        check = Check(fork, stage, self.log, self.plan.start, self.plan.to, passed_over)
        if blobs:
            check.load(blobs)
        return check

    def _behind(self, work: Work) -> int:
        return work.position - (work.fork.start if isinstance(work, Check) else 0)

    def _note(self, work: Work) -> str:
        return f"{work.fork.stage} {work.fork.topic}/{work.fork.partition} " if isinstance(work, Check) else ""

    def _told(self, result: Result, work: Work, seconds: float, ended: bool = False) -> Result:
        if isinstance(work, Chain):
            changes = {"written": dict(work.written), "waiting": work.waiting, "touched": work.touched}
            return msgspec.structs.replace(result, seconds=seconds, **changes)
        assert isinstance(work, Check)
        if not ended:
            return msgspec.structs.replace(result, seconds=seconds)
        fork = work.fork
        found = Checked(
            stage=fork.stage,
            topic=fork.topic,
            partition=fork.partition,
            records=work.equal,
            bytes=work.bytes,
            difference=work.difference,
        )
        return msgspec.structs.replace(result, seconds=seconds, checked=[*result.checked, found])

    # The checkpoint is there before its number is committed with what was written: whichever of both a crash leaves
    # last, the number tells which belong together.

    def _save(self, number: int, state: _State) -> None:
        path = self._checkpoint(number)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.msgpack.encode(state))
        part.replace(path)
        self.shadow.commit(number)
        (self.folder / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(state.result), indent=2))
        self._checkpoint(number - 2).unlink(missing_ok=True)

    def _newest(self) -> tuple[int, _State | None]:
        number = self.shadow.committed()
        if not number:
            return 0, None
        try:
            return number, msgspec.msgpack.decode(self._checkpoint(number).read_bytes(), type=_State)
        except (OSError, msgspec.DecodeError) as error:
            raise ReplayError(
                f"checkpoint {number} of replay {self.plan.replay} cannot be read: {error}; plan the replay again"
            ) from error

    def _checkpoint(self, number: int) -> Path:
        return self.folder / f"checkpoint-{number}"
