"""A shop with every worker as a process: what they serve to a real Prometheus; and drill 6, "Why did product p3 surge
on Tuesday?", answered by two commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest

from deploy.local_kafka import LocalKafka
from tests.conftest import JARS
from tests.drills.on_call import drill
from tests.drills.scraping import free_port, needs_prometheus, prometheus
from tests.drills.shop import PRAISE, STAGES, TUESDAY, USUAL, running_shop
from tests.drills.stages import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]

EVERY = ("records_total", "outputs_total", "aborts_total", "warnings_total", "lag_records", "committed_offset")
EVERY += ("task_total", "commit_seconds_bucket", "delay_seconds_bucket", "batch_records_bucket")
RESTORED = ("snapshot_taken_seconds", "snapshot_behind_offsets", "restore_seconds_bucket")
SERVED = {
    "ingest": (*EVERY, *RESTORED, "event_time_seconds", "dead_letters_total"),
    "windows": (*EVERY, *RESTORED, "event_time_seconds", "sources_idle"),
    "inference": (*EVERY, "event_time_seconds", "head_epoch_seconds"),
    "labels": (*EVERY, *RESTORED, "event_time_seconds"),
    "learner": (*EVERY, *RESTORED, "event_time_seconds", "error_ratio"),
    "signals": (*EVERY, "event_time_seconds"),
    "text": EVERY,
    "image": (*EVERY, "dead_letters_total"),
}


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def environment(metrics_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("shop")
    with (
        LocalKafka(folder / "kafka", jars=JARS) as broker,
        running_shop(broker.bootstrap, folder, metrics_port) as environment,
    ):
        yield environment


@needs_prometheus
def test_a_worker_hides_something_from_prometheus(
    environment: dict[str, str], metrics_port: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ports = [metrics_port + number for number in range(len(STAGES))]
    with prometheus(tmp_path_factory.mktemp("prometheus"), ports) as ask:

        def values(expression: str) -> list[float]:
            return [float(sample["value"][1]) for sample in ask(expression)]

        def names(stage: str) -> set[str]:
            found = ask(f'count by (__name__) ({{__name__=~"trendstream_.*", stage="{stage}"}})')
            return {sample["metric"]["__name__"].removeprefix("trendstream_") for sample in found}

        wait_until(lambda: values("sum(up)") == [len(STAGES)], "every worker answers")
        wait_until(lambda: all(names(stage) for stage in STAGES), "each has served something")
        assert {stage: sorted(set(SERVED[stage]) - names(stage)) for stage in STAGES} == {s: [] for s in STAGES}

        # And it is what happened.
        dead = ask("sum by (stage, reason) (trendstream_dead_letters_total)")
        reasons = {(d["metric"]["stage"], d["metric"]["reason"]): float(d["value"][1]) for d in dead}
        assert reasons == {("ingest", "wrong-type"): 20, ("image", "broken-picture"): 1}
        for counter, stage in (("late", "windows"), ("head_late", "inference"), ("drifts", "learner")):
            assert values(f'trendstream_task_total{{stage="{stage}", counter="{counter}"}}'), counter
        assert values('max(time() - trendstream_snapshot_taken_seconds{stage="windows"})')[0] < 300
        (behind,) = values('max(trendstream_event_time_seconds{stage="ingest"}) - min(trendstream_head_epoch_seconds)')
        assert 0 < behind < 3 * 86_400
        # Control rows come all the time, and each takes a commit's mark with it.
        wait_until(lambda: bool(values("max(trendstream_lag_records) < 5")), "nothing is left to read")


def test_two_commands_leave_open_why_a_product_surged_on_tuesday(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with drill("6-why-did-it-surge", capsys) as engineer:
        listed = engineer("explain", "shop:p3", "--on", "2025-11-18")
        assert re.search("surging|rising", listed)
        (score,) = re.findall(r"trendstream explain (\S+)", listed)
        said = engineer("explain", score)
        # The day, what moved on it and how far, and the events that say so.
        assert "Tuesday, 2025-11-18 to 2025-11-19" in said
        assert re.search(r"views +\d+, usually \d.*: × [5-9]", said)
        assert re.search(r"units +\d+, usually \d.*: × [3-9]", said)
        assert re.search(r"price paid +4, usually 8: × 0.5", said)
        assert "price 50 %" in said
        assert re.search(r"its events +\d+ view, \d+ order", said)
        assert any(text in said for text in (*PRAISE, *USUAL)), "no review is quoted"
        assert f"p3-{TUESDAY + 7 * 3_600_000}" in said, "Tuesday's picture is named"
        assert said.count("the same, bit for bit") == 2
    why = json.loads(engineer("explain", score, "--json", quietly=True))
    week = [why["score"]["horizons"][1][name] for name in ("expected", "baseline")]
    assert week[0] > 1.5 * week[1]
    total = np.exp(sum(np.array(share) for share in why["shares"].values()))
    assert total == pytest.approx([h["expected"] for h in why["score"]["horizons"]], rel=1e-5)
    moved = sum(why["shares"][name][1] for name in ("price", "promotions", "ratings", "behaviour"))
    assert np.exp(moved) > 1.15, "what moved is not what moved the score"
    assert {s["topic"] for s in why["sources_on_day"]} == {"orders", "behaviors", "reviews", "images"}
    assert why["own_outcomes"]
    assert why["score"]["encoders"].keys() == {"text", "image"}
