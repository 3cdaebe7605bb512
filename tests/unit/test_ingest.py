"""The ingest fold: what is accepted, what becomes a dead letter, and that nothing else has a say."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.calendars import Platform
from streams.codecs import decode, decode_json
from streams.errors import CodecError, ConfigurationError, SnapshotError
from streams.ingest import IngestConfig, IngestStage, unseal
from streams.ingest.privacy import Keyring
from streams.ingest.reasons import Reason
from streams.partitioning import partition_of
from streams.records import PROMOTION_KINDS, EventKind, Modality
from streams.records.inside import CONTROL
from streams.records.outside import DeadLetter
from streams.stage import Message, Output
from streams.topics import PLATFORM_MAX_BYTES

DAY = 86_400_000
T = 1_511_524_800_000  # 2017-11-24T12:00:00Z
SECRET = b"a secret of the tests, 32 bytes."
PLATFORMS = {"shop": Platform("shop", "America/Sao_Paulo", "BRL"), "tokyo": Platform("tokyo", "Asia/Tokyo", "JPY")}
CONFIG = IngestConfig(partitions=3, platforms=PLATFORMS, secret=SECRET)
RECORD_TIME = T + 1000

Event = dict[str, Any]


def order(
    order_id: str = "o1", lines: Sequence[tuple[str, object, object]] = (("p1", 2, "10.00"),), **more: object
) -> Event:
    return {
        "platform": "shop",
        "order_id": order_id,
        "buyer_id": "maria.silva",
        "ordered_at": T,
        "currency": "BRL",
        "status": "placed",
        "lines": [{"product_id": p, "quantity": q, "unit_price": u} for p, q, u in lines],
        **more,
    }


def behavior(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "user_id": "joao", "kind": "view", "occurred_at": T}
    return {**event, **more}


def review(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "review_id": "r1", "buyer_id": "maria", "rating": 5}
    return {**event, "written_at": T, **more}


def image(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "image_id": "i1", "kind": "image", "captured_at": T}
    return {**event, "content_type": "image/png", **more}


def product(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "title": "Lamp", "category": ["home", "light"], "updated_at": T}
    return {**event, **more}


def level(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "on_hand": 5, "on_order": 0, "lead_time_days": 2.5}
    return {**event, "updated_at": T, **more}


def promotion(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "kind": "mailer", "starts_at": T + DAY, "ends_at": T + 8 * DAY}
    return {**event, "announced_at": T, **more}


def message(topic: str, offset: int, event: object, timestamp: int = RECORD_TIME, key: bytes | None = b"k") -> Message:
    value = event if isinstance(event, bytes | None) else json.dumps(event).encode()
    return Message(topic, 0, offset, timestamp, key, value)


def messages(topic: str, events: Sequence[object]) -> list[Message]:
    return [message(topic, offset, event) for offset, event in enumerate(events)]


def stage(topic: str, config: IngestConfig = CONFIG) -> IngestStage:
    return IngestStage((topic, 0), config)


def rows(outputs: Sequence[Output], topic: str = "trend.events") -> dict[int, list[dict[str, Any]]]:
    """Rows by partition, as plain values; control rows left out."""
    found: dict[int, list[dict[str, Any]]] = {}
    for output in outputs:
        if output.topic == topic:
            assert output.value is not None
            decoded = decode(output.value)
            if decoded.record is not CONTROL:
                found.setdefault(output.partition, []).extend(decoded.batch.to_pylist())
    return found


def flat(outputs: Sequence[Output], topic: str = "trend.events") -> list[dict[str, Any]]:
    """Rows of every partition in the order of the source."""
    everything = [row for part in rows(outputs, topic).values() for row in part]
    return sorted(everything, key=lambda row: row["source_offset"])


def letters(outputs: Sequence[Output]) -> list[DeadLetter]:
    return [decode_json(o.value or b"", DeadLetter) for o in outputs if o.topic == "trend.dlq"]


def lawful(task: IngestStage) -> dict[str, int]:
    counts = task.counters()
    assert counts["read"] == counts["accepted"] + counts["repeated"] + counts["dead"] + counts["waiting"]
    assert counts["dead"] == sum(n for name, n in counts.items() if name.startswith("dead."))
    return counts


# ---------------------------------------------------------------------------------------------------- accepted events


def test_every_line_of_an_order_is_a_row_with_exact_money() -> None:
    (first, second) = flat(
        stage("orders").fold([message("orders", 7, order(lines=[("p1", 3, "0.10"), ("p2", 1, 19.99)]))])
    )
    first, second = sorted((first, second), key=lambda row: row["product"])
    assert first == {
        "kind": EventKind.ORDER,
        "product": "shop:p1",
        "at": T,
        "ordered_at": T,
        "source": "orders",
        "source_partition": 0,
        "source_offset": 7,
        "quantity": 3,
        "amount": 30,
        "rating": 0,
        "category": "",
        "price": -1,
        "on_hand": pytest.approx(float("nan"), nan_ok=True),
        "on_order": pytest.approx(float("nan"), nan_ok=True),
        "lead_time_days": pytest.approx(float("nan"), nan_ok=True),
        "unit_cost": -1,
    }
    assert (second["product"], second["quantity"], second["amount"]) == ("shop:p2", 1, 1999)


def test_rows_go_to_the_partition_of_their_product_in_source_order() -> None:
    events = [order(f"o{i}", [(f"p{i % 7}", 1, "1"), (f"p{i % 5}", 2, "1")]) for i in range(40)]
    for partition, part in rows(stage("orders").fold(messages("orders", events))).items():
        assert {partition_of(row["product"], 3) for row in part} == {partition}
        assert [row["source_offset"] for row in part] == sorted(row["source_offset"] for row in part)


def test_outputs_come_as_events_then_texts_then_letters_each_by_partition() -> None:
    events = [review(product_id=f"p{i}", review_id=f"r{i}", text="fine") for i in range(9)]
    outputs = stage("reviews").fold(messages("reviews", [b"nope", *events]))
    order_of = {"trend.events": 0, "trend.reviews": 1, "trend.images": 2, "trend.dlq": 3}
    keys = [(order_of[o.topic], o.partition) for o in outputs]
    assert keys == sorted(keys)
    assert {k for k, _ in keys} == {0, 1, 3}


@pytest.mark.parametrize("size", [1, 3, 400])
def test_a_source_that_comes_to_another_day_does_not_say_so_at_once(size: int) -> None:
    """Between the rows of the day before and those after, however the log is cut into polls."""
    times = [T + hour * 3_600_000 for hour in range(0, 24 * 40, 5)]
    times[100] += 300 * DAY  # one wrong date says nothing
    log = [message("orders", i, order(f"o{i}", ordered_at=at), T + 400 * DAY) for i, at in enumerate(times)]
    task, newest, told = stage("orders"), 0, []
    for start in range(0, len(log), size):
        for output in task.fold(log[start : start + size]):
            decoded = decode(output.value or b"")
            if decoded.record is CONTROL and output.partition == 0:
                (row,) = decoded.batch.to_pylist()
                assert row["watermark"] == newest - CONFIG.out_of_order_ms
                told.append(row["watermark"] // DAY)
            elif decoded.record is not CONTROL:
                newest = max([newest, *(at for at in decoded["at"].tolist() if at != times[100])])
    assert told == list(range(told[0], told[0] + 41))


def test_each_kind_of_behaviour_is_a_row() -> None:
    events = [behavior(kind=kind, event_id=kind) for kind in ("view", "cart", "favourite")]
    found = flat(stage("behaviors").fold(messages("behaviors", events)))
    assert [row["kind"] for row in found] == [EventKind.VIEW, EventKind.CART, EventKind.FAVOURITE]


def test_a_review_gives_its_rating_and_its_clean_text() -> None:
    text = "Great<br>lamp &amp; <b>bright</b>,\n\x07 ask bob.smith@example.com or +55 (11) 98765-4321 e\u0301!"
    outputs = stage("reviews").fold([message("reviews", 0, review(title="Wow", text=text))])
    (row,) = flat(outputs)
    assert (row["kind"], row["rating"]) == (EventKind.REVIEW, 5)
    (words,) = flat(outputs, "trend.reviews")
    assert words["text"] == "Wow. Great lamp & bright, ask [email] or [phone] é!"
    assert words["modality"] == Modality.TEXT


def test_a_review_without_words_gives_no_text_row() -> None:
    outputs = stage("reviews").fold([message("reviews", 0, review(title="", text=" <p> </p>"))])
    assert len(flat(outputs)) == 1
    assert rows(outputs, "trend.reviews") == {}


def test_a_picture_goes_to_the_encoder_and_a_video_does_not() -> None:
    content = base64.b64encode(b"\x89PNG").decode()
    events = [
        image(content=content),
        image(image_id="i2", uri="a/b.png"),
        image(image_id="v", kind="video", uri="v.mp4"),
    ]
    outputs = stage("images").fold(messages("images", events))
    assert [row["kind"] for row in flat(outputs)] == [EventKind.IMAGE] * 3
    pictures = flat(outputs, "trend.images")
    assert [(p["image_id"], p["content"], p["uri"]) for p in pictures] == [
        ("i1", b"\x89PNG", ""),
        ("i2", b"", "a/b.png"),
    ]


def test_a_product_gives_catalogue_and_title() -> None:
    outputs = stage("products").fold([message("products", 0, product(description="LED", price="9.5", currency="BRL"))])
    (row,) = flat(outputs)
    assert (row["kind"], row["category"], row["price"]) == (EventKind.CATALOGUE, "home > light", 950)
    (title,) = flat(outputs, "trend.reviews")
    assert (title["text"], title["modality"]) == ("Lamp. LED", Modality.TITLE)


def test_a_level_keeps_stock_lead_time_and_cost() -> None:
    (row,) = flat(stage("inventory.levels").fold([message("inventory.levels", 0, level(unit_cost=4))]))
    assert (row["kind"], row["on_hand"], row["lead_time_days"], row["unit_cost"]) == (EventKind.LEVEL, 5.0, 2.5, 400)


def test_a_promotion_is_announced_for_another_time_or_depth() -> None:
    events = [promotion(kind="price", depth=-0.125), promotion(product_id="p2"), promotion(product_id="p2")]
    task = stage("promotions")
    first, second = flat(task.fold(messages("promotions", events)))
    assert (first["promotion"], first["percent"]) == (PROMOTION_KINDS.index("price"), -12)
    assert (first["at"], first["starts"], first["ends"]) == (T, T + DAY, T + 8 * DAY)
    assert (second["promotion"], second["percent"]) == (PROMOTION_KINDS.index("mailer"), 100)
    assert lawful(task)["repeated"] == 1


def test_a_currency_without_decimals_is_not_taken_for_cents() -> None:
    event = order(platform="tokyo", currency="JPY", lines=[("p", 2, "1500"), ("p", 1, 1500.0)])
    assert [row["amount"] for row in flat(stage("orders").fold([message("orders", 0, event)]))] == [3000, 1500]


@pytest.mark.parametrize("text", ["2017-11-24T12:00:00Z", "2017-11-24 09:00:00.000-03:00", "2017-11-24t12:00:00z"])
def test_time_with_an_offset_is_the_same_instant_as_milliseconds(text: str) -> None:
    assert flat(stage("behaviors").fold([message("behaviors", 0, behavior(occurred_at=text))]))[0]["at"] == T


def test_records_are_split_by_bytes() -> None:
    small = IngestConfig(partitions=1, platforms=PLATFORMS, secret=SECRET, max_bytes=8_000)
    events = [review(review_id=f"r{i}", text=str(Keyring(SECRET).pseudonym("x", "y", str(i)))) for i in range(400)]
    outputs = stage("reviews", small).fold(messages("reviews", events))
    assert max(len(o.value or b"") for o in outputs) <= 8_000
    assert len(flat(outputs, "trend.reviews")) == 400


# ---------------------------------------------------------------------------------------------------------- malformed


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


# ------------------------------------------------------------------------------------------------------------ repeats


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


# ------------------------------------------------------------------------------------------------------ cancellations


def cancelled(order_id: str, lines: Sequence[tuple[str, object, object]], at: int, **more: Any) -> Event:
    return order(order_id, lines, status="cancelled", status_at=at, **more)


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


# --------------------------------------------------------------------------------------------------------------- laws

_times = st.sampled_from([T, T + 1, T + 60_000, T - DAY, T - 70 * DAY, T + 300 * DAY, T - 2 * DAY])
_lines = st.lists(
    st.tuples(st.sampled_from(["p1", "p2", "p3"]), st.sampled_from([0, 1, 2, 3]), st.sampled_from(["1", "2.5", "x"])),
    min_size=1,
    max_size=3,
)
_orders = st.builds(
    lambda i, status, at, lines, event: order(i, lines, status=status, ordered_at=at, status_at=at, event_id=event),
    st.sampled_from(["o1", "o2", "o3"]),
    st.sampled_from(["placed", "placed", "cancelled", "cancelled", "returned"]),
    _times,
    _lines,
    st.sampled_from([None, None, "e1", "e2"]),
)
_reviews = st.builds(
    lambda i, text, rating: review(review_id=i, text=text, rating=rating, product_id=f"p{len(text)}"),
    st.sampled_from(["r1", "r2", "r3", "r4"]),
    st.sampled_from(["", "good", "bad <b>", "write to a@example.com"]),
    st.integers(0, 5),
)
_steps = st.sampled_from([0, 1, 1000, DAY, 4 * DAY])
_log = st.one_of(
    st.tuples(st.just("orders"), st.lists(st.tuples(st.one_of(_orders, st.just(b"x")), _steps), max_size=14)),
    st.tuples(st.just("reviews"), st.lists(st.tuples(st.one_of(_reviews, st.just(b"x")), _steps), max_size=10)),
)


def source(log: Sequence[tuple[object, int]], topic: str) -> list[Message]:
    moment, found = RECORD_TIME, []
    for offset, (event, step) in enumerate(log):
        moment += step
        found.append(message(topic, offset, event, moment))
    return found


def published(outputs: Sequence[Output]) -> tuple[list[str], list[DeadLetter]]:
    # repr: NaN is equal to itself there
    clean = [repr(sorted(rows(outputs, topic).items())) for topic in ("trend.events", "trend.reviews", "trend.images")]
    return clean, letters(outputs)


@given(_log, st.lists(st.integers(0, 14), max_size=4))
@settings(max_examples=60)
def test_where_polls_end_has_no_say_in_rows_letters_or_state(
    log: tuple[str, list[tuple[object, int]]], cuts: list[int]
) -> None:
    topic, events = log
    poll = source(events, topic)
    whole, parts = stage(topic), stage(topic)
    expected = whole.fold(poll)
    got: list[Output] = []
    edges = [0, *sorted(cuts), len(poll)]
    for start, stop in itertools.pairwise(edges):
        got += parts.fold(poll[start:stop])
        lawful(parts)
    assert published(got) == published(expected)
    assert parts.snapshot() == whole.snapshot()


@given(_log, st.integers(0, 14))
@settings(max_examples=60)
def test_a_restored_task_goes_on_as_if_nothing_had_happened(
    log: tuple[str, list[tuple[object, int]]], cut: int
) -> None:
    topic, events = log
    poll = source(events, topic)
    living, restored = stage(topic), stage(topic)
    living.fold(poll[:cut])
    restored.restore(living.snapshot())
    assert restored.snapshot() == living.snapshot()
    assert restored.counters() == living.counters()
    assert restored.fold(poll[cut:]) == living.fold(poll[cut:])
    assert restored.snapshot() == living.snapshot()


def test_a_snapshot_of_another_version_is_refused() -> None:
    blobs = stage("orders").snapshot()
    state = {**msgspec.msgpack.decode(blobs["state"]), "version": 99}
    with pytest.raises(SnapshotError, match="99"):
        stage("orders").restore({**blobs, "state": msgspec.msgpack.encode(state)})


def test_a_snapshot_with_a_piece_cut_off_is_refused() -> None:
    task = stage("orders")
    task.fold([message("orders", 0, order())])
    with pytest.raises(SnapshotError, match="digests"):
        stage("orders").restore({**task.snapshot(), "seen": b""})


# ------------------------------------------------------------------------------------------------------------ privacy


def test_no_clear_id_address_or_number_of_a_person_leaves_or_is_kept() -> None:
    secrets = ["buyer-4711", "user-4712", "ana@example.org", "98765-4321", "bob@example.net", "+44 20 7946 0018"]
    person: Any = {"buyer_id": secrets[0]}
    talk = f"mail {secrets[2]} or call (11) {secrets[3]}; or {secrets[5]}"
    events: dict[str, list[object]] = {
        "orders": [
            order(**person, event_id="a"),
            cancelled("early", [("p1", 1, "1")], T, **person),
            order("bad", status=secrets[2], **person),
            {**order("bad", currency="brl", **person), "lines": secrets[4]},
            order("bad", lines=[("p1", 1, talk)], **person),
            order("bad", ordered_at=f"{secrets[2]}", **person),
            order("bad", platform=secrets[4], **person),
        ],
        "behaviors": [behavior(user_id=secrets[1]), behavior(user_id=secrets[1], kind=secrets[2])],
        "reviews": [
            review(**person, title=talk, text=f"<b>bob</b>@example.net {talk}"),
            review(buyer_id=5, text=talk),
            review(**person, rating=9, text=talk),
        ],
        "images": [image(uri=secrets[2])],
        "products": [product(title=talk, description=talk, category=[secrets[2]])],
    }
    for topic, log in events.items():
        task = stage(topic)
        outputs = task.fold(messages(topic, log))
        seen = b"".join(task.snapshot().values()) + repr([published(outputs)]).encode()
        seen += b"".join(o.value or b"" for o in outputs)
        assert [s for s in secrets if s.encode() in seen] == [], topic
        assert task.counters()["read"] == len(log)


def test_pseudonyms_are_stable_keyed_and_apart_by_kind_and_platform() -> None:
    keys = Keyring(SECRET)
    name = keys.pseudonym("user", "shop", "joao")
    others = {
        keys.pseudonym("buyer", "shop", "joao"),
        keys.pseudonym("user", "tokyo", "joao"),
        keys.pseudonym("user", "shopj", "oao"),
        Keyring(SECRET + b"2").pseudonym("user", "shop", "joao"),
    }
    assert name == Keyring(SECRET).pseudonym("user", "shop", "joao")
    assert len(others | {name}) == 5


def test_a_configuration_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="secret"):
        IngestConfig(partitions=1, platforms=PLATFORMS, secret=b"short")
    with pytest.raises(ConfigurationError, match="partitions"):
        IngestConfig(partitions=0, platforms=PLATFORMS, secret=SECRET)
    with pytest.raises(ConfigurationError, match="platform"):
        IngestConfig(partitions=1, platforms={}, secret=SECRET)
    assert SECRET.decode() not in repr(CONFIG)


# ---------------------------------------------------------------------------------------------------------- watermark


def test_one_wrong_date_does_not_make_the_rest_too_late() -> None:
    task = stage("behaviors")
    late = T + 400 * DAY
    events = [behavior(event_id=str(i), occurred_at=late if i in (0, 5) else T + i) for i in range(10)]
    task.fold([message("behaviors", i, event, late) for i, event in enumerate(events)])
    assert lawful(task)["accepted"] == 10
    assert task.watermark == T + 9 - CONFIG.out_of_order_ms


def test_time_that_runs_backwards_in_a_source_moves_its_watermark_or_is_refused_too_early() -> None:
    oldest = T - CONFIG.out_of_order_ms - CONFIG.ring_ms  # the first instant that windows still reach
    times = [T, *(T - i * DAY for i in range(60)), oldest, oldest - 1]
    for size in (1, len(times)):
        task = stage("orders")
        events = messages("orders", [order(str(i), ordered_at=at) for i, at in enumerate(times)])
        outputs = [o for i in range(0, len(events), size) for o in task.fold(events[i : i + size])]
        assert [row["at"] for row in flat(outputs)] == [at for at in times if at >= oldest]
        refused = {int(letter.source.offset): letter.reason for letter in letters(outputs)}
        assert refused == {i: "too-late" for i, at in enumerate(times) if at < oldest}
        assert (task.newest, task.watermark) == (T, T - CONFIG.out_of_order_ms)


def test_a_dead_letter_does_not_move_the_watermark() -> None:
    task = stage("orders")
    task.fold(messages("orders", [order(str(i)) for i in range(3)]))
    before = task.watermark
    task.fold([message("orders", 9 + i, order(f"x{i}", [("p", 0, "1")], ordered_at=T + 9)) for i in range(3)])
    assert task.watermark == before


def test_a_restored_task_still_knows_its_watermark_and_what_is_too_late() -> None:
    living, restored = stage("orders"), stage("orders")
    living.fold(messages("orders", [order(str(i)) for i in range(3)]))
    restored.restore(living.snapshot())
    assert (restored.watermark, restored.newest) == (T - CONFIG.out_of_order_ms, T)
    (letter,) = letters(restored.fold([message("orders", 3, order("old", ordered_at=T - 57 * DAY))]))
    assert letter.reason == "too-late"
