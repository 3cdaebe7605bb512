"""The SQL read model: the newest score and signals of each product, for whoever would rather ask than read a topic.

Newest wins, whatever the order in which records arrive, so applying a record again changes nothing. The positions in
the topics are written in the same SQL transaction as the rows: a reader that starts from them loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
from alembic import command
from alembic.util import CommandError
from sqlalchemy import ColumnElement, Connection, Dialect, case, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from streams.codecs import decode_json
from streams.errors import CodecError, ReadModelError
from streams.records import HORIZONS, QUANTILES
from streams.records.outside import AdsSignal, Audit, InventorySignal, Score
from streams.signals.database import Database
from streams.signals.migrations import configuration
from streams.signals.tables import AdsRow, AuditRow, InventoryRow, PositionRow, ScoreRow
from streams.stage import Message

FRESH_MS = 7 * 86_400_000  # queries leave out products whose newest window is that much older than their platform's

_LEVELS = tuple(str(level) for level in QUANTILES)
_NUMBERS = ("expected", "baseline", "trend", "class", "p_surging", "p_falling", *(f"q{q * 100:g}" for q in QUANTILES))
_COLUMNS = {days: tuple(f"{name}_{days}" for name in _NUMBERS) for days in HORIZONS}  # of ScoreRow

NewestRow = ScoreRow | InventoryRow | AdsRow | AuditRow
# SQL, and what puts a row's values in order for a driver whose parameters have no names.
_Upsert = tuple[str, Callable[[dict[str, Any]], Any] | None]
Row = TypeVar("Row", ScoreRow, InventoryRow, AdsRow)


@dataclass(frozen=True)
class ProductView:
    """What is known of one product; None where nothing has come."""

    score: ScoreRow | None
    inventory: InventoryRow | None
    ads: AdsRow | None


class ReadModel:
    """SQLite by file or PostgreSQL by URL. Raises ReadModelError, whose message names the URL without its password."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._upserts: dict[type[NewestRow | PositionRow], _Upsert] = {}

    def close(self) -> None:
        self._database.close()

    def migrate(self) -> None:
        """Bring the tables to this version; safe when several processes do it at once."""
        with self._database.writing() as connection:
            self._database.lock(connection)
            try:
                command.upgrade(configuration(connection), "head")
            except CommandError as error:
                raise ReadModelError(
                    f"the tables at {self._database} are of another version of trendstream: {error}; "
                    "use the version that made them, or an empty database"
                ) from error

    def positions(self) -> dict[tuple[str, int], int]:
        """Next offset to read by topic and partition; one that is not there was never read."""
        with self._session() as session:
            return {(row.topic, row.partition): row.offset for row in session.scalars(select(PositionRow))}

    def apply(self, messages: Sequence[Message]) -> int:
        """Take in records of READ_TOPICS and their positions in one transaction; the number of rows that changed."""
        newest: dict[type[NewestRow], dict[Any, dict[str, Any]]] = {kind: {} for kind, _ in _READERS.values()}
        positions: dict[tuple[str, int], int] = {}
        for message in messages:
            kind, values = _values(message)
            if values:
                rows, key, age = newest[kind], _KEY[kind](values), _AGE[kind]
                if key not in rows or age(values) > age(rows[key]):
                    rows[key] = values
            source = (message.topic, message.partition)
            positions[source] = max(positions.get(source, 0), message.offset + 1)
        if not positions:
            return 0
        with self._database.writing() as connection:
            # Ordered by key, so that two writers cannot wait for each other's rows.
            changed = sum(
                self._upsert(connection, kind, [rows[key] for key in sorted(rows)]) for kind, rows in newest.items()
            )
            advanced = [{"topic": t, "partition": p, "offset": n} for (t, p), n in sorted(positions.items())]
            self._upsert(connection, PositionRow, advanced)
        return changed

    def newest_end(self) -> int | None:
        """Window end (UTC ms) of the newest score; None before the first."""
        with self._session() as session:
            return session.scalar(select(func.max(ScoreRow.window_end)))

    def surging(self, limit: int = 20, platform: str | None = None, horizon: int = 7) -> list[ScoreRow]:
        """Products classed as surging or rising over the horizon (days), the likeliest surge first."""
        name = _horizon(horizon)
        order = (_column(ScoreRow, f"p_surging_{name}").desc(), _column(ScoreRow, f"trend_{name}").desc())
        return self._list(
            ScoreRow, _column(ScoreRow, f"class_{name}").in_(("surging", "rising")), order, limit, platform
        )

    def falling(self, limit: int = 20, platform: str | None = None, horizon: int = 7) -> list[ScoreRow]:
        """Products classed as falling over the horizon (days), the likeliest first."""
        name = _horizon(horizon)
        order = (_column(ScoreRow, f"p_falling_{name}").desc(), _column(ScoreRow, f"trend_{name}").asc())
        return self._list(ScoreRow, _column(ScoreRow, f"class_{name}") == "falling", order, limit, platform)

    def reorders(self, limit: int = 20, platform: str | None = None) -> list[InventoryRow]:
        """Products to order, the largest order first."""
        order = (InventoryRow.suggested_order.desc(), InventoryRow.expected_demand.desc())
        return self._list(InventoryRow, InventoryRow.suggested_order > 0, order, limit, platform)

    def bids(self, limit: int = 20, platform: str | None = None) -> list[AdsRow]:
        """Products whose bid changes, the largest change first; a stopped bid counts as the change from 1 to 0."""
        factor = AdsRow.bid_multiplier
        # As a ratio, so that half and double weigh the same; a stop weighs as much as them.
        change = case((factor == 0, 2.0), (factor < 1, 1.0 / func.nullif(factor, 0)), else_=factor)
        return self._list(AdsRow, factor != 1, (change.desc(), factor.desc()), limit, platform)

    def audits(self, limit: int = 50) -> list[AuditRow]:
        """What commands changed, the newest first."""
        with self._session() as session:
            return list(session.scalars(select(AuditRow).order_by(AuditRow.at.desc()).limit(limit)))

    def product(self, platform: str, product_id: str) -> ProductView | None:
        """All that is known of one product, or None."""
        key = (_clean(platform), _clean(product_id))
        with self._session() as session:
            view = ProductView(session.get(ScoreRow, key), session.get(InventoryRow, key), session.get(AdsRow, key))
        return None if view == ProductView(None, None, None) else view

    def _list(
        self,
        kind: type[Row],
        condition: ColumnElement[bool],
        order: tuple[ColumnElement[Any], ...],
        limit: int,
        platform: str | None,
    ) -> list[Row]:
        other = kind.__table__.alias("other")
        newest = select(func.max(other.c.window_end)).where(other.c.platform == kind.platform).scalar_subquery()
        query = select(kind).where(condition, kind.window_end > newest - FRESH_MS)
        if platform is not None:
            query = query.where(kind.platform == _clean(platform))
        with self._session() as session:
            return list(session.scalars(query.order_by(*order, kind.platform, kind.product_id).limit(limit)))

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._database.reading() as connection, Session(connection, expire_on_commit=False) as session:
            yield session
            session.expunge_all()

    def _upsert(self, connection: Connection, kind: type[NewestRow | PositionRow], rows: list[dict[str, Any]]) -> int:
        """Put rows in where none is, or an older one; how many that were."""
        if not rows:
            return 0
        if kind not in self._upserts:
            self._upserts[kind] = _upsert(kind, connection.dialect)
        statement, in_order = self._upserts[kind]
        parameters: Any = [*map(in_order, rows)] if in_order else rows
        # Rows go straight to the driver: what SQLAlchemy does for each takes five times as long as SQLite.
        return int(connection.exec_driver_sql(statement, parameters, {"preserve_rowcount": True}).rowcount)


