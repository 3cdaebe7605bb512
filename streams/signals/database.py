"""The read model's connection to SQLite or PostgreSQL, and clear words when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from streams.errors import ReadModelError

EXAMPLES = "sqlite:///folder/trendstream.db, postgresql+psycopg://user:password@host/database"
BUSY_SECONDS = 30  # that SQLite waits for another process's transaction
CONNECT_SECONDS = 10
_MIGRATION_LOCK = 0x7472656E64  # any number, the same in every process


class Database:
    """SQLite (WAL, one writer at a time) or PostgreSQL; `str` gives the URL without its password."""

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self._name = _masked(parsed.render_as_string(hide_password=True))
        self.postgresql = parsed.get_backend_name() == "postgresql"
        if not self.postgresql:
            self._make_folder(parsed)
        seconds = {"connect_timeout": CONNECT_SECONDS} if self.postgresql else {"timeout": BUSY_SECONDS}
        try:
            self._engine: Engine = create_engine(parsed, connect_args=seconds, pool_pre_ping=self.postgresql)
        except (ImportError, NoSuchModuleError) as error:
            raise ReadModelError(
                f"read model {self._name}: its driver is missing ({error}); install trendstream with its dependencies, "
                "psycopg[binary] for PostgreSQL among them"
            ) from error
        except (ArgumentError, TypeError, ValueError) as error:
            raise ReadModelError(f"read model {self._name}: {error}; give a URL such as {EXAMPLES}") from error
        if not self.postgresql:
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)

    def __str__(self) -> str:
        return self._name

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: committed at the end, rolled back on an error."""
        with self._explained(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state of all tables and never waits for a writer."""
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"} if self.postgresql else {"reading": True}
        with self._explained(), self._engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def lock(self, connection: Connection) -> None:
        """Make other processes that ask for the lock wait until this transaction ends."""
        if self.postgresql:  # SQLite has one writer anyway
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = _masked(str(error.orig).strip())
            if "no such table" in reason or (self.postgresql and getattr(error.orig, "sqlstate", None) == "42P01"):
                raise ReadModelError(f"read model {self._name}: {reason}; make its tables with migrate()") from error
            raise ReadModelError(
                f"read model {self._name}: {reason}; check that the URL is right and that the database answers"
            ) from error

    def _make_folder(self, url: URL) -> None:
        if url.database in (None, "", ":memory:") or "mode=memory" in str(url.database):
            raise ReadModelError(
                f"read model {self._name}: a database in memory is lost between connections; "
                f"give a file or a server: {EXAMPLES}"
            )
        try:
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ReadModelError(f"read model {self._name}: its folder cannot be made: {error}") from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # its own message may hold the password
        raise ReadModelError(f"read model URL {_masked(url)!r} cannot be read; give one such as {EXAMPLES}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise ReadModelError(
            f"read model URL {_masked(url)!r}: {parsed.drivername!r} is not supported; give one such as {EXAMPLES}"
        )
    return parsed


def _masked(text: str) -> str:
    # The last @ ends a password, which may hold one itself.
    text = re.sub(r"(//[^:/@\s]*):.*@", r"\1:***@", text)
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1***", text)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin late, and not before DDL: see _begin_sqlite
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its lock first: one that reads and then writes cannot wait for another, and fails.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
