"""Shops whose true demand is known, and how it changes: what heads are judged on.

    demand of a product and day = rate · launch curve · exp(response · discount) · weekday · what the scenario changes
    units ~ Poisson(demand · shock of the day · gamma noise of product and day)

A scenario changes one thing on one day, and nothing before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CATEGORIES = tuple(f"category {i}" for i in range(6))
WEEKDAY = np.array([0.85, 0.85, 0.9, 1.0, 1.1, 1.25, 1.05])


@dataclass(frozen=True)
class Scenario:
    """What changes; the defaults change nothing."""

    name: str
    relation: bool  # whether what the network has learnt became wrong, and not the level alone
    level: float = 1.0  # factor on all demand
    decay: float = 0.0  # of log demand, a day
    response: float = 3.0  # to a discount
    season: tuple[float, ...] = (1.6, 1.6, 1.0, 1.0, 1.0, 1.0)  # factor of the season on each category
    wave: bool = False  # new products at five times the usual rate ...
    launch: float = 0.8  # ... and log demand above the rate on a first day, falling by half in a week


SCENARIOS = (
    Scenario("no drift", relation=False),
    Scenario("level shift", relation=False, level=1.6),
    Scenario("slow decay", relation=False, decay=0.006),
    Scenario("changed price response", relation=True, response=0.6),
    Scenario("new season", relation=True, season=(1.0, 1.0, 1.6, 1.6, 1.0, 1.0)),
    Scenario("wave of new products", relation=True, wave=True, launch=2.0),
)
USUAL = SCENARIOS[0]


@dataclass(frozen=True)
class WorldConfig:
    products: int = 240
    days: int = 56 + 28 + 140 + 28  # a first window's history, before the change, after it, the last horizon
    change: int = 56 + 28  # day of the change
    rate: float = 8.0
    promoted: float = 0.15  # share of weeks
    season_days: int = 14  # of every 35
    common_shock: float = 0.06  # standard deviation of log demand
    noise: float = 12.0  # gamma shape of a product's day
    young: float = 0.3  # share of the products that begin at any day of the simulation


@dataclass(frozen=True, eq=False)
class World:
    """Arrays [products, days]; day 0 is a Monday."""

    expected: Floats  # units, the shocks of days unknown
    units: Ints
    discount: Floats  # log of list price over price, known weeks ahead
    season: Ints  # [days] 1 in the season, which the calendar knows
    born: Ints  # [products] day of the first event
    category: Ints  # [products]
    change: int

    @cached_property
    def names(self) -> list[str]:
        return [f"shop:{i}" for i in range(len(self.born))]

    def active(self, day: int) -> Ints:
        """Products that are known before a day."""
        return np.flatnonzero(self.born < day)


def make_world(scenario: Scenario, seed: int, config: WorldConfig | None = None) -> World:
    """The same products, promotions and shocks for every scenario of a seed."""
    c = config or WorldConfig()
    rng = np.random.default_rng(seed)
    n, days = c.products, np.arange(c.days)
    rate = rng.gamma(1.5, c.rate / 1.5, n) + 0.05
    category = rng.integers(0, len(CATEGORIES), n)
    begun = rng.random(n)
    born = np.where(begun < c.young, rng.integers(0, c.days - 28, n), -rng.integers(60, 400, n))
    phase = rng.integers(0, 7, n)
    weeks = (days[None] + phase[:, None]) // 7
    depth = np.where(rng.random((n, weeks.max() + 1)) < c.promoted, rng.uniform(0.1, 0.4, (n, weeks.max() + 1)), 0.0)
    discount = np.take_along_axis(depth, weeks, axis=1)
    season = ((days + 14) % 35 < c.season_days).astype(np.int64)
    waved = rng.integers(c.change, c.change + 84, n)
    if scenario.wave:
        born = np.where(begun > 0.4, waved, born)

    after = days >= c.change
    response = np.where(after, scenario.response, USUAL.response)
    by_season = np.where(after[:, None], np.log(scenario.season), np.log(USUAL.season))  # [days, categories]
    launch = np.where(born >= c.change, scenario.launch, USUAL.launch)
    age = days[None] - born[:, None]
    log_demand = np.log(rate)[:, None] + launch[:, None] * 0.5 ** (np.maximum(age, 0) / 7)
    log_demand = log_demand + response * discount + np.log(WEEKDAY)[days % 7] + season * by_season[:, category].T
    log_demand = log_demand + after * np.log(scenario.level) - scenario.decay * np.maximum(days - c.change, 0)
    demand = np.where(age >= 0, np.exp(log_demand), 0.0)
    shock = np.exp(rng.normal(-(c.common_shock**2) / 2, c.common_shock, c.days))
    units = rng.poisson(demand * shock * rng.gamma(c.noise, 1 / c.noise, demand.shape))
    return World(demand, units, discount, season, born, category, c.change)


def training_world(scenario: Scenario, seed: int, config: WorldConfig | None = None) -> World:
    """A world of its own in which the scenario's relations hold from the first day on, and the level stays."""
    always = replace(config or WorldConfig(), change=0)
    return make_world(replace(scenario, level=1.0, decay=0.0), seed + 1_000, always)
