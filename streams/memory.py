"""How much memory this process takes, and how much it may: a clear end is better than a machine that swaps."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MIB = 1 << 20
_SHARE = 0.75  # of the machine; the rest is for the broker's page cache, other workers, and a snapshot on its way


def resident_mib(statm: Path = Path("/proc/self/statm")) -> float:
    """Memory of this process that is not swapped out, MiB; 0 where the system does not tell."""
    try:
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB
    except OSError:
        return 0.0


def usual_limit_mib(control_group: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Three quarters of the machine's memory, or of what its control group may take, MiB."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
        whole = min(whole, int(control_group.read_text()))
    return int(_SHARE * whole / _MIB)
