import msgspec
import numpy as np
import pytest

from model.errors import ModelError
from model.heads import (
    Correction,
    HeadStore,
    Prior,
    category_codes,
    design,
    effect,
    feature_count,
    forget,
    frozen_head,
    gather,
    head_key,
    head_version,
    step,
)
from streams.codecs import decode_json, encode_json
from streams.records import COMPONENTS, DELAYS
from streams.records.outside import Head
from streams.stage import Message

CATEGORIES = ("fruit", "bread")
FEATURES = feature_count(len(CATEGORIES))
R = np.array([[2.0, 3.0, 4.0, 5.0]] * 3)


def rows(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "log_baseline": rng.normal(size=(n, DELAYS)),
        "f": rng.normal(size=(n, DELAYS)),
        "components": rng.normal(size=(n, COMPONENTS)),
        "codes": category_codes(CATEGORIES, [("fruit", "bread", "unheard of")[i % 3] for i in range(n)]),
    }


def learnt_head(seed: int = 1) -> Head:
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(DELAYS, FEATURES, FEATURES)) * 0.1
    covariance = np.einsum("bij,bkj->bik", roots, roots)
    head = frozen_head("n1", R, CATEGORIES, 7)
    theta = rng.normal(size=(DELAYS, FEATURES)) * 0.1
    return Head(**{name: getattr(head, name) for name in head.__struct_fields__ if name not in ("theta", "covariance")},
                theta=theta.tolist(), covariance=covariance.tolist())  # fmt: skip


def message(head: Head | None) -> Message:
    return Message("model.heads", 0, 0, 0, None, None if head is None else encode_json(head))


def test_frozen_head_leaves_the_network_as_it_is() -> None:
    x = rows(5)
    mean, s2 = Correction.of(frozen_head("n1", R, CATEGORIES)).correct(**x)
    np.testing.assert_array_equal(mean, np.exp(x["log_baseline"] + x["f"]))
    assert not s2.any()


def test_correction_is_x_theta_and_its_variance_x_p_x() -> None:
    head, x = learnt_head(), rows(9)
    mean, s2 = Correction.of(head).correct(**x)
    for b in range(DELAYS):
        X = design(x["f"][:, b], x["components"], x["codes"], len(CATEGORIES))
        shift = X @ np.array(head.theta[b])
        np.testing.assert_allclose(mean[:, b], np.exp(x["log_baseline"][:, b] + x["f"][:, b] + shift), rtol=1e-12)
        np.testing.assert_allclose(s2[:, b], np.diag(X @ np.array(head.covariance[b]) @ X.T), rtol=1e-9)


def test_a_rows_correction_does_not_depend_on_its_company() -> None:
    head, x = learnt_head(), rows(33)
    mean, s2 = Correction.of(head).correct(**x)
    for i in (0, 7, 32):
        alone, variance = Correction.of(head).correct(**{name: column[i : i + 1] for name, column in x.items()})
        np.testing.assert_array_equal(alone[0], mean[i])
        np.testing.assert_array_equal(variance[0], s2[i])


def test_a_category_that_the_head_does_not_know_has_no_effect_of_its_own() -> None:
    head = learnt_head()
    theta = np.array(head.theta[0])
    shift, _ = effect(theta, np.zeros((FEATURES, FEATURES)), np.zeros(2), np.zeros((2, COMPONENTS)), np.array([0, -1]))
    np.testing.assert_allclose(shift, [theta[0] + theta[1], theta[0]])


def test_dispersion_follows_the_sales_class() -> None:
    frozen = Correction.of(frozen_head("n1", R, ()))
    np.testing.assert_array_equal(frozen.row_dispersion(np.array([3, 0])), [[5.0] * 3, [2.0] * 3])


def test_a_head_whose_parts_do_not_fit_is_refused() -> None:
    head = learnt_head()
    broken = Head(**{n: getattr(head, n) for n in head.__struct_fields__ if n != "categories"}, categories=["fruit"])
    with pytest.raises(ModelError, match=r"head n1-e7: theta"):
        Correction.of(broken)


def test_heads_cross_their_topic_without_losing_a_bit() -> None:
    head = learnt_head()
    assert decode_json(encode_json(head), Head) == head


