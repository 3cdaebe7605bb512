"""Fixtures of every test: a real broker, the shared sample data, and no downloads of models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything is imported: tests use packaged models alone, and two cores are shared by many processes.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from deploy.local_kafka import LocalKafka
from deploy.supervisor import OF_ALL, import_for_workers
from deploy.topics import create_topics

# How long an example took says how busy the machine was, not whether a law holds.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

ROOT = Path(__file__).resolve().parent.parent
import_for_workers((*OF_ALL, "tests.integration.test_agents"))
JARS = ROOT / "build" / "kafka" / "jars"
NO_JAVA = "no Java on the PATH: tests on the real Kafka broker are left out (they need Java 17 and Maven)"


class TestBroker:
    """A running broker: its address, and the topics of streams/topics.py on it."""

    __test__ = False

    def __init__(self, local: LocalKafka) -> None:
        self.local = local
        self.bootstrap = local.bootstrap

    def create_topics(self, partitions: int = 4) -> list[str]:
        """Make what is missing of the topics; names of the new ones."""
        return create_topics(self.bootstrap, partitions)


def pytest_configure(config: pytest.Config) -> None:
    # No test may depend on the settings of whoever runs it.
    for name in [n for n in os.environ if n.startswith("TRENDSTREAM_") and n != "TRENDSTREAM_SHARED_DATA"]:
        del os.environ[name]


def pytest_report_header(config: pytest.Config) -> str | None:
    return NO_JAVA if shutil.which("java") is None else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"kafka", "fresh_kafka"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)
        # With a Java that is too old, or without Maven, they fail: the machine was meant to run them.
        if item.get_closest_marker("kafka") and shutil.which("java") is None:
            item.add_marker(pytest.mark.skip(reason=NO_JAVA))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBroker]:
    """One broker for the whole run: for tests that only add records, or read what they wrote themselves."""
    with LocalKafka(tmp_path_factory.mktemp("kafka"), jars=JARS) as local:
        yield TestBroker(local)


@pytest.fixture
def fresh_kafka(tmp_path: Path) -> Iterator[TestBroker]:
    """A broker with nothing on it, up in some seconds: for tests that need the topics empty."""
    with LocalKafka(tmp_path / "kafka", jars=JARS) as local:
        yield TestBroker(local)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample data: TRENDSTREAM_SHARED_DATA, or shared/data beside the repository."""
    given = os.environ.get("TRENDSTREAM_SHARED_DATA")
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no sample data in {folder}: set TRENDSTREAM_SHARED_DATA to the folder that holds it")
    return folder
