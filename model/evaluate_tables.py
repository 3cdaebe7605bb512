"""Figures of an evaluation: every metric of every method with its interval, and its lead over the best other method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.evaluate import LOWER_IS_BETTER, METRICS, Bootstrap, Cases, DecileAuc, Forecasts, interval
from streams.records import HORIZONS, SalesClass

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

AUC = "auc_in_deciles"
AUC_REPLICATES = 200
OVERALL = "overall"
SEGMENTS = (OVERALL, *(c.name.lower() for c in SalesClass))


@dataclass(frozen=True)
class Figure:
    """One metric of one method. `lead` is over the best other method: of losses 1 - own / other, of AUC the difference;
    above zero is better. None where it has no value."""

    value: float
    low: float
    high: float
    excluded: int = 0  # rows that the metric cannot read
    other: str | None = None
    lead: float | None = None
    lead_low: float | None = None
    lead_high: float | None = None


@dataclass(frozen=True)
class Segment:
    """All figures of some rows of a table: horizon in days -> metric -> method."""

    rows: int
    units: Mapping[int, int]  # sold, by horizon in days
    figures: Mapping[int, Mapping[str, Mapping[str, Figure]]]


def segments(cases: Cases, forecasts: Mapping[str, Forecasts], ours: Sequence[str]) -> dict[str, Segment]:
    """Overall and by sales class. `ours` are one family: the best other of each of them is a method outside of it."""
    found = {}
    for name in SEGMENTS:
        rows = np.arange(len(cases))
        if name != OVERALL:
            rows = np.flatnonzero(cases.sales_class == SalesClass[name.upper()])
        if len(rows):
            part = {method: f.take(rows) for method, f in forecasts.items()}
            found[name] = _segment(cases.take(rows), part, set(ours), replicate_auc=name == OVERALL)
    return found


def _segment(cases: Cases, forecasts: Mapping[str, Forecasts], ours: set[str], replicate_auc: bool) -> Segment:
    bootstrap = Bootstrap(cases)
    figures: dict[int, dict[str, dict[str, Figure]]] = {}
    for h, days in enumerate(HORIZONS):
        of_horizon = figures[days] = {}
        for metric, function in METRICS.items():
            values, draws, excluded = {}, {}, {}
            for method, forecast in forecasts.items():
                terms = function(cases, forecast, h)
                values[method], excluded[method] = terms.value(), terms.excluded
                draws[method] = bootstrap.ratios(terms)
            of_horizon[metric] = _figures(values, draws, excluded, ours, lower=metric in LOWER_IS_BETTER)
            if metric not in LOWER_IS_BETTER:  # bias and coverage have a right value, not a best one
                of_horizon[metric] = {
                    m: Figure(f.value, f.low, f.high, f.excluded) for m, f in of_horizon[metric].items()
                }
        of_horizon[AUC] = _auc(cases, forecasts, h, bootstrap, ours, AUC_REPLICATES if replicate_auc else 0)
    units = {days: int(cases.total[:, h].sum()) for h, days in enumerate(HORIZONS)}
    return Segment(len(cases), units, figures)


def _auc(
    cases: Cases, forecasts: Mapping[str, Forecasts], h: int, bootstrap: Bootstrap, ours: set[str], replicates: int
) -> dict[str, Figure]:
    metrics = {method: DecileAuc(cases, forecast, h) for method, forecast in forecasts.items()}
    values = {method: metric.value() for method, metric in metrics.items()}
    draws = {method: np.full(replicates, np.nan) for method in metrics}
    for i in range(replicates):
        weights = bootstrap.weights(i)
        for method, metric in metrics.items():
            draws[method][i] = metric.value(weights)
    return _figures(values, draws, {}, ours, lower=False)


def _figures(
    values: Mapping[str, float],
    draws: Mapping[str, Floats],
    excluded: Mapping[str, int],
    ours: set[str],
    lower: bool | None,
) -> dict[str, Figure]:
    """`lower`: whether the lowest value is the best; None: there is no best one."""
    found = {}
    for method, value in values.items():
        others = [m for m in values if m != method and not (method in ours and m in ours) and np.isfinite(values[m])]
        low, high = interval(draws[method])
        figure = Figure(value, low, high, excluded.get(method, 0))
        if others and np.isfinite(value) and lower is not None:
            best = (min if lower else max)(others, key=lambda m: values[m])
            lead, leads = _lead(value, values[best], lower), _lead(draws[method], draws[best], lower)
            lead_low, lead_high = interval(np.atleast_1d(leads))
            figure = Figure(value, low, high, figure.excluded, best, float(lead), lead_low, lead_high)
        found[method] = figure
    return found


def _lead(own: npt.ArrayLike, other: npt.ArrayLike, lower: bool) -> Floats:
    mine, best = np.asarray(own, np.float64), np.asarray(other, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - mine / best if lower else mine - best, np.float64)


def family(methods: Iterable[str]) -> list[str]:
    """trendstream's own methods, the control with its network too."""
    return [m for m in methods if m.startswith("trendstream") or m == "intercept only"]
