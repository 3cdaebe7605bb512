"""`report.html`: one page with its charts and their code inside, which opens from a file with no network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from deploy.page import INK, Charts, escape, facts, render, section, table, words
from deploy.report import METHODS, BidRow, ErrorSeries, ProductSeries, ReorderRow, RunReport, TrendRow, format_error

COLOURS = {"trendstream": "#2456d6", "frozen": "#8a94ab", "moving_average": "#e08a00", "seasonal_naive": "#9d5bd2"}
_BAND = "rgba(36, 86, 214, 0.15)"
_PERCENTILES = ("p50", "p95", "p99")


def render_page(report: RunReport) -> str:
    """The whole page. Every number on it is one of the report's."""
    charts = Charts()
    body = [
        _contradictions(report),
        _cards(report),
        section(
            "What is moving now",
            f"Forecasts as of {escape(report.as_of)}. <b>Usual</b> is what the product would sell if nothing changed, "
            "<b>expected</b> is the forecast for the same days, <b>sure</b> is the probability of the class.",
            '<div class="two">'
            + _trends("Surging", "up", report.surging)
            + _trends("Falling", "down", report.falling)
            + "</div>",
        ),
        section(
            "What to do about it",
            "The reorder point covers the lead time at the chosen service level. A bid is multiplied where demand "
            "moves and the forecast is sure of it, and set to zero where stock will not last.",
            '<div class="two">' + _reorders(report.reorders) + _bids(report.bids) + "</div>",
            "stock levels are simulated" if report.simulated("stock") else "",
        ),
        section(
            "Sales and forecasts",
            "Dots are units sold a day. The line is what was forecast of that day one day ahead (median), and the band "
            "holds 80 % of what was thought likely: about eight dots of ten should lie in it.",
            '<div class="two">' + "".join(charts.add(_product(p), 260) for p in report.products) + "</div>",
            "sales are simulated by the authors of the data" if report.simulated("sales") else "",
        ),
        section(
            "How good the forecasts were",
            "WAPE: the sum of all misses over the sum of all sales, so lower is better, and 0.5 means off by half. All "
            "four methods forecast the same products on the same days. <b>Frozen</b> is the network as it was trained; "
            "<b>trendstream</b> corrects it from fresh sales; <b>moving average</b> repeats the mean of 28 days; "
            "<b>seasonal naive</b> repeats the last week.",
            _errors(report.error)
            + '<div class="two">'
            + (charts.add(_errors_by_horizon(report.error), 320) if report.error else "")
            + "".join(charts.add(_error_over_time(series), 320) for series in report.error_over_time)
            + "</div>"
            + facts("The heads", report.heads),
        ),
        section(
            "How fast it ran",
            f"Measured in this run, on {escape(report.broker)}. Order to score is the time from an order's arrival in "
            "its topic to the arrival of the score that knows of it.",
            '<div class="two">'
            + (charts.add(_rates(report.stage_rates), 320) if report.stage_rates else "")
            + (charts.add(_latencies(_all_latencies(report)), 320) if _all_latencies(report) else "")
            + "</div>"
            + _seconds(report.seconds),
        ),
        section("What went in", "", facts("", report.data)),
    ]
    name, simulated = str(report.data.get("name", "a run")), report.data.get("simulated", ())
    lead = (
        f"One run of the whole loop over <b>{escape(name)}</b>, on <b>{escape(report.broker)}</b>. Platform events "
        "came in as they would live; every product got a rolling window of its sales, reviews and pictures; a network "
        "turned windows into forecasts; and as fresh sales arrived, they corrected the network's heads. Every number "
        "below was counted in this run."
    )
    title = "trendstream: what is about to sell more, and less"
    return render(name, title, lead, simulated, body, charts, "report.json")


# --------------------------------------------------------------------------------------------------------------------
# Charts


def _product(series: ProductSeries) -> go.Figure:
    days = list(series.days)
    figure = go.Figure()
    figure.add_scatter(x=days, y=list(series.low), mode="lines", line={"width": 0}, hoverinfo="skip", showlegend=False)
    figure.add_scatter(
        x=days,
        y=list(series.high),
        mode="lines",
        line={"width": 0},
        fill="tonexty",
        fillcolor=_BAND,
        name="80 % band",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=days, y=list(series.median), mode="lines", name="forecast", line={"color": COLOURS["trendstream"], "width": 2}
    )
    figure.add_scatter(
        x=days, y=list(series.sold), mode="markers", name="sold", marker={"color": INK, "size": 4, "opacity": 0.75}
    )
    figure.update_layout(title={"text": _short(series.title)})
    figure.update_yaxes(rangemode="tozero", title={"text": "units a day"})
    return figure


def _errors_by_horizon(error: Mapping[str, Mapping[str, float]]) -> go.Figure:
    figure = go.Figure()
    labels = [f"{days} day{'s' if days != '1' else ''}" for days in error]
    for method, name in METHODS.items():
        values = [errors.get(method) for errors in error.values()]
        texts = [format_error(v) for v in values]
        figure.add_bar(
            x=labels,
            y=values,
            name=name,
            marker={"color": COLOURS[method]},
            text=texts,
            textposition="outside",
            textfont={"size": 10},
            cliponaxis=False,
        )
    figure.update_layout(title={"text": "WAPE by horizon"}, barmode="group", bargap=0.25)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _error_over_time(series: ErrorSeries) -> go.Figure:
    figure = go.Figure()
    for method, values, dash in (("frozen", series.frozen, "dot"), ("trendstream", series.trendstream, "solid")):
        name = "frozen" if method == "frozen" else "updated"
        line = {"color": COLOURS[method], "width": 2, "dash": dash}
        figure.add_scatter(x=list(series.days), y=list(values), mode="lines", name=name, line=line)
    ahead = f"{series.horizon_days} day{'s' if series.horizon_days != 1 else ''} ahead"
    figure.update_layout(title={"text": f"WAPE over time, {ahead}"})
    return figure


