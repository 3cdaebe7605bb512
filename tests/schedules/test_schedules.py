"""Ten thousand schedules of the runner and its stages on a simulated cluster, and proof that they can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streams.runner import Runner
from tests.schedules.__main__ import report
from tests.schedules.faults import FAULTS
from tests.schedules.running import explore, failure, shrink
from tests.schedules.schedule import Schedule, make

COUNT = 10_000
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
def test_a_schedule_loses_repeats_or_changes_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, failed in explore(0, COUNT):
        if failed:
            report(make(failed[0][0]), cut=True)
        assert not failed


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_not_found(fault: type[Runner]) -> None:
    for seed in range(1, 500):
        schedule = make(seed, "chain")
        if failure(schedule, fault) is not None:
            assert failure(schedule) is None
            return
    pytest.fail(f"500 schedules do not show what is wrong with {fault.__name__}")


def test_a_failing_schedule_is_not_cut_down_or_not_replayed() -> None:
    fault = FAULTS[0]
    schedule = next(s for s in map(make, range(1, 500)) if s.flow == "chain" and failure(s, fault) is not None)
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
