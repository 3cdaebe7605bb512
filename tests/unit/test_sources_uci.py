from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from deploy.errors import SourceError
from deploy.sources import Span
from deploy.sources.uci import UciRetail
from streams.records.platform import PLATFORM_RECORDS

LINES = [
    ("1", "85123A", "HEART HOLDER", 6, "2011-06-01 08:26", 2.55, 17850),
    ("1", "POST", "POSTAGE", 1, "2011-06-01 08:26", 18.0, 17850),
    ("2", "85123A", "HEART HOLDER", 10, "2011-06-02 10:00", 2.55, 17850),
    ("C3", "85123A", "HEART HOLDER", -12, "2011-06-03 11:00", 2.55, 17850),  # all of order 2, and two of order 1
    ("4", "71053", None, 4, "2011-06-04 09:00", 3.39, None),
    ("5", "71053", "check", -4, "2011-06-05 09:00", 0.0, None),  # the stock was put right: nobody bought or returned
    ("C6", "71053", "LANTERN", -1, "2011-06-30 09:00", 3.39, None),  # nobody knows of which order
    ("C7", "85123A", "HEART HOLDER", -1, "2011-06-30 09:00", 2.55, 17850),  # of order 1, a month later
]


@pytest.fixture
def table() -> pd.DataFrame:
    columns = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
    frame = pd.DataFrame(LINES, columns=columns).assign(Country="United Kingdom")
    return frame.assign(InvoiceDate=pd.to_datetime(frame["InvoiceDate"]))


@pytest.fixture
def file(table: pd.DataFrame, tmp_path: Path) -> Path:
    table.to_parquet(tmp_path / "retail.parquet")
    return tmp_path / "retail.parquet"


def read(source: UciRetail) -> list[tuple[str, dict[str, object]]]:
    return [(event.topic, msgspec.json.decode(event.value)) for event in source]


def test_units_taken_back_are_taken_off_the_buyers_newest_orders_before(file: Path) -> None:
    back = [p for _, p in read(UciRetail(file)) if p.get("status") in ("cancelled", "returned")]
    taken = [(p["order_id"], p["status"], [line["quantity"] for line in p["lines"]]) for p in back]  # type: ignore[attr-defined]
    assert sorted(taken) == [("1", "cancelled", [2]), ("1", "returned", [1]), ("2", "cancelled", [10])]


def test_what_is_no_product_no_sale_or_has_no_order_is_left_out_and_counted(file: Path) -> None:
    source = UciRetail(file)
    ordered = {line["product_id"] for _, p in read(source) for line in p.get("lines", ())}  # type: ignore[attr-defined]
    assert ordered == {"85123A", "71053"}
    assert source.description["left_out"] == {
        "lines_of_codes_that_are_no_product": 1,
        "codes_that_are_no_product": 1,
        "lines_without_a_price": 1,
        "units_taken_back": 13,
        "units_taken_back_of_no_order": 1,
    }


def test_a_product_is_known_from_its_first_sale_in_the_span_and_not_before(file: Path) -> None:
    whole = [p["product_id"] for topic, p in read(UciRetail(file)) if topic == "products"]
    assert whole == ["85123A", "71053"]
    part = read(UciRetail(file, span=Span(None, dt.date(2011, 6, 3))))
    assert [p["product_id"] for topic, p in part if topic == "products"] == ["85123A"]
    assert part == read(UciRetail(file))[: len(part)]


def test_every_event_is_what_ingest_takes_and_times_are_london_time(file: Path) -> None:
    for topic, payload in read(UciRetail(file)):
        msgspec.convert(payload, PLATFORM_RECORDS[topic])
    first = next(iter(UciRetail(file)))
    assert first.at == int(dt.datetime(2011, 6, 1, 7, 26, tzinfo=dt.UTC).timestamp() * 1000)


def test_csv_and_xlsx_hold_the_same_events_as_parquet(table: pd.DataFrame, file: Path, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "retail.csv", index=False)
    table.to_excel(tmp_path / "retail.xlsx", index=False)
    expected = read(UciRetail(file))
    assert read(UciRetail(tmp_path / "retail.csv")) == expected
    assert read(UciRetail(tmp_path / "retail.xlsx")) == expected


def test_a_file_of_another_layout_is_named_with_what_it_lacks(table: pd.DataFrame, tmp_path: Path) -> None:
    table.drop(columns="CustomerID").to_parquet(tmp_path / "retail.parquet")
    with pytest.raises(SourceError, match="CustomerID"):
        list(UciRetail(tmp_path / "retail.parquet"))
    with pytest.raises(SourceError, match="not a file"):
        list(UciRetail(tmp_path / "absent.csv"))
