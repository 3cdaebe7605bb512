"""Drill 5: somebody reset a group's offsets by hand, and somebody deleted the snapshot topic."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient

from deploy import pipeline
from deploy.inspection import inspect
from deploy.settings import Settings
from deploy.topics import set_offsets
from streams import kafka
from streams.embedded import fold
from streams.topics import DAY_MS
from tests.drills.events import START, days
from tests.drills.on_call import drill
from tests.drills.stages import drained, stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]


def test_offsets_set_by_hand_and_a_snapshot_topic_that_is_gone_are_named_and_put_right(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap = settings.bootstrap
    specs = {"ingest": lambda: pipeline.ingest_spec(settings), "windows": lambda: pipeline.windows_spec(settings)}

    def through(day: int) -> bool:
        return drained(bootstrap, START + (day - 1) * DAY_MS, *specs)

    with stages(settings, specs) as workers:
        workers.start()
        kafka.append(bootstrap, days(0, 4))
        wait_until(lambda: through(4), "the first days")
        workers.stop()
        wait_until(lambda: not inspect(bootstrap, 2, 0).workers["windows"], "nobody is in the group")
        committed = {t.partition: t.committed for t in inspect(bootstrap, 2, 0).of("windows")}
        set_offsets(bootstrap, "trendstream.windows", {("trend.events", 1): 3})
        admin = AdminClient({"bootstrap.servers": bootstrap})
        for future in admin.delete_topics(["trend.snapshots"]).values():
            future.result(30)

        with drill("5-by-hand", capsys) as engineer:
            said = engineer("doctor", code=1)
            assert "topics are missing: trend.snapshots" in said
            assert f"set back by hand from {committed[1]} to 3: {committed[1] - 3:,} offsets would be published" in said
            assert said.count("by hand") == 1  # the other partition is as it was
            engineer("topics", "create")
            put_right = engineer("offsets", "reset", "windows", "--to-progress", "--yes", "--reason", "set by hand")
            assert f"3 to {committed[1]}" in put_right
            said = engineer("doctor", code=1)
            assert "by hand" not in said
            assert "of windows trend.events/1" in said
            assert "is gone from trend.snapshots; none is there" in said
            workers.start()
            kafka.append(bootstrap, days(4, 6))
            wait_until(lambda: through(6), "the days after")
            workers.stop()  # which takes a snapshot
            assert "is gone from" not in engineer("doctor", code=1)  # of other stages no worker runs here

    spec = pipeline.windows_spec(settings)
    for partition in (0, 1):
        log = kafka.read(bootstrap, "trend.events", [partition])
        outputs = [output.value for output in fold(spec.make(("trend.events", partition)), log)]
        assert [m.value for m in kafka.read(bootstrap, "trend.windows", [partition])] == outputs
