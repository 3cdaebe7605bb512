"""The first read model: newest scores and signals, and positions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

HORIZONS = (1, 7, 28)  # of this revision: a migration does not change when the code does
NUMBERS = ("expected", "q10", "q50", "q90", "q95", "baseline", "trend")


def upgrade() -> None:
    op.create_table("scores", *_newest(), *_score())
    op.create_table("inventory_signals", *_newest(), *_inventory())
    op.create_table("ads_signals", *_newest(), *_ads())
    for table in ("scores", "inventory_signals", "ads_signals"):
        op.create_index(f"{table}_window_end", table, ["platform", "window_end"])
    op.create_table(
        "stream_positions",
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition"),
    )


def downgrade() -> None:
    op.drop_table("stream_positions")
    for table in ("scores", "inventory_signals", "ads_signals"):
        op.drop_index(f"{table}_window_end", table)
        op.drop_table(table)


def _newest() -> list[sa.schema.SchemaItem]:
    return [
        *_texts("platform", "product_id"),
        *_integers("window_end", "revision", "as_of", "log_offset", "updated"),
        *_texts("score_id", "model", "head"),
        sa.PrimaryKeyConstraint("platform", "product_id"),
    ]


def _score() -> list[sa.Column[object]]:
    columns: list[sa.Column[object]] = [
        *_texts("window_id", "window_kind"),
        *_integers("events_offset"),
        sa.Column("head_late", sa.Boolean(), nullable=False),
        sa.Column("missing", sa.JSON(), nullable=False),
        sa.Column("contributions", sa.JSON(), nullable=False),
    ]
    for days in HORIZONS:
        columns += _numbers(*(f"{name}_{days}" for name in NUMBERS))
        columns += _texts(f"class_{days}")
        columns += _numbers(f"p_surging_{days}", f"p_falling_{days}")
    return columns


def _inventory() -> list[sa.Column[object]]:
    return [
        *_texts("signal_id"),
        *_numbers("on_hand", "on_order", "lead_time_days", "service_level", "expected_demand", "reorder_point"),
        *_integers("suggested_order"),
        *_texts("reason"),
    ]


def _ads() -> list[sa.Column[object]]:
    return [*_texts("signal_id"), *_numbers("bid_multiplier", "trend", "confidence"), *_texts("reason")]


def _texts(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.Text(), nullable=False) for name in names]


def _integers(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def _numbers(*names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.Double(), nullable=False) for name in names]
