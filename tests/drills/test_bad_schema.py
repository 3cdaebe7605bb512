"""Drill 1: the platform shipped a bad schema, and its orders became dead letters. They are mended and sent again, and a
replay puts right what was said without them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from deploy import replaying
from deploy.following import stage_counters
from deploy.settings import Settings
from streams import kafka
from streams.codecs import decode
from streams.records.inside import EVENTS, OUTCOMES, WINDOWS, ArrowRecord
from streams.stage import Message, Output
from streams.topics import DAY_MS
from tests.drills import truth
from tests.drills.events import START, days, levels
from tests.drills.on_call import drill, replay_of
from tests.drills.stages import drained, loop, stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
BAD = range(200, 204)  # of the orders: two hours of the fifth day, which has 48


def spoiled(event: Output) -> Output:
    """With its quantity as text."""
    assert event.value is not None
    document = json.loads(event.value)
    for line in document["lines"]:
        line["quantity"] = str(line["quantity"])
    return Output(event.topic, event.partition, json.dumps(document).encode(), event.key)


def sold(messages: Iterable[Message]) -> list[tuple[Any, ...]]:
    """What counts of every order, sorted."""
    batches = [rows for m in messages if (rows := decode(m.value or b"")).record is EVENTS]
    names = ("product", "at", "quantity", "amount")
    return sorted(row for rows in batches for row in zip(*(rows[n].tolist() for n in names), strict=True) if row[2])


def ended(messages: Iterable[Message], record: ArrowRecord) -> dict[tuple[Any, ...], str]:
    """Close windows or outcomes of the boundaries from the fifth day on, without what says where they come from."""
    found = {}
    for message in messages:
        rows = decode(message.value or b"")
        for row in rows.batch.to_pylist() if rows.record is record else ():
            if row.get("at", row["end"]) >= START + 4 * DAY_MS and not row.get("kind"):
                counts = {n: v for n, v in row.items() if n not in ("offset", "late", "age") and n[:5] != "late_"}
                found[row["product"], row["end"], row.get("delay")] = repr(counts)
    return found


def test_orders_of_a_bad_schema_are_mended_and_what_was_said_without_them_is_corrected_once(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap, bundle = settings.bootstrap, truth.network(settings)
    good = [*levels(), *days(0, 7)]
    first = len(levels()) + BAD.start
    shipped = [*good[:first], *map(spoiled, good[first : first + len(BAD)]), *good[first + len(BAD) :]]

    def through() -> bool:
        return drained(bootstrap, START + 6 * DAY_MS)

    def counted() -> int:
        counters = stage_counters(bootstrap).get("ingest", {})
        return counters.get("accepted", 0) + counters.get("dead", 0)

    with stages(settings, loop(settings, bundle)) as workers:
        workers.start()
        kafka.append(bootstrap, shipped)
        wait_until(lambda: counted() == len(shipped) and through(), "seven days are through")
        with drill("1-bad-schema", capsys) as engineer:
            assert f"{len(BAD)} dead letters are open ({len(BAD)} wrong-type)" in engineer("doctor", code=1)
            listed = engineer("dlq", "list")
            assert "wrong-type" in listed
            (example,) = {word for word in listed.split() if word.startswith("orders/0/")}
            assert '"quantity": »"' in engineer("dlq", "show", example)
            mend = ("dlq", "redrive", "--because", "wrong-type", "--transform", ".lines[].quantity |= tonumber")
            tried = " ".join(engineer(*mend, "--dry-run").split())
            assert f"would be sent {len(BAD)} left out 0 would fail again 0" in tried
            done = " ".join(engineer(*mend, "--yes", "--reason", "quantity came as text for two hours").split())
            assert f"sent {len(BAD)} refused 0 left out 0 came back 0 ingest has read them all" in done
            assert "dead letters are open" not in engineer("doctor", code=1)  # there are no encoders in this drill
            wait_until(through, "what was sent again is through")
            said, offsets = truth.ends(bootstrap), truth.committed(bootstrap)

            replay = replay_of(engineer("replay", "plan", "--from", "2025-10-14T04:00", "--late", "in-place"))
            engineer("replay", "run", replay)
            moved = engineer("replay", "diff", replay)
            assert "dead letters put right" in moved
            assert "late events" not in moved
            engineer("replay", "apply", replay, "--dry-run")
            assert truth.ends(bootstrap) == said, "something was published before apply"
            apply = ("replay", "apply", replay, "--yes", "--reason", "orders of two hours were missing")
            engineer(*apply)
            assert truth.ends(bootstrap) != said
            assert "nothing is left to correct" in engineer(*apply)
            assert truth.committed(bootstrap) == offsets, "a live group was moved"
            assert "replay apply" in engineer("audit")

        sent = truth.corrections(bootstrap)
        assert sent
        assert set(sent.values()) == {1}, "downstream was told of a correction twice"
        # A platform that never made the error: the same orders, each once, windows, outcomes, scores and signals.
        clean = truth.from_platform(settings, bundle, good)
        assert sold(kafka.read(bootstrap, "trend.events")) == sold(clean.log.records("trend.events"))
        shadow = replaying.shadow_of(replaying.load_plan(settings, replay), settings, bootstrap)
        for record in (WINDOWS, OUTCOMES):
            expected = ended(clean.log.records("trend.windows"), record)
            assert len(expected) >= 6 * 2
            assert ended(shadow.records("trend.windows"), record) == expected
        truth.require_equal(truth.held(bootstrap), truth.said(clean), 4, 6)

        found_at = engineer("topics", "find", f"o{BAD[0]}", quietly=True)
        assert "orders/0@" in found_at  # the mended one too
        first_of_all = engineer("topics", "cat", "orders", "--since", "1h", "-c", "1", "-J", quietly=True)
        assert json.loads(first_of_all)["offset"] == 0
        assert engineer("topics", "cat", "orders", "--until", "1h", "-J", quietly=True) == ""