def update_data(n: int = 40, factor: float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(3)
    x = design(rng.normal(size=n) * 0.3, rng.normal(size=(n, COMPONENTS)), rng.integers(-1, 2, n), len(CATEGORIES))
    offset = np.log(rng.gamma(4.0, 2.0, n))
    units = rng.poisson(factor * np.exp(offset)).astype(np.float64)
    return x, offset, units, np.full(n, 5.0)


def test_update_equals_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, offset, units, r = update_data()
    prior = Prior().covariance(2)[0]
    keep = np.linspace(0.9, 0.99, FEATURES)
    theta0, start = np.linspace(-0.1, 0.1, FEATURES), prior * 0.7
    kappa = 0.3

    theta, P = np.zeros(FEATURES), np.zeros((FEATURES, FEATURES))
    for i in range(FEATURES):
        theta[i] = keep[i] * theta0[i]
        for j in range(FEATURES):
            P[i, j] = keep[i] * start[i, j] * keep[j] + (1 - keep[i] ** 2) * (prior[i, j] if i == j else 0.0)
    H, g = np.zeros((FEATURES, FEATURES)), np.zeros(FEATURES)
    for n in range(len(units)):
        mean = np.exp(offset[n] + sum(x[n, k] * theta[k] for k in range(FEATURES)))
        deviation = np.sqrt(mean * (1 + mean / r[n]))
        residual = min(max((units[n] - mean) / deviation, -4.0), 4.0)
        for i in range(FEATURES):
            g[i] += kappa * x[n, i] * residual * deviation / (1 + mean / r[n])
            for j in range(FEATURES):
                H[i, j] += kappa * x[n, i] * x[n, j] * mean / (1 + mean / r[n])
    expected_P = np.linalg.inv(np.linalg.inv(P) + H)
    expected_theta = theta + expected_P @ g

    monkeypatch.setattr("model.heads.MOST_STEPS", 1)
    got_theta, got_P = step(*forget(theta0, start, prior, keep), x, offset, units, r, kappa)
    np.testing.assert_allclose(got_theta, expected_theta, rtol=1e-9)
    np.testing.assert_allclose(got_P, expected_P, rtol=1e-9)


def test_update_ends_where_score_and_prior_balance() -> None:
    x, offset, units, r = update_data(factor=1.3)
    start, theta0 = Prior().covariance(2)[0], np.zeros(FEATURES)
    theta, _ = step(theta0, start, x, offset, units, r, 0.5)
    _, score = gather(x, units, np.exp(offset + x @ theta), r)
    np.testing.assert_allclose(0.5 * score, np.linalg.solve(start, theta - theta0), atol=0.05)


@pytest.mark.parametrize("factor", [0.1, 3.0, 10.0])
def test_a_jump_of_sales_is_not_overshot(factor: float) -> None:
    n = 400
    x = np.zeros((n, FEATURES))
    x[:, 0] = 1.0
    theta, _ = step(np.zeros(FEATURES), Prior(level=10.0).covariance(2)[0], x, np.full(n, np.log(5.0)),
                    np.full(n, 5.0 * factor), np.full(n, 2.0), 1.0)  # fmt: skip
    assert theta[0] == pytest.approx(np.log(factor), abs=0.02)


def test_information_is_the_sum_over_partitions() -> None:
    x, offset, units, r = update_data()
    mean = np.exp(offset)
    whole = gather(x, units, mean, r)
    parts = [gather(x[i::2], units[i::2], mean[i::2], r[i::2]) for i in (0, 1)]
    for together, one, other in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(together, one + other, rtol=1e-12, atol=1e-12)


def test_without_outcomes_a_head_returns_to_the_prior() -> None:
    prior = Prior().covariance(2)[0]
    theta, P = np.ones(FEATURES), prior * 0.01
    for _ in range(200):
        theta, P = forget(theta, P, prior, np.full(FEATURES, 0.95))
    np.testing.assert_allclose(theta, 0, atol=1e-4)
    np.testing.assert_allclose(P, prior, rtol=1e-6)


def test_store_gives_the_newest_head_at_or_before_an_epoch() -> None:
    store = HeadStore("n1")
    assert store.select(5) is None
    assert store.newest() is None
    assert not store.has(0)
    for epoch in (2, 6, 4):  # out of order, as a topic that is read again may be
        store.put(message(frozen_head("n1", R, CATEGORIES, epoch)))
    store.put(message(frozen_head("another network", R, CATEGORIES, 9)))
    store.put(message(None))
    selected = [store.select(epoch) for epoch in (1, 2, 5, 6, 99)]
    assert [head and head.epoch for head in selected] == [None, 2, 4, 6, 6]
    newest = store.newest()
    assert newest is not None
    assert newest.version == "n1-e6"
    assert store.has(6)
    assert not store.has(7)
    assert store.get("n1-e4") == frozen_head("n1", R, CATEGORIES, 4)
    assert store.get("n1-e5") is None


def test_store_prefers_a_head_that_was_installed_by_hand_and_still_knows_the_one_before() -> None:
    store = HeadStore("n1")
    learnt = frozen_head("n1", R, CATEGORIES, 4)
    installed = msgspec.structs.replace(learnt, version=head_version("n1", 4, 1), revision=1)
    for head in (learnt, installed, learnt):  # a topic that is read again gives the older one last
        store.put(message(head))
    assert store.select(5) == store.newest() == installed
    assert store.get("n1-e4") == learnt
    store.put(message(frozen_head("n1", R, CATEGORIES, 3)))
    assert store.newest() == installed


def test_head_keys_order_the_versions_of_one_network() -> None:
    versions = [
        head_version("n1", 0),
        *(head_version("n1", e, r) for e in (86_400_000, 172_800_000) for r in (0, 1, 2)),
    ]
    keys = [head_key("n1", version) for version in versions]
    assert keys == sorted(set(keys))
    assert [head_key("n1", other) for other in ("n2-e5", "n1-e", "n1-ex.1", "n1-e5.x", "")] == [None] * 5
