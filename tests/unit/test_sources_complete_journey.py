from __future__ import annotations

import base64
import collections
import datetime as dt
import io
import re
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deploy.cli import run
from deploy.errors import SourceError
from deploy.sources import COMPLETE_JOURNEY, PlatformEvent, Span
from deploy.sources.complete_journey import CompleteJourney, Tables, read_tables
from deploy.sources.journey_promotions import Promotions
from deploy.sources.simulated import Simulation
from streams.calendars import DAY
from streams.records.platform import PLATFORM_RECORDS, Order, Promotion

MANY = Simulation(review_share=0.3, level_days=1, picture_again_share=0.9, picture_pixels=64)
FUEL = 7


def small_tables(days: int = 120) -> Tables:
    """Eight products of which one is fuel, a basket now and then, some lines of nothing, one line in two parts."""
    random = np.random.default_rng(5)
    count = days * 12
    minutes = np.sort(random.integers(5 * 60, days * 1440, count))
    basket = np.arange(count) // 2
    product = random.integers(0, 8, count)
    quantity = np.where(product == FUEL, 9000, random.integers(0, 5, count))
    stamps = pd.Timestamp("2017-01-01") + pd.to_timedelta(minutes[basket * 2], unit="min")
    lines = pd.DataFrame(
        {
            "household_id": 900 + basket % 40,
            "basket_id": 31198570000 + basket,
            "product_id": 1000 + product,
            "quantity": quantity,
            "sales_value": np.round(quantity * (1.0 + product) * 0.99, 2),
            "transaction_timestamp": stamps.astype("datetime64[ns]"),
        }
    )
    lines.loc[lines.index[10:13], "sales_value"] = 0.0
    # Nothing at all is sold in the last days of January.
    lines = lines[(stamps < "2017-01-28") | (stamps >= "2017-02-02")]
    products = pd.DataFrame(
        {
            "product_id": 1000 + np.arange(8),
            "department": ["GROCERY"] * 7 + ["FUEL"],
            "product_category": ["SOUP", "SOUP", "EGGS", "EGGS", "CORN", "CORN", None, "FUEL"],
            "product_type": ["SOUP: HOT", "SOUP: COLD", "EGGS", "EGGS", "CORN", "CORN", None, "GASOLINE"],
            "brand": ["Private", "National"] * 4,
            "package_size": ["12 OZ", None] * 4,
        }
    )
    return Tables(lines, products, lambda numbers: small_promotions().take(np.flatnonzero(np.isin(PROMOTED, numbers))))


TIMES = {
    "orders": "ordered_at",
    "reviews": "written_at",
    "images": "captured_at",
    "promotions": "announced_at",
}
PROMOTED = np.repeat(1000 + np.arange(8), 3)


def small_promotions() -> Promotions:
    """In the mailer and on display, of fuel too; a third of it is over before its product comes."""
    starts = midnight(dt.date(2017, 1, 2)) + np.tile([-70, 21, 35], 8) * DAY
    kinds = np.tile([0, 0, 1], 8)
    return Promotions(PROMOTED, kinds, np.full(24, 40), starts, starts + 7 * DAY, starts - 7 * DAY)


def source(until: dt.date | None = None, first: dt.date | None = None, how: Simulation = MANY) -> CompleteJourney:
    return CompleteJourney(5, Span(first, until), simulation=how, read=small_tables)


def test_a_promotion_comes_before_its_product_or_of_one_that_is_not_there() -> None:
    events = list(source())
    known = {e.key: e.at for e in events if e.topic == "products"}
    found = [(e, decode(e)) for e in events if e.topic == "promotions"]
    assert {e.key for e, _ in found} == set(known)
    assert len(found) == 2 * len(known)
    for event, record in found:
        assert isinstance(record, Promotion)
        assert event.at == record.announced_at >= known[event.key]
        assert record.announced_at < int(record.ends_at)
        assert record.depth == 0.4
    later = [record for _, record in found if isinstance(record, Promotion) and int(record.starts_at) > known["1000"]]
    assert all(int(r.starts_at) - int(r.announced_at) == 7 * DAY for r in later)  # type: ignore[call-overload]


