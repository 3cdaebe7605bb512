"""The engineer on call: every command of a drill, and what it said, as docs/runbook.md quotes them."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deploy.cli import run
from tests.conftest import ROOT

TRANSCRIPTS = ROOT / "build" / "drills"


class OnCall:
    """Calls `trendstream` in this process. The transcript ends with the number of commands and how long it took."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._lines: list[str] = []
        self.commands = 0

    def __call__(self, *arguments: str, code: int = 0, quietly: bool = False) -> str:
        """What a command said on both outputs. `quietly`: it looks on for the test, and is no part of the drill."""
        self._capsys.readouterr()
        found = run(arguments)
        said = self._capsys.readouterr()
        text = said.out + said.err
        assert found == code, f"{shlex.join(arguments)} ended with {found}:\n{text}"
        if not quietly:
            self.commands += 1
            self._lines.append(f"$ trendstream {shlex.join(arguments)}\n{text}")
        return text

    def note(self, text: str) -> None:
        """What the drill has measured, for its transcript."""
        self._lines.append(f"# {text}\n")

    def write(self, name: str, seconds: float) -> None:
        TRANSCRIPTS.mkdir(parents=True, exist_ok=True)
        end = f"# {self.commands} commands, {seconds:.0f} s\n"
        (TRANSCRIPTS / f"{name}.txt").write_text("\n".join([*self._lines, end]))


def replay_of(planned: str) -> str:
    """The id in what `replay plan` said."""
    (replay,) = set(re.findall(r"r\d{8}-\d{6}-\d{3}", planned))
    return str(replay)


@contextmanager
def drill(name: str, capsys: pytest.CaptureFixture[str]) -> Iterator[OnCall]:
    """From the symptom to the end; build/drills/NAME.txt holds what was typed and said."""
    began = time.monotonic()
    engineer = OnCall(capsys)
    yield engineer
    engineer.write(name, time.monotonic() - began)
