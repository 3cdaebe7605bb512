"""The equal job on trendstream: a stage of hourly windows by product, and the process that runs it.

`python -m tests.bench.hourly BOOTSTRAP INPUT OUTPUT EVENTS`; it reports as tests/bench/job.py says.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.codecs import encode_batch
from streams.memory import set_up_worker
from streams.observing import Silent
from streams.runner import Runner, RunnerConfig
from streams.stage import Message, Output, StageSpec, TaskKey, values
from tests.bench.job import HOUR_MS, LAG_MS, PARTITIONS, WAIT_MS, Mark, mark, report

COMMIT_MS = 500
SNAPSHOT_MS = 500  # a job of some seconds takes several

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
        self._decode: Callable[[Any], Order] = msgspec.json.Decoder(Order).decode
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

    def _columns(self, values: Sequence[bytes | None]) -> list[Numbers]:
        """Row of the product, event time, quantity and price of the good orders, each [orders]."""
        orders: list[Order] = []
        rest = map(self._decode, values)
        while True:
            try:
                orders.extend(rest)  # keeps what it has read when one is bad, and goes on behind that
                break
            except (msgspec.DecodeError, TypeError):  # TypeError: it has no value
                self._bad += 1
        columns: tuple[Iterable[int], ...] = (
            map(self._rows.__getitem__, [o.product_id for o in orders]),
            [o.ordered_at for o in orders],
            [o.quantity for o in orders],
            [o.unit_price for o in orders],
        )
        return [np.fromiter(column, np.int64, len(orders)) for column in columns]

    def _add(self, rows: Numbers, start: Numbers, units: Numbers, revenue: Numbers) -> None:
        hours = start[:1] if (start == start[:1]).all() else np.unique(start)
        for hour in hours.tolist():
            own = slice(None) if len(hours) == 1 else start == hour
            sums = self._open.get(hour)
            if sums is None or sums.shape[1] < len(self._rows):
                width = max(2 * len(self._rows), 1024)
                grown = np.zeros((3, width), dtype=np.int64, order="F")  # a product's sums side by side
                if sums is not None:
                    grown[:, : sums.shape[1]] = sums
                sums = self._open[hour] = grown
            count, of_units, of_revenue = sums
            np.add.at(count, rows[own], 1)
            np.add.at(of_units, rows[own], units[own])
            np.add.at(of_revenue, rows[own], revenue[own])

    def _close(self) -> list[Output]:
        outputs = []
        for hour in sorted(h for h in self._open if h + HOUR_MS <= self._newest - LAG_MS):
            sums = self._open.pop(hour)
            rows = np.flatnonzero(sums[0])
            columns = [
                self._rows.names().take(pa.array(rows)),
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
            "products": encode_batch(pa.RecordBatch.from_arrays([self._rows.names()], schema=_NAMES)),
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

    def __init__(self) -> None:
        super().__init__()
        self._names = pa.array([], pa.string())
        self._new: list[str] = []  # that are not among the names yet

    def __missing__(self, product: str) -> int:
        self._new.append(product)
        row = self[product] = len(self)
        return row

    def names(self) -> pa.Array:
        """Of all rows. Each becomes Arrow once: the strings lie all over the memory."""
        self._names = pa.concat_arrays([self._names, pa.array(self._new, pa.string())])
        self._new.clear()
        return self._names


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
        bootstrap,
        PARTITIONS,
        commit_interval_ms=COMMIT_MS,
        control_interval_ms=WAIT_MS,
        snapshot_interval_ms=SNAPSHOT_MS,
    )
    spec = StageSpec(output, (source,), partial(_Timed, output), batched=True)
    runner = Runner(spec, config, stop.is_set, _Watch(int(events)))
    set_up_worker()
    runner.run()


if __name__ == "__main__":
    main()
