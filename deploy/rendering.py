"""Kafka records for people: instants as ISO times, vectors and grids shortened, codes by their names."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from rich.console import ConsoleRenderable, Group, RenderableType
from rich.table import Table
from rich.text import Text

from streams.codecs import Rows, decode
from streams.errors import CodecError
from streams.records import (
    CHANNELS,
    CLASSES,
    CONTRIBUTIONS,
    DELAYS,
    HORIZONS,
    NO_WATERMARK,
    QUANTILES,
    THRESHOLDS,
    EventKind,
    Modality,
    SalesClass,
    SourceState,
    WindowKind,
)
from streams.stage import Message

Cell = Callable[[Any], str]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ARROW = b"\xff\xff\xff\xff"  # how an Arrow IPC stream begins
_WIDE = 12  # columns above which a record is printed a field a line
_TEXT = 60  # characters of a text that are shown
_NONE = "–"
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def render(message: Message, *, max_rows: int = 5, product: str = "") -> RenderableType:
    """A record with its place and time; of a batch, up to `max_rows` rows (of one product, where it is given)."""
    head = f"{message.topic}/{message.partition} @ {message.offset}   {iso(message.timestamp)}"
    if message.value is None:
        return Text(f"{head}   {_key(message)}tombstone")
    if message.value.startswith(ARROW):
        try:
            return _render_rows(head, decode(message.value), max_rows, product)
        except CodecError as error:
            return Text(f"{head}   {error}")
    document = json_of(message.value)
    if document is None:
        return Text(f"{head}   {_key(message)}{_size(len(message.value))}, no record for people")
    return Group(Text(f"{head}   {_key(message)}"), Text(json.dumps(_short(document), indent=2, ensure_ascii=False)))


def json_lines(message: Message, product: str = "") -> Iterator[str]:
    """A line for each row of a batch, else one for the record, with nothing shortened; NaN becomes null."""
    place: dict[str, Any] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "time": message.timestamp,
    }
    if message.value is not None and message.value.startswith(ARROW):
        rows = decode(message.value)
        for index in rows_of(rows, product):
            values = rows.batch.slice(index, 1).to_pylist()[0]
            yield json.dumps(place | {"record": rows.record.name, "value": _plain(values)}, ensure_ascii=False)
        return
    document = json_of(message.value) if message.value is not None else None
    value = _plain(message.value) if document is None else document
    key = message.key.decode(errors="replace") if message.key is not None else None
    yield json.dumps(place | {"key": key, "value": value}, ensure_ascii=False)


def iso(instant: int) -> str:
    """UTC epoch ms as ISO 8601; midnight without its zeros."""
    try:
        at = _EPOCH + timedelta(milliseconds=int(instant))
    except OverflowError:
        return str(instant)
    if at.hour == at.minute == at.second == at.microsecond == 0:
        return f"{at:%Y-%m-%d}"
    return f"{at:%Y-%m-%d %H:%M:%S}" + (f".{at.microsecond // 1000:03d}" if at.microsecond else "")


# --------------------------------------------------------------------------------------------------------------------
# Batches.


def _render_rows(head: str, rows: Rows, max_rows: int, product: str) -> RenderableType:
    chosen = rows_of(rows, product)
    shown = chosen[:max_rows]
    names = rows.record.schema.names
    columns = {name: rows[name] for name in names}
    cells = {name: _cell(rows.record.name, name) for name in names}
    texts = [[cells[name](columns[name][index]) for name in names] for index in shown]
    count = f"{len(chosen)} of {len(rows)}" if product else str(len(rows))
    title = Text(f"{head}   {rows.record.name}: {count} row{'' if count == '1' else 's'}")
    if not shown:
        return title
    left = len(chosen) - len(shown)
    parts: list[ConsoleRenderable] = [title, _across(names, texts) if len(names) <= _WIDE else _down(names, texts)]
    if left:
        parts.append(Text(f"… {left} more row{'' if left == 1 else 's'}"))
    return Group(*parts)


def _across(names: list[str], texts: list[list[str]]) -> Table:
    table = Table(*names)
    for row in texts:
        table.add_row(*map(Text, row))
    return table


def _down(names: list[str], texts: list[list[str]]) -> Table:
    """A field a line and a row a column; fields that say nothing in any of the rows are left out."""
    table = Table("", *("" for _ in texts), show_header=False, show_lines=False)
    for index, name in enumerate(names):
        values = [row[index] for row in texts]
        if any(value not in ("", _NONE) for value in values):
            table.add_row(Text(name, style="bold"), *map(Text, values))
    return table


def rows_of(rows: Rows, product: str) -> list[int]:
    """Rows of a batch that are of a product; all of them where none is given."""
    if not product:
        return list(range(len(rows)))
    if "product" not in rows.record.schema.names:
        return []
    return np.flatnonzero(rows["product"] == product).tolist()


def _cell(record: str, name: str) -> Cell:
    """How a column's values read: by record where a name means different things, else by name, else by kind."""
    return _CELLS.get(f"{record}.{name}") or _CELLS.get(name) or _anything


def _anything(value: Any) -> str:
    if isinstance(value, bytes):
        return _size(len(value)) if value else _NONE
    if isinstance(value, str):
        flat = " ".join(value.split())
        return flat if len(flat) <= _TEXT else flat[: _TEXT - 1] + "…"
    if isinstance(value, np.ndarray):
        return " ".join(map(_number, value[:4].tolist())) + (" …" if len(value) > 4 else "")
    return _number(value)


def _number(value: Any) -> str:
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    number = float(value)
    if math.isnan(number):
        return _NONE
    return f"{number:.4g}" if abs(number) < 10_000 else f"{number:.0f}"


def _instant(value: Any) -> str:
    return iso(int(value))


