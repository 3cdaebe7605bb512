"""`trendstream evaluate` on a small shop: all methods on the same windows, and leaks that it must name."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy import pipeline
from deploy.evaluation import FROZEN, INTERCEPT, UPDATED, Evaluation, Methods, Options, evaluate, find_leaks
from deploy.evaluation_fold import Plan, WindowLog, fold, fold_key
from deploy.evaluation_leaks import compare_forecasts
from deploy.evaluation_report import make_report, write_report
from deploy.loop import Loop
from deploy.settings import Settings
from deploy.sources import PlatformEvent, Source, Span
from deploy.training import History
from deploy.watch import Watch
from model import evaluate_loop, evaluate_rivals
from model.evaluate import counts
from model.evaluate_panel import Panel
from model.train import TrainConfig
from streams.calendars import DAY, HOUR, Platform
from streams.codecs import decode, encode_batch
from streams.embedded import EmbeddedLog, EmbeddedRunner
from streams.records import CHANNELS, DAYS
from streams.records.inside import PREDICTIONS, WINDOWS
from streams.topics import topics

SHOP = Platform("shop", "UTC", "EUR")
FIRST = dt.date(2026, 1, 1)
LENGTH, PRODUCTS = 200, 16
QUIET = Watch(lambda name, total: None, lambda count, note="": None)
OPTIONS = Options(14, 3, series=8, networks={"": TrainConfig(epochs=1, min_steps=10)})
PEEKED = "day"


@dataclass(frozen=True)
class Shop:
    """A shop whose catalogue learns of a product with its first sale; with `foresight`, all that will ever sell."""

    span: Span = field(default_factory=Span)
    foresight: bool = False
    platform: str = SHOP.name
    pictures: Path | None = None
    estimate: int = 0

    @property
    def description(self) -> Mapping[str, object]:
        last = FIRST + dt.timedelta(days=LENGTH - 1)
        return {
            "name": "a small shop",
            "span": {"from": FIRST.isoformat(), "to": last.isoformat()},
            "simulated": ["all"],
        }

    def __iter__(self) -> Iterator[PlatformEvent]:
        rng = np.random.default_rng(3)
        rate = rng.uniform(0.2, 3.0, PRODUCTS)
        born = np.where(np.arange(PRODUCTS) % 4 == 3, rng.integers(60, 190, PRODUCTS), 0)
        _, end = self.span.instants(SHOP)
        start = SHOP.calendar.start(SHOP.calendar.index(FIRST))
        sold = rng.poisson(rate * (np.arange(LENGTH)[:, None] >= born), (LENGTH, PRODUCTS))
        will_sell = [p for p in range(PRODUCTS) if any(sold[d, p] and start + d * DAY < end for d in range(LENGTH))]
        known: set[int] = set()
        for day in range(LENGTH):
            at = start + day * DAY + 9 * HOUR
            if at >= end:
                return
            for p in will_sell if self.foresight and day == 0 else np.flatnonzero(sold[day]).tolist():
                if p not in known:
                    known.add(p)
                    record = {"title": f"thing {p}", "category": ["things", str(p % 3)], "updated_at": at}
                    yield event("products", f"p{p}", at, {"product_id": f"p{p}", **record})
            for p in np.flatnonzero(sold[day]).tolist():
                line = {"product_id": f"p{p}", "quantity": int(sold[day, p]), "unit_price": "5.00"}
                order = {"order_id": f"{day}-{p}", "buyer_id": "b", "ordered_at": at, "currency": "EUR"}
                yield event("orders", f"{day}-{p}", at, {**order, "status": "placed", "lines": [line]})


def event(topic: str, key: str, at: int, payload: dict[str, object]) -> PlatformEvent:
    return PlatformEvent(topic, key, msgspec.json.encode({"platform": SHOP.name, **payload}), at)


def start(source: Source, settings: Settings, until: int) -> History:
    """Ingest and windows; the encoders have tests of their own."""
    specs = [pipeline.ingest_spec(settings), pipeline.windows_spec(settings, live=False)]
    return History(Loop(specs, settings.partitions), [], None)  # type: ignore[arg-type]


def plain_fold(source: Source, settings: Settings, plan: Plan, path: Path, watch: Watch) -> WindowLog:
    return fold(source, settings, plan, path, watch, start)


@dataclass(frozen=True)
class Peeking:
    """A fold whose newest day is tomorrow."""

    cache: Path  # of plain folds

    def __call__(self, source: Source, settings: Settings, plan: Plan, path: Path, watch: Watch) -> WindowLog:
        plain = self.cache / f"windows-{fold_key(source, settings, plan)}.parquet"
        log = WindowLog(plain) if plain.exists() else plain_fold(source, settings, plan, plain, watch)
        return look_ahead(log, path)


def look_ahead(log: WindowLog, path: Path) -> WindowLog:
    messages = list(log)
    tomorrow = {}
    for message in messages:
        rows = decode(message.value or b"")
        if rows.record is WINDOWS:
            units = rows["day"].reshape(len(rows), len(CHANNELS), DAYS)[:, 0, -1]
            tomorrow |= {(p, int(e) - DAY): int(u) for p, e, u in zip(rows["product"], rows["end"], units, strict=True)}
    values = []
    for message in messages:
        rows = decode(message.value or b"")
        if rows.record is WINDOWS:
            day = rows["day"].copy()
            for i, key in enumerate(zip(rows["product"], rows["end"].tolist(), strict=True)):
                day[i, DAYS - 1] = tomorrow.get(key, day[i, DAYS - 1])
            index = rows.batch.schema.get_field_index(PEEKED)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(day.reshape(-1)), day.shape[1])
            columns = [lists if i == index else rows.batch.column(i) for i in range(rows.batch.num_columns)]
            values.append(encode_batch(pa.RecordBatch.from_arrays(columns, schema=WINDOWS.schema)))
        else:
            values.append(message.value or b"")
    table = pq.read_table(log.path)
    pq.write_table(table.set_column(3, "value", pa.array(values, pa.binary())), path)
    return WindowLog(path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Methods]:
    return evaluate(Shop(), Settings(partitions=1), OPTIONS, tmp_path_factory.mktemp("cache"), QUIET, plain_fold)


def test_every_method_is_judged_on_the_same_windows_on_every_weekday(
    shop: tuple[Evaluation, Methods], tmp_path: Path
) -> None:
    evaluation, _ = shop
    write_report(make_report(evaluation, QUIET, [], []), evaluation, tmp_path)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    windows = {m: set(zip(f["product_id"], f["window_end"], strict=True)) for m, f in frame.groupby("method")}
    everywhere = ("moving_average", "seasonal_naive", "lightgbm", UPDATED, FROZEN, INTERCEPT)
    assert all(windows[method] == windows["baseline"] for method in everywhere)
    assert windows["tsb"] == windows["auto_ets"] == windows["lightgbm and tsb"] < windows["baseline"]
    ends = frame["window_end"].drop_duplicates()
    assert len(set(ends.dt.weekday)) == min(7, len(ends))
    judged = frame[frame["method"] == "moving_average"]
    sold = judged[judged["horizon_days"] == 1].groupby("window_end")["actual"].sum()
    orders = [msgspec.json.decode(e.value) for e in Shop() if e.topic == "orders"]
    for end, units in sold.items():
        known = {p for p, w in windows["baseline"] if w == end}
        lines = [(o["ordered_at"], line) for o in orders for line in o["lines"] if line["product_id"] in known]
        first = int(end.timestamp() * 1000)  # type: ignore[attr-defined]
        assert units == sum(line["quantity"] for at, line in lines if first <= at < first + DAY)
    whole = frame[frame["cdf_actual"].notna() & frame["method"].isin(["tsb", "baseline", UPDATED, FROZEN, INTERCEPT])]
    for column, level in (("q10", 0.1), ("q50", 0.5), ("q90", 0.9)):  # F(k) >= q where k is the quantile or more
        assert ((whole["actual"] >= whole[column]) == (whole["cdf_actual"] >= level - 1e-9)).mean() > 0.999
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["tables"][0]["segments"]["overall"]["figures"]["7"]["quantile_loss"][UPDATED]["other"]
    assert "trendstream updated" in (tmp_path / "evaluation.html").read_text()


def test_the_same_again_comes_from_the_cache_and_is_the_same(shop: tuple[Evaluation, Methods]) -> None:
    """After an interruption between two of LightGBM's weeks too."""
    evaluation, methods = shop
    next(methods.folder.glob("lightgbm-*.npz")).unlink()
    parts: list[str] = []
    watch = Watch(lambda name, total: parts.append(name), lambda count, note="": None)
    again, _ = evaluate(Shop(), methods.settings, OPTIONS, methods.folder, watch, plain_fold)
    for method, forecasts in evaluation.forecasts.items():
        np.testing.assert_array_equal(forecasts.quantiles, again.forecasts[method].quantiles)
    assert not [name for name in parts if "folding" in name or "training" in name or "tuning" in name]


