"""Makes the report of a run from what it left behind: counters, internal topics and the read model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pandas as pd

from deploy.report import BidRow, ErrorSeries, ProductSeries, ReorderRow, RunReport, TrendRow
from deploy.results import Results
from deploy.sources import PlatformEvent
from streams.codecs import decode_json
from streams.records import HORIZONS, product_key
from streams.records.outside import Head, ModelEvent
from streams.signals.read_model import ReadModel
from streams.signals.tables import ScoreRow
from streams.stage import Message

TABLE_ROWS = 8
CHARTED_PRODUCTS = 6
HORIZON = 7  # days, of the tables for people
Counters = Mapping[str, Mapping[str, int]]


@dataclass
class Observation:
    """Everything of a run that a report is made of. `take` gets records of internal and outside topics."""

    results: Results
    titles: dict[str, str] = field(default_factory=dict)  # by product key
    heads: list[Head] = field(default_factory=list)
    events: list[ModelEvent] = field(default_factory=list)

    def watch(self, events: Iterable[PlatformEvent]) -> Iterator[PlatformEvent]:
        """Hand platform events on, and remember the products' titles for the tables."""
        for event in events:
            if event.topic == "products":
                try:
                    record = msgspec.json.decode(event.value)
                    self.titles[product_key(record["platform"], record["product_id"])] = str(record["title"])
                except (msgspec.DecodeError, KeyError, TypeError):
                    pass  # ingest says what is wrong with it
            yield event

    def take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message.value is None:
                continue
            if message.topic == "model.heads":
                self.heads.append(decode_json(message.value, Head))
            elif message.topic == "model.events":
                self.events.append(decode_json(message.value, ModelEvent))
            else:
                self.results.take([message])


@dataclass(frozen=True)
class Run:
    """What only the one who ran it knows."""

    broker: str
    description: Mapping[str, Any]
    produced: Mapping[str, int]  # by platform topic
    counters: Counters  # by stage
    seconds: Mapping[str, float]
    latency_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stage_latency_ms: Mapping[str, Mapping[str, float]] | None = None
    stage_rates: Mapping[str, float] | None = None


