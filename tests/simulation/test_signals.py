"""Planted signals: what other modalities than sales say must reach the forecast, and noise must not.

The same windows are read by networks that differ in one modality: as it is; an oracle that reads the truth in its
place; controls whose modality is another product's, or missing. All are trained the same way and judged, by the
weighted quantile loss over the three horizons, on days or products that training has not seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from model.dataset import Dataset
from model.losses import accumulate, training_rows
from model.train import TrainConfig, answer_all, train_on
from streams import negative_binomial
from streams.calendars import DAY
from streams.records import HORIZONS, VECTOR, Modality
from tests.simulation.judging import LEVELS, pinball
from tests.simulation.signals import (
    START,
    Shop,
    reading,
    sentiment_shop,
    shuffled,
    style_shop,
    views_shop,
    without,
)
from tests.simulation.world import Floats, Ints

GAIN, COST = 0.5, 0.01  # of the oracle's gain at least; of the loss at most
CONFIG = TrainConfig(min_steps=150)


def losses(dataset: Dataset, train: Ints, test: Ints) -> Floats:
    """[test] weighted quantile loss of a network trained on some rows of the dataset."""
    bundle = train_on(dataset.take(train), CONFIG)
    rows = training_rows(dataset.take(test), torch.device("cpu"))
    answer = answer_all(bundle.network, rows, CONFIG.batch_rows)
    mean = accumulate(rows.baseline * answer.f.exp()).double().numpy()
    r = bundle.dispersion.T[rows.sales_class.numpy()] * answer.spread.double().exp().numpy()
    units = accumulate(rows.units).double().numpy()
    loss = pinball(units, negative_binomial.quantile(LEVELS, mean[:, :, None], r[:, :, None]))
    return np.asarray((loss / units.mean(axis=0)).mean(axis=1), np.float64)


def share_of_gain(real: Floats, oracle: Floats, control: Floats, product: Ints) -> tuple[float, float]:
    """Gain over the control as a share of the oracle's, and the low end of its 90 % interval over products."""
    _, code = np.unique(product, return_inverse=True)
    found, possible = (np.bincount(code, values) for values in (control - real, control - oracle))
    drawn = np.random.default_rng(0).integers(0, len(found), (1_000, len(found)))
    low = np.quantile(found[drawn].sum(axis=1) / possible[drawn].sum(axis=1), 0.05)
    return float(found.sum() / possible.sum()), float(low)


def later(shop: Shop, dataset: Dataset) -> tuple[Ints, Ints]:
    """Training rows, and those of the last 30 days that can be judged; no label of the first reaches into them."""
    whole = (dataset.units >= 0).all(axis=1)
    cut = int(dataset.end[whole].max()) - 30 * DAY
    return np.flatnonzero(dataset.end <= cut - max(HORIZONS) * DAY), np.flatnonzero(whole & (dataset.end > cut))


def unseen(shop: Shop, dataset: Dataset) -> tuple[Ints, Ints]:
    """Training rows, and the first ten days of the products that came after them."""
    born = START + shop.born[shop.product(dataset)] * DAY
    late = born > START + shop.units.shape[1] // 2 * DAY
    whole = (dataset.units >= 0).all(axis=1)
    first = int(born[late].min())
    return np.flatnonzero(dataset.end < first), np.flatnonzero(whole & late & (dataset.end <= born + 10 * DAY))


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("make", "modality", "rows"),
    [
        pytest.param(sentiment_shop, Modality.TEXT, later, id="sentiment of reviews, three days ahead"),
        pytest.param(style_shop, Modality.IMAGE, unseen, id="style in pictures, of products never seen"),
        pytest.param(views_shop, Modality.BEHAVIOR, later, id="views before sales"),
    ],
)
def test_a_signal_brings_at_least_half_of_what_the_truth_in_its_place_would(
    make: Callable[[int], Shop], modality: Modality, rows: Callable[[Shop, Dataset], tuple[Ints, Ints]]
) -> None:
    shop = make(0)
    dataset = shop.dataset()
    train, test = rows(shop, dataset)
    place = Modality.TEXT if modality == Modality.BEHAVIOR else modality
    real, oracle = losses(dataset, train, test), losses(reading(dataset, place, shop.told(dataset)), train, test)
    controls = {"of another product": shuffled(dataset, modality, 1), "missing": without(dataset, modality)}
    print(f"loss {real.mean():.4f}, the oracle's {oracle.mean():.4f}")
    for name, control in controls.items():
        loss = losses(control, train, test)
        share, low = share_of_gain(real, oracle, loss, shop.product(dataset)[test])
        print(f"{name}: {loss.mean():.4f}; share of the oracle's gain {share:.2f}, low end {low:.2f}")
        assert oracle.mean() < loss.mean()
        assert share >= GAIN


@pytest.mark.simulation
def test_a_modality_of_noise_costs_little() -> None:
    shop = views_shop(0)
    dataset = shop.dataset()
    train, test = later(shop, dataset)
    noise = np.random.default_rng(1).normal(size=(len(dataset), VECTOR)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    real, noisy = losses(dataset, train, test), losses(reading(dataset, Modality.TEXT, noise), train, test)
    cost = float(noisy.mean() / real.mean() - 1)
    print(f"loss {real.mean():.4f}; with noise in place of reviews {100 * cost:+.2f} %")
    assert cost <= COST
