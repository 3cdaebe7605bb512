"""What a part of the benchmark suite is: it runs, and returns its piece of the JSON and its rows of the table.

A new part is a module with a `PART`, named in `PARTS` of tests/bench/__main__.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class BenchError(Exception):
    """What keeps a part from running, in one line."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    folder: Path  # everything that the suite makes: environments, brokers, results
    engines: tuple[str, ...]
    events: int
    repeat: int


@dataclass(frozen=True)
class Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [
            "  ".join(
                text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in (self.head, ["-" * w for w in widths], *self.rows)
        ]
        return "\n".join([self.title, "", *(line.rstrip() for line in lines)])


@dataclass(frozen=True)
class Piece:
    """What a part found: keys of engine.json, and what people read."""

    keys: Mapping[str, Any]
    tables: Sequence[Table]


@dataclass(frozen=True)
class Part:
    name: str
    about: str  # one line
    estimate_s: Callable[[Settings], float]
    run: Callable[[Settings], Piece]


def say(text: str) -> None:
    """Progress, beside the results."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
