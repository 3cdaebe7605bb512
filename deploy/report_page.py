"""`report.html`: one page with its charts and their code inside, which opens from a file with no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from deploy.report import METHODS, BidRow, ErrorSeries, ProductSeries, ReorderRow, RunReport, TrendRow, format_error

INK, QUIET, GRID = "#172033", "#5b6782", "#e6eaf2"
COLOURS = {"trendstream": "#2456d6", "frozen": "#8a94ab", "moving_average": "#e08a00", "seasonal_naive": "#9d5bd2"}
_BAND = "rgba(36, 86, 214, 0.15)"
_PERCENTILES = ("p50", "p95", "p99")


def render_page(report: RunReport) -> str:
    """The whole page. Every number on it is one of the report's."""
    charts = _Charts()
    body = [
        _contradictions(report),
        _cards(report),
        _section(
            "What is moving now",
            f"Forecasts as of {_escape(report.as_of)}. <b>Usual</b> is what the product would sell if nothing changed, "
            "<b>expected</b> is the forecast for the same days, <b>sure</b> is the probability of the class.",
            '<div class="two">'
            + _trends("Surging", "up", report.surging)
            + _trends("Falling", "down", report.falling)
            + "</div>",
        ),
        _section(
            "What to do about it",
            "The reorder point covers the lead time at the chosen service level. A bid is multiplied where demand "
            "moves and the forecast is sure of it, and set to zero where stock will not last.",
            '<div class="two">' + _reorders(report.reorders) + _bids(report.bids) + "</div>",
            "stock levels are simulated" if report.simulated("stock") else "",
        ),
        _section(
            "Sales and forecasts",
            "Dots are units sold a day. The line is what was forecast of that day one day ahead (median), and the band "
            "holds 80 % of what was thought likely: about eight dots of ten should lie in it.",
            '<div class="two">' + "".join(charts.add(_product(p), 260) for p in report.products) + "</div>",
            "sales are simulated by the authors of the data" if report.simulated("sales") else "",
        ),
        _section(
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
            + _facts("The heads", report.heads),
        ),
        _section(
            "How fast it ran",
            f"Measured in this run, on {_escape(report.broker)}. Order to score is the time from an order's arrival in "
            "its topic to the arrival of the score that knows of it.",
            '<div class="two">'
            + (charts.add(_rates(report.stage_rates), 320) if report.stage_rates else "")
            + (charts.add(_latencies(_all_latencies(report)), 320) if _all_latencies(report) else "")
            + "</div>"
            + _seconds(report.seconds),
        ),
        _section("What went in", "", _facts("", report.data)),
    ]
    return _PAGE.substitute(
        name=_escape(str(report.data.get("name", "a run"))),
        broker=_escape(report.broker),
        simulated=_simulated(report.data.get("simulated", ())),
        style=_STYLE,
        plotly=get_plotlyjs(),
        body="\n".join(part for part in body if part),
        charts="\n".join(charts.scripts),
    )


class _Charts:
    """Gives each chart a place on the page and gathers the calls that draw them."""

    def __init__(self) -> None:
        self.scripts: list[str] = []

    def add(self, figure: go.Figure, height: int) -> str:
        name = f"chart-{len(self.scripts)}"
        figure.update_layout(
            height=height,
            margin={"l": 12, "r": 12, "t": 64, "b": 12},
            font={"family": "Inter, system-ui, sans-serif", "size": 12, "color": INK},
            title={"font": {"size": 14}, "x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top"},
            paper_bgcolor="white",
            plot_bgcolor="white",
            legend={"orientation": "h", "y": 1.02, "x": 1, "xanchor": "right", "yanchor": "bottom"},
            hovermode="closest",
        )
        figure.update_xaxes(gridcolor=GRID, zerolinecolor=GRID, automargin=True)
        figure.update_yaxes(gridcolor=GRID, zerolinecolor=GRID, automargin=True)
        # No title may end the script.
        data = figure.to_json(engine="json").replace("<", "\\u003c").replace(">", "\\u003e")
        self.scripts.append(
            f'(f => Plotly.newPlot("{name}", f.data, f.layout, {{responsive: true, displaylogo: false, '
            f"displayModeBar: false}}))({data});"
        )
        return f'<div class="card chart" id="{name}" style="height:{height}px"></div>'


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
    lines = "".join(f"<li>{_escape(line)}</li>" for line in report.contradictions())
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
            _escape(r.title),
            f"{r.baseline:,.1f}",
            f"<b>{r.expected:,.1f}</b><br><small>in {r.horizon_days} days</small>",
            f"{r.probability:.0%}",
            _escape(r.reason),
        )
        for r in rows
    ]
    title = f'<span class="{kind}">{"▲" if kind == "up" else "▼"}</span> {name}'
    return _table(title, ("product", "usual", "expected", "sure", "why"), body)


