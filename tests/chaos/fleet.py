"""Workers as processes that are killed, stopped and started again, and how each of them ended."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.e2e.running import ENCODERS, Workers

GIVES_UP_AFTER = 5  # ends of one worker without a reason
FENCED_WITHIN_S = 60.0  # a zombie that was woken
REJOINS_WITHIN_S = 3.0  # an encoder that was woken
ENDS_WITHIN_S = 60.0  # a worker that was asked to


@dataclass(frozen=True)
class Ending:
    """A worker that ended without having been killed."""

    worker: str
    code: int
    why: str  # its last words
    log: str
    asked: bool  # by SIGTERM, or as a zombie

    def is_explained(self) -> bool:
        """An end by an error of our own, told in one line; not by a signal, nor with a traceback."""
        return self.code == 0 if self.asked else self.code == 1 and self.why.startswith("trendstream: ")


@dataclass
class Fleet(Workers):
    """Names are `stage/slot`; each process of a name has a log of its own."""

    endings: list[Ending] = field(default_factory=list)
    started: Counter[str] = field(default_factory=Counter)
    _zombies: list[tuple[str, BaseProcess, Path]] = field(default_factory=list)

    def start(self, *names: str) -> None:
        for name in names:
            self.started[name] += 1
            super().start(name)

    def log(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '-')}.{self.started[name]}.log"

    def tend(self) -> None:
        """Start again what ended by itself, as Kubernetes would."""
        for name, process in list(self.processes.items()):
            if not process.is_alive():
                self._note(name, process, self.log(name), asked=False)
                wrong = [e for e in self.endings if e.worker == name and not e.is_explained()]
                assert len(wrong) < GIVES_UP_AFTER, f"{name} ends again and again: {wrong[-1]}"
                self.start(name)

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))
            self.tend()

    def stop_still(self, name: str) -> None:
        """SIGSTOP: it holds its partitions, its memberships and its open transaction, and does nothing."""
        process = self.processes.pop(name)
        _signal(process, signal.SIGSTOP)
        self._zombies.append((name, process, self.log(name)))

    def wake_and_see_it_end(self) -> None:
        """SIGCONT to every zombie: each finds itself fenced, and ends by itself with an error. An encoder, a member
        without a name, joins its group again instead, and ends when it is asked to."""
        for _, process, _ in self._zombies:
            _signal(process, signal.SIGCONT)
        encoders = [process for name, process, _ in self._zombies if name.partition("/")[0] in ENCODERS]
        if encoders:
            self.wait(REJOINS_WITHIN_S)
        for process in encoders:
            process.terminate()
        deadline = time.monotonic() + FENCED_WITHIN_S
        for name, process, log in self._zombies:
            while process.is_alive():
                assert time.monotonic() < deadline, f"zombie {name} goes on {FENCED_WITHIN_S:g} s after SIGCONT; {log}"
                self.tend()
                time.sleep(0.1)
            self._note(name, process, log, asked=process in encoders and process.exitcode == 0)
            assert process in encoders or process.exitcode != 0, f"zombie {name} ended as if nothing were wrong; {log}"
        self._zombies.clear()

    def dismiss(self, *names: str) -> None:
        """SIGTERM, all at once, and wait for their ends."""
        leaving = [(name, self.processes.pop(name)) for name in names]
        for _, process in leaving:
            process.terminate()
        deadline = time.monotonic() + ENDS_WITHIN_S
        for name, process in leaving:
            while process.is_alive():
                assert time.monotonic() < deadline, (
                    f"{name} goes on {ENDS_WITHIN_S:g} s after SIGTERM; {self.log(name)}"
                )
                self.tend()
                time.sleep(0.1)
            self._note(name, process, self.log(name), asked=True)

    def kill_all(self) -> list[str]:
        """SIGKILL to everyone; who they were."""
        killed = dict(self.processes)
        self.processes.clear()
        for process in [*killed.values(), *(process for _, process, _ in self._zombies)]:
            process.kill()
        for process in [*killed.values(), *(process for _, process, _ in self._zombies)]:
            process.join(20)
        return list(killed)

    def of_stage(self, *stages: str) -> list[str]:
        return [name for name in self.processes if name.partition("/")[0] in stages]

    def _note(self, name: str, process: BaseProcess, log: Path, asked: bool) -> None:
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        code = process.exitcode
        self.endings.append(Ending(name, -1 if code is None else code, lines[-1] if lines else "", log.name, asked))


def kind_of(ending: Ending) -> str:
    """What endings have in common: numbers and addresses left out."""
    if ending.code == 0:
        return "code 0, after SIGTERM" if ending.asked else "code 0, unasked"
    told = re.sub(r"127\.0\.0\.1:\d+|\d+(\.\d+)?", "…", ending.why)
    return f"code {ending.code}: {told[:160]}"


def _signal(process: BaseProcess, number: int) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)
