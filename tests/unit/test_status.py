"""What `status` prints of an installation: a number under every heading."""

from __future__ import annotations

import pytest

from deploy.cli.status import _heads, _print, _stage
from deploy.inspection import INPUTS
from tests.unit.test_diagnosis import HOUR, changed, healthy


def test_status_counts_what_is_left_and_what_a_restart_folds_again(capsys: pytest.CaptureFixture[str]) -> None:
    at = changed("windows", left=12, waiting_since=healthy().now - 2 * HOUR, committed=95)(healthy())
    windows = _stage(at, "windows")
    assert (windows["left"], windows["waits_ms"], windows["refolds"]) == (12, 2 * HOUR, 15)
    assert windows["kept_ms"] == 14 * 24 * HOUR
    assert windows["event_time_lag_ms"] == 0
    stages = [_stage(at, stage) for stage in INPUTS]
    _print(at, stages, _heads(at), "n1-e5")
    printed = capsys.readouterr().out
    header = next(line for line in printed.splitlines() if "stage " in line)
    row = next(line for line in printed.splitlines() if "windows " in line and "│" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert len(cells) == len([name for name in header.strip("┃").split("┃") if name.strip()])
    assert {"12", "2.0 h", "30 s ago", "15", "14.0 d"} <= set(cells)
    assert "head n1-e5 of network n1" in printed
    assert "open dead letters: none" in printed
