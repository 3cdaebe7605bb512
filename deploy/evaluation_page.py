"""`evaluation.html`: the figures of an evaluation with their intervals, as charts and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from deploy.evaluation_report import NAMES, READS, EvaluationReport, TableReport, show, show_lead
from deploy.page import Charts, escape, facts, render, section, table, words
from model.evaluate_tables import AUC, OVERALL, Figure, family

OURS, OTHERS = "#2456d6", "#e08a00"
SHOWN = (7, 28, 1)  # horizons, the most important first


def render_page(report: EvaluationReport) -> str:
    charts = Charts()
    name = str(report.data.get("name", "an evaluation"))
    reads = "".join(f"<li><b>{NAMES[m]}</b>: {escape(text)}</li>" for m, text in READS.items())
    body = [_leaks(report)]
    for part in report.tables:
        about = f"{part.windows:,} windows of {part.products:,} products: {part.about}."
        body.append(section(part.name.capitalize(), about, _table(part, charts)))
    weeks = "Weighted quantile loss, 7 days ahead, by the week of the window."
    classes = "Coverage of the randomised PIT: 0.8 is right, 0.77 to 0.83 the goal. Quantile loss below it."
    body += [
        section("Over time", weeks, charts.add(_over_time(report.weekly), 360)),
        section("By sales class", classes, _by_class(report.tables[0], charts)),
        section("What each figure reads", "", f'<div class="card"><ul>{reads}</ul></div>'),
        section("What went in", "", facts("", report.data) + facts("Days", report.plan)),
    ]
    lead = (
        f"Forecasts of <b>{escape(name)}</b> by every method on the same product-windows. Nothing is learnt from a "
        "window before its outcome has matured. Brackets are 95 % intervals of a bootstrap over products and blocks of "
        f"{report.plan['block_days']} days."
    )
    simulated = report.data.get("simulated", ())
    return render(name, "trendstream: is the forecast worth it?", lead, simulated, body, charts, "evaluation.json")


def _leaks(report: EvaluationReport) -> str:
    if not report.checked:
        return ""
    days = ", ".join(report.checked)
    if not report.leaks:
        text = f"Folded again without the events at or after {days}: events, windows and predictions were the same."
        return f'<div class="card">{text}</div>'
    lines = "".join(f"<li>{escape(leak)}</li>" for leak in report.leaks)
    return f'<div class="alarm"><b>The future leaks into the past ({days}):</b><ul>{lines}</ul></div>'


def _table(part: TableReport, charts: Charts) -> str:
    figures = part.segments[OVERALL].figures
    found = ['<div class="two">']
    for metric, higher in (("quantile_loss", False), (AUC, True)):
        if any(math.isfinite(figure.value) for figure in figures[7][metric].values()):
            bars = _bars(figures[7][metric], f"{NAMES[metric]}, 7 days", higher)
            found.append(charts.add(bars, 90 + 26 * len(part.methods)))
    found.append("</div>")
    for days in SHOWN:
        metrics = figures[days]
        rows = []
        for method in sorted(part.methods, key=lambda m: metrics["quantile_loss"][m].value):
            cells = [show(of.get(method)) for of in metrics.values()]
            leads = [_lead(metrics["quantile_loss"][method]), _lead(metrics["wape"][method])]
            leads.append(_lead(metrics[AUC][method], percent=False))
            name = escape(words(method))
            rows.append((f"<b>{name}</b>" if method in family(part.methods) else name, *cells, *leads))
        columns = ("method", *(NAMES[m] for m in metrics), "leads in quantile loss", "in WAPE", "in AUC")
        found.append(table(f"{days} day{'s' if days > 1 else ''} ahead", columns, rows))
    return "".join(found)


def _lead(figure: Figure, percent: bool = True) -> str:
    """In two lines: how far ahead of whom, and the interval."""
    lead, _, rest = show_lead(figure, percent).partition(" (")
    between, _, other = rest.partition(")")
    return f"{lead}{escape(words(other))}<br><small>{between}</small>"


def _bars(figures: Mapping[str, Figure], title: str, higher: bool) -> go.Figure:
    order = sorted(figures, key=lambda m: figures[m].value, reverse=not higher)
    ours = set(family(order))
    figure = go.Figure()
    figure.add_scatter(
        x=[figures[m].value for m in order],
        y=[words(m) for m in order],
        mode="markers",
        marker={"size": 9, "color": [OURS if m in ours else OTHERS for m in order]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [figures[m].high - figures[m].value for m in order],
            "arrayminus": [figures[m].value - figures[m].low for m in order],
        },
    )
    figure.update_layout(title={"text": title})
    return figure


def _over_time(weekly: Mapping[str, Mapping[str, Sequence[float]]]) -> go.Figure:
    figure = go.Figure()
    for method, series in weekly.items():
        figure.add_scatter(x=list(series["week"]), y=list(series["loss"]), mode="lines", name=words(method))
    figure.update_layout(title={"text": "Quantile loss, 7 days"})
    return figure


def _by_class(part: TableReport, charts: Charts) -> str:
    figure = go.Figure()
    names = list(part.segments)
    for method in part.methods:
        figure.add_scatter(
            x=names,
            y=[part.segments[n].figures[7]["coverage"][method].value for n in names],
            mode="markers",
            name=words(method),
            marker={"size": 10},
        )
    figure.add_hrect(y0=0.77, y1=0.83, opacity=0.15, line_width=0, fillcolor=OURS)
    figure.update_layout(title={"text": "Coverage, 7 days"})
    rows = [
        (escape(words(m)), *(show(part.segments[n].figures[7]["quantile_loss"][m]) for n in names))
        for m in part.methods
    ]
    columns = ("quantile loss, 7 days", *(f"{n} ({part.segments[n].rows:,})" for n in names))
    return charts.add(figure, 420) + table("By sales class", columns, rows)
