"""docker-compose.yml against the code that it names: `docker compose` itself cannot run everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import cli
from deploy.local_kafka import ESSENTIAL, VERSION
from deploy.metrics import port_of
from deploy.settings import PREFIX, Settings, load_settings, variable
from deploy.supervisor import ENCODERS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
WORKERS = ("ingest", "features", "windows", "inference", "labels", "learner", "signals")
OWN = [name for name, service in SERVICES.items() if service["image"] == "trendstream"]


def _environment(service: str) -> dict[str, str]:
    """Variables as compose fills them in: the default of ${NAME:-default}, a made-up value for ${NAME:?reason}."""

    def fill(match: re.Match[str]) -> str:
        return match["default"] if match["kind"] == ":-" else "a secret of the tests"

    given: dict[str, str] = SERVICES[service]["environment"]
    return {name: re.sub(r"\$\{\w+(?P<kind>:[-?])(?P<default>[^}]*)\}", fill, text) for name, text in given.items()}


@pytest.mark.parametrize("service", OWN)
def test_every_variable_of_a_service_is_a_setting_and_its_value_is_valid(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = _environment(service)
    assert set(environment) <= {variable(name) for name in Settings.model_fields}
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    settings = load_settings()
    assert settings.bootstrap == "kafka:9092"
    assert settings.database_url.startswith("postgresql+psycopg://")


def test_there_is_one_service_a_worker_and_each_runs_a_command_that_exists() -> None:
    assert {name: SERVICES[name]["command"] for name in WORKERS} == {name: ["worker", name] for name in WORKERS}
    assert set(OWN) == {*WORKERS, "topics"}
    assert all(SERVICES[name]["command"][0] in cli.COMMANDS for name in OWN)


def test_the_topics_are_made_once_before_any_worker_starts() -> None:
    assert SERVICES["topics"]["command"] == ["topics", "create"]
    assert SERVICES["topics"]["restart"] == "no"
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in WORKERS:
        assert SERVICES[name]["depends_on"]["topics"] == {"condition": "service_completed_successfully"}


def test_kafka_is_the_version_of_the_tests_with_the_same_essential_settings() -> None:
    kafka = SERVICES["kafka"]
    assert kafka["image"] == f"apache/kafka:{VERSION}"
    given = kafka["environment"]
    assert {name: given.get("KAFKA_" + name.upper().replace(".", "_")) for name in ESSENTIAL} == ESSENTIAL
    assert given["KAFKA_PROCESS_ROLES"] == "broker,controller"


def test_workers_find_the_listener_and_the_database_that_the_services_offer() -> None:
    environment = _environment("ingest")
    host, port = environment["TRENDSTREAM_BOOTSTRAP"].split(":")
    assert f"PLAINTEXT://{host}:{port}" in SERVICES[host]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    postgres = _environment("postgres")
    user, password, database = (postgres[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    assert environment["TRENDSTREAM_DATABASE_URL"].endswith(f"://{user}:{password}@postgres:5432/{database}")


def test_models_and_pictures_lie_in_what_is_mounted() -> None:
    environment = _environment("inference")
    mounted = [volume.split(":")[1] for volume in SERVICES["inference"]["volumes"]]
    assert environment["TRENDSTREAM_MODEL_DIR"] in mounted
    assert set(json.loads(environment["TRENDSTREAM_PICTURE_ROOTS"])) <= set(mounted)


def test_prometheus_scrapes_the_port_of_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in _environment("ingest").items():
        monkeypatch.setenv(name, text)
    settings = load_settings()
    assert settings.metrics_host == "0.0.0.0", "reached from within its container alone"
    mounted, inside, _ = SERVICES["prometheus"]["volumes"][0].split(":")
    ((_, _, config),) = [flag.partition("=") for flag in SERVICES["prometheus"]["command"]]
    scraped = yaml.safe_load((ROOT / mounted / Path(config).relative_to(inside)).read_text())["scrape_configs"]
    stages = {worker: [worker] for worker in WORKERS} | {"features": list(ENCODERS)}
    ports = {f"{worker}:{port_of(settings, stage)}" for worker in WORKERS for stage in stages[worker]}
    assert set(scraped[0]["static_configs"][0]["targets"]) == ports


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_installs_the_lock_file_and_runs_without_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "requirements.lock > workers.lock" in text
    assert "-r workers.lock" in text
    assert re.search(r"^USER trendstream$", text, re.MULTILINE)
    assert 'ENTRYPOINT ["trendstream"]' in text
    named = set(re.findall(rf"{PREFIX}\w+", text))
    assert named <= {variable(name) for name in Settings.model_fields}
