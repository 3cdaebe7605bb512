"""Drill 3: a machine with three workers was down for two hours. Catch-up; nothing lost; stale scores say so."""

from __future__ import annotations

import json
import time

import pytest

from deploy import pipeline
from deploy.inspection import inspect
from deploy.settings import Settings
from model.registry import untrained_bundle
from streams import kafka
from streams.codecs import decode, decode_json
from streams.records.inside import EVENTS
from streams.records.outside import Head, Score
from streams.topics import DAY_MS
from tests.drills.events import START, days, produce
from tests.drills.on_call import drill
from tests.drills.stages import drained, logs, loop, stages, wait_until
from tests.e2e.contract import check_contract, check_ingest

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
TWO_HOURS_MS = 2 * 3_600_000


def test_a_worker_that_was_down_for_two_hours_catches_up_and_marks_what_was_stale(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap = settings.bootstrap
    settings = settings.model_copy(update={"head_wait_ms": 120_000})
    hasty = settings.model_copy(update={"head_wait_ms": 500})
    bundle, patience = untrained_bundle(), [settings]
    specs = {**loop(settings, bundle), "inference": lambda: pipeline.inference_spec(patience[-1], bundle)}

    def closes() -> list[Score]:
        scores = [decode_json(m.value or b"", Score) for m in kafka.read(bootstrap, "trend.scores")]
        return [score for score in scores if score.window_kind == "close"]

    def through(day: int, *names: str) -> bool:
        return drained(bootstrap, START + (day - 1) * DAY_MS, *names)

    with stages(settings, specs) as workers:
        workers.start()
        before = days(0, 5)
        now = int(time.time() * 1000)
        produce(bootstrap, before, [now - TWO_HOURS_MS] * len(before))
        wait_until(lambda: through(5), "the first days are through")
        assert not any(score.head_late for score in closes())
        workers.stop("ingest", "learner", "inference")

        # Two hours pass in which the platform sends three days more, and one comes after the machine is back.
        missed = days(5, 8)
        produce(bootstrap, missed, [now - TWO_HOURS_MS + i * TWO_HOURS_MS // len(missed) for i in range(len(missed))])
        gone = ("ingest", "learner", "inference")
        wait_until(lambda: not any(inspect(bootstrap, 2, 0).workers[name] for name in gone), "all of them are gone")
        with drill("3-worker-down", capsys) as engineer:
            said = engineer("doctor", code=1)
            assert f"no worker of ingest runs: {len(missed)} offsets wait, the oldest for 2." in said
            # As `trendstream worker ingest` does, and with TRENDSTREAM_HEAD_WAIT_MS=500 `trendstream worker inference`:
            # there is no learner yet, and scores that say head_late are better than none.
            patience.append(hasty)
            workers.start("ingest", "inference")
            wait_until(lambda: through(8, "ingest", "windows", "inference", "labels", "signals"), "caught up")
            engineer("status")
            assert "scores say head_late" in engineer("doctor", code=1)
            stale = json.loads(engineer("topics", "cat", "trend.scores", "--text", '"head_late":true', "-c", "1", "-J"))
            assert stale["value"]["head_late"]
            workers.start("learner")
            wait_until(lambda: through(8), "the learner has caught up")
            engineer("status")
        workers.stop("inference")
        patience.append(settings)
        workers.start("inference")
        kafka.append(bootstrap, days(8, 10))
        wait_until(lambda: through(10), "the days after")

    by_end = {score.window_end: score.head_late for score in closes()}
    assert [day for day in range(1, 10) if by_end[START + day * DAY_MS]] == [6, 7]  # 5 has its head from before
    ends = [(score.product_id, score.window_end) for score in closes()]
    assert len(ends) == len(set(ends)) == 6 * 9  # every product at the end of each day, once

    # Nothing was lost, nothing came twice, and every stage gave what its log says.
    topics = logs(bootstrap)
    check_ingest(topics, settings)
    check_contract(topics, settings, bundle)
    events = [decode(m.value or b"") for log in topics["trend.events"].values() for m in log]
    assert sum(len(rows) for rows in events if rows.record is EVENTS) == len(days(0, 10))
    epochs = [decode_json(m.value or b"", Head).epoch for m in topics["model.heads"][0]]
    assert epochs == [START + day * DAY_MS for day in range(1, 10)]
