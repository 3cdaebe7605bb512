from __future__ import annotations

import numpy as np

from deploy.sources import COMPLETE_JOURNEY
from deploy.sources.simulated import (
    DailySales,
    Sales,
    Simulation,
    choose_banner,
    simulate_levels,
    simulate_reviews,
    uniform,
    write_review,
)
from streams.calendars import DAY

CALENDAR = COMPLETE_JOURNEY.calendar
BEGIN = CALENDAR.start(17_200) + 8 * 3_600_000
END = CALENDAR.start(17_200 + 151)
HOW = Simulation(review_share=0.5)


def sales(units: np.ndarray) -> Sales:
    """One line per product and day with `units` [products, days]."""
    products, days = units.shape
    day, product = (a.ravel() for a in np.meshgrid(np.arange(days), np.arange(products), indexing="ij"))
    count = day.size
    return Sales(
        at=BEGIN + day * DAY + product,
        product=product,
        order=np.arange(count),
        buyer=np.arange(count) % 9,
        quantity=units[product, day],
        cents=np.full(count, 250),
        names=[f"p{i}" for i in range(products)],
        numbers=np.arange(products) + 100,
    )


def test_random_numbers_are_even_and_hang_on_names_alone() -> None:
    names = np.arange(50_000)
    drawn = uniform(3, 1, names)
    assert np.histogram(drawn, 10, (0, 1))[0].std() < 120
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn, uniform(3, 2, names))[0, 1]) < 0.02
    picked = np.array([7, 40_000, 3])
    np.testing.assert_array_equal(uniform(3, 1, picked), drawn[picked])
    assert (uniform(4, 1, names) != drawn).all()


def test_stock_is_never_below_one_and_follows_what_is_sold() -> None:
    units = np.tile(np.array([[1], [20]]), (1, 120))
    levels = simulate_levels(s := sales(units), DailySales.of(s, CALENDAR, END), CALENDAR, HOW)
    assert levels.on_hand.min() >= 1
    assert levels.on_order.min() >= 0
    late = levels.at > BEGIN + 60 * DAY
    slow, fast = (levels.on_hand[late & (levels.product == p)].mean() for p in (0, 1))
    assert fast > 3 * slow
    assert (np.diff(levels.at) >= 0).all()


def test_reviews_are_better_where_sales_grow_and_worse_where_they_fall() -> None:
    days = np.arange(150)
    growing, falling = 2.0 ** (days / 20), 2.0 ** ((150 - days) / 20)
    s = sales(np.ceil(np.stack([growing, falling])).astype(np.int64))
    reviews = simulate_reviews(s, DailySales.of(s, CALENDAR, END), CALENDAR, HOW)
    product = s.product[reviews.line]
    assert reviews.rating[product == 0].mean() > reviews.rating[product == 1].mean() + 0.7
    assert (reviews.at >= s.at[reviews.line] + DAY).all()
    assert set(reviews.rating.tolist()) <= {1, 2, 3, 4, 5}


def test_no_sales_make_no_events() -> None:
    s = sales(np.ones((2, 3), np.int64)).before(0)
    daily = DailySales.of(s, CALENDAR, END)
    assert simulate_levels(s, daily, CALENDAR, HOW).at.size == 0
    assert simulate_reviews(s, daily, CALENDAR, HOW).at.size == 0


def test_a_review_reads_as_its_rating() -> None:
    bad, good = (write_review(r, [0.0, 0.0, 0.0], "Soup (Hot") for r in (1, 5))
    assert "poor" in bad
    assert "excellent" in good
    assert "soup was" in good
    assert write_review(3, [0.999, 0.999, 0.999], "EGGS")


def test_a_banner_says_where_sales_went() -> None:
    assert [choose_banner(g) for g in (1.0, 0.0, -1.0)] == ["BEST SELLER", "NEW PACK", "ON OFFER"]
