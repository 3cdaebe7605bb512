"""All of the Olist sample, two years with gaps of weeks at their beginning, through ingest and windows on Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.sources import OLIST, Span
from deploy.sources.olist import Olist
from deploy.sources.replayer import KafkaSink, Pace, Replayer
from streams import kafka
from tests.conftest import TestBroker
from tests.e2e.running import running
from tests.e2e.sums import check_units

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
PARTITIONS = 2
# A source that a busy machine keeps waiting for that long is not silent: with two seconds its rows were late once.
IDLE_MS = 10_000
# Longer than that, and than an ingest worker's control rows are apart in silence: each one lets more live windows out.
QUIET_S = 15.0


def test_an_order_line_of_two_years_is_neither_in_a_window_nor_in_a_dead_letter(
    fresh_kafka: TestBroker, shared_data: Path, tmp_path: Path
) -> None:
    bootstrap = fresh_kafka.bootstrap
    fresh_kafka.create_topics(PARTITIONS)
    platforms = {"olist": {"timezone": OLIST.timezone, "currency": OLIST.currency}}
    settings = {
        "TRENDSTREAM_PARTITIONS": str(PARTITIONS),
        "TRENDSTREAM_PLATFORMS": json.dumps(platforms),
        "TRENDSTREAM_IDLE_MS": str(IDLE_MS),
    }
    with running(bootstrap, tmp_path, **settings) as workers:
        workers.start("ingest", "windows")
        events = Olist(shared_data / "olist", Span(None, None), None)
        played = Replayer(events, KafkaSink(bootstrap), kafka.partition_counts(bootstrap), Pace()).run()
        workers.wait_until(
            lambda: (
                workers.is_drained({"windows": "trend.events"}) and workers.is_quiet("trend.windows", seconds=QUIET_S)
            ),
            "nothing more comes, and all of it is taken",
            200,
        )
        assert set(workers.stop().values()) == {0}
        taken, counts = workers.counters("ingest"), workers.counters("windows")
        orders, letters, windows = (workers.topic(name) for name in ("orders", "trend.dlq", "trend.windows"))
    assert taken["read"] == sum(played.produced.values())
    assert (taken["accepted"], taken["repeated"], taken["dead"]) == (taken["read"], 0, 0)
    # One poll of so few orders is a quarter of a year: reviews that are polled after it may be older than the ring.
    assert counts["late"] == 0
    assert counts["beyond_ring"] < played.produced["reviews"]
    assert check_units(orders, letters, windows) > 15_000
