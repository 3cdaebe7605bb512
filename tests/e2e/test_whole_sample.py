"""All orders and reviews of the Olist sample, two years, through ingest and windows on real Kafka."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.following import CloseFollower
from deploy.sources import OLIST, Span
from deploy.sources.olist import Olist
from deploy.sources.replayer import KafkaSink, Pace, Replayer
from deploy.topics import create_topics
from streams import kafka
from tests.e2e.running import running
from tests.e2e.sums import check_units

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]
PARTITIONS = 2


def test_every_order_line_of_two_years_is_in_a_window_or_a_dead_letter(
    fresh_kafka: Any, shared_data: Path, tmp_path: Path
) -> None:
    bootstrap = fresh_kafka.bootstrap
    create_topics(bootstrap, PARTITIONS)
    options = {
        "TRENDSTREAM_PARTITIONS": str(PARTITIONS),
        "TRENDSTREAM_PLATFORMS": json.dumps({"olist": {"timezone": OLIST.timezone, "currency": OLIST.currency}}),
        "TRENDSTREAM_IDLE_MS": "2000",
    }
    with running(bootstrap, tmp_path, **options) as workers, CloseFollower(bootstrap, PARTITIONS) as closes:
        workers.start("ingest", "windows")
        source = Olist(shared_data / "olist", Span(None, None), None)
        played = Replayer(source, KafkaSink(bootstrap), kafka.partition_counts(bootstrap), Pace()).run()
        calendar = OLIST.calendar
        boundary = calendar.start(int(calendar.day(played.last - 60_000)))
        workers.wait_until(lambda: closes.boundary >= boundary, "the last day is closed everywhere", 300)
        workers.wait_until(lambda: workers.is_quiet("trend.events", "trend.windows"), "nothing more comes", 60)
        assert set(workers.stop().values()) == {0}
        counts = workers.counters("ingest")
        assert counts["read"] == sum(played.produced.values())
        assert counts["read"] == counts["accepted"] + counts["repeated"] + counts["dead"]
        topics = [workers.topic(name) for name in ("orders", "trend.dlq", "trend.windows")]
    assert check_units(*topics) > 14_000
