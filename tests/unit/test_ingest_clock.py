"""Control rows: what the ingest worker writes down about time and silence, and whom it makes wait."""

from __future__ import annotations

import json

import pytest

from streams.calendars import Platform
from streams.codecs import decode
from streams.ingest import IngestClock, IngestConfig, IngestStage
from streams.ingest.clock import ClockConfig
from streams.records import NO_WATERMARK, SourceState
from streams.stage import Message, Output, TaskKey, TaskStatus

DAY = 86_400_000
T = 1_511_524_800_000
CONFIG = IngestConfig(partitions=3, platforms={"shop": Platform("shop")}, secret=b"a secret of the tests")
ACTIVE, IDLE = int(SourceState.ACTIVE), int(SourceState.IDLE)
NOW = 1_000_000


def behaviors(partition: int, *times: int) -> IngestStage:
    task = IngestStage(("behaviors", partition), CONFIG)
    for offset, at in enumerate(times):
        event = {"platform": "shop", "product_id": "p", "user_id": "u", "kind": "view", "occurred_at": at}
        event["event_id"] = str(offset)
        task.fold([Message("behaviors", partition, offset, T + 900 * DAY, None, json.dumps(event).encode())])
    return task


def levels(*times: int) -> IngestStage:
    task = IngestStage(("inventory.levels", 0), CONFIG)
    for offset, at in enumerate(times):
        event = {"platform": "shop", "product_id": "p", "on_hand": 1, "on_order": 1, "lead_time_days": 1}
        event["updated_at"] = at
        task.fold([Message("inventory.levels", 0, offset, T + 900 * DAY, None, json.dumps(event).encode())])
    return task


def status(stage: IngestStage, caught_up: bool = True, last_input_at: int = NOW) -> TaskStatus:
    return TaskStatus(stage, caught_up, last_input_at)


def vector(outputs: list[Output]) -> list[tuple[object, ...]]:
    """The rows of a tick, which must be the same for every partition."""
    assert [(o.topic, o.partition) for o in outputs] == [("trend.events", p) for p in range(3)]
    assert len({o.value for o in outputs}) == 1
    return [tuple(row.values()) for row in decode(outputs[0].value or b"").batch.to_pylist()]


def test_every_partition_hears_of_every_time_source_in_one_order() -> None:
    tasks = {
        ("orders", 1): status(IngestStage(("orders", 1), CONFIG)),
        ("inventory.levels", 0): status(levels(T)),
        ("behaviors", 1): status(behaviors(1)),
        ("behaviors", 0): status(behaviors(0, T, T + 5)),
    }
    assert vector(IngestClock(ClockConfig(partitions=3)).tick(tasks, NOW)) == [
        ("behaviors", 0, ACTIVE, T + 5 - CONFIG.out_of_order_ms),
        ("behaviors", 1, ACTIVE, NO_WATERMARK),
        ("orders", 1, ACTIVE, NO_WATERMARK),
    ]


def test_silence_is_written_down_once_a_source_has_nothing_left() -> None:
    clock, stage = IngestClock(ClockConfig(partitions=3)), behaviors(0, T, T)
    behind = {("behaviors", 0): status(stage, caught_up=False)}
    assert vector(clock.tick(behind, NOW + 2000))[0][2] == ACTIVE
    assert vector(clock.tick({("behaviors", 0): status(stage)}, NOW + 2001))[0][2] == IDLE


def test_nothing_is_repeated_before_the_interval_and_silence_is_slower() -> None:
    clock, tasks = IngestClock(ClockConfig(partitions=3)), {("behaviors", 0): status(behaviors(0, T, T))}
    emitted = [now - NOW for now in range(NOW, NOW + 20_000, 50) if clock.tick(tasks, now)]
    assert emitted[:8] == [0, 250, 500, 750, 1000, 1250, 1500, 1750]
    assert [at for at in emitted if at >= 5000] == [9750, 14750, 19750]


def test_progress_and_a_new_source_are_told_at_once() -> None:
    clock, stage = IngestClock(ClockConfig(partitions=3)), behaviors(0, T, T)
    tasks: dict[TaskKey, TaskStatus] = {("behaviors", 0): status(stage)}
    assert clock.tick(tasks, NOW)
    assert clock.tick(tasks, NOW + 1) == []
    tasks[("orders", 0)] = status(IngestStage(("orders", 0), CONFIG))
    assert len(vector(clock.tick(tasks, NOW + 2))) == 2
    assert clock.tick(tasks, NOW + 3) == []


