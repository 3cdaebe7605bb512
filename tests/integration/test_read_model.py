"""The read model over real SQLite and real PostgreSQL: one suite for both stores."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, inspect, text

from streams.codecs import encode_json
from streams.errors import CodecError, ReadModelError
from streams.records import HORIZONS
from streams.records.outside import AdsSignal, Audit, Horizon, InventorySignal, Score
from streams.signals.migrations import VERSION_TABLE, configuration
from streams.signals.read_model import READ_TOPICS, ReadModel
from streams.signals.tables import Table
from streams.stage import Message

DAY = 86_400_000
END = 20_000 * DAY


@pytest.fixture
def model(url: str) -> Iterator[ReadModel]:
    opened = ReadModel(url)
    opened.migrate()
    yield opened
    opened.close()


def score(product: str = "a", offset: int = 0, platform: str = "shop", **changes: Any) -> Message:
    """A score record; `p` is the probability of a surge, `trend_class` its class, over every horizon."""
    p, trend_class = changes.pop("p", 0.1), changes.pop("trend_class", "steady")
    horizons = [
        Horizon(
            days=days,
            expected=2.5 * days,
            quantiles={"0.1": 1.0 * days, "0.5": 2.0 * days, "0.9": 4.0 * days, "0.95": 5.0 * days},
            baseline=2.0 * days,
            trend=0.25,
            trend_class=trend_class,
            probabilities={"surging": p, "rising": 0.1, "steady": 0.4, "falling": 0.5 - p},
            means=[1.0],
            dispersion=4.0,
        )
        for days in HORIZONS
    ]
    record = Score(
        score_id=f"{platform}:{product}@{END}/net",
        revision=0,
        platform=platform,
        product_id=product,
        window_id=f"{platform}:{product}@{END}",
        window_kind="close",
        window_end=END,
        as_of=END,
        events_offset=7,
        horizons=horizons,
        contributions={"text": 0.5},
        missing=["image"],
        head_late=False,
        model="net",
        head="net-h1",
        encoders={"text": "t-1"},
    )
    return stored("trend.scores", offset, msgspec.structs.replace(record, **changes))


def inventory(product: str = "a", offset: int = 0, platform: str = "shop", **changes: Any) -> Message:
    record = InventorySignal(
        signal_id=f"{platform}:{product}@{END}/net/inventory",
        revision=0,
        score_id=f"{platform}:{product}@{END}/net",
        platform=platform,
        product_id=product,
        window_end=END,
        as_of=END,
        on_hand=3.0,
        on_order=0.0,
        lead_time_days=7.0,
        service_level=0.95,
        expected_demand=20.5,
        reorder_point=31.0,
        suggested_order=33,
        reason="Order 33 units.",
        model="net",
        head="net-h1",
    )
    return stored("signals.inventory", offset, msgspec.structs.replace(record, **changes))


def ads(product: str = "a", offset: int = 0, platform: str = "shop", **changes: Any) -> Message:
    record = AdsSignal(
        signal_id=f"{platform}:{product}@{END}/net/ads",
        revision=0,
        score_id=f"{platform}:{product}@{END}/net",
        platform=platform,
        product_id=product,
        window_end=END,
        as_of=END,
        bid_multiplier=1.5,
        trend=0.7,
        confidence=0.8,
        reason="Raise the bid.",
        model="net",
        head="net-h1",
    )
    return stored("signals.ads", offset, msgspec.structs.replace(record, **changes))


def audit(product: str = "a", offset: int = 0, **changes: Any) -> Message:
    record = Audit(
        audit_id=f"1/dlq-redrive/{product}",
        command="dlq redrive",
        by="me@here",
        at=1,
        reason="mended",
        plan={"letters": 3},
        outcome="done",
        result={},
        ended_at=changes.pop("as_of", 2),
    )
    return stored("trend.audit", offset, record)


def stored(topic: str, offset: int, record: msgspec.Struct) -> Message:
    return Message(topic, 1, offset, 1_700_000_000_000 + offset, b"key", encode_json(record))


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, read without the code under test."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            table.name: sorted(map(tuple, connection.execute(table.select())), key=repr)
            for table in Table.metadata.sorted_tables
        }
    engine.dispose()
    return found


# Tables ---------------------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_that_the_code_expects_and_take_them_away(url: str) -> None:
    model = ReadModel(url)
    model.migrate()
    model.migrate()
    engine = create_engine(url)
    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Table.metadata) == []
        command.downgrade(configuration(connection), "base")
        assert not {t.name for t in Table.metadata.sorted_tables} & set(_tables(connection))
    engine.dispose()
    model.migrate()
    assert model.positions() == {}
    model.close()


def test_rows_of_an_older_version_lose_what_is_told_apart_since(model: ReadModel, url: str) -> None:
    model.apply([score(revision=3), inventory(revision=3, offset=1), ads(revision=3, offset=2), audit(offset=3)])
    engine = create_engine(url)
    with engine.begin() as connection:
        command.downgrade(configuration(connection), "0002")
    model.migrate()
    with engine.connect() as connection:
        for table in ("scores", "inventory_signals", "ads_signals"):
            assert connection.execute(text(f"SELECT revision, window_revision FROM {table}")).all() == [(3, 3)]
    engine.dispose()
    assert [row.command for row in model.audits()] == ["dlq redrive"]


def _tables(connection: Connection) -> list[str]:
    return inspect(connection).get_table_names()


def test_workers_that_migrate_at_the_same_time_do_not_disturb_each_other(url: str) -> None:
    failures: list[BaseException] = []

    def migrate() -> None:
        model = ReadModel(url)
        try:
            model.migrate()
        except BaseException as error:
            failures.append(error)
        finally:
            model.close()

    threads = [threading.Thread(target=migrate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_tables_of_a_later_version_are_refused(model: ReadModel, url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ReadModelError, match=r"another version.*9999"):
        model.migrate()


def test_queries_before_migrate_say_what_to_do(url: str) -> None:
    model = ReadModel(url)
    with pytest.raises(ReadModelError, match=r"migrate\(\)"):
        model.positions()
    with pytest.raises(ReadModelError, match=r"migrate\(\)"):
        model.apply([score()])
    model.close()


# Writing --------------------------------------------------------------------------------------------------------------


def test_every_field_of_a_record_is_kept(model: ReadModel) -> None:
    assert model.apply([score(offset=4, p=0.3), inventory(offset=5), ads(offset=6)]) == 3
    view = model.product("shop", "a")
    assert view is not None
    assert view.score is not None
    assert view.inventory is not None
    assert view.ads is not None
    assert (view.score.expected_7, view.score.q10_7, view.score.q50_28, view.score.q90_1) == (17.5, 7.0, 56.0, 4.0)
    assert (view.score.q95_28, view.score.baseline_7, view.score.trend_1, view.score.class_7) == (
        140.0,
        14.0,
        0.25,
        "steady",
    )
    assert (view.score.p_surging_7, view.score.p_falling_7) == (0.3, 0.2)
    assert (view.score.missing, view.score.contributions, view.score.head_late) == (["image"], {"text": 0.5}, False)
    assert (view.score.updated, view.score.log_offset, view.score.head) == (1_700_000_000_004, 4, "net-h1")
    assert (view.inventory.suggested_order, view.inventory.reorder_point) == (33, 31.0)
    assert (view.ads.bid_multiplier, view.ads.reason) == (1.5, "Raise the bid.")
    assert model.product("shop", "b") is None
    assert model.product("other", "a") is None


def test_positions_are_the_next_offsets_to_read(model: ReadModel) -> None:
    assert model.apply([]) == 0
    tombstone = Message("signals.ads", 0, 11, 0, b"key", None)
    model.apply([score(offset=4), score(offset=9), inventory(offset=2), tombstone])
    assert model.positions() == {("trend.scores", 1): 10, ("signals.inventory", 1): 3, ("signals.ads", 0): 12}
    model.apply([score(offset=3)])
    assert model.positions()["trend.scores", 1] == 10


@pytest.mark.parametrize("make", [score, inventory, ads])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"window_end": END, "revision": 9}, {"window_end": END + DAY, "revision": 0, "offset": 0}),
        ({"revision": 1, "as_of": END + 5}, {"revision": 2, "as_of": END + 4, "offset": 0}),
        ({"revision": 1, "as_of": END + 4}, {"revision": 1, "as_of": END + 5, "offset": 0}),
        ({"window_revision": 1, "revision": 9, "offset": 8}, {"window_revision": 2, "revision": 2, "offset": 0}),
        ({"window_revision": 1, "revision": 1}, {"window_revision": 1, "revision": 2, "replay": "r1", "offset": 9}),
        ({"revision": 1}, {"window_revision": 2, "revision": 2, "offset": 0}),
        ({"head": "first"}, {"head": "second", "offset": 8}),
    ],
)
def test_an_older_record_never_replaces_a_newer_one(
    model: ReadModel, url: str, make: Any, old: dict[str, Any], new: dict[str, Any]
) -> None:
    older, newer = make(**({"offset": 3} | old)), make(**new)
    model.apply([older])
    assert model.apply([newer]) == 1
    after = contents(url)
    assert model.apply([older]) == 0
    assert model.apply([newer, older]) == 0
    assert contents(url) == after


def test_rows_and_positions_are_written_together_or_not_at_all(model: ReadModel, url: str) -> None:
    model.apply([score(offset=1), ads(offset=1)])
    before = contents(url)
    engine = create_engine(url)
    with engine.begin() as connection:  # the last table of the transaction fails
        connection.execute(text("ALTER TABLE stream_positions RENAME TO elsewhere"))
    with pytest.raises(ReadModelError):
        model.apply([score(offset=2, as_of=END + 1), ads(offset=2, as_of=END + 1)])
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE elsewhere RENAME TO stream_positions"))
    engine.dispose()
    assert contents(url) == before


def test_records_that_cannot_be_read_are_named_and_leave_nothing(model: ReadModel, url: str) -> None:
    empty = contents(url)
    broken = Message("signals.ads", 1, 77, 0, None, b"{}")
    with pytest.raises(CodecError, match=r"signals\.ads/1 at offset 77"):
        model.apply([score(), broken])
    with pytest.raises(CodecError, match="horizons"):
        model.apply([score(), score(offset=1, horizons=[])])
    few = score(offset=2)
    assert few.value is not None
    with pytest.raises(CodecError, match=r"trend\.scores/1 at offset 2.*0\.95"):
        model.apply([score(), dataclasses.replace(few, value=few.value.replace(b'"0.95"', b'"0.99"'))])
    with pytest.raises(ReadModelError, match=r"'orders' has no table.*trend\.scores"):
        model.apply([score(), Message("orders", 0, 0, 0, None, b"{}")])
    assert contents(url) == empty


def test_names_that_a_database_cannot_hold_do_not_stop_it(model: ReadModel, url: str) -> None:
    names = ["nul\x00", "quote'\"; DROP TABLE scores --", "ä:日本\U0001f600", "%s ? :name", " "]
    model.apply([score(name, offset) for offset, name in enumerate(names)])
    for name in names:
        view = model.product("shop", name)
        assert view is not None
        assert view.score is not None
    assert len(contents(url)["scores"]) == len(names)


def test_several_writers_leave_what_one_would_have_left(model: ReadModel, url: str) -> None:
    messages = [
        make(f"p{i % 40}", offset=i, as_of=END + (i * 7919) % 100)
        for i in range(300)
        for make in (score, inventory, ads, audit)
    ]
    failures: list[BaseException] = []

    def write(part: int) -> None:
        own = ReadModel(url)
        try:
            for start in range(0, len(messages), 90):
                own.apply(messages[start : start + 90][part::3])
        except BaseException as error:
            failures.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=write, args=(part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        model.surging()  # a reader neither waits nor fails
        threads[0].join(0.01)
    for thread in threads:
        thread.join()
    assert failures == []
    together = contents(url)
    assert model.apply(messages) == 0
    assert contents(url) == together
    assert {row[0] for row in together["stream_positions"]} == set(READ_TOPICS)


# Asking ---------------------------------------------------------------------------------------------------------------


def products(rows: Sequence[Any]) -> list[str]:
    return [f"{row.platform}:{row.product_id}" for row in rows]


def test_surging_lists_rising_products_by_their_probability_and_falling_the_others(model: ReadModel) -> None:
    model.apply(
        [
            score("b", 0, p=0.3, trend_class="surging"),
            score("a", 1, p=0.4, trend_class="rising"),
            score("c", 2, p=0.4, trend_class="rising", platform="other"),
            score("d", 3, p=0.45, trend_class="steady"),
            score("e", 4, p=0.2, trend_class="falling"),
            score("f", 5, p=0.1, trend_class="falling"),
        ]
    )
    assert products(model.surging()) == ["other:c", "shop:a", "shop:b"]
    assert products(model.surging(limit=1, platform="shop")) == ["shop:a"]
    assert products(model.surging(horizon=28)) == ["other:c", "shop:a", "shop:b"]
    assert products(model.falling()) == ["shop:f", "shop:e"]
    assert products(model.falling(platform="other")) == []
    with pytest.raises(ReadModelError, match="horizon of 3 days"):
        model.surging(horizon=3)


def test_reorders_are_products_to_order_and_bids_those_that_change(model: ReadModel) -> None:
    model.apply([inventory("a", 0, suggested_order=5), inventory("b", 1, suggested_order=0), inventory("c", 2)])
    model.apply(
        [
            ads("keep", 0, bid_multiplier=1.0),
            ads("half", 1, bid_multiplier=0.5),
            ads("more", 2, bid_multiplier=1.2),
            ads("less", 3, bid_multiplier=0.75),
            ads("stop", 4, bid_multiplier=0.0),
        ]
    )
    assert products(model.reorders()) == ["shop:c", "shop:a"]
    assert products(model.reorders(limit=1)) == ["shop:c"]
    assert products(model.bids()) == ["shop:half", "shop:stop", "shop:less", "shop:more"]
    assert products(model.bids(platform="other")) == []


def test_products_that_fell_silent_are_not_called_news(model: ReadModel) -> None:
    old: dict[str, Any] = {"window_end": END - 8 * DAY, "trend_class": "surging"}
    model.apply([score("now", 0, trend_class="surging"), score("old", 1, **old)])
    model.apply([score("alone", 2, platform="other", **old)])  # the newest that its platform has
    assert products(model.surging()) == ["other:alone", "shop:now"]


# Laws -----------------------------------------------------------------------------------------------------------------

RECORDS = st.builds(
    lambda make, product, end, revision, as_of, head: (
        make,
        {"product": product, "window_end": END + end, "revision": revision, "as_of": END + as_of, "head": head},
    ),
    st.sampled_from([score, inventory, ads]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["h1", "h2"]),
)


@settings(max_examples=25)
@given(log=st.lists(RECORDS, min_size=1, max_size=12), data=st.data())
def test_repeated_and_reordered_batches_leave_the_same_tables(
    tmp_path_factory: pytest.TempPathFactory, log: list[Any], data: st.DataObject
) -> None:
    messages = [make(offset=offset, **values) for offset, (make, values) in enumerate(log)]
    once, again = (f"sqlite:///{tmp_path_factory.mktemp('law')}/read.db" for _ in range(2))
    model = ReadModel(once)
    model.migrate()
    model.apply(messages)
    model.close()
    other = ReadModel(again)
    other.migrate()
    repeats = data.draw(st.lists(st.sampled_from(messages), max_size=8))
    rest = data.draw(st.permutations(messages + repeats))
    other.apply(messages[: data.draw(st.integers(0, len(messages)))])
    size = data.draw(st.integers(1, 5))
    for start in range(0, len(rest), size):
        other.apply(rest[start : start + size])
    assert other.apply(messages) == 0
    other.close()
    assert contents(again) == contents(once)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "cannot be read"),
        ("trend.db", "cannot be read"),
        ("mysql://me:secret@host/db", "'mysql' is not supported"),
        ("postgresql+asyncpg://me:secret@host/db", "'postgresql\\+asyncpg' is not supported"),
        ("postgresql://me:sec@ret@host:port/db", "cannot be read"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:////dev/null/x/trend.db", "folder cannot be made"),
    ],
)
def test_a_wrong_url_is_named_without_its_password(url: str, says: str) -> None:
    with pytest.raises(ReadModelError, match=says) as caught:
        ReadModel(url)
    assert "secret" not in str(caught.value)
    assert "sec@ret" not in str(caught.value)
    assert str(caught.value).count("ret@") == 0


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    model = ReadModel("postgresql://me:secret@127.0.0.1:1/db?password=secret")
    with pytest.raises(ReadModelError, match=r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/db") as caught:
        model.migrate()
    assert "secret" not in str(caught.value)
    model.close()


def test_a_missing_driver_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ReadModelError, match=r"driver is missing.*psycopg\[binary\]"):
        ReadModel("postgresql://me:secret@localhost/db")


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "trend.db"
    file.write_text("not a database at all, but long enough to be looked at" * 20)
    model = ReadModel(f"sqlite:///{file}")
    with pytest.raises(ReadModelError, match=r"trend\.db: file is not a database"):
        model.migrate()
    model.close()
