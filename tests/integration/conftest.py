"""Databases of the read model: real SQLite and real PostgreSQL, one suite for both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import fresh_database, running_postgres

_names = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/read model.db"
        return
    with fresh_database(request.getfixturevalue("postgres"), f"test{next(_names)}") as fresh:
        yield fresh
