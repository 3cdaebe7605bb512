"""Coarse bounds on what the windows stage costs; the figures themselves are in docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.restore import restore_s
from tests.bench.windows import WITHOUT_CLOSES, World, compare, measure_memory, measure_snapshot


def test_an_event_costs_more_where_there_are_more_products() -> None:
    _, growth = compare(World(10_000, close_windows=False), World(100_000, close_windows=False), 100)
    assert growth < 2


def test_a_hot_product_makes_its_events_dearer() -> None:
    _, hot = compare(World(10_000), World(10_000, "hot"), 100)
    assert hot < 1.3


def test_a_slow_product_takes_a_ring_of_its_own() -> None:
    held, world = measure_memory(10_000)
    assert held < 1.25 * 1536  # the tables of a small stage have some room to spare
    cost = measure_snapshot(world, world.next(12))
    assert cost.pause_s < 2
    assert cost.megabytes * 1e6 < held * 10_000


@pytest.mark.kafka
def test_a_worker_would_not_go_on_from_a_snapshot_on_a_broker(tmp_path: Path) -> None:
    world = World(1_000, close_windows=False)
    assert restore_s(WITHOUT_CLOSES, world.stage.freeze(), world.next(12), tmp_path) < 60
