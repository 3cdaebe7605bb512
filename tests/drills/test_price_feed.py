"""Drill 4: a price feed was a hundred times too high in one category. A replay with a transform puts it right."""

from __future__ import annotations

import json

import pytest

from deploy.following import stage_counters
from deploy.settings import Settings
from streams import kafka
from streams.stage import Output
from streams.topics import DAY_MS
from tests.drills import truth
from tests.drills.events import START, days, levels
from tests.drills.on_call import drill, replay_of
from tests.drills.stages import drained, loop, stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
TOOLS = {"shop:p1", "shop:p3", "shop:p5"}
MEND = 'if .kind == "catalogue" and .category == "tools" and .price >= 100000 then .price /= 100 else . end'


def catalogue(at: int, factor: int = 1) -> list[Output]:
    """Prices of the six products, those of the tools times a factor."""
    found = []
    for i in range(6):
        tool = f"shop:p{i}" in TOOLS
        product = {
            "platform": "shop",
            "product_id": f"p{i}",
            "title": f"product {i}",
            "category": ["tools" if tool else "toys"],
            "price": f"{12 * (factor if tool else 1)}.00",
            "currency": "EUR",
            "updated_at": at + i,
        }
        found.append(Output("products", i % 2, json.dumps(product).encode(), f"p{i}".encode()))
    return found


def accepted(bootstrap: str) -> int:
    return stage_counters(bootstrap).get("ingest", {}).get("accepted", 0)


def test_prices_that_were_too_high_are_put_right_and_no_other_product_is_named(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap, bundle = settings.bootstrap, truth.network(settings)
    # A service level follows from price and cost.
    before = [*catalogue(START), *levels(unit_cost="8.00"), *days(0, 4), *days(4, 5)[:24]]
    after = [*days(4, 5)[24:], *days(5, 7)]
    with stages(settings, loop(settings, bundle)) as workers:
        workers.start()
        kafka.append(bootstrap, before)
        wait_until(lambda: drained(bootstrap, START + 4 * DAY_MS), "half of the fifth day")
        kafka.append(bootstrap, catalogue(START + 4 * DAY_MS, 100))
        wait_until(lambda: accepted(bootstrap) == len(before) + 6, "the wrong prices")  # they count once they are there
        kafka.append(bootstrap, after)
        wait_until(lambda: drained(bootstrap, START + 6 * DAY_MS), "seven days")
        with drill("4-price-feed", capsys) as engineer:
            # The symptom: inventory is told to order far too much of some products.
            odd = engineer("topics", "cat", "signals.inventory", "--product", "shop:p1", "--latest", "-c", "1", "-J")
            assert json.loads(odd)["value"]["service_level"] > 0.95
            assert "1200.00" in engineer("topics", "cat", "products", "--product", "shop:p1", "--latest", "-c", "1")
            plan = ("replay", "plan", "--from", "2025-10-14", "--transform", MEND, "--into", "topics")
            replay = replay_of(engineer(*plan))
            engineer("replay", "run", replay)
            engineer("replay", "diff", replay)
            moved = json.loads(engineer("replay", "diff", replay, "--json", quietly=True))
            assert {p["product"] for p in moved["products"]} == TOOLS
            assert set(moved["causes"]) == {"transform"}
            assert moved["changed"] >= 3 * 2  # two days ended with wrong prices
            assert moved["ordered_after"] < moved["ordered_before"]
            apply = ("replay", "apply", replay, "--yes", "--reason", "prices of tools were a hundred times too high")
            engineer(*apply)
        assert "nothing is left to correct" in engineer(*apply, quietly=True)
        sent = truth.corrections(bootstrap)
        assert {name.partition("@")[0] for name in sent} == TOOLS
        assert set(sent.values()) == {1}
    right = truth.from_platform(settings, bundle, [*before, *catalogue(START + 4 * DAY_MS), *after])
    expected, found = truth.said(right), truth.held(bootstrap)
    orders = {name: of["service_level"] for name, of in expected.items() if "service_level" in of}
    assert len(orders) == 6 * 6
    assert set(orders.values()) == {0.9091}
    assert {name: found[name]["service_level"] for name in orders} == orders
