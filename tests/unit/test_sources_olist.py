from __future__ import annotations

import collections
import datetime as dt
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from deploy.errors import SourceError
from deploy.sources import Span
from deploy.sources.olist import Olist
from streams.records.platform import PLATFORM_RECORDS

FILES = {
    "orders": """order_id,customer_id,order_status,order_purchase_timestamp,order_approved_at,\
order_delivered_carrier_date,order_delivered_customer_date
a,ca,delivered,2018-01-10 12:00:00,2018-01-10 13:00:00,,2018-01-20 10:00:00
b,cb,canceled,2018-01-11 12:00:00,2018-01-12 09:00:00,,
c,cc,unavailable,2018-01-12 12:00:00,,,
d,cd,shipped,2017-10-15 00:30:00,,,
""",
    "order_items": """order_id,order_item_id,product_id,seller_id,shipping_limit_date,price,freight_value
a,1,p1,s,2018-01-15 00:00:00,10.5,1
a,2,p1,s,2018-01-15 00:00:00,10.5,1
a,3,p2,s,2018-01-15 00:00:00,7.0,1
b,1,p2,s,2018-01-15 00:00:00,7.0,1
d,1,p3,s,2018-01-15 00:00:00,3.0,1
""",
    "order_reviews": """review_id,order_id,review_score,review_comment_title,review_comment_message,\
review_creation_date,review_answer_timestamp
r1,a,5,,muito bom,2018-01-21 00:00:00,2018-01-22 08:00:00
r2,c,1,,nada,2018-01-21 00:00:00,2018-01-22 08:00:00
""",
    "products": """product_id,product_category_name,product_photos_qty,product_weight_g
p1,cama_mesa,2,100
p2,,,200
p3,brinquedos,1,300
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / f"olist_{name}_dataset.csv").write_text(text)
    return tmp_path


def read(source: Olist) -> list[tuple[str, dict[str, object]]]:
    return [(e.topic, msgspec.json.decode(e.value)) for e in source]


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


def test_orders_reviews_and_catalogue_come_in_the_order_they_happened(folder: Path) -> None:
    events = read(Olist(folder))
    assert [(topic, e.get("order_id") or e["product_id"]) for topic, e in events] == [
        ("products", "p3"),
        ("orders", "d"),
        ("products", "p1"),
        ("products", "p2"),
        ("orders", "a"),
        ("orders", "b"),
        ("orders", "b"),
        ("reviews", "p1"),
        ("reviews", "p2"),
    ]
    order = next(e for topic, e in events if topic == "orders" and e["order_id"] == "a")
    assert order["ordered_at"] == at("2018-01-10T12:00:00-02:00")  # summer time in São Paulo
    assert order["lines"] == [
        {"product_id": "p1", "quantity": 2, "unit_price": "10.50"},
        {"product_id": "p2", "quantity": 1, "unit_price": "7.00"},
    ]
    titles = {e["product_id"]: e["title"] for topic, e in events if topic == "products"}
    assert titles == {"p1": "cama mesa", "p2": "sem categoria", "p3": "brinquedos"}


def test_a_cancelled_order_is_placed_and_then_cancelled_at_its_newest_time(folder: Path) -> None:
    placed, cancelled = (e for topic, e in read(Olist(folder)) if topic == "orders" and e["order_id"] == "b")
    assert placed["status"] == "placed"
    assert "status_at" not in placed
    assert (cancelled["status"], cancelled["status_at"]) == ("cancelled", at("2018-01-12T09:00:00-02:00"))


def test_an_hour_that_summer_time_skips_stays_on_its_day(folder: Path) -> None:
    order = next(e for topic, e in read(Olist(folder)) if topic == "orders")
    assert order["ordered_at"] == at("2017-10-15T01:00:00-02:00")


def test_a_review_counts_when_it_was_written_not_when_it_was_asked_for(folder: Path) -> None:
    reviews = [e for topic, e in read(Olist(folder)) if topic == "reviews"]
    assert {r["written_at"] for r in reviews} == {at("2018-01-22T08:00:00-02:00")}
    assert len({r["review_id"] for r in reviews}) == 2


def test_what_hangs_on_no_product_is_counted(folder: Path) -> None:
    assert Olist(folder).description["left_out"] == {"orders_without_items": 1, "reviews_of_orders_without_items": 1}


def test_a_span_keeps_the_catalogue_of_what_it_plays(folder: Path) -> None:
    events = read(Olist(folder, Span(dt.date(2018, 1, 11), dt.date(2018, 1, 12))))
    assert [(topic, e.get("order_id") or e["product_id"]) for topic, e in events] == [
        ("products", "p2"),
        ("orders", "b"),
    ]


def test_photos_are_handed_out_in_turn_and_labelled(folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "hat").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        (photos / "hat" / name).write_bytes(b"jpeg")
    source = Olist(folder, photos=photos)
    images = [e for topic, e in read(source) if topic == "images"]
    assert [i["uri"] for i in images] == ["hat/1.jpg", "hat/2.jpg", "hat/1.jpg"]
    assert all(i["simulated"] is True for i in images)
    assert source.pictures == photos.resolve()
    assert source.description["simulated"]


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "olist_products_dataset.csv").unlink()
    with pytest.raises(SourceError, match=r"lacks olist_products_dataset\.csv"):
        list(Olist(folder))


def test_the_sample_gives_every_item_once_and_valid_records(shared_data: Path) -> None:
    source = Olist(shared_data / "olist")
    items = pd.read_csv(shared_data / "olist" / "olist_order_items_dataset.csv")
    sold: collections.Counter[str] = collections.Counter()
    last = 0
    for event in source:
        record = msgspec.json.decode(event.value, type=PLATFORM_RECORDS[event.topic])
        assert event.at >= last
        last = event.at
        if event.topic == "orders" and record.status == "placed":  # type: ignore[attr-defined]
            for line in record.lines:  # type: ignore[attr-defined]
                sold[line.product_id] += line.quantity
    assert sold == items["product_id"].value_counts().to_dict()
    assert source.estimate == sum(source.description["rows"].values())  # type: ignore[attr-defined]
