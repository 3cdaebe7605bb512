"""Columns of `WINDOWS` and `OUTCOMES` rows, made from the state of a platform's products."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from featurizers.baseline import Baseline
from featurizers.pooling import NEVER, means
from featurizers.products import RING, Products
from featurizers.state import Array, Ints, Names
from streams.calendars import DAY
from streams.codecs import Coded
from streams.records import CHANNELS, DAYS, HORIZONS, Modality, WindowKind


@dataclass
class Vocabulary:
    """The texts of one partition by number."""

    products: Names
    categories: Names  # 0 is ""
    encoders: Names  # 0 is ""


@dataclass(frozen=True)
class Moment:
    """When and from what windows are emitted."""

    kind: WindowKind
    as_of: int  # event time seen; the boundary itself for close windows
    offset: int  # of the record of trend.events last folded
    epoch: int


def window_columns(
    products: Products, vocabulary: Vocabulary, rows: Ints, base: Baseline, moment: Moment
) -> dict[str, Any]:
    """One window for each product row, in that order; `base` is of the same rows."""
    table, count = products.table, len(rows)
    live = moment.kind == WindowKind.LIVE
    end = products.start
    today = products.open_day
    opened = np.zeros((count, len(CHANNELS)), np.int64)
    if live:
        opened = products.day.window(rows, np.asarray([today]))[:, :, 0]
    newest = table["newest"][rows]  # [rows, modalities]
    present = newest != NEVER
    ages = np.where(present, (moment.as_of - newest) / DAY, np.nan)
    encoders = table["pool_encoder"][rows]
    return {
        "product": Coded(np.arange(count), [vocabulary.products.values[i] for i in table["name"][rows].tolist()]),
        "end": np.full(count, end),
        "kind": np.full(count, int(moment.kind)),
        "revision": table["revision"][rows] if live else np.zeros(count),
        "as_of": np.full(count, moment.as_of),
        "offset": np.full(count, moment.offset),
        "epoch": np.full(count, moment.epoch),
        "day": products.day.window(rows, np.arange(today - DAYS, today)),
        "hour": products.hour.window(rows, products.closed_hours(moment.as_of if live else end - 1)),
        "open": opened,
        "open_share": np.full(count, (moment.as_of - end) / (products.end - end) if live else 0.0),
        "weekday": np.full(count, products.calendar.weekday(today)),
        "text": means(table, rows, Modality.TEXT),
        "image": means(table, rows, Modality.IMAGE),
        "title": means(table, rows, Modality.TITLE),
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
        "late": table["late"][rows],
    }


def outcome_columns(products: Products, vocabulary: Vocabulary) -> tuple[dict[str, Any], Ints]:
    """The outcomes that mature at the start of the open day, shorter delays first; their product rows.

    Marks the days that they count as used.
    """
    table, today, at = products.table, products.open_day, products.start
    found: list[dict[str, Array]] = []
    for delay, (start, stop) in enumerate(zip((0, *HORIZONS[:-1]), HORIZONS, strict=True)):
        first = today - stop  # the day at whose start the windows ended
        rows = np.flatnonzero(table["closed"][:, first % RING])
        days = np.arange(first + start, first + stop)
        slots = days % RING
        out = table["out_ms"][rows][:, slots].sum(axis=1)
        length = products.calendar.start(first + stop) - products.calendar.start(first + start)
        table["used"][rows[:, None], slots] = True
        found.append(
            {
                "rows": rows,
                "end": np.full(len(rows), products.calendar.start(first)),
                "delay": np.full(len(rows), delay),
                "units": products.day.channel("units", days)[rows].sum(axis=1),
                "exposure": 1.0 - out / length,
                "censored": out > 0,
            }
        )
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    rows = columns.pop("rows")
    columns["product"] = coded(vocabulary.products, table["name"][rows])
    columns["at"] = np.full(len(rows), at)
    return columns, rows


def coded(names: Names, codes: Array) -> Coded:
    """A text column with its values in order of the text, whatever numbers they have."""
    used, inverse = np.unique(codes, return_inverse=True)
    values = [names.values[code] for code in used.tolist()]
    order = sorted(range(len(values)), key=values.__getitem__)
    place = np.empty(len(values), np.int64)
    place[order] = np.arange(len(values))
    return Coded(place[inverse], [values[i] for i in order])


def part_of(base: Baseline, part: slice) -> Baseline:
    """The baseline of some of its rows."""
    return Baseline(**{f.name: getattr(base, f.name)[part] for f in fields(base)})
