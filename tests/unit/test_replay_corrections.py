"""Replays with something changed: what they say instead, what is sent of it, and that it is sent once."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from deploy import correcting, replaying
from deploy.loop import Loop
from model.registry import save_bundle
from streams.calendars import DAY, HOUR
from streams.codecs import decode, decode_json, encode, encode_json
from streams.errors import ReplayError
from streams.records.inside import INSTALLS, OUTCOMES, WINDOWS
from streams.records.outside import Head, InventorySignal
from streams.replay.corrections import corrections
from streams.replay.diff import Differ
from streams.replay.log import MemoryLog
from streams.replay.pairs import Pair, pairs
from streams.replay.plan import Plan
from streams.replay.running import Result
from streams.signals.read_model import ReadModel
from streams.stage import Message
from tests.unit.replay_world import (
    OUTSIDE,
    START,
    Events,
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
from tests.unit.synthetic_windows import lively_bundle

# --------------------------------------------------------------------------------------------------------------------
# An hour of orders that came two days late.


@pytest.fixture(scope="module")
def late_and_not(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
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
    put_right: tuple[World, Plan, Result], change: dict[str, Any]
) -> None:
    world = copied(put_right[0])
    made = plan(world, start=11, to=None, **change)
    then = START + 12 * DAY + 12 * HOUR
    ends = {f.task: sum(m.timestamp < then for m in world.log.records(*f.task)) for f in made.forks}
    earlier = tuple(msgspec.structs.replace(f, end=ends[f.task]) for f in made.forks)
    made = msgspec.structs.replace(made, forks=earlier)
    run(world, made)
    assert any(s.window_kind == "live" for s in scores(shadow(world, made, "trend.scores")))
    assert apply(world, made) == []


def test_another_network_would_not_score_under_the_ids_that_were_published(late_and_not: tuple[World, World]) -> None:
    world = copied(late_and_not[1])
    other = lively_bundle(seed=9)
    save_bundle(other, world.settings.model_dir)
    made = plan(world, start=9, to=None, model=other.version)
    assert run(world, made).waiting == 0
    replayed = scores(shadow(world, made, "trend.scores"))
    assert {s.model for s in replayed} == {other.version}
    assert len({s.head for s in replayed}) > 2, "it learns along"
    found = Differ(made).diff(pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, "")))
    assert set(found.causes) == {"model"}
    ids = {s.score_id for s in scores(world.log.records("trend.scores"))}
    sent = scores([m for m in apply(world, made) if m.topic == "trend.scores"])
    assert sent
    assert {s.score_id for s in sent} <= ids
    assert {(s.model, s.revision, s.replay) for s in sent} == {(other.version, 1, made.replay)}


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


def test_the_read_model_would_hold_what_was_said_first(late_and_not: tuple[World, World]) -> None:
    world = copied(late_and_not[0])
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


def test_what_a_transform_changes_would_hang_on_how_old_the_snapshot_is(late_and_not: tuple[World, World]) -> None:
    world = late_and_not[1]
    made = plan(world, start=3, to=5, transform='if .kind == "catalogue" then .price = 1 else . end')
    assert all(fork.start == 0 < fork.begin for fork in made.of("windows"))
    assert run(world, made).touched == {}, "the catalogue came before the range, and only this fork reads it again"


def test_a_transform_that_fails_would_not_say_where(late_and_not: tuple[World, World]) -> None:
    with pytest.raises(ReplayError, match=r"the transform fails on shop:p\d of trend.events/\d offset \d+"):
        plan(late_and_not[1], start=9, to=None, transform=".nothing.of.that | error")


def test_a_plan_would_not_say_what_the_replay_takes_on_disk(put_right: tuple[World, Plan, Result]) -> None:
    world, made, _ = put_right
    folder = replaying.folder_of(world.settings, made.replay) / "shadow"
    taken = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    assert made.written_bytes == pytest.approx(taken, rel=0.5)


def test_only_the_asked_products_would_not_be_compared(late_and_not: tuple[World, World]) -> None:
    world = late_and_not[1]
    made = plan(world, stages=("windows", "inference", "signals"), code=True, products=("shop:p1",))
    assert {f.partition for f in made.forks} < {0, 1}
    run(world, made)
    found = list(pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, "")))
    assert {pair.product for pair in found} == {"shop:p1"}
    assert len(found) >= 4
