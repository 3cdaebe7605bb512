"""`trendstream load` into a real broker."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from deploy.cli import run
from deploy.sources import PlatformEvent
from deploy.sources.replayer import KafkaSink, Replayer
from streams import kafka as log
from streams.partitioning import partition_of
from streams.stage import Message
from tests.conftest import TestBroker


def ends(bootstrap: str, topic: str) -> dict[int, int]:
    return {number: end for number, (_, end) in enumerate(log.end_offsets(bootstrap, topic))}


def read_new(bootstrap: str, topic: str, since: dict[int, int]) -> list[Message]:
    return list(log.read(bootstrap, topic, start=since))


def test_files_reach_their_topics_once_and_dated_now(
    kafka: TestBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka.create_topics()
    since = ends(kafka.bootstrap, "orders")
    orders = [{"platform": "shop", "order_id": f"o{i}", "ordered_at": 1_500_000_000_000 + i} for i in range(300)]
    (tmp_path / "orders.ndjson").write_text("".join(json.dumps(o) + "\n" for o in orders) + "{broken\n")
    (tmp_path / "products.ndjson").write_text('{"platform":"shop","product_id":"p","updated_at":1}\n')
    begin = time.time() * 1000
    assert run(["load", "files", str(tmp_path), "--bootstrap", kafka.bootstrap]) == 0
    assert capsys.readouterr().out == "orders\t301\nproducts\t1\n"
    records = read_new(kafka.bootstrap, "orders", since)
    assert len(records) == 301
    assert all(r.timestamp >= begin - 1000 for r in records)
    assert all(r.partition == partition_of((r.key or b"").decode(), len(since)) for r in records)
    assert {r.value for r in records} == {json.dumps(o).encode() for o in orders} | {b"{broken"}
    for number in since:
        inside = [json.loads(r.value or b"")["ordered_at"] for r in records if r.partition == number and r.key]
        assert inside == sorted(inside)


def test_a_record_that_the_broker_refuses_is_not_counted_as_produced(kafka: TestBroker) -> None:
    kafka.create_topics()
    since = ends(kafka.bootstrap, "behaviors")
    events = [PlatformEvent("behaviors", str(i), b"{}", 1_500_000_000_000) for i in range(10)]
    wrong = {"behaviors": 64}  # sends to partitions that are not there
    played = Replayer(events, KafkaSink(kafka.bootstrap), wrong).run()
    reached = len(read_new(kafka.bootstrap, "behaviors", since))
    assert played.failed["behaviors"] >= 1
    assert played.produced["behaviors"] == reached == 10 - played.failed["behaviors"]
    assert "artition" in played.errors[0]
