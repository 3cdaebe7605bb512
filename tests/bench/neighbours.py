"""How much of the machine others took while something was measured: on a busy one, times say little."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


class Neighbours:
    """Looks from its making on; Linux alone."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy, self._own = _busy(), _own()

    def share(self) -> float:
        """Of all cores' time, what was spent neither here nor in what this process has started."""
        passed = (time.monotonic() - self._began) * len(os.sched_getaffinity(0))
        return max(_busy() - self._busy - (_own() - self._own), 0.0) / passed


def _busy() -> float:
    """Seconds that all cores have worked since the machine began, see proc(5)."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def _own() -> float:
    """Seconds of this process and its descendants, those that have ended included."""
    parents, spent = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            parents[int(folder.name)] = int(fields[1])
            spent[int(folder.name)] = sum(map(int, fields[11:15])) / _TICK
    return sum(seconds for pid, seconds in spent.items() if _descends(pid, parents))


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid and pid != os.getpid():
        pid = parents.get(pid, 0)
    return pid == os.getpid()
