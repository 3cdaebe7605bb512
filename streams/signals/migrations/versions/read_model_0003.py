"""Which of a product's windows is newer is told apart from which revision of one of them holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = ("scores", "inventory_signals", "ads_signals")


def upgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("window_revision", sa.BigInteger(), nullable=False, server_default="0"))
        op.execute(f"UPDATE {table} SET window_revision = revision")  # until now a window was never corrected
        with op.batch_alter_table(table) as batch:
            batch.alter_column("window_revision", server_default=None)


def downgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table) as batch:
            batch.drop_column("window_revision")
