"""Judging forecasts: the product-windows that are judged, metrics on them, and intervals for the difference of methods.

Rules (docs/forecast.md, "Judging"): WAPE and MASE read the median, RMSSE and bias the mean, weighted quantile loss the
quantiles; coverage is of the randomised PIT; AUC of surging is taken within deciles of the baseline. Every method is
judged on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from model.distribution import MEDIAN
from streams import negative_binomial
from streams.records import HORIZONS, QUANTILES, THRESHOLDS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LOW, HIGH = QUANTILES.index(0.1), QUANTILES.index(0.9)
DECILES = 10
BLOCK_DAYS = 14  # of the bootstrap over time
REPLICATES = 400
LEVEL = 0.95  # of the intervals
SURGE = THRESHOLDS.index("surge")


@dataclass(frozen=True, eq=False)
class Cases:
    """The product-windows that are judged, whatever the method."""

    product: Ints  # [n] code
    day: Ints  # [n] boundary at which the window ended, counted in days
    total: Ints  # [n, horizons] units over each horizon, -1 where not matured or censored
    baseline: Floats  # [n, horizons] B_h
    surge: Ints  # [n, horizons] units from which it is a surge
    sales_class: Ints  # [n]
    absolute: Floats  # [n, horizons] scale of MASE: mean |S - S a horizon before| before the test, NaN unknown
    squared: Floats  # [n, horizons] scale of RMSSE: mean of the same squared

    def __len__(self) -> int:
        return len(self.product)

    def take(self, rows: Ints) -> Cases:
        return Cases(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Forecasts:
    """What a method says of the cases; `known` [n] marks those that it forecast, the others hold NaN."""

    mean: Floats  # [n, horizons]
    quantiles: Floats  # [n, horizons, QUANTILES]
    surging: Floats  # [n, horizons] probability
    below: Floats  # [n, horizons] F(Y - 1), NaN for a method without a distribution
    upto: Floats  # [n, horizons] F(Y)
    known: Mask  # [n]
    version: npt.NDArray[np.str_]  # [n] of what made it

    @staticmethod
    def empty(n: int) -> Forecasts:
        nan = np.full((n, len(HORIZONS)), np.nan)
        quantiles = np.full((n, len(HORIZONS), len(QUANTILES)), np.nan)
        return Forecasts(
            nan, quantiles, nan.copy(), nan.copy(), nan.copy(), np.zeros(n, np.bool_), np.full(n, "", "U64")
        )

    def put(self, rows: Ints, part: Forecasts) -> None:
        """Fill in the cases `rows`."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)

    def take(self, rows: Ints) -> Forecasts:
        return Forecasts(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def distribution(
    cases: Cases, mean: Floats, quantiles: Floats, cdf: Callable[[Floats], Floats] | None, surging: Floats, version: str
) -> Forecasts:
    """Forecasts of all cases; `cdf` takes and gives [n, horizons], None where a method has quantiles alone."""
    nothing = np.full(mean.shape, np.nan)
    below, upto = (cdf(_doubles(cases.total) - 1), cdf(_doubles(cases.total))) if cdf else (nothing, nothing.copy())
    unknown = cases.total < 0
    below, upto = np.where(unknown, np.nan, below), np.where(unknown, np.nan, upto)
    everyone = np.ones(len(cases), np.bool_)
    return Forecasts(mean, quantiles, surging, below, upto, everyone, np.full(len(cases), version, "U64"))


def _doubles(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, np.float64)


def counts(cases: Cases, mean: Floats, r: Floats, version: str) -> Forecasts:
    """Negative binomial forecasts with `mean` and dispersion r [n, horizons]."""
    mean = np.maximum(mean, 1e-6)
    quantiles = negative_binomial.quantiles(QUANTILES, mean, r)

    def cdf(k: Floats) -> Floats:
        return negative_binomial.cdf(k, mean, r)

    return distribution(cases, mean, quantiles, cdf, 1 - cdf(_doubles(cases.surge - 1)), version)


# --------------------------------------------------------------------------------------------------------------------
# Metrics are ratios of weighted sums over rows, so that a bootstrap only changes the weights.


@dataclass(frozen=True, eq=False)
class Terms:
    """A metric of one method: `finish`(sum of top, sum of bottom), both [n]; rows left out hold 0 in both."""

    top: Floats
    bottom: Floats
    root: bool = False
    excluded: int = 0

    def value(self) -> float:
        return float(self.finish(self.top.sum(), self.bottom.sum()))

    def finish(self, top: npt.ArrayLike, bottom: npt.ArrayLike) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.asarray(top, np.float64) / np.asarray(bottom, np.float64)
        return np.sqrt(ratio) if self.root else ratio


def wape(cases: Cases, forecasts: Forecasts, h: int) -> Terms:
    y = cases.total[:, h].astype(np.float64)
    return Terms(np.abs(y - forecasts.quantiles[:, h, MEDIAN]), y)


def quantile_loss(cases: Cases, forecasts: Forecasts, h: int) -> Terms:
    """Weighted quantile loss: 2 sum of pinball losses, mean over the quantiles, by units sold."""
    y = cases.total[:, h].astype(np.float64)[:, None]
    error = y - forecasts.quantiles[:, h]
    q = np.asarray(QUANTILES)
    return Terms(2 * np.maximum(q * error, (q - 1) * error).mean(axis=1), y[:, 0])


def bias(cases: Cases, forecasts: Forecasts, h: int) -> Terms:
    """Expected less sold, by sold: 0 is right."""
    y = cases.total[:, h].astype(np.float64)
    return Terms(forecasts.mean[:, h] - y, y)


def mase(cases: Cases, forecasts: Forecasts, h: int) -> Terms:
    y = cases.total[:, h].astype(np.float64)
    return _scaled(np.abs(y - forecasts.quantiles[:, h, MEDIAN]), cases.absolute[:, h], root=False)


def rmsse(cases: Cases, forecasts: Forecasts, h: int) -> Terms:
    """Root of the mean squared error of the mean, each row by its product's squared scale."""
    y = cases.total[:, h].astype(np.float64)
    return _scaled((y - forecasts.mean[:, h]) ** 2, cases.squared[:, h], root=True)


def coverage(cases: Cases, forecasts: Forecasts, h: int) -> Terms:
    """Probability that the randomised PIT, F(Y - 1) + V p(Y), lies in [0.1, 0.9]: 0.8 is right."""
    below, upto = forecasts.below[:, h], forecasts.upto[:, h]
    whole = np.isfinite(below) & np.isfinite(upto)
    width = np.maximum(upto - below, 1e-12)
    inside = np.clip((np.minimum(upto, 0.9) - np.maximum(below, 0.1)) / width, 0.0, 1.0)
    return Terms(np.where(whole, inside, 0.0), whole.astype(np.float64), excluded=int((~whole).sum()))


def _scaled(error: Floats, scale: Floats, *, root: bool) -> Terms:
    good = np.isfinite(scale) & (scale > 0)
    top = np.where(good, error / np.where(good, scale, 1.0), 0.0)
    return Terms(top, good.astype(np.float64), root, int((~good).sum()))


METRICS: Mapping[str, Callable[[Cases, Forecasts, int], Terms]] = {
    "quantile_loss": quantile_loss,
    "wape": wape,
    "mase": mase,
    "rmsse": rmsse,
    "bias": bias,
    "coverage": coverage,
}
LOWER_IS_BETTER = ("quantile_loss", "wape", "mase", "rmsse")  # those that methods are ranked by; AUC the other way


class DecileAuc:
    """AUC of surging within deciles of the baseline: pairs of a surge and none of one decile, ranked right."""

    def __init__(self, cases: Cases, forecasts: Forecasts, h: int) -> None:
        score = forecasts.surging[:, h]
        self.surged = cases.total[:, h] >= cases.surge[:, h]
        self.groups: list[tuple[Ints, Ints]] = []  # rows of a decile by rising score; where a new score begins
        for rows in deciles(cases.baseline[:, h]):
            order = rows[np.argsort(score[rows], kind="stable")]
            starts = np.flatnonzero(np.append(True, np.diff(score[order]) > 0))
            self.groups.append((order, starts))

    def value(self, weights: Floats | None = None) -> float:
        right = pairs = 0.0
        for order, starts in self.groups:
            w = np.ones(len(order)) if weights is None else weights[order]
            positive = np.add.reduceat(np.where(self.surged[order], w, 0.0), starts)
            negative = np.add.reduceat(np.where(self.surged[order], 0.0, w), starts)
            right += float((positive * (np.cumsum(negative) - negative / 2)).sum())
            pairs += float(positive.sum() * negative.sum())
        return right / pairs if pairs else float("nan")


def deciles(baseline: Floats) -> list[Ints]:
    """Rows of each tenth by the baseline; equal values go by place."""
    order = np.argsort(baseline, kind="stable").astype(np.int64)
    return [part for part in np.array_split(order, DECILES) if len(part)]


# --------------------------------------------------------------------------------------------------------------------
# Bootstrap over products x blocks of time.


class Bootstrap:
    """Weights of rows by drawing products and blocks of days with replacement, the same for every method (Owen 2007,
    the pigeonhole bootstrap: rows of a product go together, and so do rows of a block)."""

    def __init__(self, cases: Cases, seed: int = 0, replicates: int = REPLICATES) -> None:
        _, self._product = np.unique(cases.product, return_inverse=True)
        _, self._block = np.unique((cases.day - cases.day.min(initial=0)) // BLOCK_DAYS, return_inverse=True)
        products, blocks = int(self._product.max(initial=-1)) + 1, int(self._block.max(initial=-1)) + 1
        rng = np.random.default_rng(seed)
        self.products = _multinomial(rng, products, replicates)  # [replicates, products]
        self.blocks = _multinomial(rng, blocks, replicates)  # [replicates, blocks]

    def sums(self, values: Floats) -> Floats:
        """[replicates] weighted sums of values [n]."""
        shape = (self.products.shape[1], self.blocks.shape[1])
        cell = self._product * shape[1] + self._block
        cells = np.bincount(cell, values, shape[0] * shape[1]).reshape(shape)
        found: Floats = np.einsum("rp,pb,rb->r", self.products, cells, self.blocks, optimize=True)
        return found

    def ratios(self, terms: Terms) -> Floats:
        return terms.finish(self.sums(terms.top), self.sums(terms.bottom))

    def weights(self, replicate: int) -> Floats:
        """[n]"""
        found: Floats = self.products[replicate, self._product] * self.blocks[replicate, self._block]
        return found


def _multinomial(rng: np.random.Generator, size: int, replicates: int) -> Floats:
    return rng.multinomial(size, np.full(size, 1 / max(size, 1)), replicates).astype(np.float64)


def interval(values: Floats) -> tuple[float, float]:
    """The middle LEVEL of replicates; NaN where there are none."""
    good = values[np.isfinite(values)]
    if not len(good):
        return float("nan"), float("nan")
    low, high = np.quantile(good, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
