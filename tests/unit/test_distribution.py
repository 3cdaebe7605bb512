import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.calibration import GAP, LEVELS, backward, forward, pseudo_uniform, randomised_pit, track
from model.distribution import predict, remaining, spread
from model.heads import identity_map
from streams import negative_binomial
from streams.records import CLASSES, DELAYS, QUANTILES, Trend

NONE = np.full((1, DELAYS, 3), -1)
IDENTITY = identity_map()


def a_map(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(0.02, 0.98, IDENTITY.shape), axis=1) + np.arange(IDENTITY.shape[1]) * 1e-4


def one(values: list[float]) -> np.ndarray:
    return np.array([values], np.float64)


buckets = st.lists(st.floats(0.001, 500), min_size=DELAYS, max_size=DELAYS)


@settings(max_examples=60)
@given(buckets, st.lists(st.floats(0, 0.5), min_size=3, max_size=3), st.lists(st.floats(0.1, 100), min_size=3,
       max_size=3), st.integers(0, 5), st.integers(0, 30), st.floats(0, 1))  # fmt: skip
def test_quantiles_never_fall_with_level_or_horizon(
    mu: list[float], s2: list[float], r: list[float], seed: int, seen: int, share: float
) -> None:
    forecast = predict(one(mu), one(s2), one(r), one(mu), NONE, a_map(seed), np.array([seen]), np.array([share]))
    assert (np.diff(forecast.quantiles, axis=1) >= 0).all()
    assert (np.diff(forecast.quantiles, axis=2) >= 0).all()
    assert (forecast.quantiles >= seen).all()
    np.testing.assert_allclose(forecast.mean.cumsum(axis=1), forecast.total)


@settings(max_examples=60)
@given(buckets, st.floats(0.1, 100), st.integers(0, 5), st.integers(0, 40), st.integers(0, 30))
def test_classes_are_a_distribution_and_agree_with_the_quantiles(
    mu: list[float], r: float, seed: int, k: int, seen: int
) -> None:
    knots = a_map(seed)
    thresholds = np.array([[[k + 5, k + 2, k]] * DELAYS])
    forecast = predict(one(mu), one([0.1] * 3), one([r] * 3), one(mu), thresholds, knots, np.array([seen]),
                       np.array([0.3]))  # fmt: skip
    p = forecast.probabilities[0]
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)
    for i, level in enumerate(QUANTILES):
        # P(Y <= k) >= level exactly where the quantile at that level is at most k
        assert ((p[:, Trend.FALLING] >= level - 1e-9) | (forecast.quantiles[0, :, i] > k)).all()
        assert ((p[:, Trend.FALLING] <= level + 1e-9) | (forecast.quantiles[0, :, i] <= k)).all()


def test_without_uncertainty_it_is_the_negative_binomial_of_the_sum() -> None:
    mu, r = one([2.0, 9.0, 30.0]), one([2.0, 3.0, 4.0])
    thresholds = np.array([[[6, 4, 0], [20, 15, 5], [80, 60, -1]]])
    forecast = predict(mu, np.zeros((1, 3)), r, mu / 2, thresholds, IDENTITY)
    for h, total in enumerate((2.0, 11.0, 41.0)):
        surge, rise, fall = thresholds[0, h]
        F = lambda k, m=total, n=r[0, h]: float(negative_binomial.cdf(k, m, n))  # noqa: E731
        low = 0.0 if fall < 0 else F(fall)
        expected = (1 - F(surge - 1), F(surge - 1) - F(rise - 1), F(rise - 1) - low, low)
        np.testing.assert_allclose(forecast.probabilities[0, h], expected, atol=1e-12)
        np.testing.assert_array_equal(forecast.quantiles[0, h], negative_binomial.quantile(QUANTILES, total, r[0, h]))
        assert forecast.trend[0, h] == pytest.approx(np.log2((total + 0.5) / (total / 2 + 0.5)))
    assert len(CLASSES) == forecast.probabilities.shape[2]


def test_uncertainty_of_the_mean_widens_as_a_lognormal_factor_does() -> None:
    mean, s2, r = one([5.0, 20.0, 60.0]), one([0.2] * 3), one([3.0] * 3)
    widened = spread(mean, s2, r)
    second_moment = (1 + 1 / 3.0) * np.exp(0.2)  # of u times a lognormal factor with mean 1
    np.testing.assert_allclose(1 + 1 / widened, second_moment)
    forecast = predict(mean, s2, r, mean, NONE, IDENTITY)
    np.testing.assert_allclose(forecast.mean, mean * np.exp(0.1))


def test_a_live_window_that_has_seen_nothing_of_no_time_is_the_close_window() -> None:
    mu, r = one([2.0, 9.0, 30.0]), one([2.0, 3.0, 4.0])
    close = predict(mu, np.zeros((1, 3)), r, mu, NONE, IDENTITY)
    live = predict(mu, np.zeros((1, 3)), r, mu, NONE, IDENTITY, np.zeros(1, np.int64), np.zeros(1))
    np.testing.assert_array_equal(close.quantiles, live.quantiles)
    np.testing.assert_allclose(close.mean, live.mean)


