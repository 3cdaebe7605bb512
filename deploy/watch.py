"""What long work tells while it runs; deploy/cli/progress.py shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from model.train import Progress as TrainProgress


class Done(Protocol):
    def __call__(self, count: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Watch:
    """The part of the work that begins, steps done in it (a note says where that is), steps of training."""

    part: Callable[[str, int], None]  # name, number of steps (0: not known)
    done: Done
    trained: TrainProgress | None = None


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long the block took."""
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
