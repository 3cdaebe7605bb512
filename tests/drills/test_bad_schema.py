"""Drill 1: the platform shipped a bad schema for hours, and its orders became dead letters. They are mended and sent
again, and a replay puts right what was said without them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deploy import pipeline
from deploy.following import stage_counters
from streams import kafka
from streams.codecs import decode
from streams.embedded import fold
from streams.records import EVENTS
from streams.stage import Message, Output
from streams.topics import DAY_MS
from tests.conftest import TestBroker
from tests.drills.clean import OUTSIDE, clean_run, committed, held, installation, levels, require_equal
from tests.drills.events import START, days
from tests.drills.on_call import drill
from tests.drills.stages import drained, loop, stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
BAD = range(200, 216)  # of the orders: eight hours of a day with 48


def spoiled(event: Output) -> Output:
    """With its quantity as text."""
    assert event.value is not None
    document = json.loads(event.value)
    for line in document["lines"]:
        line["quantity"] = str(line["quantity"])
    return Output(event.topic, event.partition, json.dumps(document).encode(), event.key)


def rows(values: list[bytes | None]) -> list[tuple[Any, ...]]:
    """What counts of every event, sorted."""
    found: list[tuple[Any, ...]] = []
    for value in values:
        batch = decode(value or b"")
        if batch.record is EVENTS:
            found += zip(*(batch[name].tolist() for name in ("product", "at", "quantity", "amount")), strict=True)
    return sorted(found)


def test_orders_of_a_bad_schema_are_found_mended_and_sent_again(
    fresh_kafka: TestBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_kafka.create_topics(2)
    bootstrap = fresh_kafka.bootstrap
    settings, bundle = installation(bootstrap, tmp_path, monkeypatch)
    good = days(0, 7)
    shipped = [spoiled(event) if number in BAD else event for number, event in enumerate(good)]
    with stages(settings, loop(settings, bundle)) as workers:
        workers.start()
        kafka.append(bootstrap, [*levels(), *shipped])

        def counted() -> int:
            counters = stage_counters(bootstrap).get("ingest", {})
            return counters.get("accepted", 0) + counters.get("dead", 0)

        wait_until(lambda: counted() == len(shipped) + 6, "every order is read")
        wait_until(lambda: drained(bootstrap, START + 6 * DAY_MS), "all of it is through")
        with drill("1-bad-schema", bootstrap, capsys) as engineer:
            assert f"{len(BAD)} dead letters are open ({len(BAD)} wrong-type)" in engineer("doctor", code=1)
            listed = engineer("dlq", "list")
            assert "wrong-type" in listed
            (example,) = {word for word in listed.split() if word.startswith("orders/0/")}
            assert '"quantity": »"' in engineer("dlq", "show", example)
            mend = ("dlq", "redrive", "--because", "wrong-type", "--transform", ".lines[].quantity |= tonumber")
            tried = " ".join(engineer(*mend, "--dry-run").split())
            assert f"would be sent {len(BAD)} left out 0 would fail again 0" in tried
            done = " ".join(engineer(*mend, "--yes", "--reason", "quantity came as text for an hour").split())
            assert f"sent {len(BAD)} refused 0 left out 0 came back 0 ingest has read them all" in done
            assert "dead letters are open" not in engineer("doctor", code=1)  # there are no encoders in this drill
            wait_until(lambda: drained(bootstrap, START + 6 * DAY_MS), "what was sent again is through")
            before = kafka.ranges(bootstrap, dict.fromkeys(OUTSIDE, 2))
            offsets = committed(bootstrap)

            planned = engineer("replay", "plan", "--from", "2025-10-14T10:00", "--late", "in-place")
            (replay,) = set(re.findall(r"r\d{8}-\d{6}-\d{3}", planned))
            assert "windows that end" in planned
            engineer("replay", "run", replay)
            moved = " ".join(engineer("replay", "diff", replay).split())
            assert "dead letters put right" in moved
            assert kafka.ranges(bootstrap, dict.fromkeys(OUTSIDE, 2)) == before, "nothing is published before apply"
            assert "sent to" not in engineer("replay", "apply", replay, "--dry-run")
            engineer("replay", "apply", replay, "--yes", "--reason", "orders of eight hours were missing")
            assert "replay apply" in engineer("audit")
            assert "nothing is left to correct" in engineer("replay", "apply", replay, "--yes", "--reason", "again")
            assert committed(bootstrap) == offsets, "a live group was moved"
        expected = clean_run(settings, bundle, [*levels(), *good])
        assert require_equal(held(bootstrap), expected, 4, 6) == 3 * 6 * 3
        told = Counter(
            fields.get("signal_id") or fields["score_id"]
            for topic in OUTSIDE
            for fields in (json.loads(m.value or b"") for m in kafka.read(bootstrap, topic))
            if "replay" in fields
        )
        assert set(told.values()) == {1}, "downstream was told of a correction twice"
        found_at = engineer("topics", "find", f"o{BAD[0]}", quietly=True)
        assert "orders/0@" in found_at  # the mended one too
        assert (
            json.loads(engineer("topics", "cat", "orders", "--since", "1h", "-c", "1", "-J", quietly=True))["offset"]
            == 0
        )
        assert engineer("topics", "cat", "orders", "--until", "1h", "-J", quietly=True) == ""
        # What windows read is what a platform without the error would have sent, each order once.
        found = [row for row in rows([m.value for m in kafka.read(bootstrap, "trend.events")]) if row[2]]  # no levels
        sent: list[bytes | None] = []
        for partition in (0, 1):
            task = ("orders", partition)
            log = [Message(*task, i, 2**41, e.key, e.value) for i, e in enumerate(good) if e.partition == partition]
            outputs = fold(pipeline.ingest_spec(settings).make(task), log)
            sent += [o.value for o in outputs if o.topic == "trend.events"]
        assert found == rows(sent)
        assert len(found) == len(good)
