from __future__ import annotations

import numpy as np
import pytest

from featurizers.errors import WindowsError
from featurizers.grids import Grid
from featurizers.parking import Parking
from featurizers.state import Column, Names, Table
from streams.records import CHANNELS

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
    with pytest.raises(WindowsError, match="fold the log again"):
        Table({"at": Column(np.int64)}).load(Table(COLUMNS).dump())


def test_names_change_their_numbers() -> None:
    names = Names([""])
    assert names.codes(["b", "", "a", "b"]).tolist() == [1, 0, 2, 1]
    assert Names(names.values).codes(["a", "c"]).tolist() == [2, 3]


def test_a_grid_mixes_up_channels_or_buckets() -> None:
    table = Table(Grid.columns("day", 5))
    table.append(3)
    grid = Grid(table, "day", 5)
    expected = np.zeros((3, len(CHANNELS), 5), np.int64)
    rng = np.random.default_rng(2)
    for c, channel in enumerate(CHANNELS):
        rows, buckets, values = rng.integers(0, 3, 50), rng.integers(100, 105, 50), rng.integers(0, 9, 50)
        grid.add(channel, rows, buckets, values)
        np.add.at(expected, (rows, c, buckets - 100), values)
    days = np.arange(100, 105)
    np.testing.assert_array_equal(grid.window(np.arange(3), days), expected)
    for c, channel in enumerate(CHANNELS):
        np.testing.assert_array_equal(grid.channel(channel, days), expected[:, c])
    grid.clear(np.asarray([105]))  # takes the place of 100
    assert (grid.window(np.arange(3), np.asarray([105])) == 0).all()
    np.testing.assert_array_equal(grid.window(np.arange(3), days[1:]), expected[:, :, 1:])


def test_a_bucket_becomes_negative() -> None:
    table = Table(Grid.columns("day", 5))
    table.append(2)
    grid = Grid(table, "day", 5)
    day = np.asarray([7])
    grid.add("units", np.asarray([0, 1]), np.asarray([7, 7]), np.asarray([2, 5]))
    assert grid.take_off("units", np.asarray([0, 0, 1]), np.asarray([7, 7, 7]), np.asarray([2, 2, 4])) == 1
    assert grid.channel("units", day)[:, 0].tolist() == [0, 1]


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
