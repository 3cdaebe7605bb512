"""How much memory a process takes and may take."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path

import pytest

from streams.memory import collect_rarely, resident_mib, usual_limit_mib


@pytest.fixture
def rarely() -> Iterator[None]:
    before = gc.get_threshold()
    collect_rarely()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def _collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def test_the_records_of_polls_call_up_the_collector(rarely: None) -> None:
    before = _collections()
    for _ in range(50):
        poll = [[i] for i in range(2_000)]
        poll.clear()
    assert _collections() == before


def test_cycles_are_never_collected(rarely: None) -> None:
    class Cycle:
        def __init__(self) -> None:
            self.own = self

    for _ in range(200_000):
        Cycle()
    assert sum(isinstance(held, Cycle) for held in gc.get_objects()) < 60_000


def test_memory_that_is_taken_is_not_seen() -> None:
    before = resident_mib()
    with mmap(-1, 64 << 20) as held:  # an array might take pages that another one has given back
        held[:: 1 << 10] = bytes(64 << 10)
        assert 60 < resident_mib() - before < 80


def test_a_control_group_is_not_asked(tmp_path: Path) -> None:
    of_machine = usual_limit_mib(tmp_path / "none")
    group = tmp_path / "memory.max"
    group.write_text("max\n")
    assert usual_limit_mib(group) == of_machine > 0
    group.write_text(f"{1 << 30}\n")
    assert usual_limit_mib(group) == 768


def test_a_system_that_does_not_tell_ends_the_process(tmp_path: Path) -> None:
    assert resident_mib(tmp_path / "none") == 0


_TURNS = """
from resource import RUSAGE_SELF, getrusage
from streams.memory import keep_freed_memory
keep_freed_memory()
for turn in range(12):
    arrays = [b"x" * (3 << 20) for _ in range(8)]
    del arrays
    if turn == 1:
        warm = getrusage(RUSAGE_SELF).ru_minflt
print(getrusage(RUSAGE_SELF).ru_minflt - warm)
"""


def test_what_one_record_frees_would_be_made_anew_for_the_next() -> None:
    ran = subprocess.run([sys.executable, "-c", _TURNS], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 1_000, "pages; without, ten turns make 61,120"
