"""The ingest fold: what is accepted, what it says of time, and that nothing else has a say."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.codecs import decode
from streams.errors import ConfigurationError, SnapshotError
from streams.ingest import IngestConfig
from streams.ingest.privacy import Keyring
from streams.partitioning import partition_of
from streams.records import PROMOTION_KINDS, EventKind, Modality
from streams.records.inside import CONTROL
from streams.records.outside import DeadLetter
from streams.stage import Message, Output
from tests.unit.platform_events import (
    CONFIG,
    DAY,
    PLATFORMS,
    RECORD_TIME,
    SECRET,
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

# ----------------------------------------------------------------------------------------------------- accepted events


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


# ---------------------------------------------------------------------------------------------------------------- laws

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


# ------------------------------------------------------------------------------------------------------------- privacy


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


# ----------------------------------------------------------------------------------------------------------- watermark


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
