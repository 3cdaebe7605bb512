"""Alembic runs this file: migrate over the connection that `ReadModel.migrate` gives."""

from __future__ import annotations

from alembic import context

from streams.signals.migrations import VERSION_TABLE
from streams.signals.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # on SQLite too: the connection begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