def test_without_what_comes_later_nothing_before_it_changes(shop: tuple[Evaluation, Methods]) -> None:
    evaluation, methods = shop
    assert find_leaks(evaluation, methods, [int(evaluation.cases.day[0])], plain_fold) == []


def test_a_feature_one_bucket_into_the_future_is_named(shop: tuple[Evaluation, Methods], tmp_path: Path) -> None:
    evaluation, methods = shop
    leaky = replace(methods, folder=tmp_path, log=look_ahead(methods.log, tmp_path / "w.parquet"))
    day = int(evaluation.cases.day[0])
    found = find_leaks(evaluation, leaky, [day], Peeking(methods.folder))
    assert any(leak.startswith("windows: day differs") and str(evaluation.plan.date(day)) in leak for leak in found)


def test_a_catalogue_that_knows_products_to_come_is_named(shop: tuple[Evaluation, Methods], tmp_path: Path) -> None:
    evaluation, methods = shop
    source = Shop(foresight=True)
    log = plain_fold(source, methods.settings, evaluation.plan, tmp_path / "w.parquet", QUIET)
    leaky = replace(methods, folder=tmp_path, log=log)
    found = find_leaks(replace(evaluation, source=source), leaky, [int(evaluation.cases.day[0])], plain_fold)
    assert any(leak.startswith("event: products p") and "only when later events are" in leak for leak in found)
    assert any(leak.startswith("windows: ") for leak in found)  # what the catalogue knew has moved a baseline


