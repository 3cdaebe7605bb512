"""What moved on a day is named with its size, and nothing that a product did not have yet is called usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deploy.movements import announced, movements
from streams.records import AHEAD, CHANNELS, DAYS, KNOWN, WindowKind


def window(today: dict[str, int], before: dict[str, int], age_days: int = 400, **more: Any) -> dict[str, Any]:
    """Every day before was the same, as far back as the product goes."""
    grid = np.zeros((len(CHANNELS), DAYS), np.int64)
    for name, value in before.items():
        grid[CHANNELS.index(name), max(DAYS - age_days, 0) :] = value
    for name, value in today.items():
        grid[CHANNELS.index(name), -1] = value
    close = {"kind": WindowKind.CLOSE, "day": grid.ravel(), "age_days": age_days}
    return close | {"known": np.zeros(len(KNOWN) * (DAYS + AHEAD), np.int8), **more}


USUAL = {"units": 4, "orders": 2, "revenue": 3200, "views": 10, "reviews": 1, "rating_sum": 4}


def test_what_moved_most_stands_first_and_prices_and_ratings_are_means() -> None:
    found = movements(window({"units": 16, "revenue": 6400, "views": 100, "orders": 2}, USUAL), digits=2)
    assert [each.name for each in found][:3] == ["views", "units", "price paid"]
    by_name = {each.name: each for each in found}
    assert (by_name["views"].value, by_name["views"].usual) == (100, 10)
    assert (by_name["price paid"].value, by_name["price paid"].usual) == (4.0, 8.0)
    assert by_name["rating"].ratio == 1
    assert "returned" not in by_name, "what never was has no line"


def test_days_before_the_first_sale_are_not_usual() -> None:
    (units,) = [each for each in movements(window({"units": 8}, USUAL, age_days=5), 2) if each.name == "units"]
    assert units.usual == pytest.approx(4.0)


def test_an_open_day_is_compared_with_as_much_of_a_usual_one() -> None:
    so_far = np.array([6 if name == "units" else 0 for name in CHANNELS])
    live = window({}, USUAL, kind=WindowKind.LIVE, open=so_far, open_share=0.25)
    (units,) = [each for each in movements(live, 2) if each.name == "units"]
    assert (units.value, units.usual, units.ratio) == (6, 1.0, 6.0)


@pytest.mark.parametrize(("kind", "column"), [(WindowKind.CLOSE, DAYS - 1), (WindowKind.LIVE, DAYS)])
def test_what_was_announced_is_that_of_the_day(kind: WindowKind, column: int) -> None:
    known = np.zeros((len(KNOWN), DAYS + AHEAD), np.int8)
    known[KNOWN.index("price"), column] = 50
    known[KNOWN.index("holiday"), column - 1] = 100
    assert announced(window({}, USUAL, kind=kind, known=known.ravel())) == {"price": 50}
