"""Drill 1, up to the redrive: the platform shipped a bad schema for an hour, and its orders became dead letters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy import pipeline
from deploy.following import stage_counters
from deploy.settings import Settings
from streams import kafka
from streams.codecs import decode
from streams.embedded import fold
from streams.records import EVENTS
from streams.stage import Message, Output
from tests.drills.events import days
from tests.drills.on_call import drill
from tests.drills.stages import stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
BAD = range(100, 104)  # of the orders: two hours of a day with 48


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
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap = settings.bootstrap
    good = days(0, 4)
    shipped = [spoiled(event) if number in BAD else event for number, event in enumerate(good)]
    with stages(settings, {"ingest": lambda: pipeline.ingest_spec(settings)}) as ingest:
        ingest.start()
        kafka.append(bootstrap, shipped)

        def counted() -> int:
            counters = stage_counters(bootstrap).get("ingest", {})
            return counters.get("accepted", 0) + counters.get("dead", 0)

        wait_until(lambda: counted() == len(shipped), "every order is read")
        with drill("1-bad-schema", capsys) as engineer:
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
            assert "dead letters are open" not in engineer("doctor", code=1)  # there are no other workers in this drill
            assert "dlq redrive" in engineer("audit")
        found_at = engineer("topics", "find", f"o{BAD[0]}", quietly=True)
        assert "orders/0@" in found_at  # the mended one too
        assert (
            json.loads(engineer("topics", "cat", "orders", "--since", "1h", "-c", "1", "-J", quietly=True))["offset"]
            == 0
        )
        assert engineer("topics", "cat", "orders", "--until", "1h", "-J", quietly=True) == ""
        # What windows read is what a platform without the error would have sent, each order once.
        found = rows([m.value for m in kafka.read(bootstrap, "trend.events")])
        expected: list[bytes | None] = []
        for partition in (0, 1):
            task = ("orders", partition)
            log = [Message(*task, i, 2**41, e.key, e.value) for i, e in enumerate(good) if e.partition == partition]
            outputs = fold(pipeline.ingest_spec(settings).make(task), log)
            expected += [o.value for o in outputs if o.topic == "trend.events"]
        assert found == rows(expected)
        assert len(found) == len(good)
