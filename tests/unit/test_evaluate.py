from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import evaluate
from model.evaluate import Bootstrap, Cases, DecileAuc, Forecasts, counts
from model.evaluate_tables import segments
from streams import negative_binomial
from streams.records import HORIZONS

WEEK = HORIZONS.index(7)
N, R = 4_000, 2.0


def world(seed: int = 0, n: int = N) -> tuple[Cases, np.ndarray]:
    """Counts around known means [n, horizons]."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(1.0, 2.0, n)[:, None] * np.array(HORIZONS) / 7 + 0.01
    total = rng.poisson(mean * rng.gamma(R, 1 / R, (n, 1)))
    product = np.arange(n) % (n // 20)
    cases = Cases(
        product=product,
        day=np.arange(n) // (n // 20) * 4,
        total=total,
        baseline=mean,
        surge=np.maximum(np.ceil(2 * mean), negative_binomial.quantile(0.95, mean, R) + 1).astype(np.int64),
        sales_class=product % 4,
        absolute=mean,
        squared=mean**2,
    )
    return cases, mean


def truth(cases: Cases, mean: np.ndarray) -> Forecasts:
    return counts(cases, mean, np.full(mean.shape, R), "truth")


def value(name: str, cases: Cases, forecasts: Forecasts) -> float:
    return evaluate.METRICS[name](cases, forecasts, WEEK).value()


def test_the_right_distribution_loses_least_and_covers_eight_of_ten_by_the_randomised_pit() -> None:
    cases, mean = world()
    right = truth(cases, mean)
    for wrong in (
        counts(cases, mean * 1.3, np.full(mean.shape, R), ""),
        counts(cases, mean, np.full(mean.shape, 30.0), ""),
    ):
        assert value("quantile_loss", cases, right) < value("quantile_loss", cases, wrong)
    assert value("coverage", cases, right) == pytest.approx(0.8, abs=0.02)
    closed = (cases.total >= right.quantiles[:, :, 0]) & (cases.total <= right.quantiles[:, :, 2])
    assert closed[:, WEEK].mean() > 0.85  # what an interval of small counts holds is more: hence the PIT
    assert value("bias", cases, right) == pytest.approx(0.0, abs=0.05)


def test_who_gives_the_median_as_the_mean_wins_no_figure_that_reads_the_mean() -> None:
    cases, mean = world()
    right = truth(cases, mean)
    cheat = replace(right, mean=right.quantiles[:, :, 1])
    assert value("wape", cases, cheat) == value("wape", cases, right)
    assert value("rmsse", cases, cheat) > value("rmsse", cases, right)
    assert abs(value("bias", cases, cheat)) > 0.1


def test_knowing_how_fast_a_product_sells_ranks_no_surge_within_a_decile() -> None:
    cases, mean = world()
    rng = np.random.default_rng(1)
    by_speed = replace(truth(cases, mean), surging=mean + rng.normal(0, 1e-9, mean.shape))
    seer = replace(truth(cases, mean), surging=cases.total.astype(np.float64))
    assert DecileAuc(cases, by_speed, WEEK).value() == pytest.approx(0.5, abs=0.12)
    assert DecileAuc(cases, seer, WEEK).value() > 0.95
    pooled = replace(cases, baseline=np.zeros_like(cases.baseline))
    assert DecileAuc(pooled, replace(seer, surging=-seer.surging), WEEK).value() < 0.2


def test_rows_of_which_a_scale_is_zero_or_unknown_are_left_out_and_counted() -> None:
    cases, mean = world()
    absolute = cases.absolute.copy()
    absolute[:100] = 0.0
    absolute[100:150] = np.nan
    terms = evaluate.mase(replace(cases, absolute=absolute), truth(cases, mean), WEEK)
    assert terms.excluded == 150
    assert terms.value() == pytest.approx(
        evaluate.mase(cases.take(np.arange(150, N)), truth(cases, mean).take(np.arange(150, N)), WEEK).value()
    )


def test_the_interval_of_a_difference_holds_zero_for_equals_and_not_for_what_is_better() -> None:
    cases, mean = world()
    right = truth(cases, mean)
    worse = counts(cases, mean * 1.5, np.full(mean.shape, R), "")
    found = segments(cases, {"trendstream": right, "rival": right, "bad": worse}, ["trendstream"])
    figure = found["overall"].figures[7]["quantile_loss"]
    assert figure["trendstream"].other == "rival"
    assert figure["trendstream"].lead == figure["trendstream"].lead_low == figure["trendstream"].lead_high == 0.0
    bad = figure["bad"]
    assert bad.lead is not None
    assert bad.lead_high is not None
    assert bad.lead_low is not None
    assert bad.lead_low < bad.lead < bad.lead_high < 0
    assert found["fast"].rows == (cases.sales_class == 0).sum()


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_bootstrap_weighs_sums_as_it_weighs_rows(seed: int) -> None:
    cases, _ = world(seed, 200)
    bootstrap = Bootstrap(cases, seed, replicates=5)
    values = np.random.default_rng(seed).normal(size=len(cases))
    for i, total in enumerate(bootstrap.sums(values)):
        assert total == pytest.approx((bootstrap.weights(i) * values).sum())


def test_intervals_widen_where_the_errors_of_a_product_go_together() -> None:
    cases, mean = world()
    four = replace(cases, product=np.arange(N) % 4)
    shocked = truth(cases, mean * np.array([0.5, 0.8, 1.2, 1.5])[four.product][:, None])
    terms = evaluate.bias(cases, shocked, WEEK)
    wide, narrow = (evaluate.interval(Bootstrap(c).ratios(terms)) for c in (four, cases))
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
