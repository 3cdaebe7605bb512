"""Training: a signal that is there is found, a label of the future is not, and the same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from model.dataset import Dataset, DatasetConfig, collect, split
from model.errors import DatasetError
from model.network import NetworkConfig
from model.registry import DISPERSION, Bundle
from model.train import (
    Step,
    TrainConfig,
    _tensors,
    fit_dispersion,
    horizon_dispersion,
    negative_binomial_loss,
    train,
    train_on,
)
from streams import negative_binomial
from streams.calendars import DAY
from streams.records import DELAYS, HORIZONS, SalesClass
from tests.unit.synthetic_windows import START, history

PRODUCTS, CLOSE_DAYS = 40, 110
SMALL = TrainConfig(
    network=NetworkConfig(width=16, layers=1, heads=2), epochs=4, batch_rows=64, learning_rate=4e-3, min_steps=0
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return collect(history(PRODUCTS, CLOSE_DAYS), DatasetConfig())


def weights(bundle: Bundle) -> bytes:
    return save(bundle.network.state_dict())


def test_a_window_would_get_the_outcome_of_another(dataset: Dataset) -> None:
    assert len(dataset) == PRODUCTS * CLOSE_DAYS
    assert dataset.end.tolist() == sorted(dataset.end.tolist())
    days = (dataset.end - START) // DAY
    for b, horizon in enumerate(HORIZONS):
        censored = (dataset.product == "shop:p1") & ((days + horizon) % 10 == 0)
        matured = days + horizon <= CLOSE_DAYS
        assert np.array_equal(dataset.units[:, b] >= 0, matured & ~censored)
    # What a window's next day sold is the newest day of the window after it.
    for row in (0, 17, 1234):
        following = np.flatnonzero((dataset.product == dataset.product[row]) & (dataset.end == dataset.end[row] + DAY))
        assert dataset.day_units[following].sum() == dataset.units[row, 0]
    assert dataset.encoders == {"text": "text-1", "image": "image-1"}


def test_a_training_label_would_reach_into_the_validation_rows(dataset: Dataset) -> None:
    training, validation = split(dataset, DatasetConfig())
    assert training.end.max() + max(HORIZONS) * DAY <= validation.end.min()
    assert (validation.units >= 0).all(axis=1).any(), "the longest horizon is judged"
    assert (training.units >= 0).any(axis=1).all()


def test_the_sample_would_depend_on_the_order_of_the_partitions() -> None:
    messages, config = history(8, 60), DatasetConfig(max_rows=100)
    one, other = collect(messages, config), collect(messages[::-1], config)
    assert len(one) == 100
    assert one.product.tolist() == other.product.tolist()
    assert np.array_equal(one.end, other.end)
    assert np.array_equal(one.units, other.units)
    assert np.array_equal(one.features.days, other.features.days)
    assert len(np.unique(one.product)) == 8
    assert len(np.unique(one.end)) > 40


def test_a_history_that_is_too_short_would_train_on_its_own_future() -> None:
    with pytest.raises(DatasetError, match="load at least 56 days"):
        train(history(4, 40), SMALL)
    with pytest.raises(DatasetError, match="no close window"):
        train([], SMALL)


def test_the_loss_would_push_the_mean_away_from_the_sales(dataset: Dataset) -> None:
    rows = _tensors(dataset.take(np.arange(200)), torch.device("cpu"))
    r = torch.full((DELAYS, len(SalesClass)), 3.0)
    f = torch.zeros(200, DELAYS, requires_grad=True)
    negative_binomial_loss(f, rows, r).backward()  # type: ignore[no-untyped-call]
    assert f.grad is not None
    expected = torch.sign(rows.baseline - rows.units) * rows.known
    assert torch.equal(torch.sign(f.grad), expected)
    best = (rows.units.clamp(min=1e-6) / rows.baseline).log()
    assert float(negative_binomial_loss(best, rows, r)) == pytest.approx(0.0, abs=1e-4)


def test_a_row_without_a_label_would_count_in_the_loss(dataset: Dataset) -> None:
    rows = _tensors(dataset.take(np.arange(100)), torch.device("cpu"))
    r, f = torch.full((DELAYS, len(SalesClass)), 3.0), torch.zeros(100, DELAYS)
    nothing = replace(rows, known=torch.zeros_like(rows.known))
    assert float(negative_binomial_loss(f, nothing, r)) == 0.0
    half = replace(rows, known=rows.known * (torch.arange(100) < 50)[:, None])
    alone = rows.take(torch.arange(50))
    assert float(negative_binomial_loss(f, half, r)) == pytest.approx(float(negative_binomial_loss(f[:50], alone, r)))


def test_training_would_not_find_that_views_lead_sales_by_a_day(dataset: Dataset) -> None:
    steps: list[Step] = []
    bundle = train_on(dataset, SMALL, steps.append)
    losses = [loss["validation"] for loss in bundle.report["losses"]]
    assert min(losses) < 0.9 * losses[0], "losses[0] is that of the baseline"
    assert bundle.report["best_epoch"] == int(np.argmin(losses))
    assert [s.epoch for s in steps if s.validation_loss is not None] == list(range(1, len(losses)))
    assert steps[-1].step <= steps[-1].steps
    assert bundle.trained_until < START + CLOSE_DAYS * DAY
    assert set(bundle.categories) == {"food > fruit", "food > bread"}
    assert bundle.categories[0] == "food > fruit", "the more frequent one comes first"
    assert bundle.hour_profile.argmax() == 12
    assert bundle.hour_profile.sum() == pytest.approx(1.0)
    assert bundle.dispersion.shape == (len(HORIZONS), len(SalesClass))
    assert bundle.dispersion[0, 0] > 4, "what the views explain is no noise any more"
    assert bundle.network.components_matrix.abs().sum() > 0


def test_the_same_seed_would_give_another_network() -> None:
    few = collect(history(6, 80), DatasetConfig())
    config = replace(SMALL, epochs=1)
    first = train_on(few, config)
    torch.rand(3)
    again = train_on(few, config)
    assert weights(first) == weights(again)
    assert first.version == again.version
    assert weights(train_on(few, replace(config, seed=1))) != weights(first)


def test_a_short_history_would_get_too_few_steps_to_learn_from() -> None:
    few, steps = collect(history(6, 80), DatasetConfig()), list[Step]()
    train_on(few, replace(SMALL, epochs=1, min_steps=20, patience=1.0), steps.append)
    assert 20 <= steps[-1].steps < 30
    assert steps[-1].step == steps[-1].steps


def test_training_would_leave_a_network_that_is_worse_than_the_baseline() -> None:
    few = collect(history(6, 80), DatasetConfig())
    reckless = train_on(few, replace(SMALL, learning_rate=0.3, epochs=4, patience=0.25))
    losses = [loss["validation"] for loss in reckless.report["losses"]]
    assert losses[reckless.report["best_epoch"]] == min(losses)
    assert len(losses) <= reckless.report["best_epoch"] + 2, "it stops when patience is at its end"


@pytest.mark.parametrize("r", [0.5, 3.0, 40.0])
def test_a_fitted_dispersion_would_not_be_the_likeliest(r: float) -> None:
    rng = np.random.default_rng(1)
    mean = rng.uniform(1, 30, 4000)
    units = rng.poisson(mean * rng.gamma(r, 1 / r, 4000))
    fitted = fit_dispersion(units, mean)
    assert fitted == pytest.approx(r, rel=0.25)
    likelihood = [np.log(negative_binomial.pmf(units, mean, q)).sum() for q in (fitted * 0.9, fitted, fitted * 1.1)]
    assert max(likelihood) == likelihood[1]


def test_a_sales_class_with_few_rows_would_get_a_dispersion_of_its_own_noise(dataset: Dataset) -> None:
    classes = np.where(np.arange(len(dataset)) % 2 == 0, SalesClass.FAST, SalesClass.SLOW)
    classes[:20] = SalesClass.NEW
    mixed = replace(dataset, sales_class=classes.astype(np.int64))
    r, rows = horizon_dispersion([(mixed, np.zeros((len(mixed), DELAYS)))])
    assert rows[0][SalesClass.NEW] == rows[0][SalesClass.SPORADIC] == 0
    assert r[0, SalesClass.NEW] == r[0, SalesClass.SPORADIC]
    assert len({r[0, SalesClass.FAST], r[0, SalesClass.SLOW], r[0, SalesClass.NEW]}) == 3
    none, _ = horizon_dispersion([(mixed.take(np.arange(10)), np.zeros((10, DELAYS)))])
    assert (none == DISPERSION).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: training on a GPU was not tried")
def test_training_on_a_gpu_would_not_learn(dataset: Dataset) -> None:
    bundle = train_on(dataset, replace(SMALL, device="cuda"))
    losses = [loss["validation"] for loss in bundle.report["losses"]]
    assert min(losses) < 0.9 * losses[0]
