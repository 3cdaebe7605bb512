"""Arrays that grow, names that become numbers, and how both are written down.

Everything here is exact: `load(dump(x))` gives equal arrays, and equal arrays give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.errors import SnapshotError

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_PART = 1 << 16  # rows of one blob
_SMALLEST = 64  # rows that a table starts with


@dataclass(frozen=True)
class Column:
    """One array of a table: [rows, *shape]; a new row holds `fill`."""

    dtype: type[np.generic]
    shape: tuple[int, ...] = ()
    fill: float | tuple[int, ...] = 0  # a tuple: along the last axis


class Names:
    """Texts by number, in order of first appearance."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values: list[str] = list(values)
        self._codes = {value: code for code, value in enumerate(self.values)}

    def __len__(self) -> int:
        return len(self.values)

    def codes(self, values: Sequence[str]) -> npt.NDArray[np.int32]:
        """[values] code of each text; unknown ones get the next free code."""
        known = self._codes
        if not all(map(known.__contains__, values)):
            for value in values:
                if value not in known:
                    known[value] = len(self.values)
                    self.values.append(value)
        return np.fromiter(map(known.__getitem__, values), np.int32, len(values))


class Table:
    """Named numpy arrays with a common number of rows; room grows by the half when it is used up."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = dict(columns)
        self._room = 0
        self._arrays: dict[str, Array] = {}
        self.rows = 0
        self._reserve(_SMALLEST)

    def __getitem__(self, name: str) -> Array:
        """[rows, *shape], a view that can be written to until the table grows."""
        return self._arrays[name][: self.rows]

    def append(self, count: int) -> None:
        """Add rows that hold each column's fill."""
        self.rows += count
        if self.rows > self._room:
            self._reserve(max(self.rows, self._room + self._room // 2))

    def _reserve(self, room: int) -> None:
        for name, column in self._columns.items():
            # Zeros cost no memory until they are written to.
            array = np.zeros((room, *column.shape), column.dtype)
            if column.fill != 0:
                array[:] = column.fill
            if self._room:
                array[: self._room] = self._arrays[name]
            self._arrays[name] = array
        self._room = room

    def dump(self) -> bytes:
        """The rows in use as one Arrow IPC stream."""
        return dump_arrays({name: self[name] for name in self._columns})

    def freeze(self) -> dict[str, Callable[[], bytes]]:
        """The rows as of now, some at a time, as blobs that are encoded when they are called."""
        arrays = {name: self[name].copy() for name in self._columns}

        def blob(start: int) -> Callable[[], bytes]:
            return lambda: dump_arrays({name: array[start : start + _PART] for name, array in arrays.items()})

        return {f"{start // _PART:06d}": blob(start) for start in range(0, max(self.rows, 1), _PART)}

    def load(self, *blobs: bytes) -> None:
        """The inverse of `dump`, or of `freeze` with its blobs in order, on a fresh table of the same columns."""
        self.rows = 0
        for number, blob in enumerate(blobs):
            self._load(load_arrays(blob), len(blobs) - number)

    def _load(self, arrays: Mapping[str, Array], left: int) -> None:
        """Of `left` blobs the first, which no later one exceeds."""
        if set(arrays) != set(self._columns):
            raise SnapshotError(
                f"the snapshot holds columns {sorted(arrays)}, this version {sorted(self._columns)}; "
                "fold the log again from its beginning"
            )
        before, count = self.rows, len(next(iter(arrays.values())))
        if before + count > self._room:
            self._reserve(before + count * left)
        self.append(count)
        for name, column in self._columns.items():
            self[name][before:] = arrays[name].reshape(count, *column.shape)


def firsts(values: Array) -> Array:
    """The distinct values, each where it comes first."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.ones(len(values), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return values[np.sort(order[new])]


_NONE = np.empty(0, np.int64)
_LOOKED_AT = 32  # times as many as are taken


class Queue:
    """Numbers in order of arrival."""

    def __init__(self, values: Array | None = None) -> None:
        self._parts: list[Array] = []
        self._length = 0
        if values is not None:
            self.push(values)

    def __len__(self) -> int:
        return self._length

    def push(self, values: Array) -> None:
        if len(values):
            self._parts.append(values)
            self._length += len(values)

    def take(self, count: int, weights: Array) -> Ints:
        """All of them, or so many where there are more: half are those that have waited longest, so that none waits for
        ever, and half those of the greatest `weights` (by number) among the newest. What is wanted all the time comes
        back at once, and a queue of a million is not gone through for a few."""
        if self._length <= count:
            taken = np.concatenate([_NONE, *self._parts])
            self.clear()
            return taken
        oldest = self._cut(count - count // 2, 0)
        newest = self._cut(_LOOKED_AT * count, -1)
        greatest = np.zeros(len(newest), np.bool_)
        greatest[np.argsort(-weights[newest], kind="stable")[: count // 2]] = True
        self.push(newest[~greatest])
        return np.concatenate([oldest, newest[greatest]])

    def _cut(self, count: int, end: int) -> Ints:
        """Take `count` off the front (0) or the back (-1), or as many as there are."""
        cut: list[Array] = []
        while count and self._parts:
            part = self._parts.pop(end)
            rest, mine = (part[count:], part[:count]) if end == 0 else (part[:-count], part[-count:])
            if len(rest):
                self._parts.insert(0 if end == 0 else len(self._parts), rest)
            cut.append(mine)
            count -= len(mine)
        self._length -= sum(map(len, cut))
        return np.concatenate([_NONE, *(cut if end == 0 else reversed(cut))])

    def clear(self) -> None:
        self._parts, self._length = [], 0

    def freeze(self) -> Callable[[], bytes]:
        parts = [_NONE, *self._parts]
        return lambda: dump_arrays({"values": np.concatenate(parts)})


def dump_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Arrays of equal length [rows, …] as one Arrow IPC stream; numbers and truth values alone."""
    columns: list[pa.Array] = []
    for array in arrays.values():
        flat = np.ascontiguousarray(array).reshape(-1)
        values = pa.array(flat.view(np.uint8) if flat.dtype == np.bool_ else flat)
        if array.ndim > 1:
            values = pa.FixedSizeListArray.from_arrays(values, int(np.prod(array.shape[1:])))
        columns.append(values)
    batch = pa.RecordBatch.from_arrays(columns, names=list(arrays))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def load_arrays(blob: bytes) -> dict[str, Array]:
    """The inverse of `dump_arrays`: [rows] or [rows, length], not to be written to; truth values as uint8."""
    with pa.ipc.open_stream(blob, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
        batch = reader.read_next_batch()
    arrays: dict[str, Array] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_fixed_size_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            arrays[name] = flat.reshape(len(column), column.type.list_size)
        else:
            arrays[name] = column.to_numpy(zero_copy_only=False)
    return arrays


def below(prefix: str, blobs: Mapping[str, bytes]) -> dict[str, bytes]:
    """The blobs whose name begins with `<prefix>/`, named by what follows."""
    start = f"{prefix}/"
    return {name[len(start) :]: blob for name, blob in blobs.items() if name.startswith(start)}
