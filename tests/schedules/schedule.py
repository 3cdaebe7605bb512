"""A schedule: what the platform sends and what happens when, as plain data that can be cut, printed and replayed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

import msgspec

from tests.schedules.world import Event, events

# What may happen, as [name, arguments…]; one that does not apply where it stands does nothing.
#   send n                        the platform sends its next n events
#   run slot turns salt           the worker of a slot takes turns; it is started if there is none
#   flow turns salt               every worker of these takes turns, first stages first
#   heir slot                     a second process starts in a slot: the first is a zombie from now on
#   zombie salt                   a zombie takes a turn
#   stop slot                     the worker ends cleanly
#   time ms                       time passes
#   rebalance stage               the group assigns its partitions anew, to others
#   crash slot call count after   the worker dies at its count-th such call, before or after its effect
#   fail slot call count how      that call fails
#   freeze slot call count steps  the process stands still inside that call while the steps happen
Step = list[Any]

STAGES = ("ingest", "windows", "inference", "labels", "learner")
SLOTS = [(stage, number) for stage in STAGES for number in (0, 1) if (stage, number) != ("learner", 1)]
# Stand-ins alone; the real ingest before them; the real ingest and the real windows.
FLOWS = {"chain": STAGES, "ingest": STAGES, "windows": ("ingest", "windows")}

_COMMIT_CALLS = (
    "begin_transaction",
    "produce",
    "flush",
    "send_offsets_to_transaction",
    "commit_transaction",
    "commit_transaction",
)
_OTHER_CALLS = ("any", "any", "assign", "committed", "init_transactions", "poll", "consume", "abort_transaction")
_FAILURES = (
    ("send_offsets_to_transaction", "abort"),
    ("send_offsets_to_transaction", "retry"),
    ("send_offsets_to_transaction", "time out"),
    ("send_offsets_to_transaction", "lose"),
    ("commit_transaction", "abort"),
    ("commit_transaction", "retry"),
    ("commit_transaction", "unnoticed"),
    ("produce", "spoil"),
    ("abort_transaction", "delay"),
    ("abort_transaction", "too soon"),
    ("committed", "time out"),
    ("produce", "break"),
    ("any", "break"),
)


@dataclass(frozen=True)
class Schedule:
    seed: int
    flow: str
    events: list[Event]
    steps: list[Step]

    def with_events(self, events: list[Event]) -> Schedule:
        return replace(self, events=events)

    def with_steps(self, steps: list[Step]) -> Schedule:
        return replace(self, steps=steps)

    def to_json(self) -> bytes:
        return msgspec.json.encode(asdict(self))

    @staticmethod
    def from_json(data: bytes) -> Schedule:
        """Raises msgspec.DecodeError for what is not a schedule."""
        return msgspec.json.decode(data, type=Schedule)

    def __str__(self) -> str:
        lines = [f"schedule {self.seed} ({self.flow})", f"events ({len(self.events)}):"]
        lines += [f"  {topic}/{partition} {value}" for topic, partition, value in self.events]
        lines += [f"steps ({len(self.steps)}):"]
        return "\n".join(lines + [f"  {_shown(step)}" for step in self.steps])


def _shown(step: Step) -> str:
    return " ".join(f"[{'; '.join(map(_shown, part))}]" if isinstance(part, list) else str(part) for part in step)


def make(seed: int, flow: str = "") -> Schedule:
    """The schedule of a seed: every eighth with the real ingest, of which every fifth with the real windows."""
    random = Random(seed)
    flow = flow or ("windows" if seed % 40 == 0 else "ingest" if seed % 8 == 0 else "chain")
    sent = events(random, days=random.randrange(1, 4), count=random.randrange(6, 16))
    slots = [i for i, (stage, _) in enumerate(SLOTS) if stage in FLOWS[flow]]
    single = random.random() < 0.5  # one worker a stage for most of the time
    used = [i for i in slots if SLOTS[i][1] == 0] if single else slots
    steps = [_step(random, used) for _ in range(random.randrange(8, 34))]
    return Schedule(seed, flow, sent, steps)


def _step(random: Random, slots: list[int], depth: int = 0) -> Step:
    slot, choice = random.choice(slots), random.random()
    if choice < 0.20:
        return ["send", random.choice((1, 2, 3, 8))]
    if choice < 0.28:
        return ["flow", random.choice((1, 2)), random.randrange(2**31)]
    if choice < 0.68:
        return ["run", slot, random.choice((1, 2, 2, 3)), random.randrange(2**31)]
    if choice < 0.76:
        return ["time", random.choice((20, 120, 300, 1_600, 7_000, 11_000, 8 * 86_400_000))]
    if choice < 0.79:
        return ["rebalance", SLOTS[slot][0]]
    if choice < 0.81:
        return ["heir", slot]
    if choice < 0.83:
        return ["zombie", random.randrange(2**31)]
    if choice < 0.84:
        return ["stop", slot]
    call = random.choice(_COMMIT_CALLS if random.random() < 0.7 else _OTHER_CALLS)
    count = random.choice((1, 1, 1, 2, 3, 5))
    if choice < 0.91 or (depth and choice < 0.94):
        return ["crash", slot, call, count, random.random() < 0.5]
    if choice < 0.96 or depth:
        call, how = random.choice(_FAILURES)
        return ["fail", slot, call, count, how]
    inside = [_step(random, slots, depth + 1) for _ in range(random.randrange(1, 8))]
    if random.random() < 0.6:
        inside.insert(0, ["heir", slot])
    return ["freeze", slot, call, count, inside]
