"""A backlog caught up from empty, with everything that makes event time hard beside it, on a real broker."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from streams import kafka
from streams.calendars import DAY, Platform
from streams.codecs import decode
from streams.records.inside import CLOSES
from tests.conftest import TestBroker
from tests.e2e.contract import units_of_days
from tests.e2e.running import running

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
FIRST = 1_704_063_600_000  # 2024-01-01 00:00 in Rome; its clocks change on 31 March and 27 October
ROME, MALL = Platform("shop", "Europe/Rome"), Platform("mall")
BACKLOG, AHEAD = 366, 5  # days
PLATFORMS = {"shop": {"timezone": "Europe/Rome"}, "mall": {"timezone": "UTC"}}


def _order(number: int, platform: str, at: str, quantity: int) -> bytes:
    event: dict[str, Any] = {
        "platform": platform,
        "order_id": f"{platform}-{number}",
        "buyer_id": "u",
        "ordered_at": at,
        "currency": "EUR",
        "status": "placed",
        "lines": [{"product_id": f"p{number % 5}", "quantity": quantity, "unit_price": "9.99"}],
    }
    return json.dumps(event).encode()


def _local(day: int, minutes: int) -> tuple[str, int]:
    """An instant of a local day as the platform writes it: with the offset that holds then, or another; and its day."""
    at = dt.datetime.fromtimestamp(ROME.calendar.start(ROME.calendar.day(FIRST) + day) / 1000, ZoneInfo(ROME.timezone))
    shown = at + dt.timedelta(minutes=minutes)
    if day % 3 == 1:
        shown = shown.astimezone(dt.timezone(dt.timedelta(hours=-7)))
    return shown.isoformat(), int(ROME.calendar.day(round(shown.timestamp() * 1000)))


def test_a_backlog_loses_days_or_units_where_time_is_hard(fresh_kafka: TestBroker, tmp_path: Path) -> None:
    bootstrap = fresh_kafka.bootstrap
    fresh_kafka.create_topics(2)
    sold: Counter[tuple[str, int]] = Counter()
    to = kafka.producer(bootstrap, "platform")  # partition 1 of orders, and most topics, never hold a record
    to.init_transactions(30)
    number = 0
    for day in range(BACKLOG):
        to.begin_transaction()
        for minutes in (0, 719, 1_379):  # a day of the clock change has 23 hours, and what is later is tomorrow's
            at, local = _local(day, minutes)
            number += 1
            kafka.send(to, "orders", 0, _order(number, "shop", at, 1 + number % 3))
            if day % 10 != 9:
                sold[f"shop:p{number % 5}", local] += 1 + number % 3
        if day == 11:  # one wrong date among right ones, and time running backwards within the lateness
            kafka.send(to, "orders", 0, _order(900_000, "shop", "2025-12-24T00:00:00Z", 1))
            kafka.send(to, "orders", 0, _order(900_001, "shop", _local(day, 60)[0], 4))
            sold["shop:p1", _local(day, 60)[1]] += 4
        if day == 0:  # a platform that falls silent after its first order
            kafka.send(to, "orders", 0, _order(900_002, "mall", "2024-01-01T12:00:00Z", 2))
        to.flush(30)  # so that what is aborted lies in the log, before its marker
        (to.abort_transaction if day % 10 == 9 else to.commit_transaction)()
    to.begin_transaction()
    for day in range(BACKLOG + AHEAD):  # one source is days ahead of the other
        view = {"platform": "shop", "product_id": "p1", "user_id": "u", "kind": "view"}
        kafka.send(to, "behaviors", 1, json.dumps({**view, "occurred_at": FIRST + day * DAY + 1}).encode())
    to.commit_transaction()

    settings = {
        "TRENDSTREAM_PARTITIONS": "2",
        "TRENDSTREAM_PLATFORMS": json.dumps(PLATFORMS),
        "TRENDSTREAM_IDLE_MS": "2000",
    }
    with running(bootstrap, tmp_path / "workers", **settings) as workers:
        workers.start("ingest", "windows")
        last = ROME.calendar.start(int(ROME.calendar.day(FIRST)) + BACKLOG)

        def closed() -> bool:
            return all(last in ends for ends in _ends(workers.topic("trend.windows"), "shop").values())

        workers.wait_until(closed, "the last day is closed in both partitions", 120)
        windows = workers.topic("trend.windows")
        counters = workers.counters("windows")
        taken = workers.counters("ingest")
        assert workers.stop() == {"ingest": 0, "windows": 0}
    assert (taken["dead"], taken["repeated"]) == (0, 0)
    units = {key: n for key, n in units_of_days(windows, ROME.calendar).items() if key[0].startswith("shop:")}
    assert units == {key: n for key, n in sold.items() if n}
    assert counters["late"] == counters["beyond_ring"] == 0
    for ends in _ends(windows, "shop").values():
        boundaries = [end for end in ends if end <= last]
        first = int(ROME.calendar.day(boundaries[0]))  # after the first day with an order in this partition
        assert first <= ROME.calendar.day(FIRST) + 3
        assert boundaries == [ROME.calendar.start(day) for day in range(first, int(ROME.calendar.day(last)) + 1)]
    assert any(_ends(windows, "mall").values()), "the days of a silent platform end with those of the others"
    assert any(end > FIRST + 300 * DAY for ends in _ends(windows, "mall").values() for end in ends)


def _ends(windows: dict[int, Any], platform: str) -> dict[int, list[int]]:
    """Boundaries that each partition has closed, in their order."""
    found: dict[int, list[int]] = {partition: [] for partition in windows}
    for partition, messages in windows.items():
        for message in messages:
            rows = decode(message.value or b"")
            if rows.record is CLOSES:
                pairs = zip(rows["platform"], rows["end"].tolist(), strict=True)
                found[partition] += [end for name, end in pairs if name == platform]
    return found
