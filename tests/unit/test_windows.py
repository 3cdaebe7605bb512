"""Laws of the windows stage on random logs: sums as pandas groups them, prefix invariance, snapshots."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurizers.window_config import WindowConfig
from featurizers.windows import WindowStage
from streams.calendars import DAY, HOUR, Platform
from streams.records import (
    AHEAD,
    CHANNELS,
    DAYS,
    HORIZONS,
    HOURS,
    KNOWN,
    PROMOTION_KINDS,
    EventKind,
    Modality,
    WindowKind,
    split_product,
)
from streams.stage import Output
from tests.unit.event_builder import TASK, Log, Row, event, instant, level, order, promotion, rows_of, vector

ZONES = {"berlin": "Europe/Berlin", "york": "America/New_York", "kolkata": "Asia/Kolkata"}
PLATFORMS = {name: Platform(name, zone) for name, zone in ZONES.items()}
CONFIG = WindowConfig(PLATFORMS, live_interval_ms=20, live_rows=3)
QUIET = WindowConfig(PLATFORMS, live_interval_ms=2**60)  # close windows alone
START = instant("2024-03-06")  # York changes its clocks on 10 March, Berlin on 31 March


@dataclass
class Stream:
    """What arrives, record by record: rows of events, of vectors, of promotions, or a watermark."""

    records: list[tuple[str, Any]] = field(default_factory=list)

    def log(self, before: int | None = None) -> Log:
        """As records of trend.events, without the rows at or after `before`."""
        log = Log()
        for kind, content in self.records:
            if kind == "watermark":
                log.watermark(content)
            else:
                rows = [row for row in content if before is None or row["at"] < before]
                getattr(log, kind)(*rows)
        return log


def random_stream(seed: int, days: int, rows: int = 12) -> Stream:
    """Rows early and late by up to two days, of several platforms, with a watermark after each record."""
    rng, others = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    products = [f"{platform}:p{i}" for platform in ZONES for i in range(3)]
    categories = ["food > bread", "food > milk", ""]
    stream, offset = Stream(), 0
    for now in range(START, START + days * DAY, 8 * HOUR):
        batch: list[Row] = []
        for _ in range(int(rng.integers(0, rows))):
            product = str(rng.choice(products))
            at = now + int(rng.integers(-2 * DAY, DAY)) if rng.random() < 0.2 else now + int(rng.integers(0, 8 * HOUR))
            kind = EventKind(int(rng.choice([1, 1, 1, 1, 3, 4, 5, 6, 7, 8, 9, 10])))
            if kind == EventKind.ORDER:
                batch.append(order(product, at, int(rng.integers(1, 5)), int(rng.integers(1, 2000))))
            elif kind == EventKind.RETURNED:
                batch.append(event(kind, product, at, quantity=int(rng.integers(1, 3)), ordered_at=at - DAY))
            elif kind == EventKind.REVIEW:
                batch.append(event(kind, product, at, rating=int(rng.integers(1, 6))))
            elif kind == EventKind.CATALOGUE:
                batch.append(event(kind, product, at, category=str(rng.choice(categories)), price=int(at % 997)))
            elif kind == EventKind.LEVEL:
                batch.append(level(product, at, float(rng.integers(0, 2))))
            else:
                batch.append(event(kind, product, at))
        stream.records.append(("events", batch))
        stream.records.append(("promotions", random_promotions(products, now, others)))
        if rng.random() < 0.4:
            made = []
            for _ in range(int(rng.integers(1, 4))):
                kind_of = Modality(int(rng.integers(0, 3)))
                at = now + int(rng.integers(-DAY, DAY))
                encoder = "a" if rng.random() < 0.9 else "b"
                made.append(vector(str(rng.choice(products)), at, offset, float(rng.normal()), kind_of, encoder))
                offset += 1
            stream.records.append(("vectors", made))
            if rng.random() < 0.3:
                stream.records.append(("vectors", made))
        if rng.random() < 0.8:
            stream.records.append(("watermark", now))
    stream.records.append(("watermark", START + days * DAY))
    return stream


def random_promotions(products: list[str], now: int, rng: np.random.Generator) -> list[Row]:
    """Announced early or late, for days before and after, some more than once, some taken back."""
    rows = []
    for _ in range(int(rng.integers(0, 4))):
        starts = START + int(rng.integers(-60, 30)) * DAY + int(rng.integers(0, 3)) * 5 * HOUR
        ends = starts + int(rng.integers(1, 60)) * 12 * HOUR
        kind, percent = str(rng.choice(PROMOTION_KINDS)), int(rng.choice([0, 20, 60, 100]))
        rows.append(
            promotion(str(rng.choice(products)), now + int(rng.integers(-DAY, DAY)), starts, ends, percent, kind)
        )
    return rows


def frame(stream: Stream) -> pd.DataFrame:
    """Every event row with its arrival (index of its record) and its local day."""
    rows = [
        {**row, "arrival": i, "day": pd.Timestamp(row["at"], unit="ms", tz=ZONES[split_product(row["product"])[0]])}
        for i, (kind, content) in enumerate(stream.records)
        if kind == "events"
        for row in content
    ]
    table = pd.DataFrame(rows)
    table["day"] = [day.date() for day in table["day"]]
    kind, quantity = table["kind"], table["quantity"]
    table["units"] = quantity.where(kind == EventKind.ORDER, 0)
    table["orders"] = (kind == EventKind.ORDER).astype(int)
    table["returned"] = quantity.where(kind == EventKind.RETURNED, 0)
    table["revenue"] = table["amount"].where(kind == EventKind.ORDER, 0)
    table["views"] = (kind == EventKind.VIEW).astype(int)
    table["carts"] = (kind == EventKind.CART).astype(int)
    table["favourites"] = (kind == EventKind.FAVOURITE).astype(int)
    table["reviews"] = (kind == EventKind.REVIEW).astype(int)
    table["rating_sum"] = table["rating"]
    return table


def closing_record(stream: Stream, boundary: int) -> int:
    """Index of the control record that closes the day before a boundary."""
    return next(i for i, (kind, mark) in enumerate(stream.records) if kind == "watermark" and mark >= boundary)


def local_days(platform: str, end: int, before: int) -> list[Any]:
    last = pd.Timestamp(end, unit="ms", tz=ZONES[platform]).date()
    return [last - pd.Timedelta(days=d).to_pytimedelta() for d in range(before, 0, -1)]


def test_sums_of_a_window_differ_from_a_group_by_of_what_had_arrived() -> None:
    stream = random_stream(5, days=10)
    outputs = WindowStage(TASK, QUIET).fold(stream.log().messages)
    of = dict(list(frame(stream).groupby("product")))
    windows = [w for w in rows_of(outputs, "windows") if w["kind"] == WindowKind.CLOSE]
    assert len(windows) > 60
    for window in windows:
        platform, end = split_product(window["product"])[0], window["end"]
        table = of[window["product"]]
        seen = table[(table["at"] < end) & (table["arrival"] < closing_record(stream, end))]
        days = local_days(platform, end, DAYS)
        sums = seen.groupby("day")[list(CHANNELS)].sum().reindex(days, fill_value=0).T.to_numpy()
        np.testing.assert_array_equal(window["day"].reshape(len(CHANNELS), DAYS), sums)
        last = (end - 1) // HOUR
        by_hour = seen.groupby(seen["at"] // HOUR)[list(CHANNELS)].sum()
        hours = by_hour.reindex(range(last - HOURS + 1, last + 1), fill_value=0).T.to_numpy()
        np.testing.assert_array_equal(window["hour"].reshape(len(CHANNELS), HOURS), hours)
        assert window["as_of"] == end
        assert not window["open"].any()
        catalogue = seen[seen["kind"] == EventKind.CATALOGUE]
        if len(catalogue):
            newest = catalogue[catalogue["at"] == catalogue["at"].max()].iloc[-1]
            assert (window["category"], window["price"]) == (newest["category"], newest["price"])


def test_a_window_knows_another_promotion_than_those_that_were_announced_before_it() -> None:
    stream = random_stream(8, days=12)
    windows = rows_of(WindowStage(TASK, QUIET).fold(stream.log().messages), "windows")
    announced = [(row, i) for i, (kind, rows) in enumerate(stream.records) if kind == "promotions" for row in rows]
    known = 0
    for window in windows:
        platform, end = split_product(window["product"])[0], window["end"]
        arrived = [r for r, i in announced if i < closing_record(stream, end) and r["at"] < end]
        newest: dict[tuple[int, int], Row] = {}
        for row in sorted((r for r in arrived if r["product"] == window["product"]), key=lambda r: r["at"]):
            newest[row["promotion"], row["starts"]] = row
        calendar = PLATFORMS[platform].calendar
        today = int(calendar.day(end))
        expected = np.zeros((len(KNOWN), DAYS + AHEAD))
        for row in newest.values():
            for place, day in enumerate(range(today - DAYS, today + AHEAD)):
                begin, stop = calendar.start(day), calendar.start(day + 1)
                share = max(0, min(stop, row["ends"]) - max(begin, row["starts"])) / (stop - begin)
                expected[1 + row["promotion"], place] += round(share * row["percent"])
        np.testing.assert_array_equal(window["known"].reshape(expected.shape), expected.clip(-100, 100))
        known += expected.any()
    assert known > 30


def test_a_product_that_was_only_announced_has_a_window() -> None:
    log = Log().events(order("york:p1", START)).promotions(promotion("york:p2", START, START, START + 9 * DAY))
    outputs = WindowStage(TASK, QUIET).fold(log.watermark(START + 3 * DAY).messages)
    assert {w["product"] for w in rows_of(outputs, "windows")} == {"york:p1"}


def test_a_window_has_the_holidays_of_another_country_or_day() -> None:
    platforms = {"uk": Platform("uk", "Europe/London", "GBP", "GB"), "none": Platform("none", "Europe/London")}
    start = instant("2024-12-20", "Europe/London")
    log = Log().events(order("uk:p1", start), order("none:p1", start)).watermark(start + DAY)
    outputs = WindowStage(TASK, WindowConfig(platforms, live_interval_ms=2**60)).fold(log.messages)
    known = {
        w["product"]: w["known"].reshape(len(KNOWN), -1)[KNOWN.index("holiday")] for w in rows_of(outputs, "windows")
    }
    assert not known["none:p1"].any()
    # From 21 December on: Christmas, Boxing Day and New Year lie 4, 5 and 11 days ahead.
    assert np.flatnonzero(known["uk:p1"]).tolist() == [DAYS + 4, DAYS + 5, DAYS + 11]
    assert set(known["uk:p1"].tolist()) == {0, 100}


def test_windows_are_missing_or_doubled_at_a_boundary() -> None:
    stream = random_stream(6, days=12)
    outputs = WindowStage(TASK, QUIET).fold(stream.log().messages)
    table = frame(stream)
    vectors = [
        (row["product"], row["at"], i) for i, (kind, c) in enumerate(stream.records) if kind == "vectors" for row in c
    ]
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for window in rows_of(outputs, "windows"):
        if window["kind"] == WindowKind.CLOSE:
            found[split_product(window["product"])[0], window["end"]].append(window["product"])
    closes = rows_of(outputs, "closes")
    assert len({(c["platform"], c["end"]) for c in closes}) == len(closes)
    for close in closes:
        record = closing_record(stream, close["end"])
        rows = table[(table["at"] < close["end"]) & (table["arrival"] < record)]
        expected = {p for p in rows["product"] if split_product(p)[0] == close["platform"]}
        expected |= {
            p for p, at, i in vectors if at < close["end"] and i < record and split_product(p)[0] == close["platform"]
        }
        got = found[close["platform"], close["end"]]
        assert sorted(got) == sorted(expected)
        assert close["windows"] == len(got)
    for platform, zone in ZONES.items():
        ends = [c["end"] for c in closes if c["platform"] == platform]
        local = [pd.Timestamp(end, unit="ms", tz=ZoneInfo(zone)) for end in ends]
        assert all((t.hour, t.minute) == (0, 0) for t in local)
        assert [t.date() for t in local] == list(pd.date_range(local[0].date(), local[-1].date()).date)


def test_outcomes_differ_from_what_was_sold_in_their_days() -> None:
    stream = random_stream(7, days=31, rows=8)
    outputs = WindowStage(TASK, QUIET).fold(stream.log().messages)
    of = dict(list(frame(stream).groupby("product")))
    windows = [w for w in rows_of(outputs, "windows") if w["kind"] == WindowKind.CLOSE]
    outcomes = {(o["product"], o["end"], o["delay"]): o for o in rows_of(outputs, "outcomes")}
    newest = {name: max(c["end"] for c in rows_of(outputs, "closes") if c["platform"] == name) for name in ZONES}
    expected = 0
    for window in windows:
        platform = split_product(window["product"])[0]
        calendar = PLATFORMS[platform].calendar
        day = int(calendar.day(window["end"]))
        for delay, (low, high) in enumerate(zip((0, *HORIZONS[:-1]), HORIZONS, strict=True)):
            at = calendar.start(day + high)
            if at > newest[platform]:
                continue
            expected += 1
            outcome = outcomes[window["product"], window["end"], delay]
            assert outcome["at"] == at
            sold = of[window["product"]]
            sold = sold[(sold["at"] >= calendar.start(day + low)) & (sold["at"] < at)]
            assert outcome["units"] == sold["units"].where(sold["arrival"] < closing_record(stream, at), 0).sum()
    assert expected == len(outcomes) == len(rows_of(outputs, "outcomes"))
    assert {o["delay"] for o in outcomes.values()} == {0, 1, 2}


def frozen(row: Row) -> tuple[tuple[str, Any], ...]:
    """A row as something that compares exactly, NaN included."""
    return tuple((k, v.tobytes() if isinstance(v, np.ndarray) else repr(v)) for k, v in row.items())


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), days=st.integers(2, 12), share=st.floats(0.05, 1.0))
def test_what_happens_later_changes_an_earlier_window(seed: int, days: int, share: float) -> None:
    stream = random_stream(seed, days, rows=8)
    cut = START + int(share * days * DAY)
    full = WindowStage(TASK, CONFIG).fold(stream.log().messages)
    prefix = WindowStage(TASK, CONFIG).fold(stream.log(before=cut).messages)

    def upto(outputs: list[Output], record: str, time: str) -> list[Any]:
        rows = [r for r in rows_of(outputs, record) if r[time] <= cut]
        return [frozen(r) for r in rows if r.get("kind", WindowKind.CLOSE) == WindowKind.CLOSE]

    for record, time in (("windows", "end"), ("outcomes", "at"), ("closes", "end")):
        assert upto(full, record, time) == upto(prefix, record, time)
    for platform in ZONES:

        def live(outputs: list[Output], platform: str = platform) -> list[Row]:
            rows = rows_of(outputs, "windows")
            return [r for r in rows if r["kind"] == WindowKind.LIVE and r["product"].startswith(f"{platform}:")]

        before = [frozen(r) for r in live(full) if r["as_of"] < cut]
        assert before == [frozen(r) for r in live(prefix)][: len(before)]


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), days=st.integers(1, 8), share=st.floats(0.0, 1.0))
def test_a_snapshot_or_another_cut_of_the_log_changes_the_outputs(seed: int, days: int, share: float) -> None:
    messages = random_stream(seed, days).log().messages
    cut = int(share * len(messages))
    whole = WindowStage(TASK, CONFIG)
    expected = whole.fold(messages)
    first = WindowStage(TASK, CONFIG)
    outputs = first.fold(messages[:cut])
    second = WindowStage(TASK, CONFIG)
    second.restore(first.snapshot())
    assert second.snapshot() == first.snapshot()
    outputs += second.fold(messages[cut:])
    assert outputs == expected
    assert second.snapshot() == whole.snapshot()
    assert second.counters() == whole.counters()


@pytest.mark.parametrize("seed", [1, 2])
def test_when_events_are_settled_or_how_cells_merge_changes_the_outputs(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = random_stream(seed, days=9, rows=30).log().messages
    expected = WindowStage(TASK, CONFIG).fold(messages)
    for name, value in (("products.SETTLE", 1), ("products.LARGEST", 3), ("cells._FAN", 2), ("cells._AT_ONCE", 50)):
        monkeypatch.setattr(f"featurizers.{name}", value)
        assert WindowStage(TASK, CONFIG).fold(messages) == expected


def test_counters_do_not_add_up() -> None:
    stream = random_stream(8, days=12)
    stage = WindowStage(TASK, CONFIG)
    outputs = stage.fold(stream.log().messages)
    counters = stage.counters()
    windows = rows_of(outputs, "windows")
    assert counters["events"] == len(frame(stream))
    assert counters["close"] == sum(w["kind"] == WindowKind.CLOSE for w in windows)
    assert counters["live"] == sum(w["kind"] == WindowKind.LIVE for w in windows) > 0
    assert counters["outcomes"] == len(rows_of(outputs, "outcomes"))
    assert counters["closes"] == len(rows_of(outputs, "closes"))
    assert counters["vectors_repeated"] > 0
    assert counters["late"] > 0
    assert counters["products"] == 9


def test_output_order_or_size_breaks_its_promise() -> None:
    stream = random_stream(9, days=10)
    config = WindowConfig(PLATFORMS, max_bytes=20_000)
    outputs = WindowStage(TASK, config).fold(stream.log().messages)
    assert all(o.value is not None and len(o.value) <= 20_000 for o in outputs)
    assert {(o.topic, o.partition, o.key) for o in outputs} == {("trend.windows", TASK[1], None)}
    order_of = {"outcomes": 0, "windows": 1, "closes": 2}
    stage, last = WindowStage(TASK, config), -1
    for message in stream.log().messages:
        seen: list[tuple[int, str, int]] = []
        for output in stage.fold([message]):
            for name in order_of:
                for row in rows_of([output], name):
                    if row.get("kind", WindowKind.CLOSE) == WindowKind.LIVE:
                        last = max(last, message.offset)
                        continue
                    boundary = row["at"] if name == "outcomes" else row["end"]
                    platform = row["platform"] if name == "closes" else split_product(row["product"])[0]
                    seen.append((int(boundary), str(platform), order_of[name]))
        assert seen == sorted(seen)
    assert last > 0


@pytest.mark.parametrize("zone", ["berlin", "york"])
def test_a_day_of_the_clock_change_is_cut_at_the_wrong_hour(zone: str) -> None:
    platform, day = PLATFORMS[zone], "2024-03-31" if zone == "berlin" else "2024-03-10"
    calendar = platform.calendar
    index = int(calendar.day(instant(f"{day} 12:00", ZONES[zone])))
    start, end = calendar.start(index), calendar.start(index + 1)
    assert end - start == 23 * HOUR
    key = f"{zone}:a"
    log = Log().watermark(start)
    log.events(order(key, start), order(key, end - 1, 2), order(key, end, 4)).watermark(end).watermark(end + DAY)
    windows = [
        w
        for w in rows_of(WindowStage(TASK, WindowConfig({zone: platform})).fold(log.messages), "windows")
        if w["kind"] == WindowKind.CLOSE
    ]
    assert [w["end"] for w in windows] == [end, end + DAY]
    assert [w["day"].reshape(len(CHANNELS), DAYS)[0, -2:].tolist() for w in windows] == [[0, 3], [3, 4]]
