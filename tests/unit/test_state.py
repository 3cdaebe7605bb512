from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurizers.cells import CELL_CHANNELS, NO_HOUR, Cells, Run, cell, keys_of, merged
from featurizers.names import ProductNames
from featurizers.parking import Parking
from featurizers.state import Column, Names, Queue, Table
from streams.errors import SnapshotError
from streams.records import DAYS

COLUMNS = {
    "at": Column(np.int64, fill=-7),
    "seen": Column(np.bool_, (3,)),
    "hand": Column(np.float64, fill=np.nan),
    "cube": Column(np.int32, (2, 5)),
}


def test_a_growing_table_loses_or_misfills_rows() -> None:
    table = Table(COLUMNS)
    for count in (1, 100, 1000):
        before = table.rows
        table.append(count)
        assert (table["at"][before:] == -7).all()
        assert np.isnan(table["hand"][before:]).all()
        table["at"][before:] = np.arange(before, before + count)
    assert table["at"].tolist() == list(range(1101))


def test_a_dumped_table_comes_back_different() -> None:
    rng = np.random.default_rng(1)
    table = Table(COLUMNS)
    table.append(70)
    table["seen"][:] = rng.random((70, 3)) < 0.5
    table["cube"][:] = rng.integers(-9, 9, (70, 2, 5))
    table["hand"][3] = 0.1 + 0.2
    again = Table(COLUMNS)
    again.load(table.dump())
    for name in COLUMNS:
        np.testing.assert_array_equal(again[name], table[name])
    assert again.dump() == table.dump()
    again.append(1)
    assert again["at"][70] == -7


def test_an_empty_table_cannot_be_saved() -> None:
    again = Table(COLUMNS)
    again.load(Table(COLUMNS).dump())
    assert again.rows == 0


def test_a_snapshot_of_other_columns_is_taken_in_silence() -> None:
    with pytest.raises(SnapshotError, match="fold the log again"):
        Table({"at": Column(np.int64)}).load(Table(COLUMNS).dump())


def test_names_change_their_numbers() -> None:
    names = Names([""])
    assert names.codes(["b", "", "a", "b"]).tolist() == [1, 0, 2, 1]
    assert Names(names.values).codes(["a", "c"]).tolist() == [2, 3]


@example([[""], ["0"]])
@settings(max_examples=50)
@given(st.lists(st.lists(st.text(max_size=20), max_size=40, unique=True), max_size=8))
def test_product_names_change_their_numbers_or_their_text(batches: list[list[str]]) -> None:
    names, known = ProductNames(), Names()
    for texts in batches:
        assert names.codes(pa.array(texts, pa.string())).tolist() == known.codes(texts).tolist()
    again = ProductNames()
    again.load(names.freeze()())
    assert again.freeze()() == names.freeze()()
    for one in (names, again):
        assert one.texts(np.arange(len(known))).to_pylist() == known.values
        assert one.codes(pa.array(known.values[::-1], pa.string())).tolist() == list(range(len(known)))[::-1]


def test_product_names_that_share_a_hash_or_come_twice_get_one_number() -> None:
    texts = pa.array([f"shop:{i}" for i in range(20_000)] + ["shop:7", "shop:7\0", "shop:" + "7" * 200, "new", "new"])
    codes = ProductNames().codes(texts)
    assert codes[:20_000].tolist() == list(range(20_000))
    assert codes[20_000:].tolist() == [7, 20_000, 20_001, 20_002, 20_002]


def _random_cells(rng: np.random.Generator, count: int, rows: int, days: tuple[int, int]) -> Run:
    keys = keys_of(
        rng.integers(0, rows, count),
        cell(rng.integers(*days, count), rng.integers(0, 24, count), rng.integers(0, len(CELL_CHANNELS), count)),
    )
    return Run(keys, rng.integers(-2, 2**33 if rng.random() < 0.1 else 9, count))


