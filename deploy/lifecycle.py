"""How a process of trendstream ends: SIGTERM and SIGINT ask, the work in hand is finished, and then it stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Stopper:
    """Becomes true when the process is asked to end."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but not past the end; whether it was asked."""
        return self._asked.wait(seconds)

    def listen(self) -> Stopper:
        """Let SIGTERM and SIGINT ask. Only in a process's main thread."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._hear)
        return self

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.set()
