"""JSON Schemas of every outside record, made from `streams/records/`: docs/contracts/<topic>.schema.json.

`python -m streams.contracts --write` writes them and their table; without it the command only compares, and ends with 1
where they drifted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from streams.ingest.reasons import Reason
from streams.records.outside import JSON_RECORDS
from streams.records.platform import PLATFORM_RECORDS
from streams.topics import TOPICS

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "contracts"

_INTRODUCTION = """# Contracts

What the platform sends and what consumers read: one JSON record per event, keyed as below. The schemas (JSON Schema,
draft 2020-12) are made from `streams/records/` by `python -m streams.contracts --write`; a test fails when they
drift.

Unknown fields are allowed and ignored. Instants that the platform sends are RFC 3339 text with an offset, or integer
epoch milliseconds; those that trendstream writes are UTC epoch milliseconds. Money is decimal text or a number, in
units of the platform's currency, never finer than its minor unit. A `?` marks a field that may be left out.
"""

_REASONS = """
## Reason codes of `trend.dlq`

What ingest could not use, by `reason`. A dead letter names its source topic, partition and offset; its original is
sealed (AES-SIV) and opens with the secret of the settings. The id of a dead letter is not remembered: send the event
again when it is mended.

| reason | what it means |
|---|---|
"""


def schema(topic: str) -> dict[str, Any]:
    """The JSON Schema of a topic's record."""
    record = {**PLATFORM_RECORDS, **JSON_RECORDS}[topic]
    (reference,), definitions = msgspec.json.schema_components([record], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{topic}.schema.json",
        "title": f"{topic}: {TOPICS[topic].about}",
        **reference,
        "$defs": definitions,
    }


def documents() -> dict[str, str]:
    """Every file of docs/contracts by its name."""
    files = {f"{topic}.schema.json": _pretty(schema(topic)) for topic in (*PLATFORM_RECORDS, *JSON_RECORDS)}
    return {**files, "README.md": _readme()}


def drifted(folder: Path) -> list[str]:
    """Names of the files in a folder that are not what the records say, missing and needless ones included."""
    wanted = documents()
    present = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*") if path.is_file()}
    return sorted(
        name
        for name in wanted.keys() | present.keys()
        if wanted.get(name) != present.get(name) and (name in wanted or name.endswith(".schema.json"))
    )


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in drifted(folder):
        (folder / name).unlink(missing_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m streams.contracts", description="Schemas of the outside records.")
    parser.add_argument("--write", action="store_true", help="write them; otherwise only compare")
    if parser.parse_args(arguments).write:
        write(FOLDER)
        return 0
    names = drifted(FOLDER)
    if names:
        sys.stderr.write(f"docs/contracts drifted: {', '.join(names)}; run `python -m streams.contracts --write`\n")
    return 1 if names else 0


def _readme() -> str:
    parts = [_INTRODUCTION]
    for heading, records in (
        ("What the platform sends", PLATFORM_RECORDS),
        ("What trendstream writes", JSON_RECORDS),
    ):
        parts.append(f"\n## {heading}\n\n| topic | key | about | fields |\n|---|---|---|---|\n")
        for topic, record in records.items():
            about = TOPICS[topic]
            link = f"[`{topic}`]({topic}.schema.json)"
            parts.append(f"| {link} | {about.key} | {about.about} | {', '.join(_fields(record))} |\n")
    parts.append(_REASONS)
    parts += [f"| `{reason.code}` | {reason.help} |\n" for reason in Reason]
    return "".join(parts)


def _fields(record: type[msgspec.Struct]) -> list[str]:
    ours = record in JSON_RECORDS.values()  # and then nothing is left out but what is unset
    names = [
        f.name if f.required or (ours and f.default is not msgspec.UNSET) else f"{f.name}?"
        for f in msgspec.structs.fields(record)
    ]
    if record is PLATFORM_RECORDS["orders"]:
        line = next(f for f in msgspec.structs.fields(record) if f.name == "lines")
        inner = msgspec.inspect.type_info(line.type)
        assert isinstance(inner, msgspec.inspect.ListType)
        assert isinstance(inner.item_type, msgspec.inspect.StructType)
        names[-1] = f"lines: [{{{', '.join(_fields(inner.item_type.cls))}}}]"
    return names


def _pretty(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
