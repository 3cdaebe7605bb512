"""Dead letters on real Kafka: found by reason, opened, mended, sent again once, and stopped when they go on failing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy import pipeline
from deploy.audit import audits
from deploy.cli import run
from deploy.dead_letters import Selection, letters
from deploy.following import stage_counters
from deploy.redriving import Counts, Mender, Pace, Redriver, load_transform
from deploy.settings import Settings
from streams import kafka
from streams.codecs import decode
from streams.ingest.letters import Checker
from streams.records.inside import EVENTS
from streams.stage import Output
from tests.drills.events import order
from tests.drills.stages import stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
MEND = ".lines[].quantity |= tonumber"


def units(bootstrap: str) -> int:
    found = 0
    for message in kafka.read(bootstrap, "trend.events"):
        rows = decode(message.value or b"")
        if rows.record is EVENTS:
            found += int(rows["quantity"].sum())
    return found


def dead(bootstrap: str) -> int:
    return stage_counters(bootstrap).get("ingest", {}).get("dead", 0)


def test_a_redrive_is_done_once_whatever_happens_to_it(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    bootstrap = settings.bootstrap
    wrong = [order(i, "2") for i in range(20)]
    broken = Output("orders", 0, b"{no json", b"x")
    with stages(settings, {"ingest": lambda: pipeline.ingest_spec(settings)}) as ingest:
        ingest.start()
        kafka.append(bootstrap, [*wrong, broken, order(100, 5)])
        wait_until(lambda: dead(bootstrap) == 21, "dead letters")
        at = ["--bootstrap", bootstrap]

        # By reason, and one of them with its error in its place.
        assert run(["dlq", "list", *at, "--json"]) == 0
        rows = {row["reason"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
        assert {reason: (row["letters"], row["open"]) for reason, row in rows.items()} == {
            "wrong-type": (20, 20),
            "not-json": (1, 1),
        }
        assert run(["dlq", "show", rows["wrong-type"]["example"], *at]) == 0
        assert '"quantity": »"2"«' in capsys.readouterr().out
        assert run(["dlq", "show", rows["wrong-type"]["example"], *at, "--raw"]) == 0
        assert json.loads(capsys.readouterr().out)["buyer_id"] == "ann@example.com"

        # A dry run shows before and after, and does nothing.
        chosen = ["dlq", "redrive", *at, "--because", "wrong-type", "--transform", MEND]
        assert run([*chosen, "--dry-run"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "would be sent 20" in shown
        assert '"quantity":2' in shown
        assert all(letter.open for letter in letters(bootstrap, Selection()))

        # The event of one came by another way meanwhile: its id is known, so it does not count twice.
        kafka.append(bootstrap, [order(0, 2)])
        assert run([*chosen, "--yes", "--reason", "quantity was sent as text", "--batch", "7"]) == 0
        assert " sent 20 refused 0 " in " ".join(capsys.readouterr().out.split())
        counters = stage_counters(bootstrap)["ingest"]
        assert (counters["accepted"], counters["repeated"], counters["dead"]) == (21, 1, 21)
        assert units(bootstrap) == 20 * 2 + 5

        # Called again it sends nothing, and the one that is no JSON is still open.
        assert run([*chosen, "--yes", "--reason", "again"]) == 0
        assert "there is nothing to send" in capsys.readouterr().out
        assert [letter.dead.reason for letter in letters(bootstrap, Selection()) if letter.open] == ["not-json"]
    done = audits(bootstrap)[-1]
    assert (done.command, done.outcome, done.result["sent"]) == ("dlq redrive", "done", 20)


def test_what_fails_again_goes_back_with_its_attempts_and_stops_the_redrive(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap = settings.bootstrap
    with stages(settings, {"ingest": lambda: pipeline.ingest_spec(settings)}) as ingest:
        ingest.start()
        kafka.append(bootstrap, [order(i, "2") for i in range(30)])
        wait_until(lambda: dead(bootstrap) == 30, "dead letters")
        chosen = ["dlq", "redrive", "--bootstrap", bootstrap, "--all", "--yes", "--reason", "try", "--batch", "5"]
        assert run([*chosen, "--max-errors", "7"]) == 1
        assert "stopped: 10 of 10 letters failed again" in capsys.readouterr().err
        assert audits(bootstrap)[-1].outcome == "failed"
        again = [letter for letter in letters(bootstrap, Selection()) if letter.attempts == 2]
        assert len(again) == 10
        assert {letter.first.reason for letter in again} == {"wrong-type"}
        assert all(letter.open and letter.first.at <= letter.at for letter in again)

        # What ingest alone can refuse comes back as a letter of its own, and knows that it was tried before.
        lost = order(50, 1, status="cancelled", order_id="never")
        too_many = ".lines[].quantity = 9"
        kafka.append(bootstrap, [order(40, 1), order(40, "1", status="cancelled", event_id="c40"), lost])
        wait_until(lambda: dead(bootstrap) == 31, "a cancellation with its quantity as text")
        letter = max(letters(bootstrap, Selection(), originals=True), key=lambda x: x.dead.source.offset)
        mender = Mender(
            Checker(pipeline.ingest_config(settings)), settings.secret_bytes(), load_transform(too_many), {}
        )
        work = Redriver(bootstrap, mender, Pace(), "test")
        assert work.run([letter]).sent == 1
        assert work.wait(30)
        assert work.counts == Counts(sent=1, came_back=1)
        back = [x for x in letters(bootstrap, Selection()) if x.dead.reason == "cancels-more-than-ordered"]
        assert [(x.attempts, x.first.reason, x.open) for x in back] == [(2, "wrong-type", True)]


def test_a_redrive_that_breaks_off_sends_no_event_twice(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap = settings.bootstrap
    checker, secret = Checker(pipeline.ingest_config(settings)), settings.secret_bytes()
    with stages(settings, {"ingest": lambda: pipeline.ingest_spec(settings)}) as ingest:
        ingest.start()
        kafka.append(bootstrap, [order(i, "3") for i in range(12)])
        wait_until(lambda: dead(bootstrap) == 12, "dead letters")
        mender = Mender(checker, secret, load_transform(MEND), {})
        work = Redriver(bootstrap, mender, Pace(batch=4), "test")
        sent_before = work._send

        def breaks(producer: Any, mended: Any) -> None:
            if work.counts.sent == 4:  # in the second transaction, after its events and before its commit
                producer.begin_transaction()
                for each in mended:
                    kafka.send(producer, "orders", each.letter.dead.source.partition, each.after)
                producer.flush(10)
                raise KeyboardInterrupt
            sent_before(producer, mended)

        monkeypatch.setattr(work, "_send", breaks)
        with pytest.raises(KeyboardInterrupt):
            work.run(letters(bootstrap, Selection(), originals=True))
        left = letters(bootstrap, Selection(), originals=True)
        assert sum(letter.open for letter in left) == 8
        again = Redriver(bootstrap, mender, Pace(batch=4), "test")
        assert again.run(left).sent == 8
        assert again.wait(30)
        counters = stage_counters(bootstrap)["ingest"]
        assert (counters["accepted"], counters["repeated"]) == (12, 0)
    assert units(bootstrap) == 36