def _epoch(value: Any) -> str:
    return iso(int(value)) if value else "frozen"


def _watermark(value: Any) -> str:
    return "none yet" if value <= NO_WATERMARK else iso(int(value))


def _known(value: Any) -> str:
    return _NONE if value == -1 else _number(value)


def _name_of(kind: Any) -> Cell:
    names = {int(member): member.name.lower() for member in kind}
    return lambda value: names.get(int(value), f"unknown ({int(value)})")


def _flag(value: Any) -> str:
    return "yes" if value else "no"


def _mask(value: Any) -> str:
    return ", ".join(m.name.lower() for m in Modality if int(value) & 1 << m) or "nothing"


def _ages(value: Any) -> str:
    known = [(m.name.lower(), age) for m, age in zip(Modality, value, strict=True) if not math.isnan(age)]
    return ", ".join(f"{name} {_number(age)} d" for name, age in known) or _NONE


def _grid(shown: int, unit: str) -> Cell:
    """[channels x buckets], oldest first: each channel's newest buckets and the sum of all of them."""

    def cell(value: Any) -> str:
        grid = np.asarray(value).reshape(len(CHANNELS), -1)
        lines = [
            f"{name} {shown}{unit}: {' '.join(map(str, row[-shown:].tolist()))}  Σ{grid.shape[1]}{unit} {row.sum()}"
            for name, row in zip(CHANNELS, grid, strict=True)
            if row.any()
        ]
        return "\n".join(lines) or "nothing yet"

    return cell


def _channels(value: Any) -> str:
    known = [f"{name} {int(v)}" for name, v in zip(CHANNELS, value, strict=True) if v]
    return ", ".join(known) or _NONE


def _vector(value: Any) -> str:
    if not np.any(value):
        return _NONE
    return f"[{' '.join(f'{v:.2f}' for v in value[:3])} …] |{float(np.linalg.norm(value)):.2f}|"


def _by(labels: Iterable[str]) -> Cell:
    names = list(labels)
    return lambda value: ", ".join(f"{name} {_known(v)}" for name, v in zip(names, value, strict=True))


def _by_horizon(labels: Iterable[str], number: Cell = _number) -> Cell:
    """[horizons x labels]: a line a horizon."""
    names = list(labels)

    def cell(value: Any) -> str:
        table = np.asarray(value).reshape(DELAYS, len(names))
        return "\n".join(
            f"{days} d: " + ", ".join(f"{name} {number(v)}" for name, v in zip(names, row.tolist(), strict=True))
            for days, row in zip(HORIZONS, table, strict=True)
        )

    return cell


def _percent(value: Any) -> str:
    return _NONE if math.isnan(value) else f"{100 * value:.0f} %"


_LEFT_ENDS = (0, *HORIZONS[:-1])
_DELAY_NAMES = [f"{a}–{b} d" for a, b in zip(_LEFT_ENDS, HORIZONS, strict=True)]
_HORIZON_NAMES = [f"{days} d" for days in HORIZONS]

_CELLS: Mapping[str, Cell] = {
    **dict.fromkeys(("at", "ordered_at", "end", "as_of"), _instant),
    **dict.fromkeys(("epoch", "head_epoch"), _epoch),
    "watermark": _watermark,
    "events.kind": _name_of(EventKind),
    "kind": _name_of(WindowKind),
    "modality": _name_of(Modality),
    "state": _name_of(SourceState),
    "sales_class": _name_of(SalesClass),
    "delay": lambda value: _DELAY_NAMES[int(value)] if 0 <= value < DELAYS else f"unknown ({int(value)})",
    "weekday": lambda value: _WEEKDAYS[int(value) % 7],
    **dict.fromkeys(("price", "unit_cost"), _known),  # minor units
    **dict.fromkeys(("censored", "head_late"), _flag),
    "mask": _mask,
    "age": _ages,
    "day": _grid(7, "d"),
    "hour": _grid(6, "h"),
    "open": _channels,
    **dict.fromkeys(("text", "image", "title", "vector"), _vector),
    "texts.text": _anything,
    **dict.fromkeys(("baseline", "mean", "frozen_mean", "f"), _by(_DELAY_NAMES)),
    **dict.fromkeys(("dispersion", "frozen_dispersion", "frozen_median", "trend"), _by(_HORIZON_NAMES)),
    **{  # a row of it is one delay: numbers where the others hold arrays
        f"matured.{name}": _number
        for name in ("baseline", "mean", "frozen_mean", "f", "dispersion", "frozen_dispersion", "frozen_median")
    },
    "thresholds": _by_horizon(THRESHOLDS, _known),
    "quantiles": _by_horizon(f"q{100 * q:.0f}" for q in QUANTILES),
    "probabilities": _by_horizon(CLASSES, _percent),
    "contributions": _by(CONTRIBUTIONS),
}


# --------------------------------------------------------------------------------------------------------------------
# JSON and bytes.


def json_of(value: bytes) -> Any:
    """The document of a JSON record; None where it is none."""
    try:
        return json.loads(value)
    except ValueError:
        return None


def _key(message: Message) -> str:
    return f"key {message.key.decode(errors='replace')}   " if message.key else ""


def _short(value: Any) -> Any:
    """A JSON document whose long texts and lists of numbers are cut."""
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list):
        if len(value) > 8 and all(isinstance(each, (int, float)) for each in value):
            return f"[{' '.join(map(_number, value[:4]))} … {len(value)} numbers]"
        return [_short(each) for each in value]
    if isinstance(value, str) and len(value) > 200:
        return f"{value[:40]}… ({_size(len(value))} of text)"
    return value


def _plain(value: Any) -> Any:
    """What JSON can carry: bytes as base64, NaN and infinity as null."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _size(count: int) -> str:
    for unit, factor in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
