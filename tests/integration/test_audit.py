"""Who did what: no change without a reason and a yes, and none without a record, in the topic and in SQL."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from deploy.audit import TOPIC, audited, audits
from deploy.cli import run
from streams import kafka
from streams.errors import BrokerError
from streams.signals.read_model import ReadModel
from streams.signals.tables import AuditRow
from streams.stage import Output
from tests.conftest import TestBroker


@pytest.fixture
def bootstrap(kafka: TestBroker) -> str:
    kafka.create_topics()
    return kafka.bootstrap


def test_a_change_is_written_down_before_it_is_made_and_again_with_its_result(bootstrap: str) -> None:
    with audited(bootstrap, "dlq redrive", {"letters": 3}, "schema fixed") as change:
        (open_,) = [a for a in audits(bootstrap) if a.audit_id == change.begun.audit_id]
        assert (open_.outcome, open_.ended_at, open_.plan) == ("begun", 0, {"letters": 3})
        change.result["accepted"] = 3
    (done,) = [a for a in audits(bootstrap) if a.audit_id == change.begun.audit_id]
    assert (done.outcome, done.result, done.reason) == ("done", {"accepted": 3}, "schema fixed")
    assert done.ended_at >= done.at
    assert "@" in done.by


def test_a_change_that_fails_says_how_far_it_came_and_why(bootstrap: str) -> None:
    with pytest.raises(BrokerError), audited(bootstrap, "heads rollback", {}, "bad") as change:  # noqa: PT012
        change.result["published"] = 1
        raise BrokerError("gone")
    (failed,) = [a for a in audits(bootstrap) if a.audit_id == change.begun.audit_id]
    assert (failed.outcome, failed.result) == ("failed", {"published": 1, "error": "gone"})


def test_a_command_without_yes_asks_and_does_nothing_when_the_answer_is_no(
    bootstrap: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka.append(bootstrap, [Output("trend.events", 0, b"x")])
    asked: list[str] = []

    def refuse(question: str, abort: bool) -> None:
        asked.append(question)
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", refuse)
    before = len(audits(bootstrap))
    arguments = ["topics", "skip", "windows", "trend.events", "0", "0", "--bootstrap", bootstrap]
    assert run([*arguments, "--reason", "poison"]) == 130
    assert asked == ["topics skip: do it?"]
    assert "trend.events/0 offset 0" in capsys.readouterr().out  # the plan was shown before it asked
    assert run([*arguments, "--yes"]) == 2  # and a yes without a reason is not enough
    assert "--reason" in capsys.readouterr().err
    assert len(audits(bootstrap)) == before
    assert [m for m in kafka.read(bootstrap, "trend.skips") if m.partition == 0] == []

    assert run([*arguments, "--yes", "--reason", "poison"]) == 0
    assert audits(bootstrap)[-1].command == "topics skip"
    assert run(["audit", "--bootstrap", bootstrap, "--limit", "1"]) == 0
    assert "poison" in capsys.readouterr().out


def test_sql_holds_each_change_once_with_its_outcome(bootstrap: str, tmp_path: Path) -> None:
    with audited(bootstrap, "replay apply", {"scores": 7}, "a price feed was wrong") as change:
        change.result["sent"] = 7
    model = ReadModel(f"sqlite:///{tmp_path}/audit.db")
    model.migrate()
    messages = [m for m in kafka.read(bootstrap, TOPIC) if m.key == change.begun.audit_id.encode()]
    assert len(messages) == 2
    model.apply(messages)
    model.apply(messages[:1])  # an older record again, as after a restart
    (row,) = model.audits()
    assert isinstance(row, AuditRow)
    assert (row.outcome, row.plan, row.result) == ("done", {"scores": 7}, {"sent": 7})
    model.close()
