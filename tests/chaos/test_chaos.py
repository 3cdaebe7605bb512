"""The short form of `make chaos`: each of the first five kinds of disturbance once, on one worker a stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.driver import Plan, Run
from tests.chaos.schedule import STAGES, WEIGHTS, make_schedule
from tests.chaos.telling import table
from tests.conftest import JARS

SHORT = Plan(seed=7, disturbances=5, workers=1, partitions=2, day_s=4.0)


@pytest.mark.kafka
@pytest.mark.timeout(280)
def test_kills_zombies_cuts_or_a_restart_of_everything_lose_or_repeat_something(tmp_path: Path) -> None:
    report = Run(SHORT, tmp_path / "chaos", JARS, print).execute()
    assert report.passed, table(report)
    assert {kind: row["count"] for kind, row in report.disturbances.items()} == dict.fromkeys(list(WEIGHTS)[:5], 1)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_same_seed_gives_another_schedule_or_a_schedule_leaves_a_stage_without_a_worker(workers: int) -> None:
    for seed in range(50):
        schedule = make_schedule(seed, 50, workers)
        assert schedule == make_schedule(seed, 50, workers)
        assert schedule != make_schedule(seed + 1, 50, workers)
        assert {d.kind for d in schedule} >= WEIGHTS.keys() - {"leave-worker"}
        present = {f"{stage}/{slot}" for stage in STAGES for slot in range(workers)}
        for disturbance in schedule:
            if disturbance.kind == "join-worker":
                assert disturbance.whom not in present
                present.add(disturbance.whom)
            elif disturbance.kind in ("leave-worker", "kill-worker", "stop-worker"):
                assert disturbance.whom in present
                if disturbance.kind == "leave-worker":
                    present.remove(disturbance.whom)
            assert {name.partition("/")[0] for name in present} == set(STAGES)
