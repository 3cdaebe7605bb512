"""Excess loss over an oracle.

Where a relation changed, the oracle is the same network as it would be had it learnt in the changed world: what is
above its loss is due to the change. Where the level moved or nothing did, it is the true demand of every day to come,
since such a network would be the frozen one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.distribution import accumulate
from streams import negative_binomial
from streams.records import QUANTILES
from tests.simulation.loop import Run, dispersion_of
from tests.simulation.world import Floats

LEVELS = np.array(QUANTILES)


def pinball(units: Floats, quantiles: Floats) -> Floats:
    """[rows, horizons] weighted quantile loss of units [rows, horizons] at quantiles [rows, horizons, levels]."""
    over = units[:, :, None] - quantiles
    return 2 * np.maximum(LEVELS * over, (LEVELS - 1) * over).mean(axis=2)


@dataclass(frozen=True, eq=False)
class Excess:
    """Sums over days and horizons by product: [products]."""

    frozen: Floats
    updated: Floats
    oracle: Floats  # the loss itself


def excess(run: Run, first: int, products: int, informed: bool) -> Excess:
    """Loss above the oracle's, `informed` or true, from the windows of day `first` on; each horizon weighted by the
    loss of the true one."""
    place = [i for i, day in enumerate(run.days) if day >= first]
    product = np.concatenate([run.windows[i].product for i in place])
    sales_class = np.concatenate([run.windows[i].sales_class for i in place])
    units = accumulate(np.concatenate([run.sold[i] for i in place]).astype(np.float64))
    means = np.maximum(accumulate(np.concatenate([run.truth[i] for i in place])), 1e-9)
    r = dispersion_of(units.astype(np.int64), means, sales_class).T[sales_class]  # [rows, horizons]
    true = pinball(units, negative_binomial.quantiles(LEVELS, means, r))
    loss = {name: pinball(units, np.concatenate([getattr(run, name)[i].quantiles for i in place]))
            for name in ("frozen", "updated", "informed")}  # fmt: skip
    oracle = loss["informed"] if informed else true
    sums = {"frozen": loss["frozen"] - oracle, "updated": loss["updated"] - oracle, "oracle": oracle}
    weight = 1 / true.mean(axis=0)  # [horizons]
    return Excess(**{name: np.bincount(product, values @ weight, products) for name, values in sums.items()})


def interval(found: list[Excess], draws: int = 1_000) -> tuple[float, float, float]:
    """Updated over frozen excess, all seeds together, and its 90 % interval over products and seeds."""
    rng = np.random.default_rng(0)
    ratios = np.empty(draws)
    for i in range(draws):
        updated = frozen = 0.0
        for seed in rng.integers(0, len(found), len(found)):
            of_seed = found[seed]
            drawn = rng.integers(0, len(of_seed.frozen), len(of_seed.frozen))
            updated, frozen = updated + of_seed.updated[drawn].sum(), frozen + of_seed.frozen[drawn].sum()
        ratios[i] = updated / frozen
    low, high = np.quantile(ratios, [0.05, 0.95])
    whole = sum(e.updated.sum() for e in found) / sum(e.frozen.sum() for e in found)
    return float(whole), float(low), float(high)
