"""What `doctor` finds: nothing where all is well, and one line with the way out for each thing that breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from deploy.diagnosis import diagnose
from deploy.inspection import INPUTS, RUNNERS, STATEFUL, Held, Installation, TaskState
from model.heads import frozen_head
from streams.records.outside import Progress
from streams.topics import DAY_MS, topics

NOW = 20_000 * DAY_MS
HOUR = 3_600_000


def task(stage: str, topic: str, partition: int) -> TaskState:
    report: dict[str, int | float | str] = {"event_time": NOW - HOUR}
    if stage == "windows":
        report |= {"held_by": "orders/0", "idle": 0}
    if stage == "inference":
        report |= {"model": "n1", "head": "n1-e5", "head_epoch": NOW - 2 * DAY_MS}
    told = Progress(
        stage=stage,
        topic=topic,
        partition=partition,
        offset=90,
        counters={"read": 1_000},
        report=report,
        snapshot_offset=80 if stage in STATEFUL else -1,
        snapshot_at=NOW - 30_000,
    )
    progress = told if stage in RUNNERS else None
    return TaskState(stage, topic, partition, 0, 91, 90, 0, None, progress, NOW - 1_000)


def healthy() -> Installation:
    made = topics(1)
    tasks = tuple(task(stage, topic, 0) for stage, inputs in INPUTS.items() for topic in inputs)
    return Installation(
        now=NOW,
        partitions=1,
        topics={topic.name: topic.partitions for topic in made},
        settings={topic.name: topic.configuration() for topic in made},
        workers=dict.fromkeys(INPUTS, 1),
        tasks=tasks,
        head=frozen_head("n1", np.ones(12), [], NOW - 2 * DAY_MS),
        dead={},
        snapshots={
            each.place: Held(((10, NOW - HOUR), (80, NOW - 30_000))) for each in tasks if each.stage in STATEFUL
        },
        bundle="n1",
    )


def changed(stage: str, report: dict[str, Any] | None = None, **changes: Any) -> Callable[[Installation], Installation]:
    """With the tasks of a stage changed."""

    def change(at: Installation) -> Installation:
        def one(each: TaskState) -> TaskState:
            if each.stage != stage:
                return each
            progress = each.progress
            if report is not None and progress is not None:
                progress = msgspec.structs.replace(progress, report=progress.report | report)
            return replace(each, **{"progress": progress, **changes})

        return replace(at, tasks=tuple(map(one, at.tasks)))

    return change


def without(mapping: Any, *names: Any) -> dict[Any, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


WINDOWS = ("windows", "trend.events", 0)
SICK: dict[str, tuple[Callable[[Installation], Installation], str, str]] = {
    "a topic is missing": (
        lambda at: replace(at, topics=without(at.topics, "trend.audit")),
        "topics are missing: trend.audit",
        "topics create",
    ),
    "another number of partitions": (
        lambda at: replace(at, topics={**at.topics, "trend.windows": 3}),
        "trend.windows has 3 partitions, and 1 are configured",
        "TRENDSTREAM_PARTITIONS=3",
    ),
    "snapshots are not compacted": (
        lambda at: replace(
            at,
            settings=at.settings | {"trend.snapshots": {**at.settings["trend.snapshots"], "cleanup.policy": "delete"}},
        ),
        "trend.snapshots: cleanup.policy is delete",
        "--add-config cleanup.policy=compact",
    ),
    "retention is shorter than a restore may need": (
        lambda at: replace(
            at, settings=at.settings | {"trend.events": {**at.settings["trend.events"], "retention.ms": "86400000"}}
        ),
        "trend.events: retention.ms is 86400000",
        "retention.ms=1209600000",
    ),
    "an offset was set back by hand": (
        lambda at: replace(changed("windows", committed=40)(at), by_hand=frozenset([WINDOWS])),
        "set back by hand from 90 to 40: 50 offsets would be published again",
        "offsets reset windows --to-progress",
    ),
    "an offset was set on by hand": (
        lambda at: replace(
            changed("inference", committed=95)(at), by_hand=frozenset([("inference", "trend.windows", 0)])
        ),
        "set on by hand from 90 to 95: what 5 offsets cause is never published",
        "offsets reset inference --to-progress",
    ),
    "the offsets of a group were deleted": (
        lambda at: replace(changed("windows", committed=-1001)(at), by_hand=frozenset([WINDOWS])),
        "the offset of windows for trend.events/0 was deleted",
        "offsets reset windows --to-progress",
    ),
    "the snapshot topic was emptied": (
        lambda at: replace(at, snapshots=without(at.snapshots, WINDOWS)),
        "the snapshot of windows trend.events/0 at offset 80 is gone from trend.snapshots; none is there",
        "let its worker run",
    ),
    "the newest snapshot lies before what is kept": (
        changed("windows", first=85),
        "windows trend.events/0 cannot be restored: its newest snapshot ends at 80, trend.events is kept from 85",
        "do not stop its worker",
    ),
    "no worker runs and something waits": (
        lambda at: replace(
            changed("labels", left=7, waiting_since=NOW - 2 * HOUR)(at), workers={**at.workers, "labels": 0}
        ),
        "no worker of labels runs: 7 offsets wait, the oldest for 2.0 h",
        "trendstream worker labels",
    ),
    "a stage is behind": (
        changed("signals", left=9_000, waiting_since=NOW - 5 * 60_000),
        "signals is behind: 9,000 offsets wait, the oldest for 5.0 min",
        "trendstream lag --stage signals",
    ),
    "a source holds event time back": (
        changed("windows", {"event_time": NOW - 3 * DAY_MS, "held_by": "behaviors/1"}),
        "event time of trend.events/0 is 3.0 d behind the newest event, held back by behaviors/1",
        "topics cat behaviors --partition 1 --latest",
    ),
    "the learner stands still": (
        lambda at: replace(at, head=frozen_head("n1", np.ones(12), [], NOW - 9 * DAY_MS)),
        "scores say head_late",
        "lag --stage learner",
    ),
    "two networks at once": (
        lambda at: replace(
            at,
            tasks=(
                *at.tasks,
                replace(
                    task("inference", "trend.windows", 1),
                    progress=msgspec.structs.replace(
                        task("inference", "trend.windows", 1).progress,  # type: ignore[type-var]
                        report={"model": "n2", "head": "n1-e5", "head_epoch": 5},
                    ),
                ),
            ),
        ),
        "different networks: n1, n2",
        "TRENDSTREAM_MODEL_DIR",
    ),
    "the database is away": (lambda at: replace(at, read_model="read model x: gone"), "x: gone", "DATABASE_URL"),
    "many dead letters": (
        lambda at: replace(at, dead={"wrong-type": 900, "bad-time": 3}),
        "903 dead letters are open (900 wrong-type, 3 bad-time)",
        "dlq list",
    ),
}


def test_a_healthy_installation_has_nothing_to_say() -> None:
    assert diagnose(healthy()) == []


@pytest.mark.parametrize("name", SICK)
def test_what_is_wrong_is_named_once_with_the_way_out(name: str) -> None:
    spoil, what, do = SICK[name]
    found = diagnose(spoil(healthy()))
    assert [finding.level for finding in found] == ["problem"]
    assert what in found[0].what
    assert do in found[0].do


def test_what_other_things_rest_on_comes_first() -> None:
    at = healthy()
    for name in (
        "many dead letters",
        "a stage is behind",
        "an offset was set back by hand",
        "snapshots are not compacted",
    ):
        at = SICK[name][0](at)
    said = [finding.what for finding in diagnose(at)]
    assert [text.split()[0] for text in said] == ["trend.snapshots:", "the", "signals", "903"]


def test_a_few_dead_letters_and_an_idle_stage_without_a_worker_are_no_problem() -> None:
    at = replace(healthy(), dead={"bad-time": 2}, workers={**healthy().workers, "text": 0}, bundle="")
    assert {finding.level for finding in diagnose(at)} == {"note"}
