from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streams import negative_binomial

means = st.floats(1e-12, 1e5)
dispersions = st.floats(0.02, 1e8)


@given(st.floats(0.001, 0.999), means, dispersions)
def test_the_quantile_is_the_smallest_count_that_reaches_the_level(q: float, mean: float, r: float) -> None:
    k = float(negative_binomial.quantile(q, mean, r))
    assert k == int(k) >= 0
    assert negative_binomial.cdf(k, mean, r) >= q
    assert k == 0 or negative_binomial.cdf(k - 1, mean, r) < q


@given(st.integers(0, 2_000), st.floats(1e-3, 1e4), st.floats(0.05, 1e6))
def test_probabilities_equal_scipys(k: int, mean: float, r: float) -> None:
    reference = stats.nbinom(r, r / (r + mean))
    assert np.isclose(negative_binomial.pmf(k, mean, r), reference.pmf(k), rtol=1e-6, atol=1e-300)
    assert np.isclose(negative_binomial.cdf(k, mean, r), reference.cdf(k), rtol=1e-9, atol=1e-300)


def test_nothing_lies_below_zero() -> None:
    assert negative_binomial.cdf(-1, 3.0, 2.0) == 0
    assert negative_binomial.quantile(1e-9, 3.0, 2.0) == 0