def _upsert(kind: type[NewestRow | PositionRow], dialect: Dialect) -> _Upsert:
    table = kind.__table__
    insert: Any = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    statement = insert(table)
    key = [column.name for column in table.primary_key]
    statement = statement.on_conflict_do_update(
        index_elements=key,
        set_={column.name: statement.excluded[column.name] for column in table.columns if column.name not in key},
        where=tuple_(*(statement.excluded[name] for name in kind.newer_by))
        > tuple_(*(table.c[name] for name in kind.newer_by)),
    )
    compiled = statement.compile(dialect=dialect)
    return str(compiled), itemgetter(*compiled.positiontup) if compiled.positiontup else None


def _values(message: Message) -> tuple[type[NewestRow], dict[str, Any]]:
    """The table of a record and its column values; none for a tombstone."""
    if message.topic not in _READERS:
        raise ReadModelError(f"topic {message.topic!r} has no table; the read model takes {', '.join(READ_TOPICS)}")
    kind, read = _READERS[message.topic]
    if message.value is None:
        return kind, {}
    try:
        return kind, read(message, message.value)
    except (CodecError, KeyError) as error:  # KeyError: a quantile or a class that the score does not have
        raise CodecError(f"{message.topic}/{message.partition} at offset {message.offset}: {error}") from error


