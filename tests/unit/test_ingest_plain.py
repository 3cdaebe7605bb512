"""Orders read in columns give what the same orders give one by one, whatever stands between them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.calendars import Platform
from streams.codecs import decode
from streams.ingest import IngestConfig, IngestStage, plain, stage
from streams.ingest.plain import Instants
from streams.ingest.values import epoch_ms
from streams.stage import Message, Output

DAY = 86_400_000
T = 1_511_524_800_000  # 2017-11-24T12:00:00Z
CONFIG = IngestConfig(
    partitions=3,
    platforms={
        "shop": Platform("shop", "America/Sao_Paulo", "BRL"),
        "tokyo": Platform("tokyo", "Asia/Tokyo", "JPY"),
        "odd": Platform("odd", "UTC", "points"),
    },
    secret=b"a secret of the tests, 32 bytes.",
    max_quantity=1_000,
    max_bytes=20_000,
)

Event = dict[str, Any]
Wrong = Callable[[Event], object]


def _line(event: Event, **fields: object) -> Event:
    return {**event, "lines": [{**event["lines"][0], **fields}, *event["lines"][1:]]}


def _written(event: Event, old: bytes, new: bytes) -> bytes:
    """As JSON, with its first line written otherwise."""
    head, lines = json.dumps(event).encode().split(b'"lines"')
    return head + b'"lines"' + lines.replace(old, new, 1)


# What may be wrong, or only unusual, in an order.
TWISTS: list[Wrong] = [
    lambda e: b"{",
    lambda e: None,
    lambda e: b"\xff",
    lambda e: [e, e],
    lambda e: {**e, "platform": "mall"},
    lambda e: {**e, "platform": "odd", "currency": "points"},
    lambda e: {**e, "platform": "tokyo", "currency": "JPY"},
    lambda e: {**e, "currency": "USD"},
    lambda e: {**e, "currency": "BRL\n"},
    lambda e: {**e, "event_id": ""},
    lambda e: {**e, "event_id": "\u00e9"},
    lambda e: {**e, "buyer_id": 7},
    lambda e: {**e, "region": 7},
    lambda e: {**e, "order_id": "x" * 257},
    lambda e: {**e, "lines": []},
    lambda e: {**e, "lines": e["lines"] * 300},
    lambda e: {**e, "status": "returned", "status_at": e["ordered_at"]},
    lambda e: {**e, "status_at": e["ordered_at"]},
    lambda e: {**e, "status_at": "soon"},
    lambda e: {**e, "status_at": T + 900 * DAY},
    lambda e: {**e, "ordered_at": T + 900 * DAY},
    lambda e: {**e, "ordered_at": T + 300 * DAY},
    lambda e: {**e, "ordered_at": T + 3 * DAY},
    lambda e: {**e, "ordered_at": T - 55 * DAY},
    lambda e: {**e, "ordered_at": T - 58 * DAY},
    lambda e: {**e, "ordered_at": "2017-11-24T12:00:60Z"},
    lambda e: {**e, "ordered_at": "2017-11-24T12:00Z"},
    lambda e: {**e, "ordered_at": "2017-11-24 09:00:00.5-03:00"},
    lambda e: {**e, "ordered_at": "1970-01-01T00:00:00+01:00"},
    lambda e: {**e, "ordered_at": -1},
    lambda e: {**e, "ordered_at": 10**30},
    lambda e: _line(e, quantity=0),
    lambda e: _line(e, quantity=1_001),
    lambda e: _line(e, quantity=10**30),
    lambda e: _line(e, quantity=True),
    lambda e: _line(e, unit_price="1.005"),
    lambda e: _line(e, unit_price=0),
    lambda e: _line(e, unit_price=12.5),
    lambda e: _line(e, unit_price=12),
    lambda e: _line(e, unit_price="10000000.01"),
    lambda e: _line(e, unit_price=None),
    lambda e: _line(e, product_id=""),
    lambda e: _line(e, product_id="p\u0001"),
    lambda e: _line(e, product_id="x" * 257),
    lambda e: _line(e, note={"said": ["\u00e9", 1.5, None]}),
    # Lines are known by their bytes: the same line written in another way, and one that only begins like another.
    lambda e: json.dumps(e, indent=1).encode(),
    lambda e: json.dumps(e, sort_keys=True, separators=(",", ":")).encode(),
    lambda e: _written(e, b'"quantity"', b'"note": "\xff", "quantity"'),
    lambda e: _written(e, b'"quantity"', b'"note": "\\ud800", "quantity"'),
    lambda e: _written(e, b'"quantity"', b'"quantity": 7, "quantity"'),
    lambda e: _written(e, b'"quantity"', b'"\\u0071uantity"'),
    lambda e: _written(e, b'"quantity"', b'"quantity": 01, "quantity"'),
    lambda e: _written(e, b'"quantity"', b'"note": ' + b"[" * 2_000 + b"]" * 2_000 + b', "quantity"'),
    lambda e: _written(e, b'"product_id"', b"product_id"),
]


def log(seed: int, records: int, strange: float, step: int) -> list[Message]:
    """Orders, most of them plain, with repeats, cancellations before and after, returns and what `TWISTS` does."""
    chance = random.Random(seed)
    events: list[Event] = []
    now, messages = T + 1_000, []
    for offset in range(records):
        now += chance.choice((0, 0, step, -step))
        event = _order(chance, chance.randrange(2 * records), min(now, T + 1_000))
        kind, value = chance.random(), None
        if kind < strange:
            value = chance.choice(TWISTS)(event)
        elif events and kind < 1.5 * strange:
            value = chance.choice(events)
        elif events and kind < 2.5 * strange:
            value = {**chance.choice(events), "status": "cancelled", "status_at": T, "event_id": None}
        elif kind < 3 * strange:
            value = {**_order(chance, offset + chance.randrange(9), T), "status": "cancelled"}
        elif kind < 3.5 * strange:
            value = {**event, "event_id": f"e{chance.randrange(9)}"}
        else:
            value = event
            events.append(event)
        raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
        messages.append(Message("orders", 0, offset, now, b"k", raw))
    return messages


def _order(chance: random.Random, number: int, at: int) -> Event:
    lines = [
        {
            "product_id": f"p{chance.randrange(30)}",
            "quantity": chance.choice((1, 2, 1_000)),
            "unit_price": chance.choice(("1", "9.90", "10")),
        }
        for _ in range(chance.choice((1, 1, 2, 5)))
    ]
    return {
        "platform": "shop",
        "event_id": chance.choice((None, f"n{number}")),
        "order_id": f"o{number}",
        "buyer_id": "b",
        "ordered_at": chance.choice((at, "2017-11-24T12:00:00.001Z", at - 7_200_000)),
        "currency": "BRL",
        "status": "placed",
        "status_at": chance.choice((None, None, T, T + 1)),
        "lines": lines,
    }


def published(outputs: list[Output]) -> tuple[dict[int, list[str]], list[Output]]:
    rows: dict[int, list[str]] = {}
    for output in outputs:
        if output.topic == "trend.events":
            part = decode(output.value or b"").batch.to_pylist()
            rows.setdefault(output.partition, []).extend(map(repr, part))  # repr: NaN is equal to itself there
    return rows, [output for output in outputs if output.topic == "trend.dlq"]


@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.02, 0.2]),
    st.sampled_from([0, 1, 60_000, DAY, 3 * DAY]),
    st.lists(st.integers(0, 150), max_size=4),
    st.integers(0, 150),
)
@settings(max_examples=40)
def test_polls_of_orders_give_what_their_records_give_one_by_one(
    seed: int, strange: float, step: int, cuts: list[int], restart: int
) -> None:
    messages = log(seed, 150, strange, step)
    single, polled = IngestStage(("orders", 0), CONFIG), IngestStage(("orders", 0), CONFIG)
    expected = [output for message in messages for output in single.fold([message])]
    got: list[Output] = []
    for start, stop in pairwise(sorted({0, *cuts, restart, len(messages)})):
        if start == restart:
            blobs, polled = polled.snapshot(), IngestStage(("orders", 0), CONFIG)
            polled.restore(blobs)
        got += polled.fold(messages[start:stop])
    assert published(got) == published(expected)
    assert polled.counters() == single.counters()
    assert polled.snapshot() == single.snapshot()
    assert (polled.watermark, polled.newest) == (single.watermark, single.newest)


def test_forgetting_what_only_saves_work_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = log(2, 600, 0.05, 1)
    whole, forgetful = IngestStage(("orders", 0), CONFIG), IngestStage(("orders", 0), CONFIG)
    expected = whole.fold(messages)
    monkeypatch.setattr(stage, "_PRODUCTS", 5)
    monkeypatch.setattr(plain, "_REMEMBERED", 5)
    forgetful.restore(forgetful.snapshot())
    numbered = forgetful._products
    got = [output for start in range(0, 600, 30) for output in forgetful.fold(messages[start : start + 30])]
    assert forgetful._products is not numbered
    assert published(got) == published(expected)
    assert forgetful.snapshot() == whole.snapshot()


def test_most_of_such_a_log_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = log(1, 1_000, 0.02, 1)
    one_by_one = []
    take = IngestStage._fold_one

    def counted(task: IngestStage, message: Message, *rest: Any) -> None:
        one_by_one.append(message.offset)
        take(task, message, *rest)

    monkeypatch.setattr(IngestStage, "_fold_one", counted)
    IngestStage(("orders", 0), CONFIG).fold(messages)
    assert 20 < len(one_by_one) < 400


@given(
    st.from_regex(
        r"(19[67][0-9]|20[0-9]{2}|2099)-(0[0-9]|1[0-3])-[0-3][0-9][Tt ]2?[0-9]:[0-6][0-9]:[0-6][0-9]"
        r"(\.[0-9]{1,9})?([Zz]|[+-][012][0-9]:[0-6][0-9])?",
        fullmatch=True,
    )
    | st.text(max_size=40)
    | st.integers()
)
@settings(max_examples=300)
def test_a_time_read_in_parts_is_the_time_read_whole_or_none(value: str | int) -> None:
    (at,) = Instants().read([value])
    assert at == epoch_ms(value) or epoch_ms(at) is None
