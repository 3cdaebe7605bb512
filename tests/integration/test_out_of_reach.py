"""Workers without a broker: at their start, and in the middle of their work."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from deploy.local_kafka import LocalKafka
from deploy.topics import create_topics
from streams import kafka
from streams.codecs import decode
from streams.records.inside import EVENTS
from tests.conftest import JARS
from tests.e2e.running import Workers, running

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
T = 1_760_000_000_000
STAGES = ("ingest", "windows", "text")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _send(bootstrap: str, numbers: range) -> None:
    to = kafka.producer(bootstrap)
    for number in numbers:
        order = {
            "platform": "shop",
            "order_id": f"o{number}",
            "buyer_id": "u",
            "ordered_at": T + number,
            "currency": "EUR",
            "status": "placed",
            "lines": [{"product_id": f"p{number % 7}", "quantity": 1, "unit_price": "9.99"}],
        }
        kafka.send(to, "orders", number % 2, json.dumps(order).encode())
    assert to.flush(30) == 0


def _units(workers: Workers) -> list[int]:
    """Source offsets of the order rows in trend.events, of both partitions of orders."""
    found = []
    for messages in workers.topic("trend.events").values():
        for message in messages:
            rows = decode(message.value or b"")
            if rows.record is EVENTS:
                places = zip(rows["source_partition"].tolist(), rows["source_offset"].tolist(), strict=True)
                found += [2 * offset + partition for partition, offset in places]
    return sorted(found)


def _end(workers: Workers, *names: str) -> None:
    started = time.monotonic()
    for name in names:
        workers.processes[name].terminate()
    for name in names:
        workers.processes[name].join(20)
        log = workers.log(name).read_text()[-2_000:]
        assert workers.processes[name].exitcode == 0, log
    assert time.monotonic() - started < 10


def test_workers_wait_for_a_broker_say_so_and_end_without_one(tmp_path: Path) -> None:
    local = LocalKafka(tmp_path / "kafka", _free_port(), jars=JARS)
    with local:
        bootstrap = local.bootstrap
        create_topics(bootstrap, 2)
    settings = {"TRENDSTREAM_PARTITIONS": "2", "TRENDSTREAM_PLATFORMS": '{"shop": {}}'}
    with running(bootstrap, tmp_path / "workers", **settings) as workers:
        workers.start(*STAGES)

        def waits() -> bool:
            logs = [workers.log(name) for name in STAGES]
            return all(log.exists() and log.read_text().count("trying again in") > 1 for log in logs)

        workers.wait_until(waits, "all say that nobody answers", 60)
        assert f"no Kafka answers at '{bootstrap}'" in workers.log("ingest").read_text()
        _end(workers, "windows")
        workers.start("windows")
        try:
            local.start()
            _send(bootstrap, range(100))
            workers.wait_until(lambda: len(_units(workers)) == 100, "the orders are taken", 60)
            local.kill()
            time.sleep(3)
            workers.check()
            _end(workers, *STAGES)
            local.start()
            workers.start(*STAGES)
            _send(bootstrap, range(100, 200))
            workers.wait_until(lambda: len(_units(workers)) >= 200, "the rest is taken", 60)
            assert _units(workers) == list(range(200))
            _end(workers, *STAGES)
        finally:
            local.stop()