def _reorders(rows: Sequence[ReorderRow]) -> str:
    body = [
        (
            _escape(r.title),
            f"{r.on_hand:,.0f} <small>+ {r.on_order:,.0f}</small>",
            f"{r.reorder_point:,.0f}",
            f"<b>{r.suggested:,.0f}</b>",
            _escape(r.reason),
        )
        for r in rows
    ]
    return _table("Reorder", ("product", "stock + coming", "reorder at", "order", "why"), body)


def _bids(rows: Sequence[BidRow]) -> str:
    body = [(_escape(r.title), f"<b>× {r.multiplier:.2f}</b>", _escape(r.reason)) for r in rows]
    return _table("Bids", ("product", "bid", "why"), body)


def _errors(error: Mapping[str, Mapping[str, float]]) -> str:
    body = []
    for days, errors in error.items():
        known = [v for v in errors.values() if v == v]
        cells = []
        for method in METHODS:
            value = errors.get(method)
            text = format_error(value)
            cells.append(f'<b class="best">{text}</b>' if known and value == min(known) else text)
        body.append((f"{_escape(days)} day{'s' if days != '1' else ''}", *cells))
    return _table("WAPE of the median, the best of each row in bold", ("horizon", *METHODS.values()), body)


def _seconds(seconds: Mapping[str, float]) -> str:
    return _table(
        "Where the time went", tuple(_words(s) for s in seconds), [tuple(f"{v:,.1f} s" for v in seconds.values())]
    )


