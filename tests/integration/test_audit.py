"""Who did what: no change without a reason and a yes, and none without a record, in the topic and in SQL."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import typer

from deploy.audit import TOPIC, audited, audits
from deploy.cli import COMMANDS, _load, run
from deploy.settings import load_settings
from deploy.sink import run_sink
from model.heads import frozen_head
from streams import kafka
from streams.codecs import encode_json
from streams.errors import BrokerError
from streams.ingest.privacy import Keyring
from streams.records import DELAYS, SalesClass
from streams.records.outside import DeadLetter, SourcePosition
from streams.signals.read_model import ReadModel
from streams.stage import Output, TaskKey
from streams.topics import DAY_MS
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


CHANGES: dict[str, tuple[str, ...]] = {
    "dlq redrive": ("orders/3/1",),
    "heads promote": ("audited-e86400000",),
    "heads rollback": ("audited-e86400000",),
    "offsets reset": ("labels", "--to-offset", "0", "--topic", "trend.predictions", "--partition", "3"),
    "replay apply": ("r1",),
    "topics skip": ("windows", "trend.events", "0", "0"),
}
# By group. They read, or write files and topics of their own; or they are the platform, a worker, a broker for tests.
OTHERS = {
    "": "audit backtest demo doctor evaluate explain export fine-tune lag status train worker",
    "broker": "start status stop",
    "dlq": "list show",
    "encoders": "compare",
    "heads": "diff list show",
    "load": "complete-journey files olist",
    "replay": "diff list plan rate run",
    "topics": "cat create find list",
}


def _leaves(name: str, command: Any) -> Iterator[str]:
    inner = getattr(command, "commands", None)
    for each, found in (inner or {}).items():
        yield from _leaves(f"{name} {each}", found)
    if inner is None:
        yield name


def test_a_new_command_is_taken_for_one_that_changes_nothing() -> None:
    found = {leaf for name in COMMANDS for leaf in _leaves(name, _load(name))}
    others = {f"{group} {name}".strip() for group, names in OTHERS.items() for name in names.split()}
    assert found == others | set(CHANGES), "say above whether it changes something; then it must ask, and be recorded"


@pytest.fixture
def changeable(bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A broker with something for every changing command: a letter that cannot be mended, two heads, a replay."""
    sealed = Keyring(load_settings().secret_bytes()).seal(b"{}", "orders/3/1")
    source = SourcePosition(topic="orders", partition=3, offset=1)
    about: dict[str, Any] = {"reason": "missing-field", "message": "", "stage": "ingest", "record_time": 1}
    letter = DeadLetter(dead_letter_id="orders/3/1", source=source, sealed=sealed, **about)
    frozen = frozen_head("audited", np.ones((DELAYS, len(SalesClass))), ())
    heads = [msgspec.structs.replace(frozen, version=f"audited-e{at}", epoch=at) for at in (DAY_MS, 2 * DAY_MS)]
    records = [Output("trend.events", 0, b"x"), Output("trend.dlq", 3, encode_json(letter), b"orders/3/1")]
    records += [Output("model.heads", 0, encode_json(head), head.version.encode()) for head in heads]
    kafka.append(bootstrap, records)
    monkeypatch.setattr("deploy.cli.heads._ANSWER_S", 0.0)  # there is no learner
    plan = SimpleNamespace(replay="r1", change=SimpleNamespace(described=lambda: "nothing"))
    correction = SimpleNamespace(output=Output("trend.scores", 0, b"x", b"shop:p1"), before=None, after=None)
    monkeypatch.setattr("deploy.replaying.load_plan", lambda *_: plan)
    monkeypatch.setattr("deploy.replaying.compared", lambda *_: ([None], None))
    monkeypatch.setattr("streams.replay.corrections.corrections", lambda *_: [correction])
    monkeypatch.setattr("deploy.correcting.publish", lambda *_: {"trend.scores": 1})
    monkeypatch.setenv("TRENDSTREAM_BOOTSTRAP", bootstrap)
    return bootstrap


@pytest.mark.parametrize("command", CHANGES)
def test_a_change_is_made_without_a_yes_or_a_reason_or_leaves_no_record(
    command: str, changeable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def refuse(question: str, abort: bool) -> None:
        asked.append(question)
        raise typer.Abort

    def ends() -> dict[TaskKey, tuple[int, int]]:
        return kafka.ranges(changeable, kafka.partition_counts(changeable))

    monkeypatch.setattr(typer, "confirm", refuse)
    arguments = [*command.split(), *CHANGES[command]]
    before, why = ends(), f"{command} is tried"
    assert run([*arguments, "--dry-run"]) == 0
    assert "nothing was done" in capsys.readouterr().out
    assert run([*arguments, "--export"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert run([*arguments, "--yes"]) == 2, "a yes without a reason is not enough"
    assert "--reason" in capsys.readouterr().err
    assert run([*arguments, "--reason", why]) == 130
    assert asked == [f"{command}: do it?"]
    assert next(iter(plan)) in capsys.readouterr().out, "it asks before it has shown its plan"
    assert ends() == before

    assert run([*arguments, "--yes", "--reason", why]) == 0
    (told,) = [a for a in audits(changeable) if a.reason == why]
    assert (told.command, told.outcome, plan.items() <= told.plan.items()) == (command, "done", True)
    assert run(["audit", "--command", command]) == 0
    assert why.split()[-1] in capsys.readouterr().out


def test_sql_holds_each_change_once_with_its_outcome(bootstrap: str, url: str) -> None:
    with audited(bootstrap, "replay apply", {"scores": 7}, "a price feed was wrong") as change:
        change.result["sent"] = 7
    model, stop = ReadModel(url), threading.Event()
    model.migrate()
    sink = threading.Thread(target=run_sink, args=(bootstrap, model, stop.is_set))
    sink.start()
    deadline = time.monotonic() + 20
    while not (found := [row for row in model.audits(1_000) if row.audit_id == change.begun.audit_id]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stop.set()
    sink.join()
    messages = [m for m in kafka.read(bootstrap, TOPIC) if m.key == change.begun.audit_id.encode()]
    assert len(messages) == 2
    model.apply(messages[:1])  # an older record again, as after a restart
    (row,) = [row for row in model.audits(1_000) if row.audit_id == change.begun.audit_id]
    assert len(found) == 1
    assert (row.outcome, row.plan, row.result) == ("done", {"scores": 7}, {"sent": 7})
    model.close()
