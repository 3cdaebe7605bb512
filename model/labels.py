"""Labels: the join of predictions and the outcomes that mature after them, one partition of trend.predictions.

A `close` prediction is kept until its last delay bucket has matured; `live` ones are for freshness and make no labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.distribution import MEDIAN
from streams.calendars import DAY
from streams.codecs import Column, Rows, batches, encode, split
from streams.errors import SnapshotError
from streams.records import COMPONENTS, DELAYS, HORIZONS, QUANTILES, WindowKind
from streams.records.inside import CLOSES, F32, F64, I8, I64, MATURED, OUTCOMES, PREDICTIONS, TEXT, ArrowRecord
from streams.stage import Fact, Message, Output, TaskKey

MATURED_TOPIC, MATURED_PARTITION = "trend.matured", 0
COUNTERS = ("predictions", "live", "outcomes", "matured", "orphans", "incomplete", "closes")
KEEP = (HORIZONS[-1] + 7) * DAY  # ms after its end that a prediction waits for outcomes at the longest
UNKNOWN = -1  # units of a bucket that has not matured

_BUCKETS = pa.list_(F64, DELAYS)
KEPT = ArrowRecord.of(
    "kept",  # what a label needs of a prediction; also how it lies in a snapshot
    {
        "product": TEXT,
        "mean": _BUCKETS,
        "dispersion": _BUCKETS,
        "median": _BUCKETS,
        "frozen_mean": _BUCKETS,
        "frozen_dispersion": _BUCKETS,
        "frozen_median": _BUCKETS,
        "baseline": _BUCKETS,
        "f": pa.list_(F32, DELAYS),
        "components": pa.list_(F32, COMPONENTS),
        "category": TEXT,
        "sales_class": I8,
        "model": TEXT,
        "head": TEXT,
        "units": pa.list_(I64, DELAYS),  # UNKNOWN until the bucket has matured
    },
)


@dataclass(frozen=True)
class LabelConfig:
    max_bytes: int = 900_000  # of one record of trend.matured


class _Kept:
    """The predictions of one window end."""

    def __init__(self) -> None:
        self.columns: dict[str, npt.NDArray[np.generic]] = {}  # [rows] or [rows, length], as in KEPT
        self.rows: dict[str, int] = {}  # by product

    def add(self, columns: Mapping[str, npt.NDArray[np.generic]]) -> None:
        old = self.columns or {name: column[:0] for name, column in columns.items()}
        start = len(old["product"])
        self.columns = {name: np.concatenate([old[name], column]) for name, column in columns.items()}
        products = columns["product"].tolist()
        self.rows.update(zip(products, range(start, start + len(products)), strict=True))

    @property
    def matured(self) -> bool:
        return bool((self.columns["units"][:, -1] != UNKNOWN).all())

    def find(self, products: Sequence[str]) -> npt.NDArray[np.int64]:
        """[products] row of each, -1 where there is none."""
        return np.fromiter((self.rows.get(p, -1) for p in products), np.int64, len(products))


class LabelStage:
    """A partition of trend.predictions in, the one partition of trend.matured out.

    An OUTCOMES row whose prediction is there becomes a MATURED row, in the order of the outcomes; one without counts as
    `orphans`, one whose shorter delays are missing as `incomplete`. CLOSES are handed on as they lie.
    """

    def __init__(self, task: TaskKey, config: LabelConfig | None = None) -> None:
        self._partition = task[1]
        self._config = config or LabelConfig()
        self._kept: dict[int, _Kept] = {}  # by window end
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._passed = 0  # newest boundary since the start

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs: list[Output] = []
        for message, rows in batches(messages):
            if rows.record.name == PREDICTIONS.name:
                self._keep(rows)
            elif rows.record.name == OUTCOMES.name:
                outputs.extend(self._label(rows))
            elif rows.record.name == CLOSES.name:
                self._counts["closes"] += len(rows)
                self._passed = max(self._passed, int(rows["end"].max()))
                self._drop(before=int(rows["end"].max()) - KEEP)
                outputs.append(Output(MATURED_TOPIC, MATURED_PARTITION, message.value, message.key))
        return outputs

    def ready(self, message: Message) -> bool:
        return True

    def snapshot(self) -> dict[str, bytes]:
        blobs = {"counters": msgspec.json.encode(self._counts)}
        for end, kept in sorted(self._kept.items()):
            blobs[f"kept.{end}"] = encode(KEPT, kept.columns)
        return blobs

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        self._kept = {}
        try:
            counts = msgspec.json.decode(blobs["counters"], type=dict[str, int])
            self._counts = {name: counts[name] for name in COUNTERS}
            for name in sorted(blobs):
                if name.startswith("kept."):
                    kept = self._kept.setdefault(int(name.removeprefix("kept.")), _Kept())
                    with pa.ipc.open_stream(blobs[name]) as reader:
                        rows = Rows(KEPT, reader.read_next_batch())
                    kept.add({column: rows[column].copy() for column in KEPT.schema.names})
        except (KeyError, ValueError, StopIteration, msgspec.DecodeError) as error:
            raise SnapshotError(f"labels: the snapshot cannot be read: {error}; take an older one") from error

    def counters(self) -> dict[str, int]:
        return dict(self._counts)

    def report(self) -> dict[str, Fact]:
        """The newest boundary, and how many window ends wait for outcomes."""
        return {"event_time": self._passed, "waiting": len(self._kept)} if self._passed else {}

    def _keep(self, rows: Rows) -> None:
        close = np.flatnonzero(rows["kind"] == WindowKind.CLOSE)
        self._counts["live"] += len(rows) - len(close)
        self._counts["predictions"] += len(close)
        if not len(close):
            return
        if len(close) < len(rows):
            rows = Rows(rows.record, rows.batch.take(close))
        columns = {name: rows[name] for name in KEPT.schema.names if name not in ("median", "units")}
        columns["median"] = rows["quantiles"].reshape(len(rows), DELAYS, len(QUANTILES))[:, :, MEDIAN]
        columns["units"] = np.full((len(rows), DELAYS), UNKNOWN, np.int64)
        ends = rows["end"]
        for end in np.unique(ends).tolist():
            mine = ends == end
            self._kept.setdefault(end, _Kept()).add({name: columns[name][mine] for name in KEPT.schema.names})

    def _label(self, rows: Rows) -> list[Output]:
        self._counts["outcomes"] += len(rows)
        codes, products = rows.coded("product")
        ends, delays, units = rows["end"], rows["delay"].astype(np.int64), rows["units"]
        place = np.empty(0, np.int64)  # of each label among the outcomes
        parts: list[dict[str, npt.NDArray[np.generic]]] = []
        for end in np.unique(ends).tolist():
            mine = np.flatnonzero(ends == end)
            kept = self._kept.get(end)
            found = np.full(len(mine), -1, np.int64) if kept is None else kept.find(products)[codes[mine]]
            self._counts["orphans"] += int((found < 0).sum())
            if kept is None:
                continue
            mine, found = mine[found >= 0], found[found >= 0]
            delay = delays[mine]
            of_end = kept.columns["units"]
            of_end[found, delay] = units[mine]
            whole = ((of_end[found] != UNKNOWN) | (np.arange(DELAYS)[None, :] > delay[:, None])).all(axis=1)
            self._counts["incomplete"] += int((~whole).sum())
            place = np.concatenate([place, mine[whole]])
            parts.append(_labels(kept, found[whole], delay[whole]))
            if kept.matured:
                del self._kept[end]
        if not len(place):
            return []
        self._counts["matured"] += len(place)
        order = np.argsort(place, kind="stable")
        labels = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        outcomes = Rows(rows.record, rows.batch.take(place[order]))
        columns: dict[str, Column] = {
            **labels,
            **{name: outcomes[name] for name in ("product", "end", "delay", "at", "units", "exposure", "censored")},
            "partition": np.full(len(place), self._partition, np.int32),
        }
        values = split(MATURED, columns, self._config.max_bytes)
        return [Output(MATURED_TOPIC, MATURED_PARTITION, value) for value in values]

    def _drop(self, before: int) -> None:
        # Every close window gets all of its outcomes; this is for a log that lost some.
        self._kept = {end: kept for end, kept in self._kept.items() if end >= before}


def _labels(
    kept: _Kept, row: npt.NDArray[np.int64], delay: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of MATURED that come from predictions, for rows [n] of one end at their delay [n]."""
    n = np.arange(len(row))
    of = {name: column[row] for name, column in kept.columns.items()}
    sums = {name: np.cumsum(of[name], axis=1)[n, delay] for name in ("mean", "frozen_mean")}
    bucket = ("mean", "dispersion", "median", "frozen_mean", "frozen_dispersion", "frozen_median", "baseline", "f")
    return {
        **{name: of[name][n, delay] for name in bucket},
        "total": np.where(np.arange(DELAYS) <= delay[:, None], of["units"], 0).sum(axis=1),
        "total_mean": sums["mean"],
        "frozen_total_mean": sums["frozen_mean"],
        **{name: of[name] for name in ("components", "category", "sales_class", "model", "head")},
    }