def test_a_worker_without_time_sources_says_nothing() -> None:
    assert IngestClock(ClockConfig(partitions=3)).tick({("inventory.levels", 0): status(levels(T))}, NOW) == []


@pytest.mark.parametrize("ahead", [2 * DAY, 2 * DAY + 1])
def test_only_who_is_too_far_ahead_of_the_slowest_waits(ahead: int) -> None:
    tasks = {
        ("behaviors", 0): status(behaviors(0, T, T), caught_up=False),
        ("behaviors", 1): status(behaviors(1, T + ahead, T + ahead), caught_up=False),
        ("inventory.levels", 0): status(levels(T + ahead - 1, T + ahead)),
    }
    expected = {("behaviors", 1), ("inventory.levels", 0)} if ahead > 2 * DAY else set()
    assert IngestClock(ClockConfig(partitions=3)).paused(tasks) == expected


def test_an_idle_source_holds_nobody_back() -> None:
    clock = IngestClock(ClockConfig(partitions=3))
    tasks = {
        ("behaviors", 0): status(behaviors(0, T, T)),
        ("behaviors", 1): status(behaviors(1, T + 9 * DAY, T + 9 * DAY), False, NOW + 2000),
    }
    assert clock.paused(tasks) == {("behaviors", 1)}
    clock.tick(tasks, NOW + 2000)
    assert clock.paused(tasks) == set()


def test_what_waits_elsewhere_after_a_silence_is_not_overtaken() -> None:
    clock = IngestClock(ClockConfig(partitions=3))
    first, second, never = behaviors(0, T, T), behaviors(1, T, T + 1), IngestStage(("orders", 0), CONFIG)
    tasks: dict[TaskKey, TaskStatus] = {("behaviors", 0): status(first), ("behaviors", 1): status(second)}
    tasks["orders", 0] = status(never)
    states = [state for *_, state, _ in vector(clock.tick(tasks, NOW + 2000))]
    assert states == [IDLE, IDLE, IDLE]
    woken = NOW + 9000
    tasks["behaviors", 0] = status(behaviors(0, T, T, T + DAY), caught_up=False, last_input_at=woken)
    states = [state for *_, state, _ in vector(clock.tick(tasks, woken))]
    assert states == [ACTIVE, ACTIVE, IDLE], "what has never shown a time holds nothing back"
    assert clock.paused(tasks) == set()
    assert vector(clock.tick(tasks, woken + 1499))[1] == ("behaviors", 1, ACTIVE, T + 1 - CONFIG.out_of_order_ms)
    assert vector(clock.tick(tasks, woken + 1500))[1] == ("behaviors", 1, IDLE, T + 1 - CONFIG.out_of_order_ms)


def test_a_source_without_a_time_yet_holds_the_others_until_it_is_silent() -> None:
    tasks = {
        ("behaviors", 0): status(behaviors(0), caught_up=False),
        ("behaviors", 1): status(behaviors(1, T, T), caught_up=False),
    }
    clock = IngestClock(ClockConfig(partitions=3))
    assert clock.paused(tasks) == {("behaviors", 1)}
    tasks[("behaviors", 0)] = status(behaviors(0))
    clock.tick(tasks, NOW + 1)
    assert clock.paused(tasks) == {("behaviors", 1)}
    clock.tick(tasks, NOW + 2000)
    assert clock.paused(tasks) == set()


def test_reviews_that_are_behind_do_not_hold_orders_back_until_they_are_read() -> None:
    tasks = {
        ("behaviors", 0): status(behaviors(0, T + 9 * DAY, T + 9 * DAY), caught_up=False),
        ("inventory.levels", 0): status(levels(T, T + 1), caught_up=False),
    }
    assert IngestClock(ClockConfig(partitions=3)).paused(tasks) == {("behaviors", 0)}
    tasks[("inventory.levels", 0)] = status(levels(T, T + 1))
    assert IngestClock(ClockConfig(partitions=3)).paused(tasks) == set()


def test_somebody_is_always_allowed_to_go_on() -> None:
    tasks = {("inventory.levels", 0): status(levels(T, T + 1), caught_up=False)}
    assert IngestClock(ClockConfig(partitions=3)).paused(tasks) == set()
