"""The rules of the windows stage, one small log each."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from featurizers import products
from featurizers.errors import WindowsError
from featurizers.window_config import WindowConfig
from featurizers.windows import WindowStage
from streams.calendars import DAY, HOUR, Platform
from streams.codecs import encode
from streams.errors import SnapshotError
from streams.records import CHANNELS, DAYS, HOURS, NO_WATERMARK, EventKind, Modality, SourceState, WindowKind
from streams.records.inside import CLOSES
from streams.stage import Message
from tests.unit.event_builder import TASK, Log, Row, cancelled, event, instant, level, order, rows_of, run, vector

CONFIG = WindowConfig({"shop": Platform("shop"), "rome": Platform("rome", "Europe/Rome")})
SHOP = WindowConfig({"shop": Platform("shop")})
T = instant("2024-05-06")  # a Monday, midnight UTC
A, B = "shop:a", "shop:b"
UNITS, ORDERS, REVENUE = (CHANNELS.index(c) for c in ("units", "orders", "revenue"))


def closes(log: Log, config: WindowConfig = SHOP) -> list[Row]:
    return [w for w in rows_of(run(log, config)[1], "windows") if w["kind"] == WindowKind.CLOSE]


def lives(log: Log, config: WindowConfig = SHOP) -> list[Row]:
    return [w for w in rows_of(run(log, config)[1], "windows") if w["kind"] == WindowKind.LIVE]


def grid(window: Row, name: str = "day") -> np.ndarray:
    return np.asarray(window[name]).reshape(len(CHANNELS), -1)


def test_a_row_of_tomorrow_enters_a_window_of_today() -> None:
    log = Log().watermark(T).events(order(A, T + DAY, 7), order(A, T + HOUR, 1), level(A, T + DAY, 9.0))
    log.watermark(T + DAY).watermark(T + 2 * DAY)
    stage, _ = run(log, SHOP)
    first, second = closes(log)
    assert grid(first)[UNITS, -1] == 1
    assert np.isnan(first["on_hand"])
    assert grid(second)[UNITS, -2:].tolist() == [1, 7]
    assert second["on_hand"] == 9.0
    assert stage.counters()["parked"] == 0
    assert stage.counters()["late"] == 0


def test_a_parked_product_gets_a_window_before_its_first_row_happened() -> None:
    log = Log().watermark(T).events(order(B, T + DAY + 1)).events(order(A, T + 1)).watermark(T + DAY)
    stage, _ = run(log, SHOP)
    assert [w["product"] for w in closes(log)] == [A]
    assert stage.counters()["parked"] == 0
    log = Log().watermark(T).events(order(B, T + 3 * DAY)).watermark(T + DAY)
    assert run(log, SHOP)[0].counters()["parked"] == 1


def test_a_backlog_read_before_the_first_watermark_closes_fewer_days_than_one_read_slowly() -> None:
    log = Log().events(order(A, T - 3 * DAY, 2), order(A, T + 5, 1), order(A, T + DAY, 4))
    assert run(log, SHOP)[1] == []
    log.watermark(T).watermark(T + DAY).watermark(T + 2 * DAY)
    stage, _ = run(log, SHOP)
    windows = closes(log)
    assert [w["end"] for w in windows] == [T + day * DAY for day in range(-2, 3)]
    assert [int(grid(w)[UNITS].sum()) for w in windows] == [2, 2, 2, 3, 7]
    assert grid(windows[-1])[UNITS, -5:].tolist() == [2, 0, 0, 1, 4]
    assert stage.counters()["late"] == 0


def test_one_row_of_long_ago_opens_more_days_than_a_window_holds() -> None:
    log = Log().events(order(A, T, 1), order(A, T - 400 * DAY, 8)).watermark(T).watermark(T + DAY)
    stage, outputs = run(log, SHOP)
    ends = [c["end"] for c in rows_of(outputs, "closes")]
    assert (ends[0], ends[-1], len(ends)) == (T - 55 * DAY, T + DAY, DAYS + 1)
    assert stage.counters()["beyond_ring"] == 1


def test_a_backlog_read_before_all_sources_are_known_loses_its_first_days() -> None:
    """A year passes in one source, a platform falls silent, and only then the other source is found idle."""
    log = Log().control(
        ("orders", 0, SourceState.ACTIVE, NO_WATERMARK), ("orders", 1, SourceState.ACTIVE, NO_WATERMARK)
    )
    log.events(order("rome:a", T))
    for n in range(0, 365, 70):
        log.events(order(A, T + n * DAY)).watermark(T + n * DAY)
    log.control(("orders", 1, SourceState.IDLE, NO_WATERMARK))
    stage, outputs = run(log, CONFIG)
    for platform, first in (("shop", T + DAY), ("rome", instant("2024-05-07", "Europe/Rome"))):
        ends = [c["end"] for c in rows_of(outputs, "closes") if c["platform"] == platform]
        assert (ends[0], len(ends)) == (first, 350)
    assert stage.counters()["beyond_ring"] == stage.counters()["late"] == 0


def test_a_late_row_is_not_counted_or_not_named_late() -> None:
    log = Log().watermark(T).events(order(A, T)).watermark(T + DAY)
    log.events(order(A, T + HOUR, 5), order(A, T + DAY), order(A, T - 57 * DAY)).watermark(T + 2 * DAY)
    log.watermark(T + 3 * DAY)
    first, second, third = closes(log)
    assert [w["late"] for w in (first, second, third)] == [0, 1, 0]
    assert grid(second)[UNITS, -2:].tolist() == [6, 1]
    assert run(log, SHOP)[0].counters()["beyond_ring"] == 1


def test_a_window_names_another_record_than_the_last_that_came_late() -> None:
    def late(product: str, at: int, partition: int, offset: int) -> Row:
        return {**order(product, at), "source": "late-orders", "source_partition": partition, "source_offset": offset}

    log = Log().watermark(T).events(order(A, T), order(B, T)).watermark(T + DAY)
    log.events(late(A, T + 3, 1, 90), late(A, T + DAY + HOUR, 3, 92), late(A, T + 9, 2, 70), late(B, T + 1, 1, 91))
    log.events(late(A, T + 5, 1, 95), late(A, T + 3 * DAY, 5, 99))  # one late row, one that waits for its day
    log.watermark(T + 2 * DAY).watermark(T + 3 * DAY).watermark(T + 4 * DAY)
    log.events(late(B, T + 2 * DAY, 7, 101)).watermark(T + 5 * DAY)
    named = [(w["product"], w["late"], (w["late_source"], w["late_partition"], w["late_offset"])) for w in closes(log)]
    nothing = (0, ("", -1, -1))
    assert named == [
        *((A, *nothing), (B, *nothing)),
        *((A, 3, ("late-orders", 1, 95)), (B, 1, ("late-orders", 1, 91))),
        *((A, *nothing), (B, *nothing)) * 2,
        *((A, *nothing), (B, 1, ("late-orders", 7, 101))),
    ]
    waiting = Log().events(late(B, T - 4 * DAY, 4, 20)).watermark(T).events(late(A, T, 4, 21)).watermark(T + DAY)
    assert {w["late"] for w in closes(waiting)} == {0}  # history was in no window before


@pytest.mark.parametrize("zone", ["shop", "rome"])
def test_an_event_on_an_edge_falls_on_the_wrong_side(zone: str) -> None:
    """Of a day, of the ring (56 days before the open one) and of an hour; `rome` has a clock change within the ring."""
    product, calendar = f"{zone}:a", CONFIG.platforms[zone].calendar
    today = int(calendar.day(T)) + 1
    start, end = calendar.start(today), calendar.start(today + 1)
    first = calendar.start(today - DAYS)  # of the ring while `today` is open
    log = Log().events(order(product, start)).watermark(start)
    log.events(order(product, end - 1, 2), order(product, end, 3), order(product, start - 1, 40))
    log.events(order(product, first, 500), order(product, first - 1, 6_000)).watermark(end).watermark(end + DAY)
    stage, outputs = run(log, CONFIG)
    closed, after = (w for w in rows_of(outputs, "windows") if w["product"] == product and w["end"] in (end, end + DAY))
    assert grid(closed)[UNITS].tolist() == [*[0] * (DAYS - 2), 40, 1 + 2], "the ring has moved on by a day"
    assert grid(closed, "hour")[UNITS, [-1, -24, -25]].tolist() == [2, 1, 40]
    assert grid(after)[UNITS, -3:].tolist() == [40, 3, 3]
    assert (stage.counters()["late"], stage.counters()["beyond_ring"]) == (2, 1)


def test_a_late_storm_changes_what_was_said_or_keeps_others_waiting() -> None:
    """A source that was away for three days sends all of them at once."""
    config = WindowConfig(SHOP.platforms, live_interval_ms=100, live_rows=50)
    products = [f"shop:{i}" for i in range(400)]
    log = Log(step_ms=10).watermark(T)
    for day in range(4):
        log.events(*(order(p, T + day * DAY + 1) for p in products)).watermark(T + (day + 1) * DAY)
    before = run(log, config)[1]
    for day in range(3):
        for start in range(0, 400, 40):
            log.events(*(order(p, T + day * DAY + 2, 10) for p in products[start : start + 40] * 2))
    for _ in range(100):
        log.watermark(T + 4 * DAY)
    log.watermark(T + 5 * DAY)
    stage, outputs = run(log, config)
    assert outputs[: len(before)] == before, "what was published stays"
    last = [w for w in rows_of(outputs, "windows") if w["kind"] == WindowKind.CLOSE and w["end"] == T + 5 * DAY]
    assert [(w["product"], w["late"]) for w in last] == [(p, 6) for p in products]
    assert {tuple(grid(w)[UNITS, -5:].tolist()) for w in last} == {(21, 21, 21, 1, 0)}
    live = [w for w in rows_of(outputs[len(before) :], "windows") if w["kind"] == WindowKind.LIVE]
    offsets = [w["offset"] for w in live]
    assert max(offsets.count(offset) for offset in set(offsets)) <= 50
    assert {w["product"] for w in live} == set(products)
    assert stage.counters()["live_held"] > 0
    used = {w["delay"]: w["units"] for w in rows_of(outputs, "outcomes") if w["end"] == T + DAY}
    assert used == {0: 1}, "an outcome that was given stays; the week's is not due"


def test_a_cancellation_is_not_taken_off_while_it_can_be() -> None:
    log = Log().watermark(T).events(order(A, T + HOUR, 5), order(A, T + 2 * HOUR, 3))
    log.events(cancelled(A, T + 3 * HOUR, T + HOUR, 5)).watermark(T + DAY)
    (window,) = closes(log)
    assert grid(window)[[UNITS, ORDERS, REVENUE], -1].tolist() == [3, 1, 300]
    assert grid(window, "hour")[UNITS, -24:].tolist() == [0, 0, 3, *[0] * 21]


def test_a_cancellation_counts_before_it_happened() -> None:
    log = Log().watermark(T).events(order(A, T, 5), cancelled(A, T + DAY, T, 2)).watermark(T + DAY)
    log.watermark(T + 2 * DAY)
    first, second = closes(log)
    assert grid(first)[UNITS, -1] == 5
    assert grid(second)[UNITS, -2] == 3  # no window at T: no outcome has used the day


def test_a_cancellation_changes_a_day_that_an_outcome_has_used() -> None:
    log = Log().watermark(T).events(order(A, T)).watermark(T + DAY).events(order(A, T + DAY, 5)).watermark(T + 2 * DAY)
    log.events(cancelled(A, T + 2 * DAY, T + DAY, 5)).watermark(T + 3 * DAY)
    stage, outputs = run(log, SHOP)
    assert grid(closes(log)[-1])[UNITS, -3:].tolist() == [1, 5, 0]
    assert stage.counters()["cancelled_after_outcome"] == 1
    (used, _) = rows_of(outputs, "outcomes")
    assert (used["end"], used["delay"], used["units"]) == (T + DAY, 0, 5)


def test_units_become_negative() -> None:
    log = Log().watermark(T).events(order(A, T, 1), cancelled(A, T + 1, T, 4)).events(order(A, T + 2, 2))
    log.watermark(T + DAY)
    stage, _ = run(log, SHOP)
    assert grid(closes(log)[0])[UNITS, -1] == 2
    assert stage.counters()["clipped"] == 2  # units and revenue


def test_a_return_is_taken_off_the_units() -> None:
    log = Log().watermark(T).events(order(A, T, 5), event(EventKind.RETURNED, A, T + HOUR, quantity=2))
    (window,) = closes(log.watermark(T + DAY))
    assert (grid(window)[UNITS, -1], grid(window)[CHANNELS.index("returned"), -1]) == (5, 2)


def test_an_idle_source_holds_a_day_open_or_an_active_one_does_not() -> None:
    log = Log().control(("orders", 0, SourceState.ACTIVE, T), ("orders", 1, SourceState.ACTIVE, NO_WATERMARK))
    log.events(order(A, T)).control(("orders", 0, SourceState.ACTIVE, T + DAY))
    assert rows_of(run(log, SHOP)[1], "closes") == []
    log.control(("orders", 1, SourceState.IDLE, NO_WATERMARK))  # the first value opens the day of the first order
    log.control(("orders", 0, SourceState.ACTIVE, T + 2 * DAY))
    assert [c["end"] for c in rows_of(run(log, SHOP)[1], "closes")] == [T + DAY, T + 2 * DAY]
    log.control(("orders", 0, SourceState.IDLE, T + 3 * DAY))  # all idle: the furthest counts
    assert [c["end"] for c in rows_of(run(log, SHOP)[1], "closes")] == [T + DAY, T + 2 * DAY, T + 3 * DAY]


def test_platforms_close_together_or_only_where_they_have_products() -> None:
    log = Log().watermark(T).events(order(A, T)).watermark(T + DAY - 2 * HOUR)
    (rome,) = rows_of(run(log, CONFIG)[1], "closes")  # summer time: two hours ahead
    assert (rome["platform"], rome["end"], rome["windows"]) == ("rome", T + DAY - 2 * HOUR, 0)
    assert rome["partition"] == TASK[1]
    log.watermark(T + 3 * DAY)
    found = [(c["platform"], (c["end"] - T) / HOUR, c["windows"]) for c in rows_of(run(log, CONFIG)[1], "closes")]
    assert found == [
        ("rome", 22, 0),
        ("shop", 24, 1),
        ("rome", 46, 0),
        ("shop", 48, 1),
        ("rome", 70, 0),
        ("shop", 72, 1),
    ]


def test_a_window_has_no_three_outcomes_though_its_product_fell_silent() -> None:
    log = Log().watermark(T).events(order(A, T + HOUR)).watermark(T + 90 * DAY)
    stage, outputs = run(log, SHOP)
    windows = [w["end"] for w in closes(log)]
    assert windows == [T + d * DAY for d in range(1, 57)]  # active for 56 days after its last event
    outcomes = sorted((o["end"], o["delay"]) for o in rows_of(outputs, "outcomes"))
    assert outcomes == [(end, delay) for end in windows for delay in range(3)]
    assert stage.counters()["close"] == 56


def test_outcomes_ignore_the_time_out_of_stock() -> None:
    log = Log().watermark(T).events(order(A, T), order(B, T), level(B, T, 5.0)).watermark(T + DAY)
    log.events(level(B, T + DAY + 6 * HOUR, 0.0), level(B, T + DAY + 12 * HOUR, 3.0), level(B, T + 30 * HOUR - 1, 1.0))
    log.events(level(B, T + 44 * HOUR, 0.0)).watermark(T + 2 * DAY).watermark(T + 3 * DAY)
    found = {(o["product"], o["end"]): o for o in rows_of(run(log, SHOP)[1], "outcomes") if o["delay"] == 0}
    assert (found[A, T + DAY]["exposure"], found[A, T + DAY]["censored"]) == (1.0, 0)
    assert found[B, T + DAY]["exposure"] == pytest.approx(1 - 10 / 24)
    assert found[B, T + DAY]["censored"] == 1
    assert found[B, T + 2 * DAY]["exposure"] == 0.0


def test_a_level_that_came_late_leaves_a_wrong_exposure() -> None:
    out = Log().watermark(T).events(order(A, T), level(A, T, 0.0)).watermark(T + DAY).watermark(T + 2 * DAY)
    out.events(level(A, T + 36 * HOUR, 4.0)).watermark(T + 3 * DAY)  # it was back since noon of the day before
    held = Log().watermark(T).events(order(A, T), level(A, T, 4.0)).watermark(T + DAY).watermark(T + 2 * DAY)
    held.events(level(A, T + 36 * HOUR, 0.0)).watermark(T + 3 * DAY)

    def in_stock(log: Log) -> list[float]:
        stage = run(log, SHOP)[0]
        products = stage._folds[0].products
        day = products.open_day
        shares: list[float] = products.in_stock(np.asarray([0]), np.arange(day - 3, day))[0].tolist()
        return shares

    assert in_stock(out) == [0.0, 0.5, 1.0]
    assert in_stock(held) == [1.0, 0.5, 0.0]


def test_an_older_catalogue_row_or_level_replaces_a_newer_one() -> None:
    def catalogue(at: int, category: str, price: int) -> Row:
        return event(EventKind.CATALOGUE, A, at, category=category, price=price)

    log = Log().watermark(T).events(catalogue(T + 5, "x", 1), catalogue(T + 9, "y", 2), catalogue(T + 7, "z", 3))
    log.events(catalogue(T + 8, "w", 4), level(A, T + 5, 2.0)).events(level(A, T + 4, 1.0)).watermark(T + DAY)
    log.events(catalogue(T + 9, "same time", -1)).watermark(T + 2 * DAY)
    first, second = closes(log)
    assert (first["category"], first["price"], first["on_hand"], first["unit_cost"]) == ("y", 2, 2.0, 50)
    assert (second["category"], second["price"]) == ("same time", -1)
    assert first["mask"] == (1 << Modality.CATALOGUE) | (1 << Modality.LEVEL)


def test_vectors_are_not_the_decayed_mean_of_what_came() -> None:
    log = Log().events(order(A, T)).watermark(T)
    log.vectors(vector(A, T, 1, 1.0), vector(A, T - 6 * DAY, 2, 4.0)).vectors(vector(A, T + 12 * HOUR, 3, 2.0))
    (window,) = closes(log.watermark(T + DAY))
    weights = np.exp2(-np.asarray([0.5, 6.5, 0.0]) / 3)
    assert window["text"] == pytest.approx(np.full(64, (weights * [1.0, 4.0, 2.0]).sum() / weights.sum()), rel=1e-6)
    assert not window["image"].any()
    assert window["mask"] == 1 << Modality.TEXT
    assert window["age"][Modality.TEXT] == pytest.approx(0.5)
    assert np.isnan(window["age"][Modality.IMAGE])
    assert (window["text_encoder"], window["image_encoder"]) == ("text-1", "")


def test_vectors_sent_twice_count_twice() -> None:
    once, twice = Log().watermark(T), Log().watermark(T)
    rows = [vector(A, T, 1, 1.0), vector(A, T, 2, 5.0), vector(A, T, 2, 3.0, Modality.TITLE, source="products")]
    once.vectors(*rows).vectors(vector(A, T, 3, 9.0)).watermark(T + DAY)
    twice.vectors(*rows, rows[1]).vectors(rows[0], rows[2], vector(A, T, 3, 9.0)).watermark(T + DAY)
    assert closes(once)[0]["text"].tolist() == closes(twice)[0]["text"].tolist()
    assert closes(once)[0]["title"].tolist() == [3.0] * 64
    assert run(twice, SHOP)[0].counters()["vectors_repeated"] == 3
    assert run(once, SHOP)[0].counters()["vectors_repeated"] == 0


def test_vectors_of_two_encoder_versions_are_mixed() -> None:
    log = Log().watermark(T).vectors(vector(A, T, 1, 1.0), vector(A, T, 1, 7.0, Modality.TITLE, source="products"))
    log.vectors(vector(A, T, 1, 6.0, Modality.IMAGE, "image-1", "images"))
    log.vectors(vector(A, T - HOUR, 2, 5.0, encoder="text-2"), vector(A, T - HOUR, 3, 7.0, encoder="text-2"))
    (window,) = closes(log.watermark(T + DAY))
    assert window["text"] == pytest.approx(np.full(64, 6.0))
    assert window["text_encoder"] == "text-2"
    assert not window["title"].any()  # titles go through the text encoder too
    assert window["image"].tolist() == [6.0] * 64
    assert window["mask"] == (1 << Modality.TEXT) | (1 << Modality.IMAGE)


def test_vectors_of_tomorrow_enter_a_window_of_today() -> None:
    log = Log().watermark(T).vectors(vector(A, T + DAY, 2, 9.0)).events(order(A, T)).watermark(T + DAY)
    assert closes(log)[0]["mask"] == 0
    assert run(log, SHOP)[0].counters()["parked"] == 0


def test_live_windows_do_not_show_the_open_day() -> None:
    config = WindowConfig(SHOP.platforms, live_interval_ms=10)
    log = Log(step_ms=10).events(order(A, T - HOUR, 2)).watermark(T).events(order(A, T + 6 * HOUR, 3)).watermark(T)
    log.events(event(EventKind.VIEW, A, T + 5 * HOUR)).watermark(T).events(order(A, T + 7 * HOUR))
    first, second, third = lives(log.watermark(T + 12 * HOUR), config)
    assert [w["revision"] for w in (first, second, third)] == [1, 2, 3]
    assert [w["offset"] for w in (first, second, third)] == [3, 5, 7]
    assert [w["as_of"] - T for w in (first, second, third)] == [6 * HOUR, 6 * HOUR, 12 * HOUR]
    assert {w["end"] for w in (first, second, third)} == {T}
    assert (third["open"][UNITS], third["open_share"]) == (4, 0.5)
    assert grid(third)[UNITS, -1] == 2
    hours = grid(third, "hour")[UNITS]
    assert len(hours) == HOURS
    assert hours[-14:].tolist() == [2, *[0] * 6, 3, 1, 0, 0, 0, 0, 0]
    assert third["weekday"] == 0


def test_a_revision_goes_on_after_a_close() -> None:
    config = WindowConfig(SHOP.platforms, live_interval_ms=10)
    log = Log().watermark(T).events(order(A, T)).watermark(T).events(order(A, T + 1)).watermark(T).watermark(T + DAY)
    log.events(order(A, T + DAY)).watermark(T + DAY)
    assert [(w["end"], w["revision"]) for w in lives(log, config)] == [(T, 1), (T, 2), (T + DAY, 1)]


def test_a_live_window_is_made_before_the_rest_of_its_commit() -> None:
    """A commit of ingest ends with its control row; a vector comes alone."""
    config = WindowConfig(SHOP.platforms, live_interval_ms=10)
    log = Log(step_ms=10).watermark(T).events(order(A, T)).events(order(B, T)).events(order(A, T)).watermark(T)
    log.vectors(vector(B, T, 2, 9.0))
    made = [(w["product"], w["offset"], w["open"][UNITS]) for w in lives(log, config)]
    assert made == [(A, 4, 2), (B, 4, 1), (B, 5, 1)]


def test_a_live_window_repeats_what_a_close_window_has_just_said() -> None:
    config = WindowConfig(SHOP.platforms, live_interval_ms=30)
    log = Log(step_ms=10).watermark(T).events(order(A, T)).watermark(T + DAY).watermark(T + DAY).watermark(T + DAY)
    assert lives(log, config) == []
    assert len(closes(log, config)) == 1


def test_more_live_windows_than_allowed_or_too_often() -> None:
    config = WindowConfig(SHOP.platforms, live_interval_ms=100, live_rows=2)
    products = [f"shop:{name}" for name in "edcba"]
    log = Log(step_ms=10).watermark(T).events(*(order(p, T) for p in products))
    for _ in range(40):
        log.watermark(T + 1)
    stage, outputs = run(log, config)
    windows = rows_of(outputs, "windows")
    assert [w["product"] for w in windows] == products
    assert [w["offset"] for w in windows] == [10, 10, 20, 20, 30]
    assert stage.counters()["live_held"] == 3 + 1
    never = WindowConfig(SHOP.platforms, live_interval_ms=2**60)
    assert lives(log, never) == []


def test_a_product_that_sells_all_the_time_waits_behind_those_that_hardly_sell() -> None:
    config = WindowConfig(SHOP.platforms, live_interval_ms=10, live_rows=2)
    log = Log(step_ms=10).watermark(T).events(*(order(f"shop:{name}", T) for name in "abcdeedd"))
    for _ in range(3):
        log.watermark(T + 1)
    assert [w["product"] for w in lives(log, config)] == ["shop:a", "shop:d", "shop:b", "shop:e", "shop:c"]


def test_a_close_window_asks_for_a_head_of_its_own_future() -> None:
    log = Log().watermark(T).events(order(A, T)).watermark(T + 3 * DAY)
    assert [w["epoch"] for w in closes(log)] == [0, T + DAY, T + 2 * DAY]


def test_rows_of_an_unknown_platform_are_lost_in_silence() -> None:
    log = Log().watermark(T).events(order("elsewhere:a", T), order(A, T)).watermark(T + DAY)
    assert [w["product"] for w in closes(log)] == [A]
    assert run(log, SHOP)[0].counters()["unknown_platform"] == 1


def test_a_silent_product_has_no_baseline_or_a_new_one_no_class() -> None:
    log = Log()
    for d in range(40):
        log.events(order(A, T + d * DAY, 3), *([order(B, T, 1)] if d == 0 else [])).watermark(T + d * DAY + 1)
    windows = closes(log.watermark(T + 40 * DAY))
    a, b = windows[-2:]
    assert 2 < a["rate"] < 3  # leans on a category whose other product sells nothing
    assert 0 < b["rate"] < 1
    assert a["baseline"].tolist() == pytest.approx((a["rate"] * np.asarray([1, 6, 21])).tolist(), rel=0.2)
    assert (windows[0]["sales_class"], a["sales_class"], b["sales_class"]) == (3, 0, 1)
    assert (windows[0]["age_days"], a["age_days"]) == (1, 40)
    limits = a["thresholds"].reshape(3, 3)
    assert (limits[:, 0] > limits[:, 1]).all()
    assert (limits[:, 1] > limits[:, 2]).all()


def test_days_before_the_data_began_count_as_days_without_sales() -> None:
    old = event(EventKind.CATALOGUE, A, T - 700 * DAY, category="x")
    log = Log().events(old, order(A, T, 4)).watermark(T).watermark(T + DAY)
    (window,) = closes(log)
    assert window["age_days"] == 701
    assert window["rate"] == pytest.approx(4.0, rel=0.01)


def test_a_record_of_another_topic_is_folded_in_silence() -> None:
    value = encode(CLOSES, {"partition": [0], "platform": ["shop"], "end": [T], "windows": [0], "outcomes": [0]})
    with pytest.raises(WindowsError, match=r"trend\.events/3@9 is a record of closes"):
        WindowStage(TASK, SHOP).fold([Message(*TASK, 9, 0, None, value)])
    with pytest.raises(WindowsError, match="is empty"):
        WindowStage(TASK, SHOP).fold([Message(*TASK, 9, 0, None, None)])


def test_a_snapshot_of_a_platform_that_is_gone_is_taken() -> None:
    blobs = run(Log().watermark(T).events(order(A, T)), CONFIG)[0].snapshot()
    with pytest.raises(WindowsError, match="'shop', which is not configured"):
        WindowStage(TASK, WindowConfig({"rome": Platform("rome")})).restore(blobs)


def test_a_snapshot_of_another_format_is_taken() -> None:
    blobs = run(Log().watermark(T).events(order(A, T)), SHOP)[0].snapshot()
    state = {k: v for k, v in msgspec.json.decode(blobs["state"]).items() if k != "format"}
    with pytest.raises(SnapshotError, match="format 1, this version reads 5 alone; fold"):
        WindowStage(TASK, SHOP).restore({**blobs, "state": msgspec.json.encode(state)})


def test_more_products_than_rows_can_be_numbered_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "ROW_BITS", 1)
    log = Log().watermark(T).events(order(A, T), order(B, T)).events(order(A, T))
    run(log, SHOP)
    with pytest.raises(WindowsError, match="3 products of one platform in one partition are more than 2; make more"):
        run(log.events(order("shop:c", T)), SHOP)


def test_cancellations_of_an_hour_that_lies_in_two_days_are_lost() -> None:
    config = WindowConfig({"pune": Platform("pune", "Asia/Kolkata")})
    midnight, key = instant("2024-05-06", "Asia/Kolkata"), "pune:a"  # 18:30 UTC
    log = Log().watermark(midnight - HOUR).events(order(key, midnight - 60_000, 2)).watermark(midnight)
    log.events(order(key, midnight + 60_000, 3), cancelled(key, midnight + HOUR, midnight + 60_000, 4))
    (_, window) = closes(log.watermark(midnight + DAY), config)
    assert grid(window)[UNITS, -2:].tolist() == [2, 0]
    assert grid(window, "hour")[UNITS, -25:].tolist() == [1, *[0] * 24]  # the hour held five, the day three


def test_a_platform_added_later_never_opens() -> None:
    first = Log().watermark(T).events(order(A, T))
    stage = WindowStage(TASK, CONFIG)
    stage.restore(run(first, SHOP)[0].snapshot())
    later = first.events(order("rome:a", T + HOUR)).watermark(T + DAY).messages[2:]
    outputs = stage.fold(later)
    assert {w["product"] for w in rows_of(outputs, "windows") if w["kind"] == WindowKind.CLOSE} == {A, "rome:a"}
    outputs = stage.fold(first.watermark(T + 2 * DAY).messages[-1:])
    assert {w["product"] for w in rows_of(outputs, "windows")} == {A, "rome:a"}


def test_a_window_holds_less_than_its_schema_says() -> None:
    log = Log().watermark(T).events(order(A, T)).watermark(T + DAY)
    (window,) = closes(log)
    assert grid(window).shape == (len(CHANNELS), DAYS)
    assert window["weekday"] == 1
    assert window["price"] == -1
    assert window["category"] == ""
