"""How a process of trendstream ends: SIGTERM and SIGINT ask, the work in hand is finished, and then it stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType


class Stopper:
    """Becomes true when the process is asked to end."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at = float("inf")

    def __call__(self) -> bool:
        return self._asked.is_set()

    @property
    def asked_at(self) -> float:
        """Monotonic seconds; infinity before."""
        return self._at

    def ask(self) -> None:
        self._at = min(self._at, time.monotonic())
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
        self.ask()


def run_beside(work: Callable[[], None], stop: Stopper, patience_s: float) -> bool:
    """Run `work` in a thread and raise what it raises. False if it had not ended `patience_s` after the stop was asked.

    A signal is heard between two steps of the main thread alone, and a call to a broker that does not answer may hold
    its thread for long after its own time-out (librdkafka's `send_offsets_to_transaction`: 20 s).
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="work", daemon=True)
    thread.start()
    while thread.is_alive() and time.monotonic() < stop.asked_at + patience_s:
        thread.join(0.1)
    if raised:
        raise raised[0]
    return not thread.is_alive()