def _score_values(message: Message, value: bytes) -> dict[str, Any]:
    score = decode_json(value, Score)
    horizons = {horizon.days: horizon for horizon in score.horizons}
    if set(horizons) != set(HORIZONS):
        raise CodecError(f"score {score.score_id!r} has horizons {sorted(horizons)}, not {list(HORIZONS)}")
    numbers: dict[str, Any] = {}
    for days, horizon in horizons.items():
        values = (
            horizon.expected,
            horizon.baseline,
            horizon.trend,
            horizon.trend_class,
            horizon.probabilities["surging"],
            horizon.probabilities["falling"],
            *[horizon.quantiles[level] for level in _LEVELS],
        )
        numbers.update(zip(_COLUMNS[days], values, strict=True))
    return {
        **_shared(message, score),
        "window_id": _clean(score.window_id),
        "window_kind": score.window_kind,
        "events_offset": score.events_offset,
        "head_late": score.head_late,
        "missing": _json(score.missing),
        "contributions": _json(score.contributions),
        **numbers,
    }


def _inventory_values(message: Message, value: bytes) -> dict[str, Any]:
    signal = decode_json(value, InventorySignal)
    return {
        **_shared(message, signal),
        "signal_id": _clean(signal.signal_id),
        "on_hand": signal.on_hand,
        "on_order": signal.on_order,
        "lead_time_days": signal.lead_time_days,
        "service_level": signal.service_level,
        "expected_demand": signal.expected_demand,
        "reorder_point": signal.reorder_point,
        "suggested_order": signal.suggested_order,
        "reason": _clean(signal.reason),
    }


def _ads_values(message: Message, value: bytes) -> dict[str, Any]:
    signal = decode_json(value, AdsSignal)
    return {
        **_shared(message, signal),
        "signal_id": _clean(signal.signal_id),
        "bid_multiplier": signal.bid_multiplier,
        "trend": signal.trend,
        "confidence": signal.confidence,
        "reason": _clean(signal.reason),
    }


def _audit_values(message: Message, value: bytes) -> dict[str, Any]:
    audit = msgspec.structs.asdict(decode_json(value, Audit))
    del audit["schema_version"]
    texts = {name: _clean(audit[name]) for name in ("audit_id", "command", "by", "reason")}
    facts = {name: _json(audit[name]) for name in ("plan", "result")}
    return audit | texts | facts | {"log_offset": message.offset}


def _shared(message: Message, record: Score | InventorySignal | AdsSignal) -> dict[str, Any]:
    # Records of before corrections count their windows by the revision alone.
    counted = record.window_revision or (record.revision if record.replay is msgspec.UNSET else 0)
    return {
        "platform": _clean(record.platform),
        "product_id": _clean(record.product_id),
        "window_end": record.window_end,
        "window_revision": counted,
        "revision": record.revision,
        "as_of": record.as_of,
        "log_offset": message.offset,
        "updated": message.timestamp,
        "score_id": _clean(record.score_id),
        "model": _clean(record.model),
        "head": _clean(record.head),
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _clean(text: str) -> str:
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")  # which PostgreSQL's text cannot hold


def _horizon(days: int) -> int:
    if days not in HORIZONS:
        raise ReadModelError(f"horizon of {days} days is not kept; ask for one of {', '.join(map(str, HORIZONS))}")
    return days


def _column(kind: type[ScoreRow], name: str) -> InstrumentedAttribute[Any]:
    return getattr(kind, name)  # type: ignore[no-any-return]


_READERS: dict[str, tuple[type[NewestRow], Callable[[Message, bytes], dict[str, Any]]]] = {
    "trend.scores": (ScoreRow, _score_values),
    "signals.inventory": (InventoryRow, _inventory_values),
    "signals.ads": (AdsRow, _ads_values),
    "trend.audit": (AuditRow, _audit_values),
}
READ_TOPICS = tuple(_READERS)
_KEY = {kind: itemgetter(*(column.name for column in kind.__table__.primary_key)) for kind, _ in _READERS.values()}
_AGE = {kind: itemgetter(*kind.newer_by) for kind, _ in _READERS.values()}
