from __future__ import annotations

import math

import numpy as np
import pytest

from model.error_metrics import moving_average, seasonal_naive, wape
from streams.records import DAYS


def test_wape_weighs_misses_by_all_that_was_sold() -> None:
    assert wape([10, 0, 30], [8, 2, 36]) == pytest.approx(10 / 40)
    assert wape([5, 5], [5, 5]) == 0
    assert math.isnan(wape([0, 0], [1, 1]))
    with pytest.raises(ValueError, match="cannot be compared"):
        wape([1, 2], [1])


def test_the_moving_average_is_the_mean_of_the_newest_28_days() -> None:
    day = np.zeros((2, DAYS))
    day[:, :28] = 100  # too old to count
    day[1, -28:] = np.arange(28)
    np.testing.assert_allclose(moving_average(day), [[0, 0, 0], [13.5, 7 * 13.5, 28 * 13.5]])


def test_seasonal_naive_repeats_each_weekday_of_the_last_week() -> None:
    day = np.zeros((1, DAYS))
    day[0, -7:] = [1, 2, 3, 4, 5, 6, 7]  # the day after the window has the weekday of the first
    np.testing.assert_allclose(seasonal_naive(day), [[1, 28, 112]])


def test_a_grid_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="needed are"):
        moving_average(np.zeros(DAYS))
