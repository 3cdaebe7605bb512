"""The equal job on trendstream: a stage of hourly windows by product, and the process that runs it.

`python -m tests.bench.hourly BOOTSTRAP INPUT OUTPUT EVENTS`; it reports as tests/bench/job.py says.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.codecs import encode_batch
from streams.observing import Silent
from streams.runner import Runner, RunnerConfig
from streams.stage import Message, Output, StageSpec, TaskKey, values
from tests.bench.job import HOUR_MS, LAG_MS, PARTITIONS, Mark, mark, report

COMMIT_MS = 500
SNAPSHOT_MS = 500  # a job of some seconds takes several
MAX_POLL = 20_000  # records

Numbers = npt.NDArray[np.int64]
WINDOWS = pa.schema(
    [
        ("product", pa.string()),
        ("start", pa.int64()),  # epoch ms
        ("count", pa.int64()),
        ("units", pa.int64()),
        ("revenue", pa.int64()),  # minor units
    ]
)
_STATE = pa.schema(
    [("start", pa.int64()), ("row", pa.int64()), *[(n, pa.int64()) for n in ("count", "units", "revenue")]]
)
_NAMES = pa.schema([("product", pa.string())])


class Order(msgspec.Struct, gc=False):
    """What the job reads of an order; a record that is not one is bad."""

    product_id: str
    ordered_at: int
    quantity: Annotated[int, msgspec.Meta(gt=0)]
    unit_price: Annotated[int, msgspec.Meta(ge=0)]
    currency: Literal["EUR"]


class Hourly:
    """Count, units and revenue by product and hour, published when the watermark has passed the hour.

    The watermark is the newest event time less `LAG_MS`, record by record: what is late depends on the log alone, not
    on how it was polled.
    """

    def __init__(self, output: str, task: TaskKey) -> None:
        self._output = output
        self._partition = task[1]
        self._decode = msgspec.json.Decoder(Order).decode
        self._rows = _Rows()
        self._open: dict[int, Numbers] = {}  # by start: [count, units, revenue; products]
        self._newest = 0  # event time
        self._accepted = self._bad = self._late = self._windows = 0

    def ready(self, message: Message) -> bool:
        return True

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        rows, at, units, price = self._columns(values(messages))
        if not len(rows):
            return []
        revenue = units * price
        start = at // HOUR_MS * HOUR_MS
        newest = np.maximum.accumulate(np.maximum(at, self._newest))
        before = np.concatenate([[self._newest], newest[:-1]])
        self._newest = int(newest[-1])
        on_time = start + HOUR_MS > before - LAG_MS
        if not on_time.all():
            self._late += int((~on_time).sum())
            rows, start, units, revenue = rows[on_time], start[on_time], units[on_time], revenue[on_time]
        self._accepted += len(rows)
        self._add(rows, start, units, revenue)
        return self._close()

    def _columns(self, values: Sequence[bytes | None]) -> Numbers:
        """Row of the product, event time, quantity and price of the good orders: [4, orders]."""
        try:
            orders = [*map(self._decode, values)]
        except (msgspec.DecodeError, TypeError):  # one that is no order, or empty: look at each
            orders = []
            for value in values:
                try:
                    orders.append(self._decode(value or b""))
                except msgspec.DecodeError:
                    self._bad += 1
        columns = np.empty((4, len(orders)), dtype=np.int64)
        columns[0] = [*map(self._rows.__getitem__, [o.product_id for o in orders])]
        columns[1] = [o.ordered_at for o in orders]
        columns[2] = [o.quantity for o in orders]
        columns[3] = [o.unit_price for o in orders]
        return columns

    def _add(self, rows: Numbers, start: Numbers, units: Numbers, revenue: Numbers) -> None:
        for hour in np.unique(start).tolist():
            own = slice(None) if start[0] == hour and (start == hour).all() else start == hour
            sums = self._open.get(hour)
            if sums is None or sums.shape[1] < len(self._rows):
                grown = np.zeros((3, max(2 * len(self._rows), 1024)), dtype=np.int64)
                if sums is not None:
                    grown[:, : sums.shape[1]] = sums
                sums = self._open[hour] = grown
            # bincount sums in float64, exact for whole numbers below 2**53
            width = sums.shape[1]
            sums[0] += np.bincount(rows[own], minlength=width)
            sums[1] += np.bincount(rows[own], units[own], width).astype(np.int64)
            sums[2] += np.bincount(rows[own], revenue[own], width).astype(np.int64)

    def _close(self) -> list[Output]:
        outputs = []
        for hour in sorted(h for h in self._open if h + HOUR_MS <= self._newest - LAG_MS):
            sums = self._open.pop(hour)
            rows = np.flatnonzero(sums[0])
            products = self._rows.names()
            columns = [
                pa.array([products[row] for row in rows.tolist()], pa.string()),
                pa.array(np.full(len(rows), hour)),
                *(pa.array(sums[i, rows]) for i in range(3)),
            ]
            batch = pa.RecordBatch.from_arrays(columns, schema=WINDOWS)
            outputs.append(Output(self._output, self._partition, encode_batch(batch)))
            self._windows += len(rows)
        return outputs

    def snapshot(self) -> dict[str, bytes]:
        starts, rows, sums = [], [], []
        for hour, open_sums in sorted(self._open.items()):
            touched = np.flatnonzero(open_sums[0])
            starts.append(np.full(len(touched), hour))
            rows.append(touched)
            sums.append(open_sums[:, touched])
        none = np.empty(0, dtype=np.int64)
        cells = np.concatenate([np.empty((3, 0), dtype=np.int64), *sums], axis=1)
        columns = [np.concatenate([none, *starts]), np.concatenate([none, *rows]), *cells]
        return {
            "counters": msgspec.json.encode([self._newest, self._accepted, self._bad, self._late, self._windows]),
            "open": encode_batch(pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=_STATE)),
            "products": encode_batch(
                pa.RecordBatch.from_arrays([pa.array(self._rows.names(), pa.string())], schema=_NAMES)
            ),
        }

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        self._newest, self._accepted, self._bad, self._late, self._windows = msgspec.json.decode(blobs["counters"])
        for product in _read(blobs["products"]).column(0).to_pylist():
            self._rows[product]
        start, rows, *sums = (c.to_numpy(zero_copy_only=False) for c in _read(blobs["open"]).columns)
        for hour in np.unique(start).tolist():
            own = start == hour
            self._open[hour] = np.zeros((3, max(len(self._rows), 1)), dtype=np.int64)
            self._open[hour][:, rows[own]] = np.stack([column[own] for column in sums])

    def counters(self) -> dict[str, int]:
        return {"accepted": self._accepted, "bad": self._bad, "late": self._late, "windows": self._windows}


class _Rows(dict[str, int]):
    """Row of each product, in the order in which they first came."""

    def __missing__(self, product: str) -> int:
        row = self[product] = len(self)
        return row

    def names(self) -> list[str]:
        return list(self)


def _read(blob: bytes) -> pa.RecordBatch:
    return pa.ipc.open_stream(blob).read_next_batch()


class _Timed(Hourly):
    """Remembers when the first order was handed to the job."""

    first: Mark | None = None

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        _Timed.first = _Timed.first or mark()
        return super().fold(messages)


class _Watch(Silent):
    """Reports when the commit of the last order is done."""

    def __init__(self, events: int) -> None:
        self._left = events

    def committed(self, stage: str, records: int, outputs: int, seconds: float) -> None:
        self._left -= records
        if self._left == 0 and _Timed.first is not None:
            report(_Timed.first, mark())
            _Timed.first = None


def main() -> None:
    bootstrap, source, output, events = sys.argv[1:5]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = RunnerConfig(
        bootstrap, PARTITIONS, commit_interval_ms=COMMIT_MS, snapshot_interval_ms=SNAPSHOT_MS, max_poll=MAX_POLL
    )
    spec = StageSpec(output, (source,), partial(_Timed, output), batched=True)
    runner = Runner(spec, config, stop.is_set, _Watch(int(events)))
    gc.freeze()  # as deploy/workers.py does
    runner.run()


if __name__ == "__main__":
    main()
