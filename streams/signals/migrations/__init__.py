"""Alembic migrations of the read model, shipped as a package so that they are found wherever it is installed."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from sqlalchemy import Connection

VERSION_TABLE = "read_model_version"  # the database may hold other tables, with migrations of their own


def configuration(connection: Connection) -> Config:
    """Alembic's configuration for these migrations over an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
