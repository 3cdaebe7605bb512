"""Drill 7: days are replayed in the middle of live load, at a quarter of a core, and what is live is not slowed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import replaying
from deploy.following import ScoreFollower
from deploy.settings import load_settings
from tests.bench import latency
from tests.bench.answers import answers, emissions
from tests.bench.offered import LINES, Driver, Load
from tests.conftest import ROOT
from tests.drills.on_call import drill, replay_of

pytestmark = [pytest.mark.kafka, pytest.mark.drill, pytest.mark.timeout(600)]
PAST = Load(2_000.0, 20.0, 1_000, latency.PARTITIONS, 1, 4.0)  # five days of four seconds each
TURN_S, TURNS = 5.0, 12
NEITHER_S = 1.0  # at the begin of a turn
ROUNDS = 3
LIVE = Load(300.0, latency.WARM_S + TURNS * TURN_S, latency.PRODUCTS, latency.PARTITIONS)
SLOWER = 1.2
Spans = list[tuple[float, float]]  # epoch ms


@contextmanager
def running(replay: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`replay run` in a process of its own, from its first checkpoint on."""
    command = [sys.executable, "-m", "deploy.cli", "replay", "run", replay, "--rate", "25"]
    log = folder / "replay.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "replays" / replay / "result.json").exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)
    assert process.returncode == 0, log.read_text()


def worked(process: subprocess.Popen[bytes]) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def take_turns(process: subprocess.Popen[bytes], still: Spans, busy: Spans) -> float:
    """Add times in which the replay stood still, and times in which it ran; seconds of processor time that it took."""
    before = spent = worked(process)
    for number in range(TURNS):
        runs = number % 4 in (1, 2)  # a drift of the machine's falls on both alike
        process.send_signal(signal.SIGCONT if runs else signal.SIGSTOP)
        begun = time.time()
        time.sleep(TURN_S)
        if process.poll() is not None:
            break
        spent = worked(process)
        (busy if runs else still).append(((begun + NEITHER_S) * 1000, time.time() * 1000))
    return spent - before


def p99(live: latency.Loop, mark: Mapping[str, dict[int, int]], scores: ScoreFollower, spans: Spans) -> float:
    """Of the lines that were due in these times: ms until a score that knows of them can be read."""
    orders = live.since(mark, "orders")
    due = {(m.partition, m.offset): m.timestamp for m in orders if any(a <= m.timestamp < b for a, b in spans)}
    made = emissions(live.since(mark, "trend.windows"))
    return answers(due, live.since(mark, "trend.events"), made, scores.seen, LINES).quantile(0.99)


def measured(live: latency.Loop, process: subprocess.Popen[bytes]) -> tuple[float, float, float]:
    """p99 alone and beside the replay, and the share of a core that it took. One round of turns is enough on a quiet
    machine; on a busy one its stalls fall on one kind or the other, and more turns even them out: all of them count."""
    still, busy, spent = Spans(), Spans(), 0.0
    mark = live.mark()
    with ScoreFollower(live.bootstrap) as scores:
        for number in range(ROUNDS):
            process.send_signal(signal.SIGSTOP)
            driver = Driver(live.bootstrap, replace(LIVE, seed=2 + number))
            time.sleep(max(driver.begin() + latency.WARM_S - time.time(), 0))
            spent += take_turns(process, still, busy)
            driver.end()
            time.sleep(latency.GRACE_S)
            assert len(busy) >= 2, "the replay was done too soon: it shows nothing"  # as it may be on a fast machine
            alone, beside = (p99(live, mark, scores, spans) for spans in (still, busy))
            if beside <= SLOWER * alone or process.poll() is not None:
                break
    return alone, beside, spent / (len(busy) * TURN_S)


def test_a_replay_held_to_a_quarter_does_not_slow_what_is_live(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with latency.loop(tmp_path / "loop") as live:
        for name, value in {
            "BOOTSTRAP": live.bootstrap,
            "PARTITIONS": str(latency.PARTITIONS),
            "PLATFORMS": '{"shop": {}}',
            "MODEL_DIR": str(tmp_path / "loop" / "models"),
            "REPLAY_DIR": str(tmp_path / "replays"),
        }.items():
            monkeypatch.setenv(f"TRENDSTREAM_{name}", value)
        past = Driver(live.bootstrap, PAST)
        past.begin()
        past.end()
        latency.drain(live)
        with drill("7-replay-beside-live-load", capsys) as engineer:
            replay = replay_of(engineer("replay", "plan", "--from", "5d", "--code", "this"))
            engineer.note(f"trendstream replay run {replay} --rate 25, in a process of its own")
            with running(replay, tmp_path) as process:
                alone, beside, share = measured(live, process)
            engineer("replay", "rate", replay, "100")
            engineer("replay", "run", replay)  # it goes on where it was stopped
            unchanged = " ".join(engineer("replay", "diff", replay).split())
            assert "windows 0 of" in unchanged, "something else than what was published, or of what came after its plan"
            engineer.note(f"p99 {alone:,.0f} ms, beside the replay {beside:,.0f} ms; it took {share:.1%} of a core")
            engineer.note(costs(replay))
    assert 0.02 < share <= 0.27
    assert beside <= SLOWER * alone


def costs(replay: str) -> str:
    """What the plan said beside what it was."""
    settings = load_settings()
    plan = replaying.load_plan(settings, replay)
    result = replaying.result_of(plan, settings)
    assert result is not None
    folder = replaying.folder_of(settings, replay) / "shadow"
    written = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    return (
        f"planned {plan.seconds:.1f} s and {plan.written_bytes / 1e6:.1f} MB, "
        f"took {result.seconds:.1f} s and {written / 1e6:.1f} MB"
    )
