"""Replays on the in-process log: what a run reproduces, what it changes, and that it can be stopped anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from deploy import pipeline, replaying
from deploy.errors import ConfigurationError
from deploy.lineage import lineage
from streams.calendars import DAY
from streams.codecs import decode, decode_json, encode_batch, encode_json
from streams.records import WindowKind
from streams.records.inside import OUTCOMES
from streams.records.outside import Head, Skip
from streams.replay.diff import Differ
from streams.replay.forks import Snapshots
from streams.replay.log import MemoryLog
from streams.replay.pairs import pairs
from streams.replay.plan import Plan
from streams.replay.running import Pace, Result
from streams.snapshots import drop
from streams.stage import Message
from tests.unit.replay_world import (
    OUTSIDE,
    PARTITIONS,
    START,
    World,
    apply,
    copied,
    held_back,
    plan,
    run,
    run_world,
    scores,
    shadow,
)

ALL = ("windows", "inference", "labels", "learner", "signals")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return run_world(tmp_path_factory.mktemp("world"), spoilt=held_back)


def published(world: World, topic: str, first: int, last: int) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of the outside records of windows that end in [first, last) days."""
    found = []
    for m in world.log.records(topic):
        end = msgspec.json.decode(m.value or b"")["window_end"]
        if START + first * DAY <= end < START + last * DAY:
            found.append((m.key, m.value))
    return found


def test_the_same_versions_would_not_give_what_was_published(world: World) -> None:
    made = plan(world)
    result = run(world, made)
    assert result.difference() is None
    assert {c.stage for c in result.checked} == set(ALL)
    assert all(c.records >= 4 for c in result.checked)
    assert all(fork.snapshot > 0 for fork in made.forks if fork.stage in ("windows", "labels", "learner"))


def test_a_replay_of_the_first_days_would_need_a_snapshot(world: World) -> None:
    made = plan(world, start=1, to=3)
    assert all(fork.snapshot < 0 and not fork.start for fork in made.forks if fork.stage == "windows")
    result = run(world, made)
    assert result.difference() is None
    assert sum(c.records for c in result.checked) > 100


@pytest.mark.parametrize(("topic", "stage"), [("trend.windows", "windows"), ("trend.predictions", "inference")])
def test_a_record_that_is_not_its_fold_would_go_unnamed(world: World, topic: str, stage: str) -> None:
    world = copied(world)
    log = world.log.records(topic, 0)
    at = next(i for i, m in enumerate(log) if _ends(m) == START + 9 * DAY)
    log[at] = _spoilt(log[at])
    found = run(world, plan(world, stages=(stage,))).difference()
    assert found is not None
    assert (found.stage, found.topic, found.offset) == (stage, topic, log[at].offset)
    assert "price is" in found.what
    assert "7777777 was published" in found.what
    assert "offset" in found.made_of


def _ends(message: Message) -> int:
    rows = decode(message.value or b"")
    of_close = (
        rows.record is not OUTCOMES and "kind" in rows.record.schema.names and rows["kind"][0] == WindowKind.CLOSE
    )
    return int(rows["end"][0]) if of_close else 0


def _spoilt(message: Message) -> Message:
    batch = decode(message.value or b"").batch
    prices = batch.column("price").to_pylist()
    columns = [pa.array([7777777, *prices[1:]]) if n == "price" else batch.column(n) for n in batch.schema.names]
    value = encode_batch(pa.RecordBatch.from_arrays(columns, schema=batch.schema))
    return Message(*(getattr(message, n) for n in ("topic", "partition", "offset", "timestamp", "key")), value)


def test_a_snapshot_that_was_thinned_out_since_the_plan_would_end_the_run(world: World) -> None:
    world = copied(world)
    made = plan(world, stages=("windows", "labels"), to=9)
    for fork in made.forks:
        snapshots = Snapshots(MemoryLog(world.log), pipeline.windows_spec(world.settings), PARTITIONS)
        for manifest in snapshots.manifests(fork.task):
            for output in drop(manifest, PARTITIONS):
                world.log.append(output.topic, output.partition, output.value, output.key, 0)
    assert run(world, made).difference() is None
    begun = replaying.load_plan(world.settings, made.replay)
    assert [f.snapshot < 0 for f in begun.forks] == [f.stage == "windows" for f in begun.forks]
    assert [(f.begin, f.end) for f in begun.forks] == [(f.begin, f.end) for f in made.forks]


def test_the_whole_circuit_would_not_give_what_was_published(world: World) -> None:
    made = plan(world, code=True)
    assert run(world, made).waiting == 0
    for topic in OUTSIDE:
        assert sorted((m.key, m.value) for m in shadow(world, made, topic)) == sorted(published(world, topic, 8, 12))
    assert apply(world, made) == []


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_replay_that_was_cut_off_anywhere_would_end_otherwise(world: World, end: str) -> None:
    whole = plan(world, to=10, late=True)
    run(world, whole)
    parts = msgspec.structs.replace(whole, replay=end)
    replaying.save_plan(parts, world.settings)
    rounds = 0
    while not (run(world, parts, _after(4)) if end == "stopped" else _killed(world, parts)).done:
        rounds += 1
    assert rounds > 4
    for topic in whole.writes():
        for partition in range(PARTITIONS):
            one, other = (
                [(m.key, m.value) for m in shadow(world, made, topic) if m.partition == partition]
                for made in (whole, parts)
            )
            assert one == other, topic


