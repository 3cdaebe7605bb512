"""Labelled texts and pictures of a user, to compare encoders on and to fine-tune them with.

A sample is a file of JSON lines as the platform topics take them (`reviews.ndjson`, `images.ndjson`), whose labels are
a field of each line, or what the category sold in the week after it. Or it is a folder of folders of pictures, each
named by its label.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from deploy.errors import SourceError
from deploy.sources.files import read_instant
from streams.calendars import DAY

Kind = Literal["text", "image"]
LABELS: dict[Kind, str] = {"text": "rating", "image": "category"}  # what is read where nobody says what
TRENDS = ("trend", "trend-class", "trend-week")  # labels that are made of the orders beside the sample
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
WEEK = 7
STEADY = 0.32  # log2: a factor of 1.25


@dataclass(frozen=True, eq=False)
class Sample:
    items: list[str]  # texts, or paths of pictures
    labels: list[object]  # a text, a number, or a list of numbers each
    products: list[str]
    at: npt.NDArray[np.int64]  # [items] UTC ms, 0 where nothing says when

    def __len__(self) -> int:
        return len(self.items)

    def first(self, count: int) -> Sample:
        """So many of its items, evenly over the sample."""
        rows = np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64).tolist()
        items, labels, products = ([column[i] for i in rows] for column in (self.items, self.labels, self.products))
        return Sample(items, labels, products, self.at[rows])

    @property
    def dated(self) -> bool:
        return bool((self.at > 0).all())


def read_sample(kind: Kind, path: Path, label: str) -> Sample:
    """Raises SourceError if there is nothing to read, or no label of that name."""
    if path.is_dir():
        return _folders(kind, path)
    trends = _trends(path.parent) if label in TRENDS else None
    items: list[tuple[str, object, str, int]] = []
    for number, line in enumerate(_lines(path)):
        at = next((t for name in ("at", "written_at", "captured_at") if (t := read_instant(line.get(name)))), 0)
        product = str(line.get("product_id") or f"line {number}")
        found = line.get(label) if trends is None else trends.label(product, at, label)
        if isinstance(found, list) and found and isinstance(found[0], str):
            found = found[0]  # a category's path: the widest
        item = " ".join(str(line[n]) for n in ("title", "text") if line.get(n)) if kind == "text" else line.get("uri")
        if found is not None and item:
            items.append((item if kind == "text" else str(path.parent / str(item)), found, product, at))
    if not items:
        raise SourceError(f"no {kind} with a {label!r} in {path}: name another --label, or another file")
    texts, labels, products, times = (list(column) for column in zip(*items, strict=True))
    return Sample(texts, labels, products, np.array(times, np.int64))


def _folders(kind: Kind, path: Path) -> Sample:
    found = [(str(p), p.parent.name) for p in sorted(path.glob("*/*")) if p.suffix.lower() in PICTURES]
    if kind == "text" or not found:
        raise SourceError(f"{path} is no sample: name a file of JSON lines, or a folder of folders of pictures")
    items, labels = zip(*found, strict=True)
    return Sample(list(items), list(labels), list(items), np.zeros(len(items), np.int64))


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as JSON lines: {error}") from error


@dataclass(frozen=True, eq=False)
class _Trends:
    """Units of each category and day."""

    category: dict[str, str]
    units: dict[str, npt.NDArray[np.int64]]  # [days]
    first: int  # day of the first column

    def label(self, product: str, at: int, kind: str) -> object:
        """What the category sold in the week that begins on the day after `at`, against the week before it."""
        units = self.units.get(self.category.get(product, ""))
        day = at // DAY + 1 - self.first
        if units is None or day < WEEK or day + WEEK > len(units):
            return None
        before, after = float(units[day - WEEK : day].sum()), units[day : day + WEEK]
        trend = float(np.log2((after.sum() + 0.5) / (before + 0.5)))
        if kind == "trend":
            return trend
        if kind == "trend-class":
            return "rising" if trend > STEADY else "falling" if trend < -STEADY else "steady"
        return [float(v) for v in np.log2((after + 0.5) / (before / WEEK + 0.5))]


def _trends(folder: Path) -> _Trends:
    category = {str(line["product_id"]): str(line["category"][0]) for line in _lines(folder / "products.ndjson")}
    sold: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for order in _lines(folder / "orders.ndjson"):
        day = (read_instant(order.get("ordered_at")) or 0) // DAY
        for line in order.get("lines", []) if order.get("status") == "placed" else []:
            sold[category.get(str(line["product_id"]), "")][day] += int(line["quantity"])
    days = [day for of_category in sold.values() for day in of_category]
    if not days:
        raise SourceError(f"{folder / 'orders.ndjson'} holds no order: a trend needs what was sold")
    first, last = min(days), max(days)
    units = {c: np.array([d.get(day, 0) for day in range(first, last + 1)], np.int64) for c, d in sold.items()}
    return _Trends(category, units, first)
