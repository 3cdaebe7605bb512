"""How long work shows itself: a bar with an estimate on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from deploy.watch import Watch

if TYPE_CHECKING:
    from model.train import Step

_LINE_SECONDS = 5.0  # between two lines where there is no terminal


class _Parts:
    """One bar, or one line at a time, for the part of the work that runs."""

    def __init__(self, console: Console, bar: Progress | None) -> None:
        self._console = console
        self._bar = bar
        self._task = bar.add_task("", total=None, note="") if bar else None
        self._name, self._total = "", 0
        self._begun = self._said = time.monotonic()

    def part(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._begun = self._said = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.reset(self._task, total=total or None, description=name)
        else:
            self._console.print(f"{name} …", highlight=False)

    def done(self, count: int, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=count, note=note)
            return
        now = time.monotonic()
        if now - self._said < _LINE_SECONDS or not count:
            return
        self._said = now
        left = (now - self._begun) / count * max(self._total - count, 0)
        share = f" of {self._total:,}" if self._total else ""
        about = f", about {left:.0f} s left" if self._total else ""
        self._console.print(f"  {note}{count:,}{share}{about}", highlight=False)

    def trained(self, step: Step) -> None:
        self._total = step.steps
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=step.steps, completed=step.step)
        else:
            self.done(step.step)


@contextmanager
def show_parts(console: Console) -> Iterator[Watch]:
    """A `Watch` for the work in the block."""
    if not console.is_terminal:
        parts = _Parts(console, None)
        yield Watch(parts.part, parts.done, parts.trained)
        return
    columns = (
        TextColumn("{task.description} {task.fields[note]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        parts = _Parts(console, bar)
        yield Watch(parts.part, parts.done, parts.trained)