def _rates(rates: Mapping[str, float]) -> go.Figure:
    stages, values = list(rates)[::-1], list(rates.values())[::-1]
    figure = go.Figure()
    figure.add_bar(
        y=stages,
        x=values,
        orientation="h",
        marker={"color": COLOURS["trendstream"]},
        cliponaxis=False,
        text=[f"{v:,.0f}" for v in values],
        textposition="outside",
    )
    figure.update_layout(title={"text": "Events a second, by stage"})
    figure.update_xaxes(range=[0, max([*values, 1.0]) * 1.18])
    return figure


def _latencies(latencies: Mapping[str, Mapping[str, float]]) -> go.Figure:
    stages = list(latencies)[::-1]
    figure = go.Figure()
    for percentile, colour in zip(_PERCENTILES, ("#2456d6", "#e08a00", "#c8323c"), strict=True):
        values = [latencies[s].get(percentile) for s in stages]
        figure.add_scatter(
            x=values,
            y=stages,
            mode="markers",
            name=percentile,
            marker={"color": colour, "size": 11},
            hovertemplate="%{y}: %{x:,.0f} ms",
        )
    figure.update_layout(title={"text": "Latency by stage, ms"})
    figure.update_xaxes(type="log", dtick=1)
    return figure


# --------------------------------------------------------------------------------------------------------------------
# Text and tables


def _contradictions(report: RunReport) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in report.contradictions())
    return f'<div class="alarm"><b>These counts do not add up:</b><ul>{lines}</ul></div>' if lines else ""


def _cards(report: RunReport) -> str:
    e, w = report.events, report.windows
    order = report.latency_ms.get("order_to_score", {})
    cards = [
        (f"{e.get('produced', 0):,}", "events produced", _parts(e, ("accepted", "repeated", "dead"))),
        (f"{w.get('close', 0) + w.get('live', 0):,}", "windows", _parts(w, ("close", "live"))),
        (f"{report.scores:,}", "scores", "a forecast of three horizons each"),
        (f"{report.heads.get('versions', 0):,}", "head versions", "learnt from fresh sales"),
        (f"{report.outcomes:,}", "outcomes", "forecasts that met their sales"),
    ]
    if "p50" in order:
        tail = ", ".join(f"{p} {_milliseconds(order[p])}" for p in ("p95", "p99") if p in order)
        cards.append((_milliseconds(order["p50"]), "order to score, median", tail))
    items = (
        f'<div class="card number"><b>{v}</b><span>{name}</span><small>{more}</small></div>' for v, name, more in cards
    )
    return f'<div class="numbers">{"".join(items)}</div>'


def _trends(name: str, kind: str, rows: Sequence[TrendRow]) -> str:
    body = [
        (
            escape(r.title),
            f"{r.baseline:,.1f}",
            f"<b>{r.expected:,.1f}</b><br><small>in {r.horizon_days} days</small>",
            f"{r.probability:.0%}",
            escape(r.reason),
        )
        for r in rows
    ]
    title = f'<span class="{kind}">{"▲" if kind == "up" else "▼"}</span> {name}'
    return table(title, ("product", "usual", "expected", "sure", "why"), body)


def _reorders(rows: Sequence[ReorderRow]) -> str:
    body = [
        (
            escape(r.title),
            f"{r.on_hand:,.0f} <small>+ {r.on_order:,.0f}</small>",
            f"{r.reorder_point:,.0f}",
            f"<b>{r.suggested:,.0f}</b>",
            escape(r.reason),
        )
        for r in rows
    ]
    return table("Reorder", ("product", "stock + coming", "reorder at", "order", "why"), body)


def _bids(rows: Sequence[BidRow]) -> str:
    body = [(escape(r.title), f"<b>× {r.multiplier:.2f}</b>", escape(r.reason)) for r in rows]
    return table("Bids", ("product", "bid", "why"), body)


def _errors(error: Mapping[str, Mapping[str, float]]) -> str:
    body = []
    for days, errors in error.items():
        known = [v for v in errors.values() if v == v]
        cells = []
        for method in METHODS:
            value = errors.get(method)
            text = format_error(value)
            cells.append(f'<b class="best">{text}</b>' if known and value == min(known) else text)
        body.append((f"{escape(days)} day{'s' if days != '1' else ''}", *cells))
    return table("WAPE of the median, the best of each row in bold", ("horizon", *METHODS.values()), body)


def _seconds(seconds: Mapping[str, float]) -> str:
    return table(
        "Where the time went", tuple(words(s) for s in seconds), [tuple(f"{v:,.1f} s" for v in seconds.values())]
    )


def _all_latencies(report: RunReport) -> dict[str, Mapping[str, float]]:
    whole = {words(k): v for k, v in report.latency_ms.items()}
    return {**(report.stage_latency_ms or {}), **whole}


def _parts(counts: Mapping[str, int], names: Sequence[str]) -> str:
    return " · ".join(f"{counts.get(n, 0):,} {n}" for n in names)


def _milliseconds(value: float) -> str:
    return f"{value / 1000:,.2f} s" if value >= 1000 else f"{value:,.0f} ms"


def _short(text: str) -> str:
    return html.escape(text if len(text) <= 48 else text[:47] + "…")
