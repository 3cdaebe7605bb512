"""Worker processes of the suite: held to one core, watched from another.

The driver and the broker have the first core, the worker the second. Where the machine has one core, or no `taskset`,
all share, and `placement` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.suite import ROOT, BenchError


@dataclass(frozen=True)
class Ran:
    """What one worker did."""

    first: float  # wall clock, epoch s: the first event was handled
    last: float  # the last event was handled
    peak_mib: float  # of resident memory


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def placement() -> str:
    """Where broker and workers run, in words."""
    if len(cores()) < 2 or shutil.which("taskset") is None:
        return "broker and workers share the cores: these rates hold for nothing but this machine"
    return f"broker on core {cores()[0]}, workers on core {cores()[1]}"


@contextlib.contextmanager
def on_first_core() -> Iterator[None]:
    """This process, and what it starts meanwhile, on the first core."""
    before = cores()
    if len(before) >= 2:
        os.sched_setaffinity(0, before[:1])
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def run(command: Sequence[str], log: Path, settled: Callable[[], bool], timeout_s: float, core: int | None) -> Ran:
    """Start a worker, wait for its report and until `settled`, and end it by SIGTERM.

    Raises BenchError when it ends without a report, or takes longer than `timeout_s` for it.
    """
    pinned = ["taskset", "-c", str(core), *command] if core is not None and shutil.which("taskset") else list(command)
    with log.open("w") as errors:
        worker = subprocess.Popen(
            pinned,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            return _watch(worker, log, settled, timeout_s)
        finally:
            _end(worker)


def _watch(worker: subprocess.Popen[str], log: Path, settled: Callable[[], bool], timeout_s: float) -> Ran:
    found: list[dict[str, float]] = []
    reader = threading.Thread(target=_read_report, args=(worker, found), daemon=True)
    reader.start()
    deadline = time.monotonic() + timeout_s
    peak = 0.0
    while not found:
        peak = max(peak, _peak_mib(worker.pid))
        if not reader.is_alive() and not found:
            worker.wait(10)
            raise BenchError(f"the worker ended (exit code {worker.returncode}) before it was done; see {log}")
        if time.monotonic() > deadline:
            raise BenchError(f"the worker was not done within {timeout_s:.0f} s; see {log}")
        time.sleep(0.05)
    while not settled():
        peak = max(peak, _peak_mib(worker.pid))
    return Ran(found[0]["first"], found[0]["last"], max(peak, _peak_mib(worker.pid)))


def _read_report(worker: subprocess.Popen[str], found: list[dict[str, float]]) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:  # read on to the end, or a talkative worker would block
        if line.startswith('{"first"'):
            found.append(json.loads(line))


def _peak_mib(pid: int) -> float:
    """VmHWM; 0 where the process is gone or the system has no /proc."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _end(worker: subprocess.Popen[str]) -> None:
    for sign, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(patience)
            break
    if worker.stdout is not None:
        worker.stdout.close()
