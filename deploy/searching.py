"""Records by what is in them: a product, a key, or any text, in JSON and in Arrow batches alike; and as Parquet."""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deploy.rendering import ARROW, json_of, rows_of
from streams.codecs import Rows, decode
from streams.stage import Message

_BATCH = 1_000  # records of one piece of a Parquet file


@dataclass(frozen=True)
class Wanted:
    """Everything that is given must hold; `until` is a record time, UTC ms, and does not belong."""

    product: str = ""
    key: str = ""
    text: str = ""
    until: int | None = None

    def holds(self, message: Message) -> bool:
        if self.until is not None and message.timestamp >= self.until:
            return False
        if self.key and message.key != self.key.encode():
            return False
        return (not self.product or _mentions(message, self.product)) and (
            not self.text or _contains(message, self.text)
        )

    def __bool__(self) -> bool:
        return bool(self.product or self.key or self.text or self.until is not None)


def newest(messages: Iterable[Message], limit: int) -> Iterable[Message]:
    """The last so many by record time, oldest first."""
    return deque(sorted(messages, key=lambda m: (m.timestamp, m.partition, m.offset)), maxlen=limit)


def write_parquet(messages: Iterable[Message], folder: Path, product: str = "") -> dict[str, int]:
    """A file for each kind of record in a folder; rows by file. Batches row by row, JSON one document a row."""
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, pq.ParquetWriter] = {}
    counts: dict[str, int] = defaultdict(int)
    try:
        for name, table in _tables(messages, product):
            if name not in writers:
                writers[name] = pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
            writers[name].write_table(table)
            counts[name] += table.num_rows
    finally:
        for writer in writers.values():
            writer.close()
    return dict(counts)


def _tables(messages: Iterable[Message], product: str) -> Iterator[tuple[str, pa.Table]]:
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in messages:
        if message.value is not None and message.value.startswith(ARROW):
            rows = decode(message.value)
            batch = rows.batch.take(rows_of(rows, product))
            yield rows.record.name, _placed(message, pa.Table.from_batches([batch]))
            continue
        document = json_of(message.value) if message.value is not None else None
        # As text: documents of one topic need not have one form, least of all those that one looks for.
        value = None if document is None else json.dumps(document, ensure_ascii=False)
        key = message.key.decode(errors="replace") if message.key is not None else None
        waiting = documents[message.topic]
        waiting.append({**_place(message), "key": key, "value": value})
        if len(waiting) >= _BATCH:
            yield message.topic, pa.Table.from_pylist(waiting, _DOCUMENT)
            waiting.clear()
    for topic, waiting in documents.items():
        if waiting:
            yield topic, pa.Table.from_pylist(waiting, _DOCUMENT)


def _place(message: Message) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "time": message.timestamp,
    }


_PLACE = {"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64(), "time": pa.timestamp("ms", "UTC")}
_DOCUMENT = pa.schema({**_PLACE, "key": pa.string(), "value": pa.string()})


def _placed(message: Message, table: pa.Table) -> pa.Table:
    for column, (name, kind) in enumerate(_PLACE.items()):
        values = pa.array([_place(message)[name]] * table.num_rows, kind)
        table = table.add_column(column, f"record_{name}", values)
    return table.replace_schema_metadata(None)


def _mentions(message: Message, product: str) -> bool:
    if message.value is None:
        return message.key == product.encode()
    if message.value.startswith(ARROW):
        return bool(rows_of(decode(message.value), product))
    document = json_of(message.value)
    if not isinstance(document, dict):
        return False
    lines = document.get("lines")
    held = [document, *(line for line in lines if isinstance(line, dict))] if isinstance(lines, list) else [document]
    return any(f"{document.get('platform')}:{each.get('product_id')}" == product for each in held)


def _contains(message: Message, text: str) -> bool:
    if message.key is not None and text.encode() in message.key:
        return True
    if message.value is None:
        return False
    if not message.value.startswith(ARROW):
        return text.encode() in message.value
    rows: Rows = decode(message.value)
    for column in rows.batch.columns:
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        if pa.types.is_string(texts.type) and pc.any(pc.match_substring(texts, text)).as_py():
            return True
    return False
