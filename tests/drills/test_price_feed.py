"""Drills 4 and 6: a price feed was a hundred times too high in one category; and why one product surged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams import kafka
from streams.stage import Output
from streams.topics import DAY_MS
from tests.conftest import TestBroker
from tests.drills.clean import clean_run, held, installation, levels
from tests.drills.events import START, days, order
from tests.drills.on_call import drill
from tests.drills.stages import drained, loop, stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
TOOLS = ("p1", "p3", "p5")
MEND = (
    'if .kind == "catalogue" and (.category | startswith("tools")) and .price >= 100000 then .price /= 100 else . end'
)


def catalogue(at: int, factor: int = 1) -> list[Output]:
    """Titles and prices of the six products; those of the tools times a factor."""
    found = []
    for i in range(6):
        tool = f"p{i}" in TOOLS
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


def costs() -> Iterator[Output]:
    """Stock with unit costs: the service level follows from the price."""
    for level in levels():
        fields = {**json.loads(level.value or b""), "unit_cost": "8.00"}
        yield Output(level.topic, level.partition, json.dumps(fields).encode(), level.key)


def surge(day: int) -> list[Output]:
    """Forty orders of p2 on one day."""
    return [
        order(10_000 + 6 * i + 2, 3, START + day * DAY_MS + i * DAY_MS // 40, event_id=f"s{i}", order_id=f"s{i}")
        for i in range(40)
    ]


def test_a_wrong_price_feed_is_put_right_and_a_surge_explained(
    fresh_kafka: TestBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_kafka.create_topics(2)
    bootstrap = fresh_kafka.bootstrap
    settings, bundle = installation(bootstrap, tmp_path, monkeypatch)
    first = [*catalogue(START), *costs(), *days(0, 4)]
    tuesday = sorted([*days(4, 5), *surge(4)], key=lambda e: json.loads(e.value or b"")["ordered_at"])
    with stages(settings, loop(settings, bundle)) as workers:
        workers.start()
        kafka.append(bootstrap, first)
        wait_until(lambda: drained(bootstrap, START + 3 * DAY_MS), "four days")
        kafka.append(bootstrap, [*catalogue(START + 4 * DAY_MS, 100), *tuesday, *days(5, 7)])
        wait_until(lambda: drained(bootstrap, START + 6 * DAY_MS), "seven days")

        with drill("4-price-feed", bootstrap, capsys) as engineer:
            # The symptom: far too much is ordered of tools.
            assert "1200.00" in engineer("topics", "find", "1200.00", "--topic", "products", "--limit", "1")
            planned = engineer("replay", "plan", "--from", "2025-10-14", "--transform", MEND, "--into", "topics")
            (replay,) = set(re.findall(r"r\d{8}-\d{6}-\d{3}", planned))
            engineer("replay", "run", replay)
            moved = json.loads(engineer("replay", "diff", replay, "--json"))
            assert {p["product"] for p in moved["products"]} == {f"shop:{name}" for name in TOOLS}
            assert set(moved["causes"]) == {"transform"}
            assert moved["ordered_after"] < moved["ordered_before"]
            page, rows = tmp_path / "diff.html", tmp_path / "diff.parquet"
            engineer("replay", "diff", replay, "--page", str(page), "--parquet", str(rows), quietly=True)
            assert all(f"shop:{name}" in page.read_text() for name in TOOLS)
            assert rows.stat().st_size > 1_000
            engineer("replay", "apply", replay, "--yes", "--reason", "prices of tools were a hundred times too high")
        expected = clean_run(settings, bundle, [*first, *catalogue(START + 4 * DAY_MS), *tuesday, *days(5, 7)])
        orders = {name: of for name, of in expected.items() if name.endswith("/inventory")}
        found = {name: of for name, of in held(bootstrap).items() if name.endswith("/inventory")}
        for name, of in orders.items():
            if of["window_end"] > START + 4 * DAY_MS:
                assert found[name]["service_level"] == of["service_level"], name

        with drill("6-why-a-surge", bootstrap, capsys) as engineer:
            said = engineer("topics", "cat", "trend.scores", "--product", "shop:p2", "--latest", "-c", "4", "-J")
            scores = [json.loads(line) for line in said.splitlines()]
            scores = [score.get("value", score) for score in scores]
            after = next(s for s in scores if s["window_end"] >= START + 5 * DAY_MS)
            why = engineer("explain", after["score_id"])
            assert "score from the window: the same, bit for bit" in why
            assert "window from trend.events: the same, bit for bit" in why
            assert "sales" in why
            assert re.search(r"orders/\d offsets", why)
        assert engineer.commands == 2
