"""Training: a signal that is there is found, a label of the future is not, and the same seed gives the same bytes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from model.dataset import Dataset, DatasetConfig, collect, split
from model.dispersion import DISPERSION, fit_dispersion, horizon_dispersion
from model.errors import DatasetError, RegistryError
from model.losses import training_rows
from model.network import NETWORKS, TASKS, NetworkConfig, make_network
from model.registry import Bundle
from model.train import (
    Step,
    TrainConfig,
    answer_all,
    train,
    train_on,
)
from streams import negative_binomial
from streams.calendars import DAY
from streams.records import DELAYS, HORIZONS, SalesClass
from tests.unit.synthetic_windows import START, history, lively_bundle
from tests.unit.train_together import TOGETHER

PRODUCTS, CLOSE_DAYS = 40, 110
SMALL = TrainConfig(
    network=NetworkConfig("cnn", width=16, layers=1, hidden=32),
    epochs=4,
    batch_rows=64,
    learning_rate=4e-3,
    min_steps=0,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return collect(history(PRODUCTS, CLOSE_DAYS), DatasetConfig())


@pytest.fixture(scope="module")
def few() -> Dataset:
    return collect(history(6, 80), DatasetConfig())


@pytest.fixture(scope="module")
def medium() -> Dataset:
    return collect(history(30, 90), DatasetConfig(daily=True))


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


def interrupted_after(steps: int) -> Callable[[Step], None]:
    def watch(step: Step) -> None:
        if step.step == steps:
            raise KeyboardInterrupt

    return watch


def test_an_interrupted_training_would_end_elsewhere_than_one_that_was_not(medium: Dataset, tmp_path: Path) -> None:
    config = replace(SMALL, epochs=2, patience=1.0, batch_rows=32, learning_rate=6e-3, checkpoint_steps=5)
    whole = train_on(medium, config)
    assert whole.report["best_epoch"] == 2
    # Before the first checkpoint, after it, in the second epoch of 21 steps, and in the training on all rows.
    for steps, next_step in ((1, 1), (9, 6), (30, 26), (51, 48)):
        path = tmp_path / str(steps) / "checkpoint.safetensors"
        with pytest.raises(KeyboardInterrupt):
            train_on(medium, config, interrupted_after(steps), path)
        seen: list[Step] = []
        resumed = train_on(medium, config, seen.append, path)
        assert seen[0].step == next_step, "it goes on from the last checkpoint, not from the start"
        assert weights(resumed) == weights(whole)
        assert resumed.version == whole.version
        assert resumed.report == whole.report


def test_a_training_interrupted_while_it_judges_an_epoch_would_not_go_on(few: Dataset, tmp_path: Path) -> None:
    config = replace(SMALL, epochs=2, patience=1.0, batch_rows=8, checkpoint_steps=11)  # of 11 steps an epoch

    def watch(step: Step) -> None:
        if step.validation:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_on(few, config, watch, path)
    seen: list[Step] = []
    resumed = train_on(few, config, seen.append, path)
    assert (seen[0].step, seen[0].validation is None) == (11, False), "the epoch that was at its end is judged"
    assert weights(resumed) == weights(train_on(few, config))


def test_a_checkpoint_of_another_training_would_be_gone_on_from(few: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    config = replace(SMALL, epochs=1, batch_rows=8, checkpoint_steps=5)
    with pytest.raises(KeyboardInterrupt):
        train_on(few, config, interrupted_after(7), path)
    for dataset, other in ((few, replace(config, seed=1)), (few.take(np.arange(len(few) - 1)), config)):
        seen: list[Step] = []
        train_on(dataset, other, seen.append, tmp_path / "checkpoint.safetensors")
        assert seen[0].step == 1
    path.write_bytes(b"torn")
    with pytest.raises(RegistryError, match="delete it to train from the start"):
        train_on(few, config, None, path)


def test_two_processes_would_train_another_network_than_one(medium: Dataset, tmp_path: Path) -> None:
    command = ["torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-m", *command, port, "-m", "tests.unit.train_together", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first), "both have the same network"
    alone = train_on(medium, TOGETHER).network.state_dict()
    assert all(torch.allclose(first[name], alone[name], atol=2e-3) for name in alone if name.startswith("members"))
    untrained = make_network(TOGETHER.network, TOGETHER.seed).state_dict()
    assert float((first["members.0.trunk.weight"] - untrained["members.0.trunk.weight"]).abs().max()) > 0.02


@pytest.mark.parametrize(
    ("kind", "task"), [*((kind, "count") for kind in NETWORKS), *(("cnn", t) for t in TASKS if t != "count")]
)
def test_a_network_or_a_task_would_not_learn(medium: Dataset, kind: str, task: str) -> None:
    network = replace(SMALL.network, network=kind, task=task)
    bundle = train_on(medium, replace(SMALL, network=network, learning_rate=6e-3, batch_rows=32, epochs=3))
    losses = bundle.report["losses"]
    own = "loss" if task == "classification" else "weighted_quantile_loss_1"
    assert min(loss[own] for loss in losses) < 0.8 * losses[0][own]
    assert ("weighted_quantile_loss_1" in losses[0]) == (task != "classification"), "it gives no units"


def test_a_small_network_would_not_learn_from_a_large_one(medium: Dataset) -> None:
    teacher = lively_bundle(config=NetworkConfig("cnn")).network  # what it says is not in the sales
    config = replace(SMALL, learning_rate=6e-3, batch_rows=32, epochs=8, patience=1.0)
    alone, taught = train_on(medium, config), train_on(medium, config, teacher=teacher)
    rows = training_rows(split(medium, config.dataset)[1], torch.device("cpu"))
    expected = answer_all(teacher, rows, 64).f
    far, near = (float((answer_all(b.network, rows, 64).f - expected).abs().mean()) for b in (alone, taught))
    assert near < 0.8 * far


def test_training_would_not_find_that_views_lead_sales_by_a_day(dataset: Dataset) -> None:
    steps: list[Step] = []
    bundle = train_on(dataset, SMALL, steps.append)
    losses = [loss["validation"] for loss in bundle.report["losses"]]
    assert min(losses) < 0.95 * losses[0], "losses[0] is that of the baseline"
    next_day = [loss["weighted_quantile_loss_1"] for loss in bundle.report["losses"]]
    assert min(next_day) < 0.85 * next_day[0]
    assert bundle.report["best_epoch"] == int(np.argmin(losses))
    assert [s.epoch for s in steps if s.validation] == list(range(1, len(losses)))
    assert steps[-1].step <= steps[-1].steps
    assert bundle.trained_until < START + CLOSE_DAYS * DAY
    assert set(bundle.categories) == {"food > fruit", "food > bread"}
    assert bundle.categories[0] == "food > fruit", "the more frequent one comes first"
    assert bundle.hour_profile.argmax() == 12
    assert bundle.hour_profile.sum() == pytest.approx(1.0)
    assert bundle.dispersion.shape == (len(HORIZONS), len(SalesClass))
    known = dataset.units[:, 0] >= 0
    usual = fit_dispersion(dataset.units[known, 0], dataset.baseline[known, 0])
    assert bundle.dispersion[0, 0] > 1.3 * usual, "what the views explain is no noise any more"
    assert bundle.network.components_matrix.abs().sum() > 0


@pytest.mark.parametrize("part", ["gap", "validation"])
def test_the_newest_sales_would_not_reach_the_weights(medium: Dataset, part: str) -> None:
    """And nothing that has no label yet would."""
    config = replace(SMALL, epochs=1, batch_rows=32, learning_rate=6e-3)
    training, validation = split(medium, config.dataset)
    border = int(training.end.max()) if part == "gap" else int(validation.end.min()) - 1
    labelled = (medium.units >= 0).any(axis=1)
    newest = np.flatnonzero(labelled & (medium.end > border) & (medium.end <= border + 5 * DAY))
    sold = medium.units.copy()
    sold[newest] += medium.units[newest] >= 0
    usual = train_on(medium, config)
    assert usual.report["best_epoch"] == 1
    assert weights(train_on(replace(medium, units=sold), config)) != weights(usual)
    unlabelled = replace(medium, baseline=np.where(labelled[:, None], medium.baseline, 1e6))
    assert weights(train_on(unlabelled, config)) == weights(usual)
    assert usual.trained_until == medium.end[labelled].max()


def test_the_same_seed_would_give_another_network(few: Dataset) -> None:
    config = replace(SMALL, epochs=1)
    first = train_on(few, config)
    torch.rand(3)
    again = train_on(few, config)
    assert weights(first) == weights(again)
    assert first.version == again.version
    assert weights(train_on(few, replace(config, seed=1))) != weights(first)


def test_a_short_history_would_get_too_few_steps_to_learn_from(few: Dataset) -> None:
    steps: list[Step] = []
    config = replace(SMALL, epochs=1, min_steps=20, patience=1.0)
    best = train_on(few, config, steps.append).report["best_epoch"]
    length, epochs = steps[0].steps // 2, max(step.epoch for step in steps)
    assert 20 <= length < 30
    assert steps[-1].step == length + best * length // epochs, "and as many of them again on all rows as were best"


def test_training_would_leave_a_network_that_is_worse_than_the_baseline(few: Dataset) -> None:
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
    r, rows = horizon_dispersion([(mixed, np.zeros((len(mixed), DELAYS)), np.zeros((len(mixed), DELAYS)))])
    assert rows[0][SalesClass.NEW] == rows[0][SalesClass.SPORADIC] == 0
    assert r[0, SalesClass.NEW] == r[0, SalesClass.SPORADIC]
    assert len({r[0, SalesClass.FAST], r[0, SalesClass.SLOW], r[0, SalesClass.NEW]}) == 3
    none, _ = horizon_dispersion([(mixed.take(np.arange(10)), np.zeros((10, DELAYS)), np.zeros((10, DELAYS)))])
    assert (none == DISPERSION).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: training on a GPU was not tried")
def test_training_on_a_gpu_would_not_learn(dataset: Dataset) -> None:
    bundle = train_on(dataset, replace(SMALL, device="cuda"))
    losses = [loss["validation"] for loss in bundle.report["losses"]]
    assert min(losses) < 0.9 * losses[0]
