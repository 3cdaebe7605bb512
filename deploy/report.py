"""What a run of the whole loop showed: `report.json` for programs, `report.html` and tables for people.

Every number is handed in by whoever counted it; nothing here measures, estimates or fills a gap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

METHODS = {
    "trendstream": "trendstream",
    "frozen": "frozen network",
    "moving_average": "moving average",
    "seasonal_naive": "seasonal naive",
}
_COUNTS = ("produced", "accepted", "repeated", "dead")


@dataclass(frozen=True)
class ProductSeries:
    """Daily sales of a product beside the forecast that was made of each day one day ahead; None: not known."""

    product_id: str
    title: str
    days: Sequence[str]  # ISO dates
    sold: Sequence[float | None]
    median: Sequence[float | None]
    low: Sequence[float | None]  # 10 % quantile
    high: Sequence[float | None]  # 90 % quantile


@dataclass(frozen=True)
class ErrorSeries:
    """WAPE of the median over time, for one horizon."""

    horizon_days: int
    days: Sequence[str]  # ISO dates at which outcomes matured
    trendstream: Sequence[float | None]
    frozen: Sequence[float | None]


@dataclass(frozen=True)
class TrendRow:
    product_id: str
    title: str
    trend_class: str
    horizon_days: int
    baseline: float  # units over the horizon if nothing changed
    expected: float
    probability: float  # of the class
    reason: str


@dataclass(frozen=True)
class ReorderRow:
    product_id: str
    title: str
    on_hand: float
    on_order: float
    lead_time_days: float
    reorder_point: float
    suggested: float
    reason: str


@dataclass(frozen=True)
class BidRow:
    product_id: str
    title: str
    multiplier: float
    reason: str


@dataclass(frozen=True)
class RunReport:
    """The first ten fields are the keys of `report.json`."""

    broker: str  # "kafka 4.1.0", "in-process"
    data: Mapping[str, Any]  # a source's description, and what the run made of it
    events: Mapping[str, int]  # produced, accepted, repeated, dead
    windows: Mapping[str, int]  # close, live
    scores: int
    heads: Mapping[str, Any]  # versions and what became of them
    outcomes: int
    error: Mapping[str, Mapping[str, float]]  # horizon in days -> method -> WAPE of the median
    latency_ms: Mapping[str, Mapping[str, float]]  # order_to_score -> p50, p95, p99
    seconds: Mapping[str, float]  # by part of the run
    as_of: str = ""  # event time that the tables hold for
    products: Sequence[ProductSeries] = ()
    error_over_time: Sequence[ErrorSeries] = ()
    stage_rates: Mapping[str, float] | None = None  # stage -> events per second
    stage_latency_ms: Mapping[str, Mapping[str, float]] | None = None  # stage -> p50, p95, p99
    surging: Sequence[TrendRow] = ()
    falling: Sequence[TrendRow] = ()
    reorders: Sequence[ReorderRow] = ()
    bids: Sequence[BidRow] = ()

    def as_json(self) -> dict[str, Any]:
        """What `report.json` holds. A number that is not finite becomes null."""
        keys = ("broker", "data", "events", "windows", "scores", "heads", "outcomes", "error", "latency_ms", "seconds")
        return {key: plain(getattr(self, key)) for key in keys}

    def contradictions(self) -> list[str]:
        """Where the counts do not add up; a run that is right has none."""
        produced, *parts = (self.events.get(name, 0) for name in _COUNTS)
        if produced != sum(parts):
            accepted, repeated, dead = parts
            return [
                f"{produced:,} events were produced, but {accepted:,} accepted + {repeated:,} repeated + {dead:,} dead "
                f"are {sum(parts):,}"
            ]
        return []

    def simulated(self, what: str) -> bool:
        """Whether the data call a part of themselves simulated."""
        return any(what in str(part) for part in self.data.get("simulated", ()))


def write_report(report: RunReport, folder: Path) -> list[Path]:
    """Write `report.json` and `report.html`; the page needs no network."""
    from deploy.report_page import render_page  # brings plotly, which the tables do not need

    folder.mkdir(parents=True, exist_ok=True)
    numbers, page = folder / "report.json", folder / "report.html"
    numbers.write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    page.write_text(render_page(report), encoding="utf-8")
    return [page, numbers]


def print_tables(report: RunReport, console: Console) -> None:
    """What is surging and falling now and why, what to reorder, which bids change, and how good the forecast was."""
    suffix = f", {report.as_of}" if report.as_of else ""
    for name, rows, colour in (("Surging", report.surging, "green"), ("Falling", report.falling, "red")):
        table = _table(f"{name} now{suffix}", "product", "usual", "expected", "sure", "why", colour=colour)
        for row in rows:
            expected = f"{row.expected:.1f} in {row.horizon_days} d"
            table.add_row(row.title, f"{row.baseline:.1f}", expected, f"{row.probability:.0%}", row.reason)
        _print(console, table)
    mark = " (stock is simulated)" if report.simulated("stock") else ""
    table = _table(f"To reorder{mark}", "product", "in stock", "on order", "reorder at", "order", "why")
    for order in report.reorders:
        cells = (
            f"{order.on_hand:.0f}",
            f"{order.on_order:.0f}",
            f"{order.reorder_point:.0f}",
            f"{order.suggested:.0f}",
        )
        table.add_row(order.title, *cells, order.reason)
    _print(console, table)
    table = _table(f"Bids that change{mark}", "product", "bid", "why")
    for bid in report.bids:
        table.add_row(bid.title, f"× {bid.multiplier:.2f}", bid.reason)
    _print(console, table)
    table = _table("Error (WAPE of the median, lower is better)", "days ahead", *METHODS.values())
    for days, errors in report.error.items():
        table.add_row(days, *(format_error(errors.get(method)) for method in METHODS))
    _print(console, table)
    for line in report.contradictions():
        console.print(f"[bold red]these counts do not add up:[/] {line}", highlight=False)


def format_error(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _table(title: str, *columns: str, colour: str = "cyan") -> Table:
    table = Table(title=title, title_justify="left", title_style=f"bold {colour}", header_style="dim")
    for column in columns:
        words = column in ("product", "why")
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    return table


def _print(console: Console, table: Table) -> None:
    if table.row_count:
        console.print(table)
    else:
        console.print(f"{table.title}: none", highlight=False)


def plain(value: Any) -> Any:
    """What JSON can say: numbers of numpy as numbers, and what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item"):  # a numpy number
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
