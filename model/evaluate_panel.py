"""The close windows of a run at evenly spaced boundaries, as arrays that every rival can learn from and forecast on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from model.errors import DatasetError
from model.evaluate import SURGE, Cases
from streams.calendars import Calendar
from streams.codecs import Rows, batches
from streams.records import AHEAD, CHANNELS, DAYS, DELAYS, HORIZONS, KNOWN, THRESHOLDS, VECTOR, WindowKind
from streams.records.inside import OUTCOMES, WINDOWS
from streams.stage import Message

Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
SPANS = (7, 28)  # days over which channels other than units are summed
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Panel:
    """Windows at every `spacing`-th boundary, in order of (day, product), and each product's days.

    Columns of `units_by_day` and `sold` are the days [first, first + days): the day that ends at boundary d has column
    d - 1 - first, a window that ends at boundary d has column d - first.
    """

    names: npt.NDArray[np.str_]  # [products] product keys, sorted
    first: int  # day index of column 0
    units_by_day: Floats32  # [products, days] as the close of the day knew it
    sold: npt.NDArray[np.int32]  # [products, days, delays] outcomes of the close window at a day, UNKNOWN, or censored
    product: Ints  # [n] code
    day: Ints  # [n] boundary, as a day index
    units: Floats32  # [n, DAYS]
    channels: Floats32  # [n, SPANS, CHANNELS] sums over the last days
    rate: Floats32  # [n]
    baseline: npt.NDArray[np.float64]  # [n, delays] B_b
    thresholds: Ints  # [n, horizons, 3]
    sales_class: Ints  # [n]
    weekday: Ints  # [n] of the first day of the horizon
    age: Ints  # [n] days since the product's first event
    price: Floats32  # [n] minor units, -1 unknown
    stock: Floats32  # [n] on hand, NaN unknown
    category: Ints  # [n] code in `categories`
    categories: npt.NDArray[np.str_]
    known: Floats32  # [n, KNOWN, 2 + delays] mean percent of the last week, the last month, each delay bucket ahead
    title: Floats32  # [n, VECTOR] zeros where missing
    image: Floats32  # [n, VECTOR] zeros where missing

    def __len__(self) -> int:
        return len(self.product)

    def outcomes(self, rows: Ints) -> Ints:
        """[rows, horizons] units over each horizon, UNKNOWN where a bucket has not matured or was censored."""
        found = self.sold[self.product[rows], self.day[rows] - self.first].astype(np.int64)
        total = np.cumsum(found, axis=1)
        whole = np.logical_and.accumulate(found >= 0, axis=1)
        return np.where(whole, total, UNKNOWN)

    def labelled(self, origin: int, h: int, since: int = 0) -> Ints:
        """Rows from day `since` whose outcome of horizon h had matured at the boundary `origin`."""
        known = self.day + HORIZONS[h] <= origin
        rows = np.flatnonzero(known & (self.day >= since))
        return rows[self.outcomes(rows)[:, h] >= 0]

    def cases(self, rows: Ints, before: int) -> Cases:
        """The rows as cases, with scales from the days before the boundary `before`."""
        absolute, squared = self._scales(before)
        product = self.product[rows]
        return Cases(
            product=product,
            day=self.day[rows],
            total=self.outcomes(rows),
            baseline=np.cumsum(self.baseline[rows], axis=1),
            surge=self.thresholds[rows][:, :, SURGE],
            sales_class=self.sales_class[rows],
            absolute=absolute[product],
            squared=squared[product],
        )

    def _scales(self, before: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """[products, horizons] mean absolute and squared change of the units from one horizon to the next, each product
        from its first sale on; NaN where there are fewer than two horizons of days."""
        days = self.units_by_day[:, : before - self.first].astype(np.float64)
        absolute = np.full((len(days), len(HORIZONS)), np.nan)
        squared = absolute.copy()
        born = np.where((days > 0).any(axis=1), (days > 0).argmax(axis=1), days.shape[1])
        total = np.concatenate([np.zeros((len(days), 1)), np.cumsum(days, axis=1)], axis=1)
        for h, span in enumerate(HORIZONS):
            if days.shape[1] < 2 * span:
                continue
            sums = total[:, span:] - total[:, :-span]  # [products, starts]
            change = sums[:, span:] - sums[:, :-span]
            known = np.arange(change.shape[1]) >= born[:, None]
            count = known.sum(axis=1)
            some = count > 0
            absolute[some, h] = (np.abs(change) * known).sum(axis=1)[some] / count[some]
            squared[some, h] = (change**2 * known).sum(axis=1)[some] / count[some]
        return absolute, squared

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {f.name: np.asarray(getattr(self, f.name)) for f in fields(self)}

    @staticmethod
    def of_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Panel:
        columns: dict[str, Any] = {**arrays, "first": int(arrays["first"])}
        return Panel(**columns)


@dataclass
class _Gathered:
    parts: list[dict[str, npt.NDArray[Any]]]
    days: list[tuple[npt.NDArray[np.object_], Ints, npt.NDArray[np.int32]]]  # product, boundary, units of its last day
    debuts: list[tuple[str, int, npt.NDArray[np.int32]]]  # product, boundary, units of its days so far
    outcomes: list[tuple[npt.NDArray[np.object_], Ints, npt.NDArray[np.int8], npt.NDArray[np.int32]]]


def collect(messages: Iterable[Message], calendar: Calendar, kept_days: Sequence[int]) -> Panel:
    """Gather the windows at the boundaries `kept_days` from all partitions of `trend.windows`.

    Raises DatasetError when there are none.
    """
    wanted, seen = np.asarray(sorted(kept_days), np.int64), set[str]()
    gathered = _Gathered([], [], [], [])
    for _, rows in batches(messages):
        if rows.record is WINDOWS:
            _take_windows(gathered, rows, calendar, wanted, seen)
        elif rows.record is OUTCOMES:
            units = np.where(rows["censored"] != 0, UNKNOWN, rows["units"]).astype(np.int32)
            gathered.outcomes.append((rows["product"], calendar.day(rows["end"]), rows["delay"], units))
    if not gathered.parts:
        raise DatasetError("no close window lies at the boundaries to judge: the data span too few days")
    return _assemble(gathered)


def _take_windows(gathered: _Gathered, rows: Rows, calendar: Calendar, wanted: Ints, seen: set[str]) -> None:
    close = rows["kind"] == WindowKind.CLOSE
    if not close.all():
        rows = Rows(rows.record, rows.batch.take(np.flatnonzero(close)))
    if not len(rows):
        return
    day, products = calendar.day(rows["end"]), rows["product"]
    grid = rows["day"].reshape(len(rows), len(CHANNELS), DAYS)
    units = grid[:, CHANNELS.index("units")]
    gathered.days.append((products, day, units[:, -1].astype(np.int32)))
    for i, name in enumerate(products.tolist()):
        if name not in seen:
            seen.add(name)
            gathered.debuts.append((name, int(day[i]), units[i].astype(np.int32)))
    keep = np.flatnonzero(np.isin(day, wanted))
    if not len(keep):
        return
    part = grid[keep]
    gathered.parts.append(
        {
            "product": products[keep],
            "day": day[keep],
            "units": part[:, CHANNELS.index("units")].astype(np.float32),
            "channels": np.stack([part[:, :, -span:].sum(axis=2) for span in SPANS], axis=1).astype(np.float32),
            "rate": rows["rate"][keep].astype(np.float32),
            "baseline": rows["baseline"][keep],
            "thresholds": rows["thresholds"][keep].reshape(len(keep), DELAYS, len(THRESHOLDS)),
            "sales_class": rows["sales_class"][keep].astype(np.int64),
            "weekday": rows["weekday"][keep].astype(np.int64),
            "age": rows["age_days"][keep].astype(np.int64),
            "price": rows["price"][keep].astype(np.float32),
            "stock": rows["on_hand"][keep].astype(np.float32),
            "category": rows["category"][keep],
            "known": _known(rows["known"][keep]),
            "title": np.nan_to_num(rows["title"][keep]).astype(np.float32).reshape(len(keep), VECTOR),
            "image": np.nan_to_num(rows["image"][keep]).astype(np.float32).reshape(len(keep), VECTOR),
        }
    )


def _known(values: npt.NDArray[np.int8]) -> Floats32:
    days = values.reshape(len(values), len(KNOWN), DAYS + AHEAD).astype(np.float32)
    spans = [(-7, 0), (-28, 0), *zip((0, *HORIZONS[:-1]), HORIZONS, strict=True)]
    return np.stack([days[:, :, DAYS + a : DAYS + b].mean(axis=2) for a, b in spans], axis=2)


def _assemble(gathered: _Gathered) -> Panel:
    columns = {name: np.concatenate([part[name] for part in gathered.parts]) for name in gathered.parts[0]}
    names = np.unique(np.array([name for name, _, _ in gathered.debuts], str))
    code = {name: i for i, name in enumerate(names.tolist())}

    def codes(products: Iterable[str]) -> Ints:
        return np.fromiter((code[p] for p in products), np.int64)

    first = min(int(day.min()) for _, day, _ in gathered.days) - DAYS
    last = max(int(day.max()) for _, day, _ in gathered.days)
    by_day = np.zeros((len(names), last - first + 1), np.float32)
    for name, debut, units in gathered.debuts:
        by_day[code[name], debut - first - DAYS : debut - first] = units
    for products, day, units in gathered.days:
        by_day[codes(products), day - first - 1] = units
    sold = np.full((len(names), last - first + 1, DELAYS), UNKNOWN, np.int32)
    for products, day, delay, units in gathered.outcomes:
        here = np.fromiter((code.get(p, -1) for p in products), np.int64, len(products))
        some = here >= 0
        sold[here[some], day[some] - first, delay[some]] = units[some]
    columns["product"] = codes(columns["product"].tolist())
    order = np.lexsort((columns["product"], columns["day"]))
    rows = {name: column[order] for name, column in columns.items()}
    # Numbered as they appear: a category to come must not move the code of another.
    category: dict[str, int] = {}
    numbered = [category.setdefault(name, len(category)) for name in rows.pop("category").tolist()]
    return Panel(
        names=names,
        first=first,
        units_by_day=by_day,
        sold=sold,
        category=np.array(numbered, np.int64),
        categories=np.array(list(category), str),
        **rows,
    )
