"""Losses: what is likelier costs less, what has no label costs nothing, and augmented rows mean what they meant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.augmentation import Augmentation, augmented
from model.dataset import Dataset, DatasetConfig, collect
from model.losses import labelled, losses, negative_log_likelihood, quantile_loss, training_rows, trend_classes
from model.network import Answer
from streams import negative_binomial
from streams.records import AHEAD, DELAYS, HORIZONS, SalesClass, Trend
from tests.unit.synthetic_windows import history

CPU = torch.device("cpu")
R = torch.full((len(HORIZONS), len(SalesClass)), 3.0)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return collect(history(6, 70), DatasetConfig(daily=True))


def answer(f: torch.Tensor, spread: float = 0.0) -> Answer:
    return Answer(f, f, torch.full((len(f), len(HORIZONS)), spread), f)


def test_the_likelihood_would_be_of_another_distribution() -> None:
    units, mean, r = np.array([0.0, 1, 7, 300]), np.array([0.3, 2.0, 5.0, 280.0]), np.array([0.5, 3.0, 40.0, 9.0])
    found = negative_log_likelihood(*(torch.from_numpy(v) for v in (units, mean, r)))
    assert np.allclose(found.numpy(), -np.log(negative_binomial.pmf(units, mean, r)))


def test_the_loss_would_push_the_mean_or_the_spread_away_from_the_sales(dataset: Dataset) -> None:
    rows = training_rows(dataset.take(np.arange(200)), CPU)
    f, spread = torch.zeros(200, DELAYS, requires_grad=True), torch.zeros(200, len(HORIZONS), requires_grad=True)
    each = losses("count", Answer(f, f, spread, f), rows, R)
    each[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert f.grad is not None
    assert spread.grad is not None
    expected = torch.sign(rows.baseline[:, 0] - rows.units[:, 0])
    assert torch.equal(torch.sign(f.grad[:, 0]), expected)
    far = (rows.units[:, 0] - rows.baseline[:, 0]) ** 2 > 2 * rows.baseline[:, 0] * (1 + rows.baseline[:, 0] / 3)
    assert (spread.grad[far, 0] > 0).all(), "what is far off asks for a smaller r"


@pytest.mark.parametrize("task", ["count", "regression", "classification", "sequence"])
def test_a_row_without_a_label_would_count(dataset: Dataset, task: str) -> None:
    rows = training_rows(dataset, CPU)
    there = labelled(task, rows)
    known = dataset.daily >= 0 if task == "sequence" else np.cumprod(dataset.units >= 0, axis=1).astype(bool)
    assert np.array_equal(there.numpy() > 0, known)
    assert 0 < known.mean() < 1


def test_a_day_of_the_sequence_would_be_another_day(dataset: Dataset) -> None:
    ends = np.unique(dataset.end)
    row = int(np.flatnonzero((dataset.product == "shop:p2") & (dataset.end == ends[10]))[0])
    days = dataset.daily[row]
    assert days[0] == dataset.units[row, 0]
    assert days[1:7].sum() == dataset.units[row, 1]
    assert days[7:].sum() == dataset.units[row, 2]
    late = dataset.end == ends[-10]
    assert (dataset.daily[late][:, :9] >= 0).all()
    assert (dataset.daily[late][:, 9:] == -1).all(), "no window tells of these days"


def test_the_trend_class_would_not_be_the_one_of_the_thresholds(dataset: Dataset) -> None:
    four = dataset.take(np.arange(4))
    units = np.array([[2, 0, 0], [3, 0, 0], [15, 0, 0], [20, -1, 0]])
    thresholds = np.tile([20, 15, 2], (4, len(HORIZONS)))
    found = trend_classes(replace(four, units=units, thresholds=thresholds))
    assert found[:, 0].tolist() == [Trend.FALLING, Trend.STEADY, Trend.RISING, Trend.SURGING]
    assert found[3].tolist() == [Trend.SURGING, -1, -1]


def test_the_quantile_loss_would_not_be_least_at_the_truth() -> None:
    rng = np.random.default_rng(0)
    mean = np.tile(rng.uniform(0.5, 30, (4000, 1)), len(HORIZONS))
    units = rng.poisson(mean * rng.gamma(4.0, 1 / 4.0, mean.shape)).astype(np.float64)
    known = np.ones_like(units)
    right = quantile_loss(mean, np.full_like(mean, 4.0), units, known)
    for m, r in ((0.8, 4.0), (1.25, 4.0), (1.0, 1.0), (1.0, 40.0)):
        assert (quantile_loss(mean * m, np.full_like(mean, r), units, known) > right).all()
    half = known * (np.arange(len(units)) < 2000)[:, None]
    assert np.array_equal(
        quantile_loss(mean, np.full_like(mean, 4.0), units, half),
        quantile_loss(mean[:2000], np.full_like(mean[:2000], 4.0), units[:2000], known[:2000]),
    )


def test_an_augmentation_would_change_what_a_row_means(dataset: Dataset) -> None:
    rows = training_rows(dataset.take(np.arange(300)), CPU)
    quiet = Augmentation(masked_days=0.0, vector_noise=0.0, modality_dropout=0.0, all_dropout=0.0)

    def made(**on: float) -> Any:
        return augmented(rows, replace(quiet, **on), torch.Generator().manual_seed(3))

    same = made()
    assert all(torch.equal(a, b) for a, b in zip(vars(same.inputs).values(), vars(rows.inputs).values(), strict=True))
    scaled = made(scaling=0.5)
    assert torch.allclose(scaled.units / scaled.baseline, rows.units / rows.baseline, rtol=1e-4)
    assert torch.equal(scaled.inputs.days, rows.inputs.days), "relative to what is usual nothing has changed"
    moved = scaled.inputs.context[:, 3].expm1() / rows.inputs.context[:, 3].expm1()
    assert torch.allclose(moved, scaled.baseline[:, 0] / rows.baseline[:, 0], rtol=1e-3)
    masked = made(masked_days=0.3).inputs.days
    gone = ((masked == 0) & (rows.inputs.days != 0)).float().sum() / (rows.inputs.days != 0).float().sum()
    assert 0.2 < float(gone) < 0.4
    dropped = made(modality_dropout=0.3).inputs.present
    assert 0.6 < float(dropped[rows.inputs.present].float().mean()) < 0.8
    assert torch.equal(made(jitter=0.1).units, rows.units)
    assert not torch.equal(made(vector_noise=0.1).inputs.vectors, rows.inputs.vectors)
    assert rows.daily.shape[1] == AHEAD
