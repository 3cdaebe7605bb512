"""The rules hold, and every rule and every panel asks for series that workers serve."""

from __future__ import annotations

import json
import re
import socket
import subprocess

import pytest
import yaml
from prometheus_client import generate_latest

from deploy.metrics import MetricsObserver, serve
from deploy.settings import Settings
from streams.records.outside import Progress
from tests.conftest import ROOT
from tests.drills.scraping import RULES, TOOLS, needs_prometheus

DASHBOARD = ROOT / "deploy" / "grafana" / "trendstream.json"
pytestmark = [pytest.mark.drill, needs_prometheus]


def expressions() -> list[str]:
    rules = yaml.safe_load((RULES / "alerts.yml").read_text())
    asked = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return asked + [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
    ]


def served() -> str:
    """What a worker serves once everything that there is to tell was told."""
    observer = MetricsObserver()
    report: dict[str, int | float | str] = {"event_time": 5, "idle": 1, "model": "n", "head": "h", "head_epoch": 4}
    errors: dict[str, int | float | str] = {"units_1": 10, "error_1": 4.0, "frozen_error_1": 5.0}
    told = Progress(
        stage="windows",
        topic="trend.events",
        partition=0,
        offset=9,
        counters={"late": 1, "dead": 2, "dead.bad-time": 2},
        report=report | errors,
        snapshot_offset=3,
        snapshot_at=7,
    )
    observer.progressed(told, 0.1)
    observer.committed("windows", 3, 1, 0.1)
    observer.lagging("windows", ("trend.events", 0), 4)
    observer.restored("windows", ("trend.events", 0), 0, 1, 0.5)
    observer.aborted("windows", "why")
    observer.warned("windows", "what")
    return generate_latest(observer.registry).decode()


def test_rules_and_dashboard_ask_for_series_that_workers_serve() -> None:
    lines = served().splitlines()
    names = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    for expression in expressions():
        for name in re.findall(r"trendstream_\w+", expression):
            assert name in names, f"{expression} asks for {name}, which no worker serves"


def test_the_rules_hold_what_promtool_checks() -> None:
    configs = [["check", "config", file] for file in ("prometheus.yml", "compose.yml")]
    for arguments in (*configs, ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([TOOLS / "promtool", *arguments], cwd=RULES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    from deploy.errors import ConfigurationError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(metrics_port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="TRENDSTREAM_METRICS_PORT"):
            serve(MetricsObserver(), settings, "ingest")