def test_a_method_that_looks_ahead_is_named_by_its_predictions(shop: tuple[Evaluation, Methods]) -> None:
    panel, plan = shop[0].panel, shop[0].plan
    day = int(shop[0].cases.day[0])
    rows = np.flatnonzero(panel.day == day)
    cut = replace(panel, units_by_day=panel.units_by_day.copy())
    cut.units_by_day[:, day - panel.first :] = 0.0

    def peeking(panel: Panel, rows: np.ndarray, origin: int) -> np.ndarray:
        ahead = panel.units_by_day[panel.product[rows], panel.day[rows] - panel.first]
        return evaluate_rivals.moving_average(panel, rows, origin) + ahead[:, None]

    def forecasts(mean: evaluate_rivals.Mean, panel: Panel) -> dict[str, object]:
        values = mean(panel, rows, day)
        return {"peeking": counts(panel.cases(rows, plan.test), values, np.ones_like(values), "")}

    names = panel.names[panel.product[rows]].tolist()
    honest = evaluate_rivals.moving_average
    assert compare_forecasts(forecasts(honest, panel), forecasts(honest, cut), names, plan.date(day)) == []  # type: ignore[arg-type]
    found = compare_forecasts(forecasts(peeking, panel), forecasts(peeking, cut), names, plan.date(day))  # type: ignore[arg-type]
    assert found
    assert all(leak.startswith("predictions of peeking") for leak in found)


def test_predictions_are_those_of_the_stages_on_the_in_process_log(shop: tuple[Evaluation, Methods]) -> None:
    evaluation, methods = shop
    bundle, since = methods.network("", OPTIONS.networks[""]), evaluation.plan.instant(evaluation.plan.loop)
    specs = [pipeline.inference_spec(methods.settings, bundle, heads_since=since)]
    specs += [pipeline.labels_spec(methods.settings), pipeline.learner_spec(methods.settings, bundle)]
    runner = EmbeddedRunner(EmbeddedLog(topics(1)), specs)
    found: list[bytes] = []
    runner.on_output = lambda m: found.append(m.value or b"") if m.topic == "trend.predictions" else None
    mine: list[bytes] = []
    loop = evaluate_loop.Loop(
        bundle, evaluate_loop.learner_of(bundle, 1), since, lambda rows: mine.append(encode_batch(rows.batch))
    )
    messages = list(evaluate_loop.between(methods.log, since))
    for m in messages:
        runner.log.append(m.topic, m.partition, m.value, m.key, m.timestamp, m.offset)
    runner.run()
    loop.run(messages)
    assert mine == [value for value in found if decode(value).record is PREDICTIONS]
    assert any(decode(value)["head_epoch"].any() for value in mine)
