"""What an evaluation showed: `evaluation.json` and `predictions.parquet` for programs, tables and a page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from deploy.evaluation import Evaluation
from deploy.report import plain
from deploy.watch import Watch
from model.distribution import MEDIAN
from model.evaluate import BLOCK_DAYS, HIGH, LEVEL, LOW, quantile_loss
from model.evaluate_tables import AUC, OVERALL, Figure, Segment, family, segments
from streams.records import HORIZONS, split_product

NAMES = {
    "quantile_loss": "quantile loss",
    "wape": "WAPE",
    "mase": "MASE",
    "rmsse": "RMSSE",
    "bias": "bias",
    "coverage": "coverage",
    AUC: "AUC",
}
READS = {
    "quantile_loss": "weighted quantile loss, quantiles 0.1, 0.5, 0.9 and 0.95, by units sold",
    "wape": "sum of the median's misses, by units sold",
    "mase": "misses of the median, by what the same product changes from one horizon to the next",
    "rmsse": "root of the squared misses of the mean, scaled likewise",
    "bias": "expected less sold, by sold; 0 is right",
    "coverage": "share of randomised PIT values in 0.1 to 0.9; 0.8 is right",
    AUC: "ranks surges above the rest within deciles of the baseline; 0.5 is chance",
}


@dataclass(frozen=True)
class TableReport:
    name: str
    about: str
    windows: int
    products: int
    methods: Sequence[str]
    segments: Mapping[str, Segment]


@dataclass(frozen=True)
class EvaluationReport:
    data: Mapping[str, Any]
    plan: Mapping[str, Any]
    tables: Sequence[TableReport]
    weekly: Mapping[str, Mapping[str, Sequence[Any]]]  # method -> weeks, and quantile losses at 7 days
    tuning: Sequence[Mapping[str, Any]]
    training: Mapping[str, Mapping[str, Any]]
    checked: Sequence[str]  # days at which leaks were looked for
    leaks: Sequence[str]  # what was found

    def as_json(self) -> dict[str, Any]:
        return plain(asdict(self))  # type: ignore[no-any-return]


def make_report(evaluation: Evaluation, watch: Watch, checked: Sequence[str], leaks: Sequence[str]) -> EvaluationReport:
    """Every figure with its interval."""
    plan, cases, panel = evaluation.plan, evaluation.cases, evaluation.panel
    watch.part("metrics and their intervals", len(evaluation.tables))
    tables = []
    for done, table in enumerate(evaluation.tables, start=1):
        part = cases.take(table.rows)
        found = segments(part, table.forecasts, family(table.forecasts))
        products = len(np.unique(part.product))
        tables.append(TableReport(table.name, table.about, len(part), products, list(table.forecasts), found))
        watch.done(done)
    dates = {
        name: plan.date(getattr(plan, name)).isoformat() for name in ("validation", "tuned", "loop", "test", "last")
    }
    return EvaluationReport(
        data=dict(evaluation.source.description),
        plan={
            **dates,
            "spacing_days": plan.spacing,
            "boundaries": len(np.unique(cases.day)),
            "judged_windows": len(cases),
            "products": len(np.unique(cases.product)),
            "left_out_censored_or_unmatured": evaluation.censored,
            "block_days": BLOCK_DAYS,
            "level_of_intervals": LEVEL,
            "windows_read": len(panel),
            "dead_letters": evaluation.dead,
        },
        tables=tables,
        weekly=_weekly(evaluation),
        tuning=list(evaluation.tuning),
        training=dict(evaluation.training),
        checked=list(checked),
        leaks=list(leaks),
    )


def _weekly(evaluation: Evaluation, days: int = 7) -> dict[str, dict[str, list[Any]]]:
    cases, plan, h = evaluation.cases, evaluation.plan, HORIZONS.index(days)
    week = (cases.day - plan.test) // 7
    found: dict[str, dict[str, list[Any]]] = {}
    names = [plan.date(plan.test + 7 * int(w)).isoformat() for w in np.unique(week)]
    for method, forecasts in evaluation.tables[0].forecasts.items():
        terms = quantile_loss(cases, forecasts, h)
        top, bottom = np.bincount(week, terms.top), np.bincount(week, terms.bottom)
        found[method] = {"week": names, "loss": (top / np.maximum(bottom, 1)).tolist()}
    return found


def write_report(report: EvaluationReport, evaluation: Evaluation, folder: Path) -> None:
    """evaluation.json, evaluation.html and predictions.parquet."""
    from deploy.evaluation_page import render_page

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.as_json(), indent=1, allow_nan=False)
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    (folder / "evaluation.html").write_text(render_page(report), encoding="utf-8")
    write_predictions(evaluation, folder / "predictions.parquet")


def write_predictions(evaluation: Evaluation, path: Path) -> int:
    """A row per method, window and horizon: the columns of `backtest`, the method, q95, and the distribution function
    below and up to what was sold, for the PIT. Returns the number of rows."""
    panel, cases, rows = evaluation.panel, evaluation.cases, evaluation.rows
    names = [split_product(name) for name in panel.names[cases.product].tolist()]
    plan = evaluation.plan
    ends = pd.to_datetime([plan.instant(int(d)) for d in cases.day], unit="ms", utc=True)
    total, writer = 0, None
    for method, forecasts in evaluation.forecasts.items():
        known = np.flatnonzero(forecasts.known)
        if not len(known):
            continue
        parts = []
        for h, days in enumerate(HORIZONS):
            mean, base = forecasts.mean[known, h], cases.baseline[known, h]
            parts.append(
                pd.DataFrame(
                    {
                        "platform": [names[i][0] for i in known],
                        "product_id": [names[i][1] for i in known],
                        "window_end": ends[known],
                        "horizon_days": days,
                        "expected": mean,
                        "q10": forecasts.quantiles[known, h, LOW],
                        "q50": forecasts.quantiles[known, h, MEDIAN],
                        "q90": forecasts.quantiles[known, h, HIGH],
                        "baseline": base,
                        "trend": np.log2((mean + 0.5) / (base + 0.5)),
                        "surging_probability": forecasts.surging[known, h],
                        "head_version": forecasts.version[known],
                        "actual": cases.total[known, h],
                        "method": method,
                        "q95": forecasts.quantiles[known, h, -1],
                        "surge_from": cases.surge[known, h],
                        "cdf_below_actual": forecasts.below[known, h],
                        "cdf_actual": forecasts.upto[known, h],
                        "age_days": panel.age[rows[known]],
                    }
                )
            )
        table = pa.Table.from_pandas(pd.concat(parts, ignore_index=True), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table.cast(writer.schema))
        total += table.num_rows
    if writer:
        writer.close()
    return total


def print_tables(report: EvaluationReport, console: Console) -> None:
    """One table a horizon and set of rows: the figures, and who leads the best other method by how much."""
    for part in report.data.get("simulated", ()):
        console.print(f"simulated: {part}", highlight=False)
    for table in report.tables:
        overall = table.segments.get(OVERALL)
        if overall is None:
            continue
        console.print(
            f"\n[bold]{table.name}[/]: {table.windows:,} windows of {table.products:,} products, {table.about}"
        )
        for days, metrics in overall.figures.items():
            _print_horizon(console, days, metrics, table.methods)
    everything = report.tables[0]
    coverage = Table(title="Coverage by sales class, 7 days (0.77 to 0.83 is the goal)", title_justify="left")
    coverage.add_column("method")
    for name, segment in everything.segments.items():
        coverage.add_column(f"{name} ({segment.rows:,})", justify="right")
    for method in everything.methods:
        figures = [segment.figures[7]["coverage"].get(method) for segment in everything.segments.values()]
        coverage.add_row(method, *(show(f) for f in figures))
    console.print(coverage)
    if report.checked:
        console.print(
            f"leaks looked for at {', '.join(report.checked)}: {len(report.leaks) or 'none'}", highlight=False
        )
    for leak in report.leaks:
        console.print(f"[bold red]leak:[/] {leak}", highlight=False)


def _print_horizon(
    console: Console, days: int, metrics: Mapping[str, Mapping[str, Figure]], methods: Sequence[str]
) -> None:
    table = Table(title=f"{days} day{'s' if days > 1 else ''}", title_justify="left", header_style="dim")
    table.add_column("method")
    for metric in metrics:
        table.add_column(NAMES[metric], justify="right")
    table.add_column("quantile loss against the best other", justify="right")
    for method in sorted(methods, key=lambda m: metrics["quantile_loss"][m].value):
        loss = metrics["quantile_loss"][method]
        table.add_row(method, *(show(of_method.get(method)) for of_method in metrics.values()), show_lead(loss))
    console.print(table)


def show(figure: Figure | None) -> str:
    return "–" if figure is None or not math.isfinite(figure.value) else f"{figure.value:.3f}"


def show_lead(figure: Figure, percent: bool = True) -> str:
    """`+1.2 % (0.4 to 2.0) on lightgbm`"""
    if figure.lead is None or figure.lead_low is None or figure.lead_high is None:
        return "–"
    if percent:
        low, high = f"{figure.lead_low:.1%}", f"{figure.lead_high:.1%}"
        return f"{figure.lead:+.1%} ({low} to {high}) on {figure.other}"
    return f"{figure.lead:+.3f} ({figure.lead_low:.3f} to {figure.lead_high:.3f}) on {figure.other}"
