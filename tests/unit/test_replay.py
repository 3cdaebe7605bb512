"""Replays on the in-process log: what a run reproduces, what it changes, and that it can be stopped anywhere."""

from __future__ import annotations

import copy
import html
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deploy import correcting, pipeline, replaying
from deploy.lineage import LineageError, lineage
from deploy.loop import Loop
from deploy.replaying import Request
from model.registry import save_bundle
from streams.calendars import DAY, HOUR
from streams.codecs import decode, decode_json, encode, encode_batch, encode_json
from streams.errors import ReplayError
from streams.records import INSTALLS, OUTCOMES, WINDOWS, Head, InventorySignal, Score, Skip, WindowKind
from streams.replay.corrections import corrections
from streams.replay.diff import Differ
from streams.replay.forks import Snapshots
from streams.replay.log import MemoryLog
from streams.replay.pairs import Pair, pairs
from streams.replay.plan import Change, Plan
from streams.replay.running import Pace, Result
from streams.signals.read_model import ReadModel
from streams.snapshots import drop
from streams.stage import Message
from tests.unit.replay_world import PARTITIONS, START, Events, World, held_back, run_world
from tests.unit.synthetic_windows import lively_bundle

ALL = ("windows", "inference", "labels", "learner", "signals")
OUTSIDE = ("trend.scores", "signals.inventory", "signals.ads")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return run_world(tmp_path_factory.mktemp("world"), spoilt=held_back)


def copied(world: World) -> World:
    """To write into, while other tests use the world itself."""
    return World(copy.deepcopy(world.log), world.settings, world.bundle)


def plan(world: World, start: int = 8, to: int | None = 12, **change: Any) -> Plan:
    asked = {name: change.pop(name) for name in ("stages", "products") if name in change}
    to_ms = None if to is None else START + to * DAY
    request = Request(START + start * DAY + 5, to_ms, Change(**change), **asked)
    made = replaying.make_plan(world.settings, MemoryLog(world.log), request)
    replaying.save_plan(made, world.settings)
    return made


def run(world: World, made: Plan, stop: Callable[[], bool] = lambda: False) -> Result:
    shadow = replaying.shadow_of(made, world.settings, "")
    work = replaying.run_of(made, world.settings, MemoryLog(world.log), shadow)
    return replace(work, records=8).run(Pace(lambda: 100, stop))


def shadow(world: World, made: Plan, topic: str) -> list[Message]:
    return list(replaying.shadow_of(made, world.settings, "").records(topic))


def apply(world: World, made: Plan) -> list[Message]:
    """Publish what is left to correct; what was sent."""
    found = pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, ""))
    outputs = [c.output for pair in found for c in corrections(pair, made.replay)]
    return [world.log.append(o.topic, o.partition, o.value, o.key, 0) for o in outputs]


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
    by_id = {s.score_id: s for s in _scores(world.log.records("trend.scores"))}
    changed = {s.score_id for s in _scores(shadow(world, made, "trend.scores")) if s.head != by_id[s.score_id].head}
    assert changed
    assert changed == {
        i for i, s in by_id.items() if s.head == bad and START + 8 * DAY <= s.window_end < START + 12 * DAY
    }
    found = Differ(made).diff(pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, "")))
    assert 0 < found.changed <= len(changed)
    assert set(found.causes) == {"head"}


def test_another_network_would_not_score_under_the_ids_that_were_published(late_and_not: tuple[World, World]) -> None:
    world = copied(late_and_not[1])
    other = lively_bundle(seed=9)
    save_bundle(other, world.settings.model_dir)
    made = plan(world, start=9, to=None, model=other.version)
    assert run(world, made).waiting == 0
    replayed = _scores(shadow(world, made, "trend.scores"))
    assert {s.model for s in replayed} == {other.version}
    assert len({s.head for s in replayed}) > 2, "it learns along"
    found = Differ(made).diff(pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, "")))
    assert set(found.causes) == {"model"}
    ids = {s.score_id for s in _scores(world.log.records("trend.scores"))}
    sent = _scores([m for m in apply(world, made) if m.topic == "trend.scores"])
    assert sent
    assert {s.score_id for s in sent} <= ids
    assert {(s.model, s.revision, s.replay) for s in sent} == {(other.version, 1, made.replay)}


