"""Baseline, sales class and class thresholds of a product, and the category rates that they lean on.

    b   = (Σ λ^age · y_d / s_d + α · m) / (Σ λ^age · o_d + α)         λ = 0.5^(1 / half_life)
    B_h = b · Σ_{d in h} s_d

o_d is the share of day d in stock, 0 before the product was known. s (weekday factors) and m (units a day at the
product's age) are learnt from closed days as decayed sums per category. With U units and D in-stock days, index 0 the
platform's overall, w a weekday, a an age bin, k and κ the strength of the prior:

    s_0w = (U_0w + k) / (R_0 · D_0w + k)           s_cw = (U_cw + k · s_0w) / (R_c · D_cw + k)        then mean 1
    m_0a = (U_0a + κ · R_0) / (D_0a + κ)           m_ca = (U_ca + κ · m_0a) / (D_ca + κ)              R = ΣU / ΣD

both with a floor. Formulas: docs/forecast.md, "Baseline and class"; the shrinkage of s and m is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from featurizers.state import Array, Column, Floats, Ints, Table
from streams.negative_binomial import quantiles
from streams.records import DAYS, DELAYS, HORIZONS, THRESHOLDS, SalesClass

AGE_ENDS = (7, 14, 28, 56)  # days; the last bin has no end
_AGES = len(AGE_ENDS) + 1
_LEVELS = (0.95, 0.80, 0.20)  # quantiles under the baseline: surge, rise, fall
_FACTORS = (2.0, 1.25, 0.75)


def _default_dispersion() -> dict[SalesClass, float]:
    return {SalesClass.FAST: 4.0, SalesClass.SLOW: 2.0, SalesClass.SPORADIC: 1.0, SalesClass.NEW: 1.0}


@dataclass(frozen=True)
class BaselineConfig:
    half_life: float = 14.0  # days, of a product's own days
    alpha: float = 14.0  # days that the category's rate counts
    category_half_life: float = 56.0  # days, of the category's sums
    weekday_prior: float = 20.0  # k, units
    age_prior: float = 28.0  # κ, in-stock days
    rate_floor: float = 0.01  # m is never below, units a day
    weekday_floor: float = 0.2  # s is never below, before it is scaled to mean 1
    fast_rate: float = 1.0  # FAST from this many units a day
    slow_rate: float = 1 / 7  # SLOW from this many, SPORADIC below
    new_days: int = 28  # NEW while younger than this
    dispersion: Mapping[SalesClass, float] = field(default_factory=_default_dispersion)  # r0


class CategoryRates:
    """Decayed sums of one platform: row 0 overall, row 1 + code a category."""

    def __init__(self, config: BaselineConfig) -> None:
        self._config = config
        self.table = Table(
            {
                "weekday_units": Column(np.float64, (7,)),
                "weekday_days": Column(np.float64, (7,)),
                "age_units": Column(np.float64, (_AGES,)),
                "age_days": Column(np.float64, (_AGES,)),
            }
        )
        self.table.append(1)

    def learn(self, weekday: int, category: Array, age_days: Ints, units: Array, in_stock: Floats) -> None:
        """Take one closed day: category code, age, units and share in stock of each product [products]."""
        fade = 0.5 ** (1 / self._config.category_half_life)
        self._reach(category)
        table = self.table
        rows = category.astype(np.int64) + 1
        cells = rows * _AGES + age_bins(age_days)
        for name, values in (("units", units.astype(np.float64)), ("days", in_stock)):
            by_weekday, by_age = table[f"weekday_{name}"], table[f"age_{name}"]
            by_weekday *= fade
            by_age *= fade
            by_weekday[:, weekday] += np.bincount(rows, values, table.rows)
            by_age += np.bincount(cells, values, table.rows * _AGES).reshape(-1, _AGES)
            # Overall from the products themselves: the order of category codes must not matter.
            by_weekday[0, weekday] += np.bincount(np.zeros_like(rows), values, 1)[0]
            by_age[0] += np.bincount(cells % _AGES, values, _AGES)

    def weekday_factors(self) -> Floats:
        """s [1 + categories, 7], mean 1."""
        units, days = self.table["weekday_units"], self.table["weekday_days"]
        k = self._config.weekday_prior
        total = days.sum(axis=1)
        rate = units.sum(axis=1) / np.where(total > 0, total, 1.0)
        overall = self._mean_one(((units[0] + k) / (rate[0] * days[0] + k))[None])
        factors = self._mean_one((units + k * overall) / (rate[:, None] * days + k))
        factors[0] = overall[0]
        return factors

    def age_rates(self) -> Floats:
        """m [1 + categories, age bins], units a day."""
        units, days = self.table["age_units"], self.table["age_days"]
        k = self._config.age_prior
        total = days[0].sum()
        rate = units[0].sum() / total if total > 0 else 0.0
        overall = (units[0] + k * rate) / (days[0] + k)
        rates = (units + k * overall) / (days + k)
        rates[0] = overall
        return np.asarray(np.maximum(rates, self._config.rate_floor), np.float64)

    def rows_of(self, category: Array) -> Ints:
        """Row of each category code in the tables above; a category without a day yet reads the overall."""
        rows = category.astype(np.int64) + 1
        seen = self.table["weekday_days"].sum(axis=1) > 0
        rows = np.where(rows < self.table.rows, rows, 0)
        return np.where(seen[rows], rows, 0)

    def _mean_one(self, factors: Floats) -> Floats:
        floored = np.maximum(factors, self._config.weekday_floor)
        return np.asarray(floored / floored.mean(axis=1, keepdims=True), np.float64)

    def _reach(self, category: Array) -> None:
        missing = int(category.max(initial=-1)) + 2 - self.table.rows
        if missing > 0:
            self.table.append(missing)


@dataclass(frozen=True)
class Baseline:
    """Of some products."""

    rate: Floats  # b [products]
    buckets: Floats  # B of each delay bucket [products, delays]
    thresholds: Ints  # [products, horizons, (surge, rise, fall)]
    sales_class: Array  # [products] int8


def age_bins(age_days: Ints) -> Ints:
    """Bin of each age in days."""
    return np.searchsorted(np.asarray(AGE_ENDS), age_days, side="right").astype(np.int64)


def baseline(
    config: BaselineConfig,
    rates: CategoryRates,
    weekdays: Ints,  # [DAYS + 28]: of the closed days, oldest first, then of the horizon's days
    units: Array,  # [products, DAYS]
    in_stock: Floats,  # o [products, DAYS], 0 before the product was known
    category: Array,  # [products] codes
    age_days: Ints,  # [products]
) -> Baseline:
    """b, B, thresholds and class of products at a boundary."""
    factors, by_age = rates.weekday_factors(), rates.age_rates()
    rows = rates.rows_of(category)
    weights = 0.5 ** (np.arange(DAYS - 1, -1, -1, dtype=np.float64) / config.half_life)
    seasonal = factors[:, weekdays[:DAYS]][rows]  # [products, DAYS]
    sold = (weights * units / seasonal).sum(axis=1)
    seen = (weights * in_stock).sum(axis=1)
    rate = (sold + config.alpha * by_age[rows, age_bins(age_days)]) / (seen + config.alpha)
    ahead = factors[:, weekdays[DAYS:]]  # [1 + categories, days of the horizon]
    starts = (0, *HORIZONS[:-1])
    spans = np.stack([ahead[:, a:b].sum(axis=1) for a, b in zip(starts, HORIZONS, strict=True)], axis=1)
    buckets = rate[:, None] * spans[rows]
    sales_class = sales_classes(config, rate, age_days)
    dispersion = np.asarray([config.dispersion[c] for c in SalesClass], np.float64)[sales_class]
    return Baseline(rate, buckets, thresholds(np.cumsum(buckets, axis=1), dispersion), sales_class)


def sales_classes(config: BaselineConfig, rate: Floats, age_days: Ints) -> Array:
    """[products] int8: NEW by age, else FAST, SLOW or SPORADIC by the baseline's units a day."""
    by_rate = np.where(
        rate >= config.fast_rate,
        SalesClass.FAST,
        np.where(rate >= config.slow_rate, SalesClass.SLOW, SalesClass.SPORADIC),
    )
    return np.where(age_days < config.new_days, SalesClass.NEW, by_rate).astype(np.int8)


def thresholds(means: Floats, dispersion: Floats) -> Ints:
    """[products, horizons, (surge, rise, fall)] from B_h [products, horizons] and r0 [products]; -1: no falling."""
    usual = quantiles(_LEVELS, means, dispersion[:, None])
    limits = np.empty((len(means), DELAYS, len(THRESHOLDS)), np.int64)
    limits[:, :, 0] = np.maximum(np.ceil(_FACTORS[0] * means), usual[:, :, 0] + 1)
    limits[:, :, 1] = np.maximum(np.ceil(_FACTORS[1] * means), usual[:, :, 1] + 1)
    limits[:, :, 2] = np.maximum(np.minimum(np.floor(_FACTORS[2] * means), usual[:, :, 2] - 1), -1)
    return limits
