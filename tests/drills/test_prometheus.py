"""A real Prometheus scrapes real workers, and every rule and every panel asks for series that they serve."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from deploy import pipeline
from deploy.metrics import MetricsObserver, port_of, serve
from deploy.settings import Settings, load_settings
from streams import kafka
from streams.records import Progress
from tests.conftest import ROOT, TestBroker
from tests.drills.events import order
from tests.drills.stages import stages, wait_until

TOOLS = ROOT / "build" / "prometheus" / "usr" / "bin"
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "trendstream.json"
NO_PROMETHEUS = "no Prometheus in build/prometheus: `make prometheus` takes it from Debian's package, where apt-get is"
pytestmark = [pytest.mark.drill, pytest.mark.skipif(not TOOLS.is_dir(), reason=NO_PROMETHEUS)]


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


def test_the_rules_hold_what_promtool_checks_and_each_alert_has_its_section_in_the_runbook() -> None:
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([TOOLS / "promtool", *arguments], cwd=RULES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.M)
    rules = yaml.safe_load((RULES / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in alerts] == headings
    for rule in alerts:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def prometheus(folder: Path, ports: list[int]) -> Iterator[Callable[[str], list[Any]]]:
    """A Prometheus with our rules that scrapes these ports each second; what it gives asks it."""
    config = yaml.safe_load((RULES / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES / "alerts.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        str(TOOLS / "prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:

        def ask(expression: str) -> list[Any]:
            url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return json.load(answer)["data"]["result"]  # type: ignore[no-any-return]
            except OSError:
                assert process.poll() is None, (folder / "prometheus.log").read_text()[-2_000:]
                return []

        yield ask
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.kafka
def test_a_real_prometheus_sees_lag_event_time_and_dead_letters_of_real_workers(
    fresh_kafka: TestBroker, tmp_path: Path
) -> None:
    fresh_kafka.create_topics(2)
    settings = load_settings(
        bootstrap=fresh_kafka.bootstrap, partitions=2, snapshot_interval_s=1, metrics_port=free_port()
    )
    specs = {"ingest": lambda: pipeline.ingest_spec(settings), "windows": lambda: pipeline.windows_spec(settings)}
    observers = {name: MetricsObserver() for name in specs}
    for name, observer in observers.items():
        serve(observer, settings, name)
    ports = [port_of(settings, name) for name in specs]
    with stages(settings, specs, observers) as workers, prometheus(tmp_path, ports) as ask:
        workers.start()
        kafka.append(settings.bootstrap, [*(order(i, 1) for i in range(40)), *(order(100 + i, "1") for i in range(20))])

        def values(expression: str) -> list[float]:
            return [float(sample["value"][1]) for sample in ask(expression)]

        wait_until(lambda: values("sum(up)") == [2.0], "both workers answer")
        dead = 'sum by (reason) (trendstream_dead_letters_total{topic="orders"})'
        wait_until(lambda: values(dead) == [20.0], "dead letters by reason")
        assert ask(dead)[0]["metric"]["reason"] == "wrong-type"
        event_time = 'max by (stage) (trendstream_event_time_seconds{stage=~"ingest|windows"})'
        wait_until(lambda: len(values(event_time)) == 2, "event time of both")
        assert all(abs(at - time.time()) < 86_400 for at in values(event_time))
        # Control rows come all the time.
        wait_until(lambda: bool(values("sum(trendstream_lag_records) < 10")), "nothing but control rows left to read")


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    from deploy.errors import ConfigurationError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(metrics_port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="TRENDSTREAM_METRICS_PORT"):
            serve(MetricsObserver(), settings, "ingest")
