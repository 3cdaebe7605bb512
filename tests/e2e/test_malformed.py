"""A thousand malformed platform events of over twenty kinds, among good ones, through real workers on real Kafka."""

from __future__ import annotations

import base64
import io
import itertools
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deploy.topics import create_topics
from streams import kafka
from streams.codecs import decode, decode_json
from streams.records import EventKind
from streams.records.inside import EVENTS
from streams.records.outside import DeadLetter
from streams.topics import PLATFORM_MAX_BYTES
from tests.e2e.running import running

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
T = 1_760_000_000_000  # 2025-10-09, long past for the broker's clock
DAY = 86_400_000
EACH = 48
Event = dict[str, Any]


def _order(number: int, **more: Any) -> Event:
    return {
        "platform": "shop",
        "order_id": f"o{number}",
        "buyer_id": "ann@example.com",
        "ordered_at": T + number,
        "currency": "EUR",
        "status": "placed",
        "lines": [{"product_id": f"p{number % 7}", "quantity": 1, "unit_price": "9.99"}],
        **more,
    }


def _line(number: int, **line: Any) -> Event:
    return _order(number, lines=[{"product_id": "p1", "quantity": 1, "unit_price": "9.99", **line}])


def _image(number: int, content: bytes) -> Event:
    return {
        "platform": "shop",
        "product_id": f"p{number % 7}",
        "image_id": f"i{number}-{zlib.crc32(content)}",
        "kind": "image",
        "captured_at": T + number,
        "content_type": "image/png",
        "content": base64.b64encode(content).decode(),
    }


def _png(width: int, height: int, colour: int = 0) -> bytes:
    sink = io.BytesIO()
    Image.new("L", (width, height), colour).save(sink, "PNG")
    return sink.getvalue()


BOMB = _png(12_000, 12_000)
KINDS: dict[str, tuple[str, str, Any]] = {  # kind: topic, reason, event by number
    "no JSON": ("orders", "not-json", lambda i: b"{" + str(i).encode()),
    "a list": ("orders", "wrong-type", lambda i: [i]),
    "quantity as text": ("orders", "wrong-type", lambda i: _line(i, quantity="2")),
    "no lines": ("orders", "missing-field", lambda i: {k: v for k, v in _order(i).items() if k != "lines"}),
    "unknown status": ("orders", "unknown-status", lambda i: _order(i, status="lost")),
    "unknown platform": ("orders", "unknown-platform", lambda i: _order(i, platform="mall")),
    "quantity zero": ("orders", "bad-quantity", lambda i: _line(i, quantity=0)),
    "quantity negative": ("orders", "bad-quantity", lambda i: _line(i, quantity=-i - 1)),
    "quantity beyond all bounds": ("orders", "bad-quantity", lambda i: _line(i, quantity=10**9)),
    "price NaN": ("orders", "bad-price", lambda i: _line(i, unit_price="NaN")),
    "price no number": ("orders", "bad-price", lambda i: _line(i, unit_price="ten")),
    "price negative": ("orders", "bad-price", lambda i: _line(i, unit_price=-1)),
    "price zero": ("orders", "bad-price", lambda i: _line(i, unit_price=0)),
    "another currency": ("orders", "bad-currency", lambda i: _order(i, currency="USD")),
    "time without offset": ("orders", "bad-time", lambda i: _order(i, ordered_at="2025-10-09T10:00:00")),
    "far in the future": ("orders", "future", lambda i: _order(i, ordered_at=4_000_000_000_000)),
    "too large": (
        "orders",
        "too-large",
        lambda i: _order(i, region="x" * (PLATFORM_MAX_BYTES // 2_000), order_id="y" * 400),
    ),
    "unknown behaviour": (
        "behaviors",
        "unknown-kind",
        lambda i: {
            "platform": "shop",
            "product_id": "p1",
            "user_id": f"u{i}",
            "kind": "stare",
            "occurred_at": T + i,
        },
    ),
    "rating of nine": (
        "reviews",
        "bad-rating",
        lambda i: {
            "platform": "shop",
            "product_id": "p1",
            "review_id": f"bad{i}",
            "buyer_id": "b",
            "rating": 9,
            "written_at": T,
        },
    ),
    "broken picture": ("images", "broken-picture", lambda i: _image(i, b"no picture at all " + str(i).encode())),
    "truncated picture": ("images", "truncated-picture", lambda i: _image(i, _png(64, 64, i)[:-30])),
    "decompression bomb": ("images", "picture-too-large", lambda i: _image(i, BOMB)),
}


def test_a_thousand_malformed_events_are_dead_letters_and_harm_nobody(fresh_kafka: Any, tmp_path: Path) -> None:
    bootstrap = fresh_kafka.bootstrap
    create_topics(bootstrap, 2)
    good = [_order(100_000 + i) for i in range(500)]
    bad = [(kind, make(i)) for i in range(EACH) for kind, (_, _, make) in KINDS.items()]
    assert len(bad) >= 1_000
    expected = Counter(KINDS[kind][1] for kind, _ in bad)
    producer = kafka.producer(bootstrap)
    for number, (kind, event) in enumerate(bad):
        value = event if isinstance(event, bytes) else json.dumps(event).encode()
        kafka.send(producer, KINDS[kind][0], number % 2, value, b"k")
        if number % 2 == 0 and good:
            kafka.send(producer, "orders", number % 2, json.dumps(good.pop()).encode(), b"k")
    for event in good:
        kafka.send(producer, "orders", 0, json.dumps(event).encode(), b"k")
    assert producer.flush(30) == 0

    with running(bootstrap, tmp_path, TRENDSTREAM_PARTITIONS="2") as workers:
        workers.start("ingest", "image", "windows")
        pids = {name: process.pid for name, process in workers.processes.items()}

        def buried() -> int:
            return sum(1 for _ in kafka.read(bootstrap, "trend.dlq"))

        workers.wait_until(lambda: buried() >= len(bad), "every bad event is in trend.dlq", 200)
        workers.wait_until(
            lambda: workers.counters("windows").get("events", 0) >= 500, "good orders are in windows", 60
        )
        workers.check()
        assert {name: process.pid for name, process in workers.processes.items()} == pids
        assert set(workers.stop().values()) == {0}
        letters = [decode_json(m.value or b"", DeadLetter) for m in kafka.read(bootstrap, "trend.dlq")]
        assert Counter(letter.reason for letter in letters) == expected
        assert len({letter.dead_letter_id for letter in letters}) == len(bad)
        assert all(letter.message and letter.sealed for letter in letters)
        assert not any("ann@example.com" in letter.message for letter in letters)
        placed = [
            product
            for log in workers.topic("trend.events").values()
            for rows in (decode(m.value or b"") for m in log)
            if rows.record is EVENTS
            for product in itertools.compress(rows["product"], rows["kind"] == EventKind.ORDER)
        ]
        assert Counter(placed) == Counter(f"shop:p{(100_000 + i) % 7}" for i in range(500))
