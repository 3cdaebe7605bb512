"""A page with its charts and their code inside, which opens from a file with no network: what every report shares."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

INK, QUIET, GRID = "#172033", "#5b6782", "#e6eaf2"


def render(
    name: str, title: str, lead: str, simulated: Iterable[Any], body: Iterable[str], charts: Charts, json: str
) -> str:
    """The whole page; `lead` is HTML, `name` and `title` are text, `json` names the file with the same figures."""
    return _PAGE.substitute(
        name=escape(name),
        title=escape(title),
        lead=lead,
        simulated=_simulated(simulated),
        style=_STYLE,
        plotly=get_plotlyjs(),
        body="\n".join(part for part in body if part),
        charts="\n".join(charts.scripts),
        json=json,
    )


class Charts:
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


def section(title: str, about: str, body: str, tag: str = "") -> str:
    mark = f' <span class="tag">{tag}</span>' if tag else ""
    lead = f'<p class="about">{about}</p>' if about else ""
    return f"<section><h2>{title}{mark}</h2>{lead}{body}</section>"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kinds = [' class="words"' if column == "why" else "" for column in columns]
    head = "".join(f"<th{kind}>{escape(c)}</th>" for kind, c in zip(kinds, columns, strict=True))
    lines = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    empty = "" if rows else f'<tr><td colspan="{len(columns)}" class="none">none</td></tr>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}{empty}</tbody></table>"
    return f'<div class="card"><h3>{title}</h3>{table}</div>'


def facts(title: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(words(k))}</th><td>{_value(v)}</td></tr>" for k, v in facts.items())
    head = f"<h3>{title}</h3>" if title else ""
    return f'<div class="card">{head}<table class="facts">{rows}</table></div>'


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(words(k))} <b>{_value(v)}</b>" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return "<br>".join(_value(v) for v in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return escape(str(value))


def _simulated(parts: Iterable[Any]) -> str:
    named = ", ".join(escape(str(p)) for p in parts)
    return (
        f'<p class="simulated"><b>Simulated data:</b> {named}. No claim about real buyers follows from this page.</p>'
        if named
        else ""
    )


def words(name: object) -> str:
    return str(name).replace("_", " ")


def escape(text: str) -> str:
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
<h1>$title</h1>
<p>$lead</p>
$simulated
</div></header>
<main>
$body
<footer>The page holds all that it shows and needs no network. The same figures lie beside it in $json.</footer>
</main>
<script>$charts</script>
</body>
</html>
""")
