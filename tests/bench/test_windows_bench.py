"""Coarse bounds on what the windows stage costs; the figures themselves are in docs/benchmarks.md."""

from __future__ import annotations

from tests.bench.windows import World, compare, measure_memory, measure_snapshot


def test_an_event_costs_more_where_there_are_more_products() -> None:
    _, growth = compare(World(10_000, close_windows=False), World(100_000, close_windows=False), 100)
    assert growth < 2


def test_a_hot_product_makes_its_events_dearer() -> None:
    _, hot = compare(World(10_000), World(10_000, "hot"), 100)
    assert hot < 1.3


def test_a_slow_product_takes_a_ring_of_its_own() -> None:
    held, world = measure_memory(10_000)
    assert held < 1.25 * 1536  # the tables of a small stage have some room to spare
    cost = measure_snapshot(world, seconds=1)
    assert cost.pause_s < 2
    assert cost.megabytes * 1e6 < held * 10_000
