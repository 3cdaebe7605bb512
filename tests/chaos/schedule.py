"""What is done to a run, when, and to whom: made from the seed alone, before the run begins."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

STAGES = ("ingest", "text", "windows", "inference", "labels", "learner", "signals")
BROKERS = 3
SESSION_S = 6.0  # of every consumer: a worker that stands still for longer is no member any more

# How often each kind comes beyond the first time; the first five are what the short form consists of.
WEIGHTS = {
    "kill-worker": 5,
    "stop-worker": 3,
    "kill-broker": 3,
    "cut-connections": 3,
    "restart-all": 1,
    "join-worker": 2,
    "leave-worker": 2,
}
ABOUT = {
    "kill-worker": "SIGKILL, and a new one",
    "stop-worker": "SIGSTOP beyond the session time-out, an heir, SIGCONT",
    "kill-broker": "SIGKILL, and a restart until in sync",
    "cut-connections": "every connection between workers and brokers, refused for a while",
    "restart-all": "SIGKILL of all workers and brokers, and a start",
    "join-worker": "one more of a stage",
    "leave-worker": "SIGTERM to one of several",
}


@dataclass(frozen=True)
class Disturbance:
    number: int
    pause_s: float  # before it
    kind: str
    whom: str  # `windows/1`, `broker 2`, or everything
    lasts_s: float  # of what is broken

    def __str__(self) -> str:
        return (
            f"{self.number:3d}  after {self.pause_s:3.1f} s  {self.kind:15s}  {self.whom:12s}  for {self.lasts_s:.1f} s"
        )


def first_workers(workers: int) -> list[str]:
    return [f"{stage}/{slot}" for stage in STAGES for slot in range(workers)]


def make_schedule(seed: int, disturbances: int, workers: int) -> list[Disturbance]:
    """Every kind once before any comes twice, in an order of the seed's; nobody leaves who is not there."""
    chance = random.Random(seed)
    kinds = list(WEIGHTS)[:disturbances]
    kinds += chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=disturbances - len(kinds))
    chance.shuffle(kinds)
    present = set(first_workers(workers))
    return [_disturbance(chance, number, kind, present, workers) for number, kind in enumerate(kinds, start=1)]


def _disturbance(chance: random.Random, number: int, kind: str, present: set[str], workers: int) -> Disturbance:
    pause = chance.uniform(0.5, 3.0)
    lasts = chance.uniform(0.0, 3.0)
    slots = [f"{stage}/{slot}" for stage in STAGES for slot in range(workers + 1)]
    absent = [name for name in slots if name not in present]
    of_stage = Counter(name.partition("/")[0] for name in present)
    spare = [name for name in slots if name in present and of_stage[name.partition("/")[0]] > 1]
    if kind == "leave-worker" and not spare:
        kind = "join-worker"  # who is alone cannot leave: nobody would do its work
    elif kind == "join-worker" and not absent:
        kind = "leave-worker"
    if kind == "join-worker":
        whom = chance.choice(absent)
        present.add(whom)
    elif kind == "leave-worker":
        whom = chance.choice(spare)
        present.discard(whom)
    elif kind == "kill-broker":
        whom = f"broker {chance.randint(1, BROKERS)}"
    elif kind in ("cut-connections", "restart-all"):
        whom = "everything"
    else:
        whom = chance.choice(sorted(present))
    if kind == "stop-worker":
        lasts += SESSION_S + 1.0
    return Disturbance(number, round(pause, 1), kind, whom, round(lasts, 1))
