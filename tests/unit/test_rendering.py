"""What people see of a topic: every kind of record, by a batch of made-up rows."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from deploy.rendering import iso, json_lines, render
from streams.codecs import encode
from streams.records import CHANNELS, DAYS, NO_WATERMARK, WindowKind
from streams.records.inside import ARROW_RECORDS, WINDOWS, ArrowRecord
from streams.stage import Message

END = 1_500_000_000_000 // 86_400_000 * 86_400_000  # 2017-07-14


def _columns(record: ArrowRecord, rows: int) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for field in record.schema:
        if pa.types.is_fixed_size_list(field.type):
            dtype = field.type.value_type.to_pandas_dtype()
            columns[field.name] = np.arange(rows * field.type.list_size).reshape(rows, -1).astype(dtype)
        elif pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
            columns[field.name] = [f"shop:{field.name}-{i}" for i in range(rows)]
        elif pa.types.is_binary(field.type):
            columns[field.name] = [b"x" * 12_300] * rows
        else:
            columns[field.name] = np.ones(rows, field.type.to_pandas_dtype())
    return columns


def _message(value: bytes | None, topic: str = "trend.windows", key: bytes | None = None) -> Message:
    return Message(topic, 2, 17, END + 1, key, value)


def _text(message: Message, **options: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(render(message, **options))
    return out.getvalue()


@pytest.mark.parametrize("record", ARROW_RECORDS.values(), ids=ARROW_RECORDS)
def test_every_arrow_record_is_shown_with_its_place_type_and_columns(record: ArrowRecord) -> None:
    text = _text(_message(encode(record, _columns(record, 7))), max_rows=2)
    assert f"trend.windows/2 @ 17   2017-07-14 00:00:00.001   {record.name}: 7 rows" in text
    assert "… 5 more rows" in text
    assert all(name[:6] in text for name in record.schema.names)


@pytest.mark.parametrize("record", ARROW_RECORDS.values(), ids=ARROW_RECORDS)
def test_json_lines_carry_every_column_of_every_row(record: ArrowRecord) -> None:
    lines = [json.loads(line) for line in json_lines(_message(encode(record, _columns(record, 3))))]
    assert [line["record"] for line in lines] == [record.name] * 3
    assert all(set(line["value"]) == set(record.schema.names) for line in lines)


def _window(**changes: Any) -> str:
    columns = _columns(WINDOWS, 1)
    day = np.zeros((1, len(CHANNELS), DAYS))
    day[0, 0, -7:] = [3, 0, 1, 0, 0, 0, 2]
    day[0, 0, 0] = 6
    columns |= {"end": [END], "kind": [WindowKind.CLOSE], "day": day.reshape(1, -1), "mask": [0b101]} | changes
    return _text(_message(encode(WINDOWS, columns)))


def test_a_window_shows_sums_names_and_dates_instead_of_codes() -> None:
    text = _window(epoch=[0], age=np.full((1, 6), np.nan), text=np.zeros((1, 64)), price=[-1])
    assert "units 7d: 3 0 1 0 0 0 2  Σ56d 12" in text
    assert "revenue 7d" not in text  # a channel in which nothing happened
    assert "2017-07-14" in text
    assert "close" in text
    assert "frozen" in text
    assert "text, title" in text
    assert "price" not in text
    assert "nan" not in text


def test_an_unset_watermark_is_not_a_date() -> None:
    columns = _columns(ARROW_RECORDS["control"], 1) | {"watermark": [NO_WATERMARK]}
    assert "none yet" in _text(_message(encode(ARROW_RECORDS["control"], columns), "trend.events"))


def test_brackets_of_a_text_are_not_taken_for_markup() -> None:
    columns = _columns(ARROW_RECORDS["texts"], 1) | {"text": ["[red]good[/red] [/]"]}
    assert "[red]good[/red] [/]" in _text(_message(encode(ARROW_RECORDS["texts"], columns)))


def test_long_texts_of_json_are_cut_for_people_and_whole_for_programs() -> None:
    message = _message(json.dumps({"content": "A" * 5000}).encode(), "images", b"p1")
    assert "5.0 kB of text" in _text(message)
    assert "key p1" in _text(message)
    assert json.loads(next(json_lines(message)))["value"]["content"] == "A" * 5000


@pytest.mark.parametrize("value", [None, b"", b"\x00\x01", b"\xff\xff\xff\xffbroken", b"[1, 2"])
def test_what_is_no_record_is_named_and_does_not_stop_the_listing(value: bytes | None) -> None:
    assert "trend.windows/2 @ 17" in _text(_message(value))


def test_of_a_product_only_its_rows_are_shown() -> None:
    batch = _message(encode(WINDOWS, _columns(WINDOWS, 3) | {"product": ["shop:a", "shop:b", "shop:a"]}))
    assert len(list(json_lines(batch, "shop:a"))) == 2
    assert "2 of 3 rows" in _text(batch, product="shop:a")


def test_instants_beyond_the_calendar_are_shown_as_numbers() -> None:
    assert iso(2**62) == str(2**62)
    assert iso(END) == "2017-07-14"
