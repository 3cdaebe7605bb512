"""The vectorised baseline against the formulas of featurizers/baseline.py, written out in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from featurizers.baseline import AGE_ENDS, Baseline, BaselineConfig, CategoryRates, baseline, sales_classes, thresholds
from streams.negative_binomial import cdf
from streams.records import DAYS, HORIZONS, SalesClass

CONFIG = BaselineConfig(category_half_life=20.0)
PRODUCTS, CATEGORIES, LEARNT = 7, 3, 40


def _bin(age: int) -> int:
    return sum(age >= end for end in AGE_ENDS)


class World:
    """Days of some products, as arrays and as plain lists."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.category = rng.integers(0, CATEGORIES, PRODUCTS)
        self.category[0] = CATEGORIES + 2  # a category that no day was learnt for
        self.born = rng.integers(-10, LEARNT, PRODUCTS)
        self.units = rng.poisson(2.0, (LEARNT, PRODUCTS))
        self.stock = rng.choice([1.0, 0.5, 0.0], (LEARNT, PRODUCTS), p=[0.8, 0.1, 0.1])
        self.rates = CategoryRates(CONFIG)
        self.learnt: list[list[int]] = []
        for day in range(LEARNT):
            here = np.flatnonzero((self.born <= day) & (self.category < CATEGORIES))
            self.learnt.append(here.tolist())
            self.rates.learn(
                day % 7, self.category[here], day - self.born[here], self.units[day, here], self.stock[day, here]
            )

    def sums(self, values: np.ndarray, category: int | None, cell: str, index: int) -> float:
        total = 0.0
        for day in range(LEARNT):
            for p in self.learnt[day]:
                same = category is None or self.category[p] == category
                at = day % 7 if cell == "weekday" else _bin(day - int(self.born[p]))
                if same and at == index:
                    total += 0.5 ** ((LEARNT - 1 - day) / CONFIG.category_half_life) * float(values[day, p])
        return total

    def factors(self, category: int | None) -> list[float]:
        def raw(c: int | None, prior: list[float]) -> list[float]:
            u = [self.sums(self.units, c, "weekday", w) for w in range(7)]
            d = [self.sums(self.stock, c, "weekday", w) for w in range(7)]
            rate = sum(u) / sum(d)
            k = CONFIG.weekday_prior
            s = [max((u[w] + k * prior[w]) / (rate * d[w] + k), CONFIG.weekday_floor) for w in range(7)]
            return [x / (sum(s) / 7) for x in s]

        overall = raw(None, [1.0] * 7)
        return overall if category is None else raw(category, overall)

    def age_rate(self, category: int | None, age: int) -> float:
        k, a = CONFIG.age_prior, _bin(age)
        every = range(len(AGE_ENDS) + 1)
        rate = sum(self.sums(self.units, None, "age", i) for i in every) / sum(
            self.sums(self.stock, None, "age", i) for i in every
        )
        m = (self.sums(self.units, None, "age", a) + k * rate) / (self.sums(self.stock, None, "age", a) + k)
        if category is not None:
            m = (self.sums(self.units, category, "age", a) + k * m) / (self.sums(self.stock, category, "age", a) + k)
        return max(m, CONFIG.rate_floor)


def _emitted(world: World) -> tuple[Baseline, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    units = rng.poisson(1.5, (PRODUCTS, DAYS))
    age = np.asarray([200, 60, 30, 10, 3, 1, 0])
    known = np.arange(DAYS - 1, -1, -1) < age[:, None]
    in_stock = rng.choice([1.0, 0.25], (PRODUCTS, DAYS)) * known
    units = units * known
    weekdays = np.arange(DAYS + 28) % 7
    return baseline(CONFIG, world.rates, weekdays, units, in_stock, world.category, age), units, in_stock, age


def test_baseline_differs_from_the_formula_written_out() -> None:
    world = World()
    made, units, in_stock, age = _emitted(world)
    for p in range(PRODUCTS):
        category = int(world.category[p]) if world.category[p] < CATEGORIES else None
        s, m = world.factors(category), world.age_rate(category, int(age[p]))
        weights = [0.5 ** ((DAYS - 1 - d) / CONFIG.half_life) for d in range(DAYS)]
        sold = sum(weights[d] * int(units[p, d]) / s[d % 7] for d in range(DAYS))
        seen = sum(weights[d] * float(in_stock[p, d]) for d in range(DAYS))
        b = (sold + CONFIG.alpha * m) / (seen + CONFIG.alpha)
        assert made.rate[p] == pytest.approx(b, rel=1e-12)
        starts = (0, *HORIZONS[:-1])
        buckets = [b * sum(s[(DAYS + d) % 7] for d in range(i, j)) for i, j in zip(starts, HORIZONS, strict=True)]
        assert made.buckets[p].tolist() == pytest.approx(buckets, rel=1e-12)


def test_thresholds_are_not_at_the_quantiles_of_the_world_without_change() -> None:
    def lowest(q: float, mean: float, r: float) -> int:
        k = 0
        while float(cdf(k, mean, r)) < q:
            k += 1
        return k

    means = np.asarray([[0.05, 0.4, 1.5], [3.0, 21.5, 90.0], [0.3, 2.0, 8.0]])
    r = np.asarray([1.0, 4.0, 2.0])
    made = thresholds(means, r)
    for p, row in enumerate(means):
        for h, mean in enumerate(row.tolist()):
            surge = max(math.ceil(2 * mean), lowest(0.95, mean, r[p]) + 1)
            rise = max(math.ceil(1.25 * mean), lowest(0.80, mean, r[p]) + 1)
            fall = max(min(math.floor(0.75 * mean), lowest(0.20, mean, r[p]) - 1), -1)
            assert made[p, h].tolist() == [surge, rise, fall]
    assert made[0, 0, 2] == -1
    assert (made[:, :, 0] >= made[:, :, 1]).all()


def test_sales_classes_are_cut_elsewhere_than_documented() -> None:
    rate, age = np.asarray([1.0, 0.99, 1 / 7, 0.14, 5.0]), np.asarray([28, 90, 90, 90, 27])
    classes = [SalesClass.FAST, SalesClass.SLOW, SalesClass.SLOW, SalesClass.SPORADIC, SalesClass.NEW]
    assert sales_classes(CONFIG, rate, age).tolist() == classes


def test_nothing_learnt_gives_no_number_or_a_zero() -> None:
    zeros = np.zeros((1, DAYS))
    weekdays = np.arange(DAYS + 28) % 7
    made = baseline(CONFIG, CategoryRates(CONFIG), weekdays, zeros, zeros, np.asarray([0]), np.asarray([0]))
    assert made.rate[0] == CONFIG.rate_floor
    assert np.isfinite(made.buckets).all()
    assert (made.buckets > 0).all()


def test_the_numbering_of_categories_changes_a_baseline() -> None:
    def one(codes: tuple[int, int]) -> Baseline:
        rates = CategoryRates(CONFIG)
        category = np.asarray(codes)
        for day in range(10):
            rates.learn(day % 7, category, np.asarray([day, day]), np.asarray([day % 3, 5]), np.ones(2))
        units = np.ones((3, DAYS), np.int64)
        asked = np.asarray([*codes, 7])
        return baseline(CONFIG, rates, np.arange(84) % 7, units, np.ones((3, DAYS)), asked, np.asarray([60, 60, 60]))

    a, b = one((1, 2)), one((9, 3))
    assert a.rate.tobytes() == b.rate.tobytes()
    assert a.buckets.tobytes() == b.buckets.tobytes()
