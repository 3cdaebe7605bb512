"""JSON for the outside (msgspec), Arrow IPC for the inside.

Both are deterministic: equal columns give equal bytes, which the determinism contract rests on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streams.errors import CodecError
from streams.records.inside import ARROW_RECORDS, ArrowRecord
from streams.stage import Message

# Batches are small: handing columns to arrow's thread pool costs more than it gives.
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_READ = pa.ipc.IpcReadOptions(use_threads=False)
_JSON = msgspec.json.Encoder(order="deterministic")
pa.array(np.empty(0))  # makes pyarrow look for pandas, which takes a second: here, and not in the middle of a fold

T = TypeVar("T")
Array: TypeAlias = npt.NDArray[Any]
Column: TypeAlias = Array | Sequence[Any] | pa.Array


@dataclass(frozen=True)
class Coded:
    """A text column as codes into its distinct values, for columns that are coded already."""

    codes: Array  # [rows] int
    values: Sequence[str]


@dataclass(frozen=True)
class Rows:
    """A decoded batch: columns by name, as numpy arrays that must be left as they are."""

    record: ArrowRecord
    batch: pa.RecordBatch
    _arrays: dict[str, Array] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def __getitem__(self, name: str) -> Array:
        """Numbers: [rows]; fixed-size lists: [rows, length]; texts: [rows] object."""
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._array(name)
            array.flags.writeable = False
        return array

    def column(self, name: str) -> pa.Array:
        """As it is, to be handed on."""
        return self.batch.column(name)

    def coded(self, name: str) -> tuple[Array, list[str]]:
        """A dictionary column: codes [rows] int32 and the values that they index."""
        column = self.batch.column(name)
        return column.indices.to_numpy(zero_copy_only=False), column.dictionary.to_pylist()

    def _array(self, name: str) -> Array:
        column = self.batch.column(name)
        if isinstance(column, pa.FixedSizeListArray):
            flat = column.values.to_numpy(zero_copy_only=False)  # of the whole column, whatever part of it this is
            lists: Array = flat.reshape(-1, column.type.list_size)[column.offset : column.offset + len(column)]
            return lists
        if isinstance(column, pa.DictionaryArray):
            codes, values = self.coded(name)
            return np.asarray(values, dtype=object)[codes] if len(codes) else np.empty(0, dtype=object)
        return column.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def encode(record: ArrowRecord, columns: Mapping[str, Column | Coded]) -> bytes:
    """One Arrow IPC stream with one batch; every column of the record's schema must be given."""
    missing = record.types.keys() ^ columns.keys()
    if missing:
        raise CodecError(f"{record.name}: columns {sorted(missing)} are missing or unknown; see streams/records/")
    arrays = [_array(columns[name], kind) for name, kind in record.types.items()]
    return encode_batch(pa.RecordBatch.from_arrays(arrays, schema=record.schema))


def encode_batch(batch: pa.RecordBatch) -> bytes:
    """A batch that carries its record's schema (with its metadata) as an IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_WRITE) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def batches(messages: Iterable[Message]) -> Iterator[tuple[Message, Rows]]:
    """Messages of a topic of inside records with their rows, tombstones aside. Raises as `decode` does."""
    for message in messages:
        if message.value is not None:
            yield message, decode(message.value)


def decode(value: bytes) -> Rows:
    """The batch of an inside record. Raises CodecError if it is not one of `ARROW_RECORDS` at this version."""
    try:
        with pa.ipc.open_stream(value, options=_READ) as reader:
            metadata = reader.schema.metadata or {}
            batch = reader.read_next_batch()
    except (pa.ArrowInvalid, StopIteration, OSError) as error:
        raise CodecError(f"not an Arrow record batch ({len(value)} bytes): {error}") from error
    name = metadata.get(b"record", b"").decode()
    version = metadata.get(b"version", b"").decode()
    record = ARROW_RECORDS.get(name)
    if record is None or version != str(record.version):
        known = "no such record" if record is None else f"this is version {record.version}"
        raise CodecError(
            f"Arrow record {name!r} version {version!r} is unknown here ({known}); "
            "upgrade the readers before the writers"
        )
    return Rows(record, batch)


def split(record: ArrowRecord, columns: Mapping[str, Column | Coded], max_bytes: int) -> Iterator[bytes]:
    """Encoded batches, none above `max_bytes` unless one row alone is; rows stay in order."""
    value = encode(record, columns)
    if len(value) <= max_bytes:
        yield value
        return
    rows = decode(value).batch
    yield from _halves(rows, max_bytes)


def _halves(batch: pa.RecordBatch, max_bytes: int) -> Iterator[bytes]:
    # take() compacts what slice() would only point into, dictionaries included on the way out.
    value = encode_batch(batch)
    if len(value) <= max_bytes or batch.num_rows == 1:
        yield value
        return
    half = batch.num_rows // 2
    yield from _halves(_compact(batch, 0, half), max_bytes)
    yield from _halves(_compact(batch, half, batch.num_rows), max_bytes)


def _compact(batch: pa.RecordBatch, start: int, stop: int) -> pa.RecordBatch:
    part = batch.slice(start, stop - start)
    arrays = []
    for column in part.columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _array(column: Column | Coded, kind: pa.DataType) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    if isinstance(column, Coded):
        return pa.DictionaryArray.from_arrays(
            pa.array(np.asarray(column.codes, dtype=np.int32)), pa.array(list(column.values), pa.string())
        )
    if isinstance(kind, pa.FixedSizeListType):
        flat = np.ascontiguousarray(column, dtype=kind.value_type.to_pandas_dtype()).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size)
    if isinstance(kind, pa.DictionaryType):
        values = column.tolist() if isinstance(column, np.ndarray) else list(column)
        return pa.array(values, pa.string()).dictionary_encode()
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return pa.array(column.tolist() if isinstance(column, np.ndarray) else list(column), kind)
    return pa.array(np.asarray(column, dtype=kind.to_pandas_dtype()))


def encode_json(record: msgspec.Struct | str) -> bytes:
    return _JSON.encode(record)


def json_texts(values: Iterable[Any]) -> list[bytes]:
    """The JSON of each, made in one call."""
    return _JSON.encode_lines(values).split(b"\n")[:-1]  # JSON has no line's end in it


def decode_json(value: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError as error:
        raise CodecError(f"not a {kind.__name__}: {error}") from error
