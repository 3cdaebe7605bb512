"""Schedules of the runner and its stages on a simulated cluster, and proof that they can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from streams.runner import Runner
from streams.topics import DAY_MS as DAY
from tests.schedules import stand_ins
from tests.schedules.__main__ import report
from tests.schedules.broker import START_MS
from tests.schedules.checks import check
from tests.schedules.faults import FAULTS
from tests.schedules.running import explore, failure, shrink
from tests.schedules.schedule import SLOTS, Schedule, make
from tests.schedules.simulation import SPECS, Simulation

COUNT = 1_000  # `make schedules` runs ten thousand
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
def test_a_schedule_loses_repeats_or_changes_something() -> None:
    for _, failed in explore(0, COUNT):
        if failed:
            report(make(failed[0][0]), cut=True)
        assert not failed


_ORDER = {"platform": "shop", "order_id": "o", "buyer_id": "u", "ordered_at": START_MS - DAY, "currency": "EUR"}
_ORDER |= {"status": "placed", "lines": [{"product_id": "b", "quantity": 2, "unit_price": "2.50"}]}
# Found by seeds and cut down: each was a fault of the runner once.
FOUND = {
    "a partition that was paused and comes back stays paused": [["run", 1, 2, 2064784837]],
    "a rebalance within a poll hands a record out twice": [
        ["run", 0, 3, 1478235343],
        ["freeze", 0, "consume", 1, [["rebalance", "ingest"]]],
        ["send", 2],
        ["run", 0, 2, 1962608092],
    ],
    "what a failed step has left half done is committed by close": [
        ["run", 4, 2, 1079185307],
        ["run", 0, 3, 1179315051],
        ["fail", 4, "produce", 3, "break"],
        ["run", 2, 1, 1169848269],
        ["run", 2, 3, 1653430264],
        ["run", 4, 2, 1118897821],
    ],
}


@pytest.mark.parametrize("fault", FOUND)
def test_a_fault_that_was_mended_is_back(fault: str) -> None:
    events = [("orders", 0, json.dumps(_ORDER))]
    assert failure(Schedule(0, "chain", events, FOUND[fault])) is None


class Looking(Simulation):
    """Notes how far each partition of trend.windows is committed, and who is in the group that reads it."""

    def __init__(self, schedule: Schedule) -> None:
        patient = {**SPECS, "inference": lambda: replace(stand_ins.inference_spec(), ready_timeout_ms=60_000)}
        super().__init__(schedule, make=patient)
        self.seen: list[tuple[int, int, int]] = []

    def _look(self) -> None:
        ahead, behind = (self.cluster.offsets[("trendstream.inference", "trend.windows", p)] for p in (0, 1))
        self.seen.append((ahead, behind, len(self.cluster.groups["trendstream.inference"].members)))


def test_a_worker_that_waits_for_a_head_held_up_by_another_leaves_its_group_or_goes_on_without() -> None:
    """Heads are made from what both partitions give. While the worker of one stands still the other takes what it may,
    commits that, and waits; when the first goes on, both end."""
    first, second = (SLOTS.index(("inference", number)) for number in (0, 1))
    both = [["run", slot, 2, 7] for slot in (first, second)] * 4
    flow = [["flow", 2, salt] for salt in range(12)]
    steps = [["send", 8], ["flow", 3, 1], *both, ["flow", 3, 2], ["send", 100]]
    steps += [["freeze", second, "poll", 1, [["look"], *flow, ["look"], *flow, ["look"]]], ["run", second, 2, 3]]
    simulation = Looking(Schedule(0, "chain", [("orders", n % 2, f"o{n}") for n in range(60)], steps))
    simulation.run()
    check(simulation)
    (start, held, _), waiting, still = simulation.seen
    assert waiting == still == (waiting[0], held, 2)
    assert start < waiting[0] < simulation.cluster.log["trend.windows", 0].stable() / 2


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_not_found(fault: type[Runner]) -> None:
    for seed in range(1, 600):
        schedule = make(seed)
        if failure(schedule, fault) is not None:
            assert failure(schedule) is None
            return
    pytest.fail(f"600 schedules do not show what is wrong with {fault.__name__}")


def test_a_failing_schedule_is_not_cut_down_or_not_replayed() -> None:
    fault = FAULTS[0]
    schedule = next(s for s in map(make, range(1, 600)) if s.flow == "chain" and failure(s, fault) is not None)
    small = shrink(schedule, lambda candidate: failure(candidate, fault) is not None)
    assert len(small.steps) <= 6
    assert len(small.events) <= 3
    again = Schedule.from_json(small.to_json())
    assert again == small
    assert failure(again, fault) == failure(small, fault)


def test_the_same_seed_gives_another_schedule() -> None:
    assert make(7) == make(7)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--schedules", "0"], 2, "0 is not above zero"),
        (["--replay", "no/such/file"], 2, "no/such/file is not a schedule"),
        (["--seed", "3"], 0, "holds"),
    ],
    ids=["none", "no file", "one"],
)
def test_the_command_line_is_wrong(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.schedules", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    if code == 2:
        assert len([line for line in done.stderr.splitlines() if said in line]) == 1
