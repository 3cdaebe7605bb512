"""What the ingest fold refuses: what becomes a dead letter, what is a repeat, and what a cancellation may take off."""

from __future__ import annotations

import json

import msgspec
import pytest

from streams.errors import CodecError
from streams.ingest import unseal
from streams.ingest.reasons import Reason
from streams.records import EventKind
from streams.topics import PLATFORM_MAX_BYTES
from tests.unit.platform_events import (
    CONFIG,
    DAY,
    RECORD_TIME,
    SECRET,
    Event,
    T,
    behavior,
    cancelled,
    flat,
    image,
    lawful,
    letters,
    level,
    message,
    messages,
    order,
    product,
    promotion,
    review,
    rows,
    stage,
)

# ----------------------------------------------------------------------------------------------------------- malformed


def text_of(event: Event, old: str, new: str) -> bytes:
    return json.dumps(event).replace(old, new).encode()


MALFORMED: list[tuple[str, str, object]] = [
    ("orders", "empty", None),
    ("orders", "empty", b""),
    ("orders", "not-json", b"not json"),
    ("orders", "not-json", b'{"platform": "shop"'),
    ("orders", "not-json", b'{"platform": 5, "order_id": nope}'),
    ("orders", "not-json", b'{"platform": "\xff\xfe"}'),
    ("orders", "not-json", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("orders", "not-json", text_of(order(), '"10.00"', "NaN")),
    ("orders", "not-json", text_of(order(), '"10.00"', "-Infinity")),
    ("orders", "wrong-type", b"[1, 2]"),
    ("orders", "wrong-type", b"null"),
    ("orders", "wrong-type", {**order(), "order_id": 5}),
    ("orders", "wrong-type", {**order(), "lines": "maria@example.com"}),
    ("orders", "wrong-type", order(lines=[("p1", "2", "10")])),
    ("orders", "wrong-type", order(lines=[("p1", 2, None)])),
    ("orders", "wrong-type", order(lines=[("p1", True, "10")])),
    ("orders", "missing-field", b"{}"),
    ("orders", "missing-field", {k: v for k, v in order().items() if k != "lines"}),
    ("orders", "missing-field", order(lines=[])),
    ("orders", "missing-field", order(order_id="")),
    ("orders", "missing-field", order(lines=[("", 1, "1")])),
    ("orders", "unknown-status", order(status="lost")),
    ("orders", "unknown-platform", order(platform="mall")),
    ("orders", "bad-id", order(lines=[("p\u00001", 1, "1")])),
    ("orders", "bad-quantity", order(lines=[("p1", 0, "10")])),
    ("orders", "bad-quantity", order(lines=[("p1", -3, "10")])),
    ("orders", "bad-quantity", order(lines=[("p1", 100_001, "10")])),
    ("orders", "bad-quantity", order(lines=[("p1", 10**30, "10")])),
    ("orders", "bad-quantity", order(lines=[("p1", 1.5, "10")])),
    ("orders", "bad-price", order(lines=[("p1", 1, "NaN")])),
    ("orders", "bad-price", order(lines=[("p1", 1, "Infinity")])),
    ("orders", "bad-price", order(lines=[("p1", 1, "ten")])),
    ("orders", "bad-price", order(lines=[("p1", 1, "10,00")])),
    ("orders", "bad-price", order(lines=[("p1", 1, "")])),
    ("orders", "bad-price", order(lines=[("p1", 1, 0)])),
    ("orders", "bad-price", order(lines=[("p1", 1, "-1")])),
    ("orders", "bad-price", order(lines=[("p1", 1, "10.005")])),
    ("orders", "bad-price", order(lines=[("p1", 1, 10**12)])),
    ("orders", "bad-price", text_of(order(), '"10.00"', "1e400")),
    ("orders", "bad-price", order(platform="tokyo", currency="JPY", lines=[("p1", 1, "10.5")])),
    ("orders", "bad-currency", order(currency="USD")),
    ("orders", "bad-currency", order(currency="real")),
    ("orders", "bad-time", order(ordered_at="yesterday")),
    ("orders", "bad-time", order(ordered_at="2017-11-24T12:00:00")),
    ("orders", "bad-time", order(ordered_at="2017-13-24T12:00:00Z")),
    ("orders", "bad-time", order(ordered_at=-1)),
    ("orders", "bad-time", order(ordered_at=10**17)),
    ("orders", "wrong-type", order(ordered_at=1.5)),
    ("orders", "future", order(ordered_at=T + 3 * DAY)),
    ("orders", "future", order(status="returned", status_at=T + 3 * DAY)),
    ("orders", "too-late", order(ordered_at=T - 100 * DAY)),
    ("orders", "too-late", order(status="returned", ordered_at=T - 300 * DAY, status_at=T - 100 * DAY)),
    ("orders", "too-large", order(order_id="x" * 300)),
    ("orders", "too-large", order(lines=[("p1", 1, "1")] * 1001)),
    ("orders", "too-large", order(region="x" * PLATFORM_MAX_BYTES)),
    ("orders", "cancels-more-than-ordered", order("good0", [("p1", 9, "10")], status="cancelled")),
    ("orders", "cancels-more-than-ordered", order("good0", [("other", 1, "10")], status="cancelled")),
    ("behaviors", "unknown-kind", behavior(kind="stare")),
    ("behaviors", "too-late", behavior(occurred_at=T - 57 * DAY)),
    ("behaviors", "missing-field", {k: v for k, v in behavior().items() if k != "user_id"}),
    ("reviews", "bad-rating", review(rating=0)),
    ("reviews", "bad-rating", review(rating=6)),
    ("reviews", "bad-rating", review(rating=4.5)),
    ("reviews", "wrong-type", review(rating="5")),
    ("reviews", "too-large", review(text="x" * 5001)),
    ("images", "bad-content", image()),
    ("images", "bad-content", image(content="aGk=", uri="a.png")),
    ("images", "bad-content", image(content="not base64!")),
    ("images", "bad-content", image(content="aGk")),
    ("images", "bad-content", image(content="é")),
    ("images", "bad-content", image(content="")),
    ("images", "bad-content", image(uri="https://x/maria@example.com.png")),
    ("images", "unknown-kind", image(kind="sound", uri="a")),
    ("products", "bad-price", product(price="free")),
    ("products", "bad-currency", product(price="5", currency="USD")),
    ("products", "too-large", product(category=["x" * 3000, "y" * 3000])),
    ("inventory.levels", "negative", level(on_hand=-1)),
    ("inventory.levels", "negative", level(lead_time_days=-0.5)),
    ("inventory.levels", "bad-quantity", level(on_order=10**12)),
    ("inventory.levels", "not-json", text_of(level(), "2.5", "NaN")),
    ("inventory.levels", "wrong-type", level(on_hand="5")),
    ("promotions", "unknown-kind", promotion(kind="rumour")),
    ("promotions", "missing-field", promotion(kind="price")),
    ("promotions", "bad-depth", promotion(kind="price", depth=1)),
    ("promotions", "bad-depth", promotion(depth=-0.1)),
    ("promotions", "bad-depth", promotion(depth=25)),
    ("promotions", "bad-time", promotion(ends_at=T + DAY)),
    ("promotions", "bad-time", promotion(starts_at="soon")),
    ("promotions", "future", promotion(announced_at=RECORD_TIME + 2 * DAY)),
]

GOOD: dict[str, list[Event]] = {
    "orders": [order(f"good{i}", [("p1", 1, "2"), ("p2", 2, 3)], buyer_id=f"b{i}") for i in range(4)],
    "behaviors": [behavior(user_id=f"u{i}") for i in range(4)],
    "reviews": [review(review_id=f"r{i}", text=f"good {i}") for i in range(4)],
    "images": [image(image_id=f"i{i}", content="aGk=") for i in range(4)],
    "products": [product(product_id=f"p{i}") for i in range(4)],
    "inventory.levels": [level(product_id=f"p{i}") for i in range(4)],
    "promotions": [promotion(product_id=f"p{i}", depth=0.25) for i in range(4)],
}


@pytest.mark.parametrize(("topic", "reason", "bad"), MALFORMED)
def test_a_malformed_event_has_its_reason_and_harms_no_neighbour(topic: str, reason: str, bad: object) -> None:
    before, after = GOOD[topic][:2], GOOD[topic][2:]
    poll = messages(topic, [*before, bad, *after])
    task = stage(topic)
    outputs = task.fold(poll)
    (letter,) = letters(outputs)
    assert letter.reason == reason, letter.message
    assert letter.dead_letter_id == f"{topic}/0/2"
    assert "maria" not in letter.message
    assert len(letter.message) < 300
    assert outputs[-1].key == letter.dead_letter_id.encode()
    undisturbed = stage(topic).fold([m for m in poll if m.offset != 2])
    assert [o for o in outputs if o.topic != "trend.dlq"] == undisturbed
    assert lawful(task) == {"read": 5, "accepted": 4, "repeated": 0, "dead": 1, "waiting": 0, f"dead.{reason}": 1}


def test_every_reason_that_ingest_can_give_is_tried() -> None:
    tried = {reason for _, reason, _ in MALFORMED} | {"order-unknown"}
    assert {r.code for r in Reason} - tried == set()


def test_one_bad_line_makes_the_whole_order_a_dead_letter() -> None:
    outputs = stage("orders").fold([message("orders", 0, order(lines=[("p1", 1, "1"), ("p2", 0, "1")]))])
    assert rows(outputs) == {}
    assert "lines[1].quantity: 0" in letters(outputs)[0].message


def test_a_dead_letter_opens_with_the_secret_and_with_no_other() -> None:
    (letter,) = letters(stage("orders").fold([message("orders", 0, b"maria.silva", key=b"o1")]))
    assert unseal(letter, SECRET) == (b"o1", b"maria.silva")
    with pytest.raises(CodecError, match="another secret"):
        unseal(letter, b"another secret of 32 bytes......")
    moved = msgspec.structs.replace(letter, dead_letter_id="orders/0/1")
    with pytest.raises(CodecError):
        unseal(moved, SECRET)


def test_the_id_of_a_dead_letter_is_free_for_its_redrive() -> None:
    task = stage("orders")
    task.fold([message("orders", 0, order(event_id="e", lines=[("p1", 0, "1")]))])
    assert len(flat(task.fold([message("orders", 1, order(event_id="e"))]))) == 1


# ------------------------------------------------------------------------------------------------------------- repeats


@pytest.mark.parametrize(
    ("topic", "first", "again"),
    [
        ("orders", order(), order()),
        ("orders", order(event_id="a"), order(event_id="b")),
        ("orders", order(), order(event_id="b")),
        ("orders", order(event_id="a"), order("o2", event_id="a")),
        ("orders", order(status="returned", status_at=T), order(status="returned", status_at="2017-11-24T12:00:00Z")),
        ("behaviors", behavior(), behavior(occurred_at="2017-11-24T12:00:00Z")),
        ("behaviors", behavior(event_id="a"), behavior(event_id="a", kind="cart")),
        ("reviews", review(), review(rating=1)),
        ("images", image(uri="a"), image(uri="b")),
        ("products", product(), product(title="Other")),
        ("inventory.levels", level(), level(on_hand=9)),
    ],
)
def test_a_repeat_is_counted_and_gives_nothing(topic: str, first: Event, again: Event) -> None:
    task = stage(topic)
    task.fold([message(topic, 0, first)])
    assert task.fold([message(topic, 1, again)]) == []
    assert lawful(task)["repeated"] == 1


@pytest.mark.parametrize(
    ("topic", "first", "other"),
    [
        ("orders", order("o1", event_id="a"), order("o2", event_id="b")),
        ("orders", order(status="returned", status_at=T), order(status="returned", status_at=T + 1)),
        ("orders", order(), order(platform="tokyo", currency="JPY")),
        ("behaviors", behavior(), behavior(user_id="other")),
        ("behaviors", behavior(event_id="a"), behavior(event_id="b")),
        ("products", product(), product(updated_at=T + 1)),
    ],
)
def test_different_events_are_no_repeats(topic: str, first: Event, other: Event) -> None:
    task = stage(topic)
    task.fold(messages(topic, [first, other]))
    assert lawful(task)["accepted"] == 2


def test_ids_are_forgotten_after_the_horizon_of_record_time() -> None:
    task = stage("behaviors")
    week = CONFIG.dedupe_ms
    task.fold([message("behaviors", 0, behavior())])
    task.fold([message("behaviors", 1, behavior(), RECORD_TIME + week - 1)])
    task.fold([message("behaviors", 2, behavior(), RECORD_TIME + week)])
    assert [lawful(task)[name] for name in ("accepted", "repeated")] == [2, 1]


# ------------------------------------------------------------------------------------------------------- cancellations


def test_a_cancellation_takes_off_what_is_left_and_never_more() -> None:
    task = stage("orders")
    events = [
        order(lines=[("p1", 5, "10.00")]),
        cancelled("o1", [("p1", 3, "10.00")], T + 1, ordered_at=T - 5),
        cancelled("o1", [("p1", 4, "10.00")], T + 2),
        cancelled("o1", [("p1", 1, "10.00")], T + 3),
    ]
    found = flat(task.fold(messages("orders", events)))
    assert [(r["kind"], r["at"], r["ordered_at"], r["quantity"], r["amount"]) for r in found] == [
        (EventKind.ORDER, T, T, 5, 5000),
        (EventKind.CANCELLED, T + 1, T, 3, 3000),
        (EventKind.CANCELLED, T + 2, T, 2, 2000),
    ]
    assert lawful(task)["accepted"] == 4


def test_a_cancellation_before_its_order_waits_and_follows_it() -> None:
    task = stage("orders")
    assert task.fold([message("orders", 0, cancelled("o1", [("p1", 1, "10.00")], T + 9))]) == []
    assert lawful(task)["waiting"] == 1
    outputs = task.fold([message("orders", 1, order()), message("orders", 2, order("o2", [("p1", 1, "1")]))])
    (part,) = rows(outputs).values()
    assert [(r["kind"], r["source_offset"], r["quantity"]) for r in part] == [
        (EventKind.ORDER, 1, 2),
        (EventKind.CANCELLED, 0, 1),
        (EventKind.ORDER, 2, 1),
    ]
    assert lawful(task) == {"read": 3, "accepted": 3, "repeated": 0, "dead": 0, "waiting": 0}


def test_a_waiting_cancellation_of_too_much_is_a_dead_letter_when_its_order_comes() -> None:
    task = stage("orders")
    early = cancelled("o1", [("p1", 3, "10.00")], T + 9, event_id="c")
    task.fold([message("orders", 0, early)])
    outputs = task.fold([message("orders", 1, order())])
    assert [(x.reason, x.source.offset) for x in letters(outputs)] == [("cancels-more-than-ordered", 0)]
    assert [r["kind"] for r in flat(outputs)] == [EventKind.ORDER]
    assert lawful(task)["accepted"] == 1, "counters after a late refusal"
    mended = cancelled("o1", [("p1", 2, "10.00")], T + 9, event_id="c")
    assert [r["quantity"] for r in flat(task.fold([message("orders", 2, mended)]))] == [2]


def test_a_cancellation_whose_order_never_comes_ends_as_a_dead_letter() -> None:
    task = stage("orders")
    early = cancelled("lost", [("p1", 1, "10.00")], T + 9)
    task.fold([message("orders", 0, early), message("orders", 1, order("o2"), RECORD_TIME + 5)])
    outputs = task.fold([message("orders", 2, order("o3"), RECORD_TIME + CONFIG.dedupe_ms)])
    (letter,) = letters(outputs)
    assert (letter.reason, letter.dead_letter_id, letter.record_time) == ("order-unknown", "orders/0/0", RECORD_TIME)
    assert json.loads(unseal(letter, SECRET)[1]) == early
    assert lawful(task)["dead"] == 1
    assert task.fold([message("orders", 3, early, RECORD_TIME + CONFIG.dedupe_ms)]) == []
    assert lawful(task)["waiting"] == 1, "the redriven cancellation waits anew"
