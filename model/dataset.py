"""Training rows from history: the close windows of `trend.windows` joined with their outcomes, split by time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from model.errors import DatasetError
from model.features import Doubles, Features, concatenate, extract
from streams.calendars import DAY
from streams.codecs import Rows, batches
from streams.records import AHEAD, DAYS, DELAYS, HORIZONS, WindowKind
from streams.records.inside import OUTCOMES, WINDOWS
from streams.stage import Message

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DatasetConfig:
    max_rows: int = 150_000  # above it, an even sample by the hash of product and end
    validation_share: float = 0.2  # of the time spanned by the windows, at its end
    daily: bool = False  # the units of every day ahead too: they take every window's newest day
    gap_days: int = max(HORIZONS)  # no label of a training row reaches into the validation rows


@dataclass(frozen=True)
class Dataset:
    """Close windows in the order of (end, product). A label that has not matured, or was censored, is -1."""

    features: Features
    product: npt.NDArray[np.object_]  # [n]
    end: Longs  # [n]
    baseline: Doubles  # [n, delays] B_b
    sales_class: Longs  # [n]
    category: npt.NDArray[np.object_]  # [n]
    day_units: Longs  # [n, 24] units by hour of the day before `end`
    thresholds: Longs  # [n, horizons * (surge, rise, fall)]
    units: Longs  # [n, delays] sold in each delay bucket
    daily: Longs  # [n, AHEAD] sold on each day from `end` on, -1 where no later window tells
    encoders: dict[str, str]  # newest name by modality

    def __len__(self) -> int:
        return len(self.end)

    def take(self, rows: Longs) -> Dataset:
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in ("features", "encoders")}
        return Dataset(features=self.features.take(rows), encoders=self.encoders, **columns)


class _Sample:
    """Keeps the windows whose hash is lowest, so that what is kept does not depend on the order of arrival."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.parts: list[dict[str, npt.NDArray[np.generic]]] = []
        self.features: list[Features] = []
        self.limit = np.uint64(2**64 - 1)
        self.rows = 0

    def add(self, rows: Rows) -> None:
        keep = np.flatnonzero(rows["kind"] == WindowKind.CLOSE)
        mixed = _mix(rows, keep)
        keep, mixed = keep[mixed <= self.limit], mixed[mixed <= self.limit]
        if not len(keep):
            return
        part = Rows(WINDOWS, rows.batch.take(keep))
        hours = part["hour"].reshape(len(part), -1)[:, :48]  # the units channel is the first
        self.parts.append(
            {
                "mixed": mixed,
                "product": part["product"],
                "end": part["end"],
                "baseline": part["baseline"],
                "sales_class": part["sales_class"].astype(np.int64),
                "category": part["category"],
                "day_units": hours[:, -24:].copy(),
                "thresholds": part["thresholds"],
            }
        )
        self.features.append(extract(part))
        self.rows += len(part)
        if self.rows > 2 * self.max_rows:
            self._thin()

    def _thin(self) -> None:
        mixed = np.concatenate([p["mixed"] for p in self.parts])
        self.limit = np.sort(mixed)[self.max_rows - 1]
        keep = np.flatnonzero(mixed <= self.limit)
        columns = {name: np.concatenate([p[name] for p in self.parts])[keep] for name in self.parts[0]}
        self.parts, self.features = [columns], [concatenate(self.features).take(keep)]
        self.rows = len(keep)

    def finish(self) -> tuple[dict[str, npt.NDArray[np.generic]], Features]:
        if self.rows > self.max_rows:
            self._thin()
        columns = {name: np.concatenate([p[name] for p in self.parts]) for name in self.parts[0]}
        order = np.lexsort((columns["product"].astype(str), columns["end"]))
        return {name: column[order] for name, column in columns.items()}, concatenate(self.features).take(order)


