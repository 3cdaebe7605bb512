"""How much memory this process takes, how much it may (a clear end is better than a machine that swaps), and how seldom
the garbage collector looks for some."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path

_MIB = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt
_KEPT_MIB, _LARGEST_MIB = 128, 32  # the second is the most that glibc takes
_GROWTH = 50_000  # objects; a poll makes and drops some thousands
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


def set_up_worker() -> None:
    """What a worker does once it has loaded all that it needs, and a bench that stands for one."""
    keep_freed_memory()
    collect_rarely()


def keep_freed_memory() -> None:
    """Let glibc keep what arrays leave behind for the next ones. By itself it may give it back after each record, and
    the system then makes every page anew: a tenth of inference. Without glibc nothing changes."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_MIB * _MIB)
        mallopt(_TRIM_THRESHOLD, _KEPT_MIB * _MIB)


def collect_rarely() -> None:
    """Set the garbage collector for a worker that is about to run.

    What it has loaded stays, and the records of a poll die by their reference counts: neither is gone through with
    every few polls, nor is every id that a stage remembers. Cycles wait until there are many.
    """
    gc.freeze()
    gc.set_threshold(_GROWTH)