def test_a_record_that_the_stage_passed_over_would_be_folded(late_and_not: tuple[World, World]) -> None:
    world = copied(late_and_not[1])
    offset = next(m.offset for m in world.log.records("trend.predictions", 0) if _ends(m) == START + 8 * DAY)
    skip = Skip(stage="signals", topic="trend.predictions", partition=0, offset=offset, reason="", by="", at=0)
    assert run(world, plan(world, start=8, to=10, stages=("signals",))).difference() is None
    world.log.append("trend.skips", 0, encode_json(skip), None, 0)
    found = run(world, plan(world, start=8, to=10, stages=("signals",))).difference()
    assert found is not None, "what it has said of that record is not given any more"
    assert found.topic == "signals.inventory"


def _scores(messages: list[Message]) -> list[Score]:
    return [decode_json(m.value or b"", Score) for m in messages]


# --------------------------------------------------------------------------------------------------------------------
# An hour of orders that came two days late.


@pytest.fixture(scope="module")
def late_and_not(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
    torch.set_num_threads(1)
    late = run_world(tmp_path_factory.mktemp("late"), live=False, spoilt=held_back)
    return late, run_world(tmp_path_factory.mktemp("good"), live=False)


def _rows(messages: list[Message], record: Any) -> dict[tuple[Any, ...], str]:
    """Rows by product, end and delay, without what says where in the log they come from."""
    found = {}
    for message in messages:
        rows = decode(message.value or b"")
        if rows.record is record:
            for row in rows.batch.to_pylist():
                row = {name: value for name, value in row.items() if name not in ("offset", "late", "age")}
                row = {name: value for name, value in row.items() if not name.startswith("late_")}
                found[row["product"], row["end"], row.get("delay")] = repr(row)
    return found


def test_windows_outcomes_and_signals_would_differ_from_a_run_in_which_nothing_was_late(
    late_and_not: tuple[World, World],
) -> None:
    late, good = copied(late_and_not[0]), late_and_not[1]
    made = plan(late, start=9, to=None, late=True)
    result = run(late, made)
    assert result.touched
    assert set().union(*result.touched.values()) == {"late events"}
    first = START + 9 * DAY
    for record in (WINDOWS, OUTCOMES):
        replayed = _rows(shadow(late, made, "trend.windows"), record)
        expected = {k: v for k, v in _rows(good.log.records("trend.windows"), record).items() if k in replayed}
        assert len(expected) == len(replayed) > 30
        assert replayed == expected
    was = _decisions(late, first)
    sent = apply(late, made)
    assert sent
    assert _decisions(late, first) == _decisions(good, first) != was
    assert len({_id(m) for m in sent}) == len(sent), "downstream was told something twice"
    assert apply(late, made) == []


def _id(message: Message) -> str:
    fields = msgspec.json.decode(message.value or b"")
    return fields.get("signal_id") or fields["score_id"]


def _decisions(world: World, first: int) -> dict[str, Any]:
    """What a consumer that keeps the highest revision of an id holds."""
    held: dict[str, tuple[int, dict[str, Any]]] = {}
    for topic in OUTSIDE:
        for message in world.log.records(topic):
            fields = msgspec.json.decode(message.value or b"")
            if fields["window_end"] >= first and fields["revision"] >= held.get(_id(message), (-1, {}))[0]:
                held[_id(message)] = (fields["revision"], fields)
    left_out = ("revision", "replay", "events_offset", "window_id")
    return {i: {k: v for k, v in fields.items() if k not in left_out} for i, (_, fields) in sorted(held.items())}


def _install_a_bad_head(loop: Loop) -> None:
    """One that says six times as much of everything."""
    good = decode_json(loop.log.records("model.heads")[-1].value or b"", Head)
    bad = msgspec.structs.replace(good, version="by-hand", theta=[[1.8, *row[1:]] for row in good.theta])
    loop.log.append("trend.matured", 0, encode(INSTALLS, {"head": [encode_json(bad)], "audit": ["a"]}), None, 0)


def test_what_a_bad_head_has_said_would_not_be_as_if_it_had_never_been(
    tmp_path: Path, late_and_not: tuple[World, World]
) -> None:
    bad, good = run_world(tmp_path, live=False, then={9: _install_a_bad_head}), late_and_not[1]
    first = START + 9 * DAY
    assert _decisions(bad, first) != _decisions(good, first)
    made = plan(bad, start=9, to=None, head="learnt")
    assert made.stages == ("inference", "labels", "learner", "signals")
    run(bad, made)
    assert apply(bad, made)
    assert _decisions(bad, first) == _decisions(good, first)


@pytest.mark.parametrize("change", [{"code": True}, {"head": "learnt"}])
def test_what_was_published_since_the_plan_would_be_corrected_to_what_was_known_then(
    world: World, change: dict[str, Any]
) -> None:
    world = copied(world)
    made = plan(world, start=11, to=None, **change)
    then = START + 12 * DAY + 12 * HOUR
    ends = {f.task: sum(m.timestamp < then for m in world.log.records(*f.task)) for f in made.forks}
    earlier = tuple(msgspec.structs.replace(f, end=ends[f.task]) for f in made.forks)
    made = msgspec.structs.replace(made, forks=earlier)
    run(world, made)
    assert any(s.window_kind == "live" for s in _scores(shadow(world, made, "trend.scores")))
    assert apply(world, made) == []


def test_a_crash_in_the_middle_of_apply_would_leave_gaps_or_repeats(late_and_not: tuple[World, World]) -> None:
    world = copied(late_and_not[0])
    made = plan(world, start=9, to=None, late=True)
    run(world, made)
    found = pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, ""))
    everything = [c.output for pair in found for c in corrections(pair, made.replay)]
    for output in everything[: len(everything) // 3]:  # and then it died
        world.log.append(output.topic, output.partition, output.value, output.key, 0)
    rest = apply(world, made)
    assert [(m.topic, m.key, m.value) for m in rest] == [
        (o.topic, o.key, o.value) for o in everything[len(everything) // 3 :]
    ]
    assert apply(world, made) == []


def test_the_read_model_would_hold_what_was_said_first(world: World) -> None:
    world = copied(world)
    model = ReadModel(world.settings.database_url)
    model.migrate()
    model.apply([m for topic in OUTSIDE for m in world.log.records(topic)])
    made = plan(world, start=9, to=None, late=True)
    run(world, made)
    sent = apply(world, made)
    model.apply(sent)
    told = [decode_json(m.value or b"", InventorySignal) for m in sent if m.topic == "signals.inventory"]
    newest: dict[str, tuple[tuple[int, ...], InventorySignal]] = {}
    for m in world.log.records("signals.inventory"):
        signal = decode_json(m.value or b"", InventorySignal)
        age = (signal.window_end, signal.window_revision, signal.as_of, signal.revision)
        newest[signal.product_id] = max(
            newest.get(signal.product_id, ((0,), signal)), (age, signal), key=lambda n: n[0]
        )
    assert told
    assert any(signal in told for _, signal in newest.values())
    for product, (_, signal) in newest.items():
        view = model.product("shop", product)
        assert view is not None
        assert view.inventory is not None
        assert (view.inventory.signal_id, view.inventory.revision) == (signal.signal_id, signal.revision)
        assert view.inventory.suggested_order == signal.suggested_order
    model.close()


# --------------------------------------------------------------------------------------------------------------------
# A price feed that was a hundred times too high in one category.

WRONG = '.kind == "catalogue" and .category == "food > bread" and .price > 50000'


def _too_high(events: Events) -> Events:
    fed = False
    for event in events:
        if not fed and event[1] > START + 9 * DAY + 3 * HOUR:
            fed = True
            for i in range(1, 10, 2):
                body = {"product_id": f"p{i}", "title": f"product {i}", "category": ["food", "bread"]}
                price = {"price": f"{(5 + i) * 100}.00", "currency": "EUR", "updated_at": event[1]}
                yield "products", event[1], {**body, **price}
            body = {"product_id": "p0", "title": "product 0", "category": ["food", "fruit"]}
            yield "products", event[1], {**body, "price": "5.00", "currency": "EUR", "updated_at": event[1]}
        yield event


@pytest.fixture(scope="module")
def put_right(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Plan, Result]:
    torch.set_num_threads(1)
    world = run_world(tmp_path_factory.mktemp("priced"), spoilt=_too_high)
    made = plan(world, start=9, to=None, transform=f"if {WRONG} then .price = .price / 100 else . end")
    return world, made, run(world, made)


def _compared(of: tuple[World, Plan, Result]) -> tuple[Iterator[Pair], Differ]:
    world, made, _ = of
    return replaying.compared(made, world.settings, MemoryLog(world.log), "")


def test_a_transform_would_move_products_that_it_does_not_touch(put_right: tuple[World, Plan, Result]) -> None:
    found, differ = _compared(put_right)
    total = differ.diff(found)
    bread = {f"shop:p{i}" for i in range(1, 10, 2)}
    assert set(put_right[2].touched) == bread
    assert {p.product for p in total.products} <= bread
    assert total.reorders > 0
    assert set(total.causes) == {"transform"}


def test_the_page_and_the_file_of_a_diff_would_not_hold_what_moved(
    put_right: tuple[World, Plan, Result], tmp_path: Path
) -> None:
    found, differ = _compared(put_right)
    total = differ.diff(found)
    correcting.write_page(total, tmp_path / "new" / "diff.html")
    page = (tmp_path / "new" / "diff.html").read_text(encoding="utf-8")
    assert html.escape(total.change) in page
    assert "<script" not in page
    for product in total.products:
        windows, order = f"<td>{product.windows}", f"{product.reorder_before} &gt; {product.reorder_after}"
        assert f"<td>{product.product}{windows}" in page
        assert order in page or product.reorder_before == product.reorder_after

    correcting.write_rows(differ.rows(_compared(put_right)[0]), tmp_path / "new" / "diff.parquet")
    rows = pq.read_table(tmp_path / "new" / "diff.parquet").to_pandas()
    assert len(rows) == total.changed
    assert rows["window_id"].is_unique
    for product in total.products:
        of_product = rows[rows["product"] == product.product]
        moved = (of_product["expected_7_after"] - of_product["expected_7_before"]).sum()
        assert (len(of_product), moved) == (product.windows, pytest.approx(product.expected["7"], abs=1e-3))
        newest = of_product.iloc[-1]
        assert (newest["order_before"], newest["order_after"]) == (product.reorder_before, product.reorder_after)


def test_what_a_transform_changes_would_hang_on_how_old_the_snapshot_is(world: World) -> None:
    made = plan(world, start=3, to=5, transform='if .kind == "catalogue" then .price = 1 else . end')
    assert all(fork.start == 0 < fork.begin for fork in made.of("windows"))
    assert run(world, made).touched == {}, "the catalogue came before the range, and only this fork reads it again"


def test_a_transform_that_fails_would_not_say_where(world: World) -> None:
    with pytest.raises(ReplayError, match=r"the transform fails on shop:p\d of trend.events/\d offset \d+"):
        plan(world, start=9, to=None, transform=".nothing.of.that | error")


def test_a_plan_would_not_say_what_the_replay_takes_on_disk(put_right: tuple[World, Plan, Result]) -> None:
    world, made, _ = put_right
    folder = replaying.folder_of(world.settings, made.replay) / "shadow"
    taken = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    assert made.written_bytes == pytest.approx(taken, rel=0.5)


def test_only_the_asked_products_would_not_be_compared(world: World) -> None:
    made = plan(world, stages=("windows", "inference", "signals"), code=True, products=("shop:p1",))
    assert {f.partition for f in made.forks} < {0, 1}
    run(world, made)
    found = list(pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, "")))
    assert {pair.product for pair in found} == {"shop:p1"}
    assert len(found) >= 4


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
        for s in _scores(world.log.records("trend.scores"))
        if s.window_kind == kind and s.product_id == "p1" and s.window_end >= START + 12 * DAY
    )
    found = lineage(MemoryLog(world.log), world.settings, score.score_id)
    assert found.same == {"score from the window": True, "window from trend.events": True}
    assert found.score == score
    assert found.head.version == score.head
    assert found.outcomes > 5
    orders = [m for m in world.log.records("orders") if (m.value or b"").find(b'"product_id": "p1"') > 0]
    seen = [m for m in orders if json.loads(m.value or b"")["ordered_at"] < score.window_end]
    assert found.kinds["order"] == len(seen) if kind == "close" else found.kinds["order"] > len(seen)
    assert {s.topic for s in found.sources} == {"orders", "products", "inventory.levels"}
    assert all(s.first <= m.offset <= s.last for s in found.sources for m in seen if (s.topic, s.partition) == _of(m))
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
        with pytest.raises(LineageError, match="is no score id"):
            lineage(MemoryLog(world.log), world.settings, wrong)
