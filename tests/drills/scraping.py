"""A real Prometheus with our rules, from Debian's package."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

TOOLS = ROOT / "build" / "prometheus" / "usr" / "bin"
RULES = ROOT / "deploy" / "prometheus"
NO_PROMETHEUS = "no Prometheus in build/prometheus: `make prometheus` takes it from Debian's package, where apt-get is"
needs_prometheus = pytest.mark.skipif(not TOOLS.is_dir(), reason=NO_PROMETHEUS)


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