def _killed(world: World, made: Plan) -> Result:
    """Two steps are committed, and the third is lost with the process."""
    log, steps = MemoryLog(world.log), iter(range(2))

    def told(done: int, note: str) -> None:
        if next(steps, None) is None:
            raise InterruptedError

    work = replaying.run_of(made, world.settings, log, replaying.shadow_of(made, world.settings, ""), checkpoint_s=0)
    try:
        return replace(work, records=12).run(Pace(lambda: 100, lambda: False), told)
    except InterruptedError:
        return Result(replay=made.replay)


def _after(calls: int) -> Callable[[], bool]:
    asked = iter(range(10**9))
    return lambda: next(asked) >= calls


def test_a_pinned_head_would_score_other_windows_than_those_of_the_bad_one(world: World) -> None:
    heads = [decode_json(m.value or b"", Head) for m in world.log.records("model.heads")]
    good, bad = (next(h.version for h in heads if h.epoch == START + day * DAY) for day in (5, 9))
    made = plan(world, head=good, instead_of=bad)
    run(world, made)
    by_id = {s.score_id: s for s in scores(world.log.records("trend.scores"))}
    changed = {s.score_id for s in scores(shadow(world, made, "trend.scores")) if s.head != by_id[s.score_id].head}
    assert changed
    assert changed == {
        i for i, s in by_id.items() if s.head == bad and START + 8 * DAY <= s.window_end < START + 12 * DAY
    }
    found = Differ(made).diff(pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, "")))
    assert 0 < found.changed <= len(changed)
    assert set(found.causes) == {"head"}


def test_a_record_that_the_stage_passed_over_would_be_folded(world: World) -> None:
    world = copied(world)
    offset = next(m.offset for m in world.log.records("trend.predictions", 0) if _ends(m) == START + 8 * DAY)
    skip = Skip(stage="signals", topic="trend.predictions", partition=0, offset=offset, reason="", by="", at=0)
    assert run(world, plan(world, start=8, to=10, stages=("signals",))).difference() is None
    world.log.append("trend.skips", 0, encode_json(skip), None, 0)
    found = run(world, plan(world, start=8, to=10, stages=("signals",))).difference()
    assert found is not None, "what it has said of that record is not given any more"
    assert found.topic == "signals.inventory"


def test_a_rate_of_a_quarter_would_work_more_than_a_quarter_of_the_time() -> None:
    naps: list[float] = []
    rates = iter([25, 25, 25, 25, 100, 100])
    pace = Pace(lambda: next(rates), lambda: False, naps.append)
    pace.rest(0.5)
    assert sum(naps) == pytest.approx(1.5)
    pace.rest(0.5)
    assert sum(naps) == pytest.approx(1.5), "the rate was changed to 100 % while it ran"


# --------------------------------------------------------------------------------------------------------------------
# Where a score comes from.


@pytest.mark.parametrize("kind", ["close", "live"])
def test_a_score_would_not_come_out_again_from_what_it_is_said_to_be_made_of(world: World, kind: str) -> None:
    score = next(
        s
        for s in scores(world.log.records("trend.scores"))
        if s.window_kind == kind and s.product_id == "p1" and s.window_end >= START + 12 * DAY
    )
    found = lineage(MemoryLog(world.log), world.settings, score.score_id)
    assert found.same == {"score from the window": True, "window from trend.events": True}
    assert found.score == score
    assert found.head.version == score.head
    assert found.outcomes > 5
    orders = [m for m in world.log.records("orders") if (m.value or b"").find(b'"product_id": "p1"') > 0]
    seen = [m for m in orders if json.loads(m.value or b"")["ordered_at"] < score.window_end]
    behind = found.origins.all
    assert behind.kinds["order"] == len(seen) if kind == "close" else behind.kinds["order"] > len(seen)
    assert {topic for topic, _ in behind.found} == {"orders", "products", "inventory.levels"}
    assert all(behind.found[_of(m)].first <= m.offset <= behind.found[_of(m)].last for m in seen)
    times = [json.loads(m.value or b"")["ordered_at"] for m in orders]
    on_day = sum(found.day[0] <= at < found.day[1] for at in times)
    # The other partition of orders may be a little behind what a live window has seen.
    assert on_day - (kind == "live") <= found.origins.on_day.kinds["order"] <= on_day
    total = np.exp(sum(found.explanation.parts.values()))
    assert total == pytest.approx([h.expected for h in score.horizons], rel=1e-5)


def _of(message: Message) -> tuple[str, int]:
    return message.topic, message.partition


def test_a_window_that_is_not_what_its_events_give_would_pass(world: World) -> None:
    world = copied(world)
    log = world.log.records("trend.windows", 0)
    at = next(i for i, m in enumerate(log) if _ends(m) == START + 9 * DAY)
    log[at] = _spoilt(log[at])
    product = decode(log[at].value or b"")["product"][0]
    found = lineage(MemoryLog(world.log), world.settings, f"{product}@{START + 9 * DAY}/{world.bundle.version}")
    assert found.same["window from trend.events"] is False


def test_what_is_no_score_id_would_not_be_said(world: World) -> None:
    for wrong in ("shop:p1", "shop:p1@17/", "p1@17/n1", "shop:p1@x/n1"):
        with pytest.raises(ConfigurationError, match="is no score id"):
            lineage(MemoryLog(world.log), world.settings, wrong)