def test_the_packages_promotions_are_read_as_shares_of_its_shops() -> None:
    found = read_tables().promotions(np.array([1000050, 995242]))
    assert set(found.product.tolist()) == {1000050, 995242}
    assert 1 <= found.percent.min() <= found.percent.max() <= 100
    weeks = (found.starts - midnight(dt.date(2017, 1, 2))) / DAY / 7
    assert np.allclose(weeks, np.round(weeks), atol=1 / 7 / 24), "weeks begin on Mondays, whatever the clocks"
    assert ((found.ends - found.starts) >= 7 * DAY - 3_600_000).all()


def decode(event: PlatformEvent) -> object:
    return msgspec.json.decode(event.value, type=PLATFORM_RECORDS[event.topic])


def midnight(date: dt.date) -> int:
    calendar = COMPLETE_JOURNEY.calendar
    return calendar.start(calendar.index(date))


def test_every_event_is_a_valid_record_at_the_time_that_it_says() -> None:
    last = 0
    for event in source():
        record = decode(event)
        assert event.at >= last
        last = event.at
        assert getattr(record, TIMES.get(event.topic, "updated_at")) == event.at
        assert event.key == (record.order_id if isinstance(record, Order) else record.product_id)  # type: ignore[attr-defined]


def test_the_estimate_and_the_rows_of_the_description_are_what_comes() -> None:
    one = source()
    counted = collections.Counter(e.topic for e in one)
    assert one.description["rows"] == dict(counted)
    assert one.estimate == sum(counted.values())
    assert min(counted.values()) >= 5  # of each kind, so that the tests here look at something


def test_order_lines_equal_a_plain_group_by() -> None:
    tables = small_tables()
    lines = tables.lines[tables.lines["quantity"] > 0]
    lines = lines[lines["sales_value"] > 0]
    sold: dict[tuple[str, str], int] = {}
    revenue = 0
    for event in source():
        if event.topic == "orders":
            record = decode(event)
            assert isinstance(record, Order)
            for line in record.lines:
                sold[record.order_id, line.product_id] = line.quantity
                revenue += round(line.quantity * float(line.unit_price) * 100)
    best = {p for _, p in sold}
    mine = lines[lines["product_id"].astype(str).isin(best)]
    expected = mine.groupby(["basket_id", "product_id"])["quantity"].sum()
    assert sold == {(f"basket-{b}", str(p)): int(q) for (b, p), q in expected.items()}
    assert revenue == round(mine["sales_value"].sum() * 100)


def test_fuel_and_lines_of_nothing_are_left_out_and_counted() -> None:
    left_out = source().description["left_out"]
    assert isinstance(left_out, dict)
    assert left_out["products_not_sold_by_the_piece"] == 1
    assert left_out["lines_of_quantity_zero"] > 0
    assert left_out["lines_given_for_nothing"] > 0
    assert str(1000 + FUEL) not in {e.key for e in source()}


def test_a_product_is_in_the_catalogue_before_it_is_sold() -> None:
    known: set[str] = set()
    for event in source(first=dt.date(2017, 2, 10)):
        record = decode(event)
        if event.topic == "products":
            assert event.key not in known
            known.add(event.key)
        names = [line.product_id for line in record.lines] if isinstance(record, Order) else [event.key]
        assert known.issuperset(names)


@pytest.mark.parametrize("day", [dt.date(2017, 1, 20), dt.date(2017, 1, 31), dt.date(2017, 3, 12), dt.date(2017, 4, 2)])
def test_without_the_sales_from_a_day_on_everything_before_it_stays(day: dt.date) -> None:
    cut, instant = source(until=day), midnight(day)
    assert list(cut) == [e for e in source() if e.at < instant]


@pytest.mark.parametrize("day", range(1, 9))
def test_a_simulated_event_does_not_know_the_sales_of_its_own_day(day: int) -> None:
    tables = small_tables()
    morning = pd.Timestamp(2017, 3, day, 11)  # UTC: six o'clock, when the stock is counted

    def flooded() -> Tables:
        lines = tables.lines.copy()
        lines.loc[lines["transaction_timestamp"] >= morning, "quantity"] *= 40
        return replace(tables, lines=lines)

    ranked = dt.date(2017, 2, 20)
    instant = int(morning.timestamp() * 1000)
    one = CompleteJourney(5, ranked_before=ranked, simulation=MANY, read=small_tables)
    two = CompleteJourney(5, ranked_before=ranked, simulation=MANY, read=flooded)
    before = [e for e in one if e.at < instant]
    assert len(before) > 500
    assert before == [e for e in two if e.at < instant]
    assert list(one) != list(two)


