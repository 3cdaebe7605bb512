"""Drill 7: a replay of two days in the middle of live load, held to a quarter of a core, does not slow what is live."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.cli import run
from tests.bench import latency
from tests.conftest import ROOT
from tests.drills.on_call import OnCall, drill

pytestmark = [pytest.mark.kafka, pytest.mark.drill, pytest.mark.timeout(480)]
RATE = 300.0  # order lines a second
PAST = latency.Load(rate=0.5, seconds=3 * 86_400, products=1_500)  # three days, sent in one go
SLOWER = 1.2


@contextmanager
def replaying(bootstrap: str, folder: Path, replay: str) -> Iterator[subprocess.Popen[bytes]]:
    """`replay run` in a process of its own, from the moment on at which it folds."""
    command = [sys.executable, "-m", "deploy.cli", "replay", "run", replay, "--rate", "25", "--bootstrap", bootstrap]
    with (folder / "replay.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "replays" / replay / "result.json").exists():  # its first checkpoint
            assert process.poll() is None, (folder / "replay.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def test_a_replay_beside_live_load_would_slow_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with latency.loop(tmp_path / "loop") as bootstrap:
        for name, value in {
            "PARTITIONS": str(latency.PARTITIONS),
            "PLATFORMS": '{"shop": {}}',
            "MODEL_DIR": str(tmp_path / "loop" / "models"),
            "REPLAY_DIR": str(tmp_path / "replays"),
        }.items():
            monkeypatch.setenv(f"TRENDSTREAM_{name}", value)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        began = time.time() - PAST.seconds
        latency.offer(bootstrap, PAST, began, first=0)
        latency.first_score(bootstrap)
        latency.drain(bootstrap)
        with drill("7-replay-beside-live-load", bootstrap, capsys) as engineer:
            replay = planned(engineer, began)
            alone = latency.at_rate(bootstrap, RATE, 1_000_000)
            latency.drain(bootstrap)
            with replaying(bootstrap, tmp_path, replay) as process:
                beside = latency.at_rate(bootstrap, RATE, 2_000_000)
                assert process.poll() is None, "the replay was done before the load: it shows nothing"
            assert process.returncode == 0, (tmp_path / "replay.log").read_text()
        print(f"p99 alone {alone['p99']:.0f} ms, beside a replay at 25 % {beside['p99']:.0f} ms")
        assert beside["answered"] > 0.99
        assert beside["p99"] <= SLOWER * alone["p99"]
        assert run(["replay", "rate", replay, "100"]) == 0
        done = engineer("replay", "run", replay)  # it goes on where it was stopped
        assert "see what it changes with" in done
        assert "0 of" in engineer("replay", "diff", replay), "the same code and heads say the same"


def planned(engineer: OnCall, began: float) -> str:
    text = engineer("replay", "plan", "--from", str(int((began + 86_400) * 1000)), "--code", "this")
    (replay,) = set(re.findall(r"r\d{8}-\d{6}-\d{3}", text))
    return replay