def _mix(rows: Rows, keep: Longs) -> npt.NDArray[np.uint64]:
    """[keep] a 64-bit hash of (product, end): splitmix64 over crc32 and the day."""
    codes, names = rows.coded("product")
    sums = np.array([zlib.crc32(name.encode()) for name in names], np.uint64)
    x = (sums[codes[keep]] << np.uint64(32)) ^ (rows["end"][keep] // 1000).astype(np.uint64)
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def collect(messages: Iterable[Message], config: DatasetConfig) -> Dataset:
    """Join the windows and outcomes of all partitions of `trend.windows`.

    Raises DatasetError when there is no close window.
    """
    sample, encoders = _Sample(config.max_rows), {"text": "", "image": ""}
    newest: list[tuple[npt.NDArray[np.object_], Longs, Longs]] = []
    outcomes: list[tuple[npt.NDArray[np.object_], Longs, Longs, Longs]] = []
    for _, rows in batches(messages):
        if rows.record is WINDOWS:
            sample.add(rows)
            if config.daily:
                newest.append(_newest_day(rows))
            for modality in encoders:
                names = [name for name in rows.coded(f"{modality}_encoder")[1] if name]
                encoders[modality] = names[-1] if names else encoders[modality]
        elif rows.record is OUTCOMES:
            units = np.where(rows["censored"] != 0, -1, rows["units"])
            outcomes.append((rows["product"], rows["end"], rows["delay"].astype(np.int64), units))
    if not sample.rows:
        raise DatasetError(
            "the history holds no close window: load at least a few weeks of orders before training, "
            "or start with an untrained bundle"
        )
    columns, features = sample.finish()
    units = _join(columns["product"], columns["end"], outcomes)  # type: ignore[arg-type]
    daily = np.full((len(units), AHEAD), -1, np.int64)
    if newest:
        daily = _daily(columns["product"], columns["end"], newest)  # type: ignore[arg-type]
    del columns["mixed"]
    return Dataset(features=features, units=units, daily=daily, encoders=encoders, **columns)  # type: ignore[arg-type]


def _newest_day(rows: Rows) -> tuple[npt.NDArray[np.object_], Longs, Longs]:
    """Product and end of each close window, and the units of the day before its end."""
    close = np.flatnonzero(rows["kind"] == WindowKind.CLOSE)
    units = rows["day"].reshape(len(rows), -1)[close, DAYS - 1]  # the units channel is the first
    return rows["product"][close], rows["end"][close], units.copy()


def _daily(
    product: npt.NDArray[np.object_], end: Longs, newest: list[tuple[npt.NDArray[np.object_], Longs, Longs]]
) -> Longs:
    """[n, AHEAD] units of the days from each window's end on, by the newest days of the windows after it."""
    products, ends, units = (np.concatenate(column) for column in zip(*newest, strict=True))
    names, codes = np.unique(products.astype(str), return_inverse=True)
    keys = codes << 32 | _local_day(ends)
    order = np.argsort(keys)
    mine = np.searchsorted(names, product.astype(str)) << 32
    wanted = mine[:, None] | (_local_day(end)[:, None] + np.arange(1, AHEAD + 1))
    place = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    return np.where(keys[place] == wanted, units[place], -1)


def _local_day(end: Longs) -> Longs:
    """A number a day: boundaries are midnights of one time zone, give or take the clock's changes."""
    return (end + DAY // 2) // DAY


def _join(
    product: npt.NDArray[np.object_],
    end: Longs,
    outcomes: list[tuple[npt.NDArray[np.object_], Longs, Longs, Longs]],
) -> Longs:
    """[n, delays] units of each window's outcomes, -1 where there is none."""
    units = np.full((len(end), DELAYS), -1, np.int64)
    rows = {key: i for i, key in enumerate(zip(product.tolist(), end.tolist(), strict=True))}
    for products, ends, delays, values in outcomes:
        keys = zip(products.tolist(), ends.tolist(), strict=True)
        found = np.fromiter((rows.get(key, -1) for key in keys), np.int64, len(values))
        here = found >= 0
        units[found[here], delays[here]] = values[here]
    return units


def matured(dataset: Dataset) -> Dataset:
    """The rows that have a label."""
    return dataset.take(np.flatnonzero((dataset.units >= 0).any(axis=1)))


def split(dataset: Dataset, config: DatasetConfig) -> tuple[Dataset, Dataset]:
    """Training and validation rows: the last share of the time, and what ends at least the gap before it.

    Raises DatasetError when either would have no matured row.
    """
    first, last = int(dataset.end.min()), int(dataset.end.max())
    labelled = (dataset.units >= 0).any(axis=1)
    whole = (dataset.units >= 0).all(axis=1)
    if whole.any():  # time counts as far as the longest horizon can be judged
        last = int(dataset.end[whole].max())
    border = last - int((last - first) * config.validation_share)
    train = np.flatnonzero(labelled & (dataset.end + config.gap_days * DAY <= border))
    validation = np.flatnonzero(labelled & (dataset.end >= border))
    if not len(train) or not len(validation):
        days = (last - first) / DAY
        raise DatasetError(
            f"{days:.0f} days of matured windows are too few for a training part, a gap of {config.gap_days} days and "
            f"a validation part: load at least {config.gap_days * 2} days, or start with an untrained bundle"
        )
    return dataset.take(train), dataset.take(validation)
