"""Tables of the SQL read model: the newest score and signals of each product, and how far the topics are read.

Instants are epoch ms. `log_offset` is the record's offset in its topic: it breaks ties between records of one window.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import JSON, BigInteger, Double, Index, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from streams.records.outside import Facts


class Table(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it as a plain class attribute)
        int: BigInteger,
        float: Double,
        str: Text,
        list[str]: JSON,
        dict[str, float]: JSON,
        Facts: JSON,
    }


class Newest:
    """Columns that the tables of products share."""

    newer_by: ClassVar = ("window_end", "window_revision", "as_of", "revision", "log_offset")  # greater is newer

    platform: Mapped[str] = mapped_column(primary_key=True)
    product_id: Mapped[str] = mapped_column(primary_key=True)
    window_end: Mapped[int]
    window_revision: Mapped[int]
    revision: Mapped[int]
    as_of: Mapped[int]
    log_offset: Mapped[int]
    updated: Mapped[int]  # when the record was written to its topic
    score_id: Mapped[str]
    model: Mapped[str]
    head: Mapped[str]


class ScoreRow(Newest, Table):
    """The newest of trend.scores, a column for each number of each horizon (1, 7 and 28 days)."""

    __tablename__ = "scores"
    __table_args__ = (Index("scores_window_end", "platform", "window_end"),)

    window_id: Mapped[str]
    window_kind: Mapped[str]
    events_offset: Mapped[int]
    head_late: Mapped[bool]
    missing: Mapped[list[str]]
    contributions: Mapped[dict[str, float]]

    expected_1: Mapped[float]
    q10_1: Mapped[float]
    q50_1: Mapped[float]
    q90_1: Mapped[float]
    q95_1: Mapped[float]
    baseline_1: Mapped[float]
    trend_1: Mapped[float]
    class_1: Mapped[str]
    p_surging_1: Mapped[float]
    p_falling_1: Mapped[float]

    expected_7: Mapped[float]
    q10_7: Mapped[float]
    q50_7: Mapped[float]
    q90_7: Mapped[float]
    q95_7: Mapped[float]
    baseline_7: Mapped[float]
    trend_7: Mapped[float]
    class_7: Mapped[str]
    p_surging_7: Mapped[float]
    p_falling_7: Mapped[float]

    expected_28: Mapped[float]
    q10_28: Mapped[float]
    q50_28: Mapped[float]
    q90_28: Mapped[float]
    q95_28: Mapped[float]
    baseline_28: Mapped[float]
    trend_28: Mapped[float]
    class_28: Mapped[str]
    p_surging_28: Mapped[float]
    p_falling_28: Mapped[float]


class InventoryRow(Newest, Table):
    """The newest of signals.inventory."""

    __tablename__ = "inventory_signals"
    __table_args__ = (Index("inventory_signals_window_end", "platform", "window_end"),)

    signal_id: Mapped[str]
    on_hand: Mapped[float]
    on_order: Mapped[float]
    lead_time_days: Mapped[float]
    service_level: Mapped[float]
    expected_demand: Mapped[float]
    reorder_point: Mapped[float]
    suggested_order: Mapped[int]
    reason: Mapped[str]


class AdsRow(Newest, Table):
    """The newest of signals.ads."""

    __tablename__ = "ads_signals"
    __table_args__ = (Index("ads_signals_window_end", "platform", "window_end"),)

    signal_id: Mapped[str]
    bid_multiplier: Mapped[float]
    trend: Mapped[float]
    confidence: Mapped[float]
    reason: Mapped[str]


class AuditRow(Table):
    """trend.audit: each changing command once, as its newest record tells it."""

    __tablename__ = "audit"

    newer_by: ClassVar = ("ended_at", "log_offset")

    audit_id: Mapped[str] = mapped_column(primary_key=True)
    command: Mapped[str]
    by: Mapped[str]
    at: Mapped[int]
    reason: Mapped[str]
    plan: Mapped[Facts]
    outcome: Mapped[str]
    result: Mapped[Facts]
    ended_at: Mapped[int]
    log_offset: Mapped[int]


class PositionRow(Table):
    """Next offset to read of a topic's partition; written in the transaction of what was read before it."""

    __tablename__ = "stream_positions"

    newer_by: ClassVar = ("offset",)

    topic: Mapped[str] = mapped_column(primary_key=True)
    partition: Mapped[int] = mapped_column(Integer, primary_key=True)
    offset: Mapped[int]
