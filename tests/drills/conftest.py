"""What the drills share: an installation of two partitions on a broker of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.settings import Settings, load_settings
from tests.conftest import TestBroker


@pytest.fixture
def settings(fresh_kafka: TestBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the workers, and of every command that is typed: both read the environment."""
    fresh_kafka.create_topics(2)
    for name, value in {
        "BOOTSTRAP": fresh_kafka.bootstrap,
        "PARTITIONS": "2",
        "PLATFORMS": '{"shop": {}}',
        "DATABASE_URL": f"sqlite:///{tmp_path}/read-model.db",
        "MODEL_DIR": f"{tmp_path}/models",
        "REPLAY_DIR": f"{tmp_path}/replays",
        "IDLE_MS": "1000",
        "SNAPSHOT_INTERVAL_S": "1",
    }.items():
        monkeypatch.setenv(f"TRENDSTREAM_{name}", value)
    return load_settings()
