"""Records are found by product, key, text and time in every form that a topic has, and go to Parquet as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from deploy.searching import Wanted, newest, write_parquet
from streams.codecs import encode
from streams.records.inside import CLOSES, TEXTS
from streams.stage import Message


def texts(*products: str) -> bytes:
    n = len(products)
    columns = {"product": products, "modality": [0] * n, "at": [1] * n, "source": ["reviews"] * n}
    offsets = {"source_partition": [0] * n, "source_offset": range(n), "text": [f"about {p}" for p in products]}
    return encode(TEXTS, {**columns, **offsets})


def message(value: bytes | None, at: int = 0, key: bytes | None = None, offset: int = 0) -> Message:
    return Message("trend.reviews", 0, offset, at, key, value)


BATCH = message(texts("shop:a", "shop:b", "shop:a"), 10)
ORDER = message(
    json.dumps({"platform": "shop", "lines": [{"product_id": "a"}, {"product_id": "c"}]}).encode(), 20, b"o1"
)
SCORE = message(json.dumps({"platform": "shop", "product_id": "b"}).encode(), 30)
TOMBSTONE = message(None, 40, b"shop:a")
ALL = [BATCH, ORDER, SCORE, TOMBSTONE, message(b"no json", 50)]


def found(wanted: Wanted) -> list[Message]:
    return [m for m in ALL if wanted.holds(m)]


def test_a_product_is_found_in_batches_orders_and_scores_alike() -> None:
    assert found(Wanted(product="shop:a")) == [BATCH, ORDER, TOMBSTONE]
    assert found(Wanted(product="shop:b")) == [BATCH, SCORE]


def test_text_is_found_in_keys_values_and_the_texts_of_batches() -> None:
    assert found(Wanted(text="about shop:b")) == [BATCH]
    assert found(Wanted(text="shop:a")) == [BATCH, TOMBSTONE]
    assert found(Wanted(text="json")) == ALL[-1:]
    assert found(Wanted(key="o1")) == [ORDER]
    assert found(Wanted(product="shop:a", until=20)) == [BATCH]
    assert not Wanted()


def test_the_newest_records_are_those_with_the_highest_times() -> None:
    assert list(newest(iter([SCORE, BATCH, ORDER]), 2)) == [ORDER, SCORE]


def test_parquet_holds_every_row_once_in_a_file_of_its_kind(tmp_path: Path) -> None:
    closes = {"partition": [0], "platform": ["shop"], "end": [5], "windows": [1], "outcomes": [0]}
    more = message(encode(CLOSES, closes), offset=9)
    assert write_parquet([*ALL, more], tmp_path) == {"texts": 3, "trend.reviews": 4, "closes": 1}
    rows = pq.read_table(tmp_path / "texts.parquet").to_pylist()
    assert [row["product"] for row in rows] == ["shop:a", "shop:b", "shop:a"]
    (close,) = pq.read_table(tmp_path / "closes.parquet").to_pylist()
    assert (close["record_offset"], close["end"]) == (9, 5)
    documents = pq.read_table(tmp_path / "trend.reviews.parquet").to_pylist()
    assert [row["value"] for row in documents] == [ORDER.value.decode(), SCORE.value.decode(), None, None]
    assert write_parquet([BATCH], tmp_path / "one", "shop:b") == {"texts": 1}