def test_two_spans_beside_each_other_play_the_sales_of_one() -> None:
    day = dt.date(2017, 3, 1)
    first, second, whole = list(source(until=day)), list(source(first=day)), list(source())
    for topic in ("orders", "reviews"):
        parts = [e for e in [*first, *second] if e.topic == topic]
        # A review in the second span of a product that is not sold in it again has nothing to hang on.
        assert {e.value for e in parts} <= {e.value for e in whole if e.topic == topic}
    assert [e for e in [*first, *second] if e.topic == "orders"] == [e for e in whole if e.topic == "orders"]
    known = {e.key: e for e in whole if e.topic == "inventory.levels" and e.at < midnight(day)}
    debut = next(e for e in second if e.topic == "inventory.levels")
    old, new = (msgspec.json.decode(e.value) for e in (known[debut.key], debut))
    assert {k: v for k, v in new.items() if k != "updated_at"} == {k: v for k, v in old.items() if k != "updated_at"}


def test_everything_simulated_says_so_and_nothing_else_does() -> None:
    for event in source():
        marked = msgspec.json.decode(event.value).get("simulated", False)
        assert marked is (event.topic in ("reviews", "images", "inventory.levels"))
    assert "reviews" in str(source().description["simulated"])


def test_pictures_are_small_and_differ_by_product() -> None:
    pictures = [base64.b64decode(str(decode(e).content)) for e in source() if e.topic == "images"]  # type: ignore[attr-defined]
    assert len(set(pictures)) == len(pictures)
    for picture in pictures:
        assert len(picture) < 4_000
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            assert image.size == (64, 64)


def test_a_span_without_sales_and_a_date_that_is_none_are_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match="no sales between 2019-01-01"):
        _ = source(first=dt.date(2019, 1, 1)).estimate
    assert run(["load", "complete-journey", "--from", "2017-44"]) == 2
    assert "--from '2017-44' is no date" in capsys.readouterr().err
    assert run(["load", "complete-journey", "--from", "2017-05-01", "--until", "2017-05-01"]) == 2
    assert "is not before" in capsys.readouterr().err


def test_the_package_gives_what_the_rule_and_the_time_zone_were_made_for() -> None:
    tables = read_tables()
    real = CompleteJourney(300, Span(dt.date(2017, 12, 1)), simulation=Simulation())
    left_out = real.description["left_out"]
    assert isinstance(left_out, dict)
    assert left_out["products_not_sold_by_the_piece"] == 24
    hours = tables.lines["transaction_timestamp"].dt.tz_localize("UTC").dt.tz_convert(COMPLETE_JOURNEY.timezone).dt.hour
    assert 14 <= int(hours.mode().iloc[0]) <= 19  # shops are full in the afternoon only if the stamps are UTC
    first = next(iter(real))
    assert first.topic == "products"
    assert re.fullmatch(r"\d+", first.key)


def test_others_are_drawn_beside_the_best_and_are_by_the_piece() -> None:
    best = {e.key for e in source() if e.topic == "products"}
    more = {e.key for e in replace(source(), others=10) if e.topic == "products"}
    assert best < more
    assert more == {str(1000 + p) for p in range(8) if p != FUEL}


def test_what_is_drawn_beside_the_best_does_not_hang_on_how_it_sold() -> None:
    """Else an evaluation would know which products will do well."""
    tables = small_tables()
    best, fuel = tables.lines["product_id"] == 1000, tables.lines["product_id"] == 1000 + FUEL
    drawn = []
    for others in (tables.lines["quantity"], 1):
        lines = tables.lines.assign(quantity=np.where(best, 40, np.where(fuel, 9000, others)))
        changed = replace(tables, lines=lines)
        drawn.append({e.key for e in CompleteJourney(1, others=3, read=lambda t=changed: t) if e.topic == "products"})
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 4


def test_bare_holds_nothing_that_is_simulated_here() -> None:
    bare = replace(source(), bare=True)
    assert {e.topic for e in bare} == {"orders", "products", "promotions"}
    assert bare.estimate == sum(1 for _ in bare)
    assert list(bare) == [e for e in source() if e.topic in ("orders", "products", "promotions")]