def _facts(title: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{_escape(_words(k))}</th><td>{_value(v)}</td></tr>" for k, v in facts.items())
    head = f"<h3>{title}</h3>" if title else ""
    return f'<div class="card">{head}<table class="facts">{rows}</table></div>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_escape(_words(k))} <b>{_value(v)}</b>" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "<br>".join(_value(v) for v in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return _escape(str(value))


def _simulated(parts: Iterable[Any]) -> str:
    named = ", ".join(_escape(str(p)) for p in parts)
    return (
        f'<p class="simulated"><b>Simulated data:</b> {named}. No claim about real buyers follows from this page.</p>'
        if named
        else ""
    )


def _section(title: str, about: str, body: str, tag: str = "") -> str:
    mark = f' <span class="tag">{tag}</span>' if tag else ""
    lead = f'<p class="about">{about}</p>' if about else ""
    return f"<section><h2>{title}{mark}</h2>{lead}{body}</section>"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kinds = [' class="words"' if column == "why" else "" for column in columns]
    head = "".join(f"<th{kind}>{_escape(c)}</th>" for kind, c in zip(kinds, columns, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    empty = "" if rows else f'<tr><td colspan="{len(columns)}" class="none">none</td></tr>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}{empty}</tbody></table>"
    return f'<div class="card"><h3>{title}</h3>{table}</div>'


def _all_latencies(report: RunReport) -> dict[str, Mapping[str, float]]:
    whole = {_words(k): v for k, v in report.latency_ms.items()}
    return {**(report.stage_latency_ms or {}), **whole}


def _parts(counts: Mapping[str, int], names: Sequence[str]) -> str:
    return " · ".join(f"{counts.get(n, 0):,} {n}" for n in names)


def _milliseconds(value: float) -> str:
    return f"{value / 1000:,.2f} s" if value >= 1000 else f"{value:,.0f} ms"


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _short(text: str) -> str:
    return html.escape(text if len(text) <= 48 else text[:47] + "…")


def _escape(text: str) -> str:
    return html.escape(text)


_STYLE = """
:root { --ink: #172033; --quiet: #5b6782; --line: #e6eaf2; --blue: #2456d6; --up: #12805c; --down: #c8323c; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6fb; color: var(--ink); font: 15px/1.5 Inter, system-ui, "Segoe UI", sans-serif; }
header { background: linear-gradient(120deg, #14224a, #2456d6); color: white; padding: 36px 0 30px; }
header > div, main { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
h1 { margin: 0; font-size: 30px; letter-spacing: -.02em; }
header p { margin: 8px 0 0; max-width: 78ch; color: #dbe4ff; }
header .simulated { display: inline-block; margin-top: 16px; padding: 7px 14px; border-radius: 8px; color: #4a3200;
  background: #ffdf94; }
section { margin: 40px 0; }
h2 { font-size: 21px; margin: 0 0 4px; letter-spacing: -.01em; }
h3 { font-size: 15px; margin: 0 0 10px; }
.about { margin: 0 0 16px; color: var(--quiet); max-width: 96ch; }
.about b { color: var(--ink); }
.tag { font-size: 12px; font-weight: 600; padding: 3px 9px; border-radius: 20px; background: #ffdf94; color: #4a3200;
  vertical-align: 3px; letter-spacing: 0; }
.card { background: white; border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px; margin-bottom: 16px;
  overflow-x: auto; }
.chart { padding: 4px; overflow: hidden; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.two > .card { margin: 0; min-width: 0; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px; margin-top: 24px; }
.number { display: flex; flex-direction: column; margin: 0; }
.number b { font-size: 25px; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.number span { font-weight: 600; }
.number small, td small { color: var(--quiet); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; font-size: 12.5px; color: var(--quiet); padding: 4px 8px; }
td { text-align: right; padding: 6px 8px; border-top: 1px solid var(--line); vertical-align: top; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
.words { text-align: left; padding-left: 16px; }
td.words { color: var(--quiet); font-size: 13.5px; line-height: 1.4; padding-top: 7px; }
td > b, td small { white-space: nowrap; }
.two + .card { margin-top: 16px; }
.facts th { text-align: left; white-space: nowrap; width: 1%; vertical-align: top; padding: 6px 24px 6px 0;
  border-top: 1px solid var(--line); }
.facts td { text-align: left; }
.facts tr:first-child > * { border-top: 0; }
.up { color: var(--up); } .down { color: var(--down); } .best { color: var(--blue); }
.none { color: var(--quiet); }
.alarm { margin-top: 24px; padding: 12px 18px; border-radius: 12px; background: #fde4e4; color: #7d1118; }
.alarm ul { margin: 4px 0 0; padding-left: 20px; }
footer { color: var(--quiet); font-size: 13px; padding: 0 0 40px; }
"""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>trendstream · $name</title>
<link rel="icon" href="data:,">
<style>$style</style>
<script>$plotly</script>
</head>
<body>
<header><div>
<h1>trendstream: what is about to sell more, and less</h1>
<p>One run of the whole loop over <b>$name</b>, on <b>$broker</b>. Platform events came in as they would live; every
product got a rolling window of its sales, reviews and pictures; a network turned windows into forecasts; and as fresh
sales arrived, they corrected the network's heads. Every number below was counted in this run.</p>
$simulated
</div></header>
<main>
$body
<footer>The page holds all that it shows and needs no network. The same figures lie beside it in report.json.</footer>
</main>
<script>$charts</script>
</body>
</html>
""")
