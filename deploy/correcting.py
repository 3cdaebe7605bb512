"""Publishes the corrections of a replay, and tells what it moves: a table, JSON, Parquet, a page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from deploy.diagnosis import long
from deploy.rendering import iso
from streams import kafka
from streams.records.outside import Facts
from streams.replay.corrections import Correction
from streams.replay.cut import NEVER
from streams.replay.diff import Diff
from streams.replay.plan import Plan

_TRANSACTIONAL_ID = "trendstream.replay.apply"  # a second one fences the first
_BATCH = 500
_ANSWER_S = 30.0


def publish(bootstrap: str, corrections: Iterable[Correction], told: Callable[[int], None] = lambda n: None) -> Facts:
    """Send them, some hundred in a transaction; how many went to each topic."""
    sent: Counter[str] = Counter()
    producer = kafka.producer(bootstrap, _TRANSACTIONAL_ID)
    producer.init_transactions(_ANSWER_S)
    for batch in _batches(corrections):
        producer.begin_transaction()
        for correction in batch:
            output = correction.output
            kafka.send(producer, output.topic, output.partition, output.value, output.key)
        producer.commit_transaction(_ANSWER_S)
        sent.update(c.output.topic for c in batch)
        told(sent.total())
    return dict(sent)


def _batches(corrections: Iterable[Correction]) -> Iterator[list[Correction]]:
    batch: list[Correction] = []
    for correction in corrections:
        batch.append(correction)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def described(plan: Plan) -> Facts:
    """A plan for a person, and for the audit record."""
    forks = [
        f"{f.stage} {f.topic}/{f.partition}: "
        + (f"snapshot at {f.snapshot}" if f.snapshot >= 0 else f"from {f.start}")
        + f", range {f.begin} to {f.end}"
        for f in plan.forks
    ]
    where = {"parquet": "Parquet files", "topics": f"topics replay.{plan.replay}.…"}[plan.into]
    ms = 1000 * plan.seconds
    return {
        "replay": plan.replay,
        "changed": plan.change.described(),
        "windows that end": f"{iso(plan.start)} to {'the newest' if plan.to == NEVER else iso(plan.to - 1)}",
        "stages": ", ".join(plan.stages),
        "products": list(plan.products) or ["all"],
        "forks": forks,
        "reads": f"{plan.records:,} records, about {plan.rows:,} rows, {plan.read_bytes / 1e6:,.1f} MB from the broker",
        "time": f"about {long(ms)} of one core at 100 %, {long(4 * ms)} at 25 %",
        "writes": [f"{t} as {where}" for t in plan.writes()] or ["nothing: what was published is compared"],
        "disk": f"about {plan.written_bytes / 1e6:,.1f} MB",
    }


def tables(diff: Diff, limit: int) -> list[Table]:
    """By horizon, and the products that moved most."""
    horizons = Table("days", "windows", "moved", "expected before", "after", "largest", "classes that changed")
    for h in diff.horizons:
        classes = ", ".join(f"{name} {count:,}" for name, count in sorted(h.classes.items()))
        numbers = (f"{h.moved:,}", f"{h.expected_before:,.1f}", f"{h.expected_after:,.1f}", f"{h.largest:,.2f}")
        horizons.add_row(str(h.days), f"{diff.compared:,}", *numbers, classes or "-")
    products = Table("product", "windows", "expected 7 d", "classes", "order", "bid", "why")
    for p in diff.products[:limit]:
        why = ", ".join(p.causes)
        order, bid = _moved(p.reorder_before, p.reorder_after), _moved(p.bid_before, p.bid_after)
        products.add_row(
            p.product, f"{p.windows:,}", f"{p.expected.get('7', 0.0):+,.2f}", f"{p.classes:,}", order, bid, why
        )
    return [horizons, products]


def summary(diff: Diff) -> Facts:
    units = f"{diff.ordered_before:,} units suggested before, {diff.ordered_after:,} after"
    return {
        "replay": diff.replay,
        "changed": diff.change,
        "windows": f"{diff.changed:,} of {diff.compared:,} would say something else, {diff.new:,} were never published",
        "why": [f"{count:,} windows: {cause}" for cause, count in diff.causes.items()],
        "products": len(diff.products),
        "reorders": f"{diff.reorders:,} change; {units}",
        "bids": f"{diff.bids:,} change",
    }


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """A Parquet file with a row for each window that changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, compression="zstd")


def write_page(diff: Diff, path: Path) -> None:
    """The same as the tables, as a page without scripts."""
    parts = ["<!doctype html><meta charset=utf-8><title>replay ", html.escape(diff.replay), "</title>"]
    parts.append("<style>body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}</style>")
    parts.append(f"<h1>Replay {html.escape(diff.replay)}</h1><table>")
    for name, value in summary(diff).items():
        text = "<br>".join(html.escape(line) for line in (value if isinstance(value, list) else [str(value)]))
        parts.append(f"<tr><th>{html.escape(name)}<td>{text}")
    parts.append("</table>")
    for table in tables(diff, limit=500):
        head = "".join(f"<th>{html.escape(str(c.header))}" for c in table.columns)
        parts.append(f"<table><tr>{head}")
        for row in zip(*(c.cells for c in table.columns), strict=True):
            parts.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in row))
        parts.append("</table>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts), encoding="utf-8")


def _moved(before: float | None, after: float | None) -> str:
    if after is None:
        return "-"
    return f"{'-' if before is None else f'{before:g}'} > {after:g}" if before != after else f"{after:g}"