def test_what_a_live_window_sees_does_not_move_the_mean_on_average() -> None:
    mean, r, share = one([8.0, 40.0, 100.0]), 3.0, 0.4
    seen = np.arange(0, 400)
    chance = negative_binomial.pmf(seen, 8.0 * share, r)
    n = len(seen)
    forecast = predict(np.repeat(mean, n, 0), np.zeros((n, 3)), np.full((n, 3), r), np.repeat(mean, n, 0),
                       np.repeat(NONE, n, 0), IDENTITY, seen, np.full(n, share))  # fmt: skip
    np.testing.assert_allclose(chance @ forecast.total, mean.cumsum(axis=1)[0], rtol=1e-6)


def test_seeing_a_day_in_two_parts_or_at_once_gives_the_same() -> None:
    mean, r = one([8.0, 40.0, 100.0]), one([3.0] * 3)
    rest, left = remaining(mean, r, np.array([5.0]), np.array([0.5]))
    again, further = remaining(rest, left, np.array([2.0]), np.array([0.4]))  # 0.4 of the other half
    whole, at_once = remaining(mean, r, np.array([7.0]), np.array([0.7]))
    np.testing.assert_allclose(again, whole)
    np.testing.assert_allclose(further, at_once)


def test_where_all_horizons_spread_alike_the_posterior_is_the_gammas_own() -> None:
    mean, r, seen, share = one([8.0, 40.0, 100.0]), one([3.0] * 3), np.array([9.0]), np.array([0.5])
    rest, left = remaining(mean, r, seen, share)
    factor = (3 + 9) / (3 + 8 * 0.5)
    np.testing.assert_allclose(rest, np.array([[8 * 0.5, 40, 100]]) * factor)
    np.testing.assert_allclose(left, 3 + 9.0)


def test_a_live_forecast_of_days_with_surprises_of_their_own_does_not_run_away() -> None:
    generator = np.random.default_rng(5)
    n, lasting, daily = 20_000, 0.2, 0.3
    common = generator.gamma(1 / lasting, lasting, n)
    days = generator.poisson(10.0 * common[:, None] * generator.gamma(1 / daily, daily, (n, 28)))
    variance = np.array([lasting + daily / h * (1 + lasting) for h in (1, 7, 28)])
    mean = np.repeat(one([10.0, 60.0, 210.0]), n, 0)
    forecast = predict(mean, np.zeros((n, 3)), np.repeat(1 / variance[None], n, 0), mean, np.repeat(NONE, n, 0),
                       IDENTITY, days[:, 0], np.ones(n))  # fmt: skip
    sold = days.sum(axis=1)
    jump = days[:, 0] >= 25  # those that the first day speaks for most
    # Were the whole surprise to last, u would have the gamma posterior of r_28 alone.
    bold = days[:, 0] + 270 * (1 / variance[2] + days[:, 0]) / (1 / variance[2] + 10)
    truth = sold[jump].mean()
    assert abs(forecast.total[jump, 2].mean() - truth) < abs(bold[jump].mean() - truth) / 4
    low, high = forecast.quantiles[:, 2, 0], forecast.quantiles[:, 2, 2]
    assert ((sold >= low) & (sold <= high))[jump].mean() == pytest.approx(0.8, abs=0.08)


def test_the_map_turned_round_undoes_it() -> None:
    for seed in range(4):
        knots, levels = a_map(seed)[0], np.linspace(0, 1, 101)
        np.testing.assert_allclose(backward(knots, forward(knots, levels)), levels, atol=1e-12)
    np.testing.assert_array_equal(forward(IDENTITY[0], LEVELS), LEVELS)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.integers(0, 9), st.floats(0, 1))
def test_no_pit_values_can_break_the_order_of_the_map(pit: list[float], seed: int, rate: float) -> None:
    knots = track(a_map(seed)[0], np.array(pit), rate)
    assert np.diff(knots).min() >= GAP * 0.999
    assert knots.min() > 0
    assert knots.max() < 1


def test_pit_of_a_true_forecast_is_uniform_and_the_map_finds_a_false_one() -> None:
    rng = np.random.default_rng(0)
    n, mean, r_true, r_said = 4000, 6.0, 1.5, 50.0
    units = rng.poisson(mean * rng.gamma(r_true, 1 / r_true, n))
    v = pseudo_uniform(["a", "b"], np.arange(n) % 2, np.arange(n) * 86_400_000, np.zeros(n, np.int64))
    right = randomised_pit(units, mean, r_true, v)
    assert abs((right[:, None] <= LEVELS).mean(axis=0) - LEVELS).max() < 0.03
    wrong = randomised_pit(units, mean, r_said, v)

    def covered(knots: np.ndarray) -> float:
        low, high = forward(knots, [0.1, 0.9])
        return float(((wrong >= low) & (wrong <= high)).mean())

    knots = IDENTITY[0]
    for day in range(100):
        knots = track(knots, wrong[day * 40 : day * 40 + 40], 0.05)
    assert covered(IDENTITY[0]) < 0.6
    assert covered(knots) == pytest.approx(0.8, abs=0.05)


def test_the_pseudo_uniform_depends_on_the_row_alone() -> None:
    ends, delays = np.array([5, 5, 7]), np.array([0, 1, 0])
    together = pseudo_uniform(["a", "b"], np.array([1, 0, 1]), ends, delays)
    alone = [
        pseudo_uniform([name], np.array([0]), ends[i : i + 1], delays[i : i + 1])[0] for i, name in enumerate("bab")
    ]
    assert together.tolist() == alone
    assert len(set(alone)) == 3