def summarise(run: Run, observed: Observation, read_model: ReadModel) -> RunReport:
    """The report of a run; every number in it was counted in that run."""
    count = run.counters.get
    ingest, windows = count("ingest", {}), count("windows", {})
    results = observed.results
    newest = read_model.newest_end()
    return RunReport(
        broker=run.broker,
        data={**run.description, "compared_windows": results.scored(), "errors_from": _day(results.since)},
        events={
            "produced": sum(run.produced.values()),
            "accepted": ingest.get("accepted", 0),
            "repeated": ingest.get("repeated", 0),
            "dead": ingest.get("dead", 0),
        },
        windows={"close": windows.get("close", 0), "live": windows.get("live", 0)},
        scores=count("inference", {}).get("scores", 0),
        heads=_heads(run, observed),
        outcomes=windows.get("outcomes", 0),
        error=results.error(),
        latency_ms=run.latency_ms,
        seconds={name: round(value, 2) for name, value in run.seconds.items()},
        as_of=_day(newest) if newest else "",
        products=_charts(observed),
        error_over_time=_error_series(results),
        stage_rates=run.stage_rates,
        stage_latency_ms=run.stage_latency_ms,
        surging=[_trend_row(r, observed.titles, rising=True) for r in read_model.surging(TABLE_ROWS, horizon=HORIZON)],
        falling=[_trend_row(r, observed.titles, rising=False) for r in read_model.falling(TABLE_ROWS, horizon=HORIZON)],
        reorders=[
            ReorderRow(
                product_id=r.product_id,
                title=_title(observed.titles, r.platform, r.product_id),
                on_hand=r.on_hand,
                on_order=r.on_order,
                lead_time_days=r.lead_time_days,
                reorder_point=r.reorder_point,
                suggested=r.suggested_order,
                reason=r.reason,
            )
            for r in read_model.reorders(TABLE_ROWS)
        ],
        bids=[
            BidRow(r.product_id, _title(observed.titles, r.platform, r.product_id), r.bid_multiplier, r.reason)
            for r in read_model.bids(TABLE_ROWS)
        ],
    )


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p95 and p99, and how many values they are of."""
    series = pd.Series(list(values), dtype=float)
    if series.empty:
        return {}
    found = {f"p{round(q * 100)}": round(float(series.quantile(q)), 1) for q in (0.5, 0.95, 0.99)}
    return {**found, "measured": len(series)}


def _heads(run: Run, observed: Observation) -> dict[str, Any]:
    kinds = [e.kind for e in observed.events]
    return {
        "versions": len(observed.heads),
        "newest": observed.heads[-1].version if observed.heads else "",
        "model": observed.heads[-1].model if observed.heads else "",
        "outcomes_learned": run.counters.get("learner", {}).get("learned", 0),
        "drifts": kinds.count("drift"),
        "rollbacks": kinds.count("rollback"),
        "promotions": kinds.count("promotion"),
        "late": run.counters.get("inference", {}).get("head_late", 0),
    }


def _error_series(results: Results) -> list[ErrorSeries]:
    series = []
    for horizon in (HORIZONS[0], HORIZON):
        over_time = results.error_over_time(horizon)
        if len(over_time):
            series.append(
                ErrorSeries(
                    horizon_days=horizon,
                    days=[_day(int(at)) for at in over_time["at"]],
                    trendstream=over_time["trendstream"].round(4).tolist(),
                    frozen=over_time["frozen"].round(4).tolist(),
                )
            )
    return series


def _charts(observed: Observation) -> list[ProductSeries]:
    """Sales and one-day forecasts of the products that sold most in the run."""
    frame = observed.results.predictions()
    if not len(frame):
        return []
    daily = frame[frame["horizon_days"] == HORIZONS[0]]
    sold = daily.groupby(["platform", "product_id"])["actual"].sum().sort_values(ascending=False, kind="stable")
    charts = []
    for platform, product in sold.index[:CHARTED_PRODUCTS]:
        rows = daily[(daily["platform"] == platform) & (daily["product_id"] == product)].sort_values("window_end")
        charts.append(
            ProductSeries(
                product_id=product,
                title=_title(observed.titles, platform, product),
                days=[at.date().isoformat() for at in rows["window_end"]],
                sold=[None if pd.isna(v) else float(v) for v in rows["actual"]],
                median=rows["q50"].tolist(),
                low=rows["q10"].tolist(),
                high=rows["q90"].tolist(),
            )
        )
    return charts


def _trend_row(row: ScoreRow, titles: Mapping[str, str], rising: bool) -> TrendRow:
    values = {name: getattr(row, f"{name}_{HORIZON}") for name in ("expected", "baseline", "class", "p_surging")}
    return TrendRow(
        product_id=row.product_id,
        title=_title(titles, row.platform, row.product_id),
        trend_class=values["class"],
        horizon_days=HORIZON,
        baseline=values["baseline"],
        expected=values["expected"],
        probability=values["p_surging"] if rising else getattr(row, f"p_falling_{HORIZON}"),
        reason=_reason(row),
    )


def _reason(row: ScoreRow) -> str:
    """What moves the forecast: its size against the baseline, and the modality that adds or takes most."""
    expected, baseline = getattr(row, f"expected_{HORIZON}"), getattr(row, f"baseline_{HORIZON}")
    change = expected / baseline - 1 if baseline else 0.0
    text = f"{abs(change):.0%} {'above' if change >= 0 else 'below'} its usual {baseline:.1f} units in {HORIZON} days"
    known = {
        name: value for name, value in row.contributions.items() if name not in row.missing and abs(value) >= 0.005
    }
    if known:
        name, value = max(known.items(), key=lambda item: abs(item[1]))
        text += f"; {name} {'adds' if value > 0 else 'takes'} most ({value:+.0%})"
    return text


def _title(titles: Mapping[str, str], platform: str, product_id: str) -> str:
    return titles.get(product_key(platform, product_id), product_id)


def _day(instant: int) -> str:
    return dt.datetime.fromtimestamp(instant / 1000, dt.UTC).date().isoformat() if instant > 0 else ""