def test_cells_mix_up_products_days_or_channels() -> None:
    rng = np.random.default_rng(2)
    cells, rows, today = Cells(), 40_000, 2_000
    expected = np.zeros((rows, len(CELL_CHANNELS), DAYS + 1), np.int64)
    for turn in range(30):
        run = _random_cells(rng, 3_000, rows, (today - DAYS, today + 1))
        cells.push(merged([run]))
        keys = run.keys.astype(np.int64)
        age = (today - (keys >> 9)) & 127
        np.add.at(expected, (keys >> 16, keys & 15, DAYS - age), run.values)
        if turn == 20:
            cells.compact(today)
    again = Cells()
    again.load({name: blob() for name, blob in cells.freeze().items()})
    wanted = rng.permutation(rows)[:5_000]
    for one in (cells, again):
        found = one.of_rows(wanted)
        sums = np.zeros((len(wanted), len(CELL_CHANNELS), DAYS + 1), np.int64)
        np.add.at(sums, (found.which, found.channels, DAYS - found.ages(today)), found.values)
        np.testing.assert_array_equal(sums, expected[wanted])
        units, out = one.of_day(today - 3, rows)
        np.testing.assert_array_equal(units, expected[:, 0, DAYS - 3])
        np.testing.assert_array_equal(out, expected[:, -1, DAYS - 3])


def test_cells_keep_days_that_left_the_ring_or_lose_hours_too_soon() -> None:
    cells, one = Cells(), np.ones(1, np.int64)
    for day, hour in ((100, 3), (100, 4), (157, 5), (154, 6), (153, 7), (153, 8)):
        cells.push(Run(keys_of(np.zeros(1, np.int64), cell(day, hour, 0)), one))
    cells.compact(157)
    found = cells.of_rows(np.asarray([0]))
    ages = found.ages(157).tolist()
    assert sorted(zip(ages, found.hours.tolist(), found.values.tolist(), strict=True)) == [
        (0, 5, 1),
        (3, 6, 1),
        (4, NO_HOUR, 2),
    ]


def test_merging_more_cells_than_one_sort_takes_gives_other_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    runs = [merged([_random_cells(rng, 4_000, 300, (0, 100))]) for _ in range(5)]
    whole = merged(runs)
    monkeypatch.setattr("featurizers.cells._AT_ONCE", 1_000)
    pieces = merged(runs)
    assert pieces.keys.tolist() == whole.keys.tolist()
    assert pieces.values.tolist() == whole.values.tolist()


def test_cells_that_add_up_to_zero_make_a_restored_state_another() -> None:
    cells, again = Cells(), Cells()
    keys = keys_of(np.array([7, 7]), cell(np.array([3, 3]), np.array([5, 5]), np.array([0, 0])))
    cells.push(Run(keys, np.array([2, -2])))
    blobs = {name: blob() for name, blob in cells.freeze().items()}
    again.load(blobs)
    assert {name: blob() for name, blob in again.freeze().items()} == blobs
    for one in (cells, again):
        one.compact(10)
        assert one.freeze() == {}


def test_a_blob_shows_what_was_folded_after_the_freeze() -> None:
    rng = np.random.default_rng(4)
    cells = Cells()
    cells.push(merged([_random_cells(rng, 4_000, 300, (0, 50))]))
    frozen = cells.freeze()
    before = {name: blob() for name, blob in cells.freeze().items()}
    for _ in range(9):
        cells.push(merged([_random_cells(rng, 4_000, 300, (0, 50))]))
    cells.compact(50)
    assert {name: blob() for name, blob in frozen.items()} == before


def test_a_queue_lets_some_wait_for_ever_or_the_most_wanted_wait_with_the_others() -> None:
    queue = Queue(np.arange(3))
    queue.push(np.arange(3, 10))
    weights = np.asarray([1, 1, 1, 1, 1, 1, 7, 1, 9, 7])
    assert queue.take(3, weights).tolist() == [0, 1, 8]
    assert queue.take(4, weights).tolist() == [2, 3, 6, 9]
    assert len(queue) == 3
    assert queue.take(99, weights).tolist() == [4, 5, 7]
    assert queue.take(1, weights).tolist() == []


def test_parked_rows_are_lost_or_change_their_order() -> None:
    parking = Parking()
    parking.spread(np.asarray([5, 6, 5]), {"at": np.asarray([1, 2, 3]), "v": np.eye(3)})
    parking.put(5, {"at": np.asarray([9]), "v": np.zeros((1, 3))})
    again = Parking()
    again.load(parking.dump())
    assert again.rows == parking.rows == 4
    for one in (parking, again):
        five = one.take(5)
        assert five is not None
        assert five["at"].tolist() == [1, 3, 9]
        assert five["v"].shape == (3, 3)
        assert one.take(5) is None
        assert one.rows == 1
