"""How the latency bench reads a run: what counts as answered, as held back, and as late."""

from __future__ import annotations

import math

import numpy as np

from featurizers.window_config import WindowConfig
from streams.calendars import DAY, Platform
from streams.stage import Message
from tests.bench.answers import answers, days_passed, emissions
from tests.bench.latency import Measured, piece
from tests.bench.offered import LINES, Load
from tests.unit.event_builder import TASK, Log, Row, instant, order, run

T = instant("2024-05-06")


def _line(product: str, number: int) -> Row:
    return {**order(product, T), "source_offset": number}


def test_a_line_without_its_score_is_answered_or_one_that_the_cap_held_back_is_not_told_apart() -> None:
    config = WindowConfig({"shop": Platform("shop")}, live_interval_ms=50, live_rows=2)
    log = Log(step_ms=10).watermark(T).events(*(_line(f"shop:{p}", n) for n, p in enumerate("abc")))
    for _ in range(20):
        log.watermark(T + 1)
    outputs = run(log, config)[1]
    windows = [Message("trend.windows", TASK[1], n, 0, None, o.value) for n, o in enumerate(outputs)]
    due = {(0, n): 1_000 + n for n in range(4)}  # the last has not even come to trend.events
    seen = {"shop:a": [(0, 900.0), (5, 1_200.0), (10, 1_300.0)], "shop:b": [(0, 950.0)], "shop:c": [(10, 1_302.0)]}
    live = emissions(windows)
    assert len(live[TASK[1]]) == 3
    found = answers(due, log.messages, live, seen, 1)
    assert found.waited.tolist() == [200.0, math.inf, 300.0, math.inf]
    assert found.held.tolist() == [False, False, True, False]
    assert (found.quantile(0.5), found.quantile(0.5, held=False)) == (math.inf, math.inf)
    assert (found.quantile(0.0), found.quantile(0.3)) == (200.0, 300.0)
    assert found.unanswered == 0.5
    figures = piece([Measured(10.0, found, 3.0, 0.0, 0.0)], np.asarray([5.0, math.inf])).keys["latency_ms"]
    assert figures["order_to_score"]["p50"] is None, "what is not known is no number in JSON"


def test_a_days_end_is_told_by_another_watermark_than_the_first_that_passes_it() -> None:
    log = Log(step_ms=10).watermark(T - 1, T - 1).watermark(T + 5, T - 1).watermark(T + 5, T)
    log.watermark(T + 2 * DAY, T + DAY)
    at = [m.timestamp for m in log.messages]
    assert days_passed(log.messages) == {T: at[2], T + DAY: at[3]}


def test_a_load_is_not_offered_at_its_rate_or_its_days_do_not_end_now() -> None:
    load = Load(rate=100.0, seconds=4.0, products=50, partitions=3, day_s=0.5)
    sent = [*load.events(1_000.0)]
    assert len(sent) == load.orders == 400 / LINES
    gaps = np.diff([due for due, _, _ in sent])
    assert np.allclose(gaps, LINES / 100.0)
    assert load.event_time(1_004.0, 1_000.0) == 1_004_000
    assert load.event_time(1_000.0, 1_000.0) == 1_004_000 - 8 * DAY
    assert {partition for _, partition, _ in sent} == {0, 1, 2}
