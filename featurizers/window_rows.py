"""Columns of `WINDOWS` and `OUTCOMES` rows, made from the state of a platform's products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featurizers.names import ProductNames
from featurizers.pooling import NEVER
from featurizers.products import Products
from featurizers.state import Array, Ints, Names
from streams.calendars import DAY
from streams.codecs import Coded
from streams.records import CHANNELS, HORIZONS, Modality, WindowKind


@dataclass
class Vocabulary:
    """The texts of one partition by number."""

    products: ProductNames
    categories: Names  # 0 is ""
    encoders: Names  # 0 is ""
    sources: Names  # 0 is ""


@dataclass(frozen=True)
class Moment:
    """When and from what windows are emitted."""

    kind: WindowKind
    as_of: int  # event time seen; the boundary itself for close windows
    offset: int  # of the record of trend.events last folded
    epoch: int


def window_columns(products: Products, vocabulary: Vocabulary, rows: Ints, moment: Moment) -> dict[str, Any]:
    """One window for each product row, in that order, of settled sums."""
    table, count = products.table, len(rows)
    live = moment.kind == WindowKind.LIVE
    end = products.start
    today = products.open_day
    sums = products.sums(rows)
    base = products.baseline(rows, sums)
    newest = products.newest()[rows]  # [rows, modalities]
    present = newest != NEVER
    ages = np.where(present, (moment.as_of - newest) / DAY, np.nan)
    encoders, late = table["pool_encoder"][rows], table["late"][rows]
    return {
        "product": Coded(np.arange(count), vocabulary.products.texts(table["name"][rows]).to_pylist()),
        "end": np.full(count, end),
        "kind": np.full(count, int(moment.kind)),
        "revision": table["revision"][rows] if live else np.zeros(count),
        "as_of": np.full(count, moment.as_of),
        "offset": np.full(count, moment.offset),
        "epoch": np.full(count, moment.epoch),
        "day": sums.closed,
        "hour": products.hours(sums, moment.as_of if live else end - 1),
        "open": sums.open if live else np.zeros((count, len(CHANNELS)), np.int64),
        "open_share": np.full(count, (moment.as_of - end) / (products.end - end) if live else 0.0),
        "weekday": np.full(count, products.calendar.weekday(today)),
        "known": products.known(rows),
        "text": products.pools.means(rows, Modality.TEXT),
        "image": products.pools.means(rows, Modality.IMAGE),
        "title": products.pools.means(rows, Modality.TITLE),
        "mask": (present * (1 << np.arange(len(Modality)))).sum(axis=1),
        "age": ages.astype(np.float32),
        "text_encoder": coded(vocabulary.encoders, encoders[:, 0]),
        "image_encoder": coded(vocabulary.encoders, encoders[:, 1]),
        "category": coded(vocabulary.categories, table["category"][rows]),
        **{name: table[name][rows] for name in ("price", "unit_cost", "on_hand", "on_order", "lead_time_days")},
        "rate": base.rate,
        "baseline": base.buckets,
        "thresholds": base.thresholds,
        "sales_class": base.sales_class,
        "age_days": products.age_days(rows),
        "late": late,
        "late_source": coded(vocabulary.sources, np.where(late > 0, table["late_source"][rows], 0)),
        "late_partition": np.where(late > 0, table["late_partition"][rows], -1),
        "late_offset": np.where(late > 0, table["late_offset"][rows], -1),
    }


def outcome_columns(products: Products, vocabulary: Vocabulary) -> tuple[dict[str, Any], Ints]:
    """The outcomes that mature at the start of the open day, shorter delays first; their product rows.

    Marks the days that they count as used.
    """
    table, today, at = products.table, products.open_day, products.start
    found: list[dict[str, Array]] = []
    for delay, (start, stop) in enumerate(zip((0, *HORIZONS[:-1]), HORIZONS, strict=True)):
        first = today - stop  # the day at whose start the windows ended
        rows = products.closed(first)
        units, out = products.outcomes(rows, first + start, first + stop)
        length = products.calendar.start(first + stop) - products.calendar.start(first + start)
        products.use(rows, np.arange(first + start, first + stop))
        found.append(
            {
                "rows": rows,
                "end": np.full(len(rows), products.calendar.start(first)),
                "delay": np.full(len(rows), delay),
                "units": units,
                "exposure": 1.0 - out / length,
                "censored": out > 0,
            }
        )
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    rows = columns.pop("rows")
    names, place = np.unique(table["name"][rows], return_inverse=True)
    columns["product"] = in_order(vocabulary.products.texts(names).to_pylist(), place)
    columns["at"] = np.full(len(rows), at)
    return columns, rows


def coded(names: Names, codes: Array) -> Coded:
    """A text column with its values in order of the text, whatever numbers they have."""
    used, inverse = np.unique(codes, return_inverse=True)
    return in_order([names.values[code] for code in used.tolist()], inverse)


def in_order(values: list[str], codes: Array) -> Coded:
    """Distinct texts in order, and their codes."""
    order = sorted(range(len(values)), key=values.__getitem__)
    place = np.empty(len(values), np.int64)
    place[order] = np.arange(len(values))
    return Coded(place[codes], [values[i] for i in order])
