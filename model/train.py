"""Training: history in, a bundle out. Reads from top to bottom.

The network learns log corrections f of the baseline's delay buckets with a negative binomial loss. The best epoch on
the validation rows wins, and epoch 0 (f = 0, the baseline) takes part: training never leaves a network that is worse
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, special
from torch import Tensor

from model.dataset import Dataset, DatasetConfig, collect, split
from model.features import Doubles
from model.network import Batch, Network, NetworkConfig, make_network
from model.registry import DISPERSION, Bundle
from streams.records import DELAYS, HORIZONS, Modality, SalesClass
from streams.stage import Message

R_BOUNDS = (0.02, 1e4)  # of a fitted dispersion
MIN_ROWS = 50  # with labels, to fit a dispersion of a sales class of its own
DROPPED = tuple(Modality)  # modalities that training leaves out at random; the sales series are always there


@dataclass(frozen=True)
class TrainConfig:
    network: NetworkConfig = field(default_factory=NetworkConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    seed: int = 0
    epochs: int = 3
    min_steps: int = 150  # a short history gets more epochs, so that it gets as many steps
    patience: float = 0.5  # share of the epochs without a better validation loss before training ends
    batch_rows: int = 256
    learning_rate: float = 2e-3
    warm_up: float = 0.1  # share of all steps
    weight_decay: float = 0.05
    gradient_limit: float = 1.0
    modality_dropout: float = 0.2  # of each modality of a row, independently
    all_dropout: float = 0.1  # of all modalities of a row at once
    categories: int = 32
    device: str = "cpu"


@dataclass(frozen=True)
class Step:
    """What a progress callback gets after each step; `eta` is in steps, the callback knows the time."""

    epoch: int
    step: int
    steps: int  # of the whole training, if it does not stop early
    loss: float
    validation_loss: float | None = None  # at the end of an epoch


Progress = Callable[[Step], None]


def train(messages: Iterable[Message], config: TrainConfig, progress: Progress | None = None) -> Bundle:
    """Train on the close windows and outcomes of `trend.windows`. Raises DatasetError if the history is too short."""
    return train_on(collect(messages, config.dataset), config, progress)


def train_on(dataset: Dataset, config: TrainConfig, progress: Progress | None = None) -> Bundle:
    training, validation = split(dataset, config.dataset)
    device = torch.device(config.device)
    network = make_network(config.network, config.seed).to(device)
    rows, checks = _tensors(training, device), _tensors(validation, device)
    # One r per delay and class, from the baseline's own errors: the loss knows which rows are noisy before it starts.
    r = torch.from_numpy(_delay_dispersion(training)).float().to(device)  # [delays, classes]

    generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same draws on every device
    optimizer = torch.optim.AdamW(_groups(network, config.weight_decay), lr=config.learning_rate)
    per_epoch = math.ceil(len(training) / config.batch_rows)
    epochs = max(config.epochs, math.ceil(config.min_steps / per_epoch))
    steps = per_epoch * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, config.warm_up))

    best_loss, best_epoch = evaluate(network, checks, r, config.batch_rows), 0
    best = {name: t.clone() for name, t in network.state_dict().items()}
    losses: list[dict[str, float]] = [{"epoch": 0, "validation": best_loss}]
    for epoch in range(1, epochs + 1):
        network.train()
        order = torch.randperm(len(training), generator=generator).to(device)
        total = 0.0
        for i in range(per_epoch):
            batch = rows.take(order[i * config.batch_rows : (i + 1) * config.batch_rows])
            present = _drop(batch.inputs.present, config, generator)
            _, f = network(replace(batch.inputs, present=present))  # f: [rows, delays]
            loss = negative_binomial_loss(f, batch, r)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_limit)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            if progress:
                progress(Step(epoch, (epoch - 1) * per_epoch + i + 1, steps, float(loss.detach())))
        validation_loss = evaluate(network, checks, r, config.batch_rows)
        losses.append({"epoch": epoch, "training": total / per_epoch, "validation": validation_loss})
        if progress:
            progress(Step(epoch, epoch * per_epoch, steps, total / per_epoch, validation_loss))
        if validation_loss < best_loss:
            best_loss, best_epoch = validation_loss, epoch
            best = {name: t.clone() for name, t in network.state_dict().items()}
        elif epoch - best_epoch >= config.patience * epochs:
            break
    network.load_state_dict(best)
    return _bundle(network, training, validation, rows, checks, config, best_epoch, losses)


# ------------------------------------------------------------------------------------------------------------------
# Rows and their loss.


@dataclass(frozen=True)
class _Rows:
    inputs: Batch
    baseline: Tensor  # [n, delays] B_b, at least a hair above zero
    units: Tensor  # [n, delays] float, 0 where there is no label
    known: Tensor  # [n, delays] float, 1 where there is one
    sales_class: Tensor  # [n] int64

    def take(self, rows: Tensor) -> _Rows:
        inputs = Batch(**{name: t[rows] for name, t in vars(self.inputs).items()})
        return _Rows(inputs, self.baseline[rows], self.units[rows], self.known[rows], self.sales_class[rows])


def _tensors(dataset: Dataset, device: torch.device) -> _Rows:
    return _Rows(
        inputs=Batch.of(dataset.features, device),
        baseline=torch.from_numpy(np.maximum(dataset.baseline, 1e-6)).float().to(device),
        units=torch.from_numpy(np.maximum(dataset.units, 0)).float().to(device),
        known=torch.from_numpy(dataset.units >= 0).float().to(device),
        sales_class=torch.from_numpy(dataset.sales_class).to(device),
    )


def negative_binomial_loss(f: Tensor, rows: _Rows, r: Tensor) -> Tensor:
    """Mean over delays and labelled rows of -log NB(units; mean B exp f, r), less what does not depend on f.

    f [n, delays]; r [delays, sales classes].
    """
    shape = r.T[rows.sales_class]  # [n, delays]
    mean = rows.baseline * f.exp()
    loss = (rows.units + shape) * (1 + mean / shape).log() - rows.units * mean.log()
    # Half the deviance: zero where the mean is what was sold, so that losses of different rows can be compared.
    at_units = (rows.units + shape) * (1 + rows.units / shape).log() - torch.xlogy(rows.units, rows.units)
    each = ((loss - at_units) * rows.known).sum(dim=0) / rows.known.sum(dim=0).clamp(min=1)  # [delays]
    return each.mean()


@torch.no_grad()
def evaluate(network: Network, rows: _Rows, r: Tensor, batch_rows: int) -> float:
    """The loss over all rows, modalities as they are."""
    _, f = _forward(network, rows, batch_rows)
    return float(negative_binomial_loss(f.double(), rows, r.double()))


@torch.no_grad()
def _forward(network: Network, rows: _Rows, batch_rows: int) -> tuple[Tensor, Tensor]:
    """phi [n, width] and f [n, delays] of all rows."""
    network.eval()
    count = len(rows.sales_class)
    every = torch.arange(count, device=rows.baseline.device)
    parts = [network(rows.take(every[i : i + batch_rows]).inputs) for i in range(0, count, batch_rows)]
    return torch.cat([phi for phi, _ in parts]), torch.cat([f for _, f in parts])


def _drop(present: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """[n, modalities] what is left after modality dropout."""
    n = len(present)
    keep = torch.rand(n, len(DROPPED), generator=generator) >= config.modality_dropout
    keep &= torch.rand(n, 1, generator=generator) >= config.all_dropout
    return present & keep.to(present.device)


def _rate(step: int, steps: int, warm_up: float) -> float:
    """Factor on the learning rate: up in a line, down in a half cosine."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _groups(network: Network, decay: float) -> list[dict[str, Any]]:
    matrices = [p for name, p in network.named_parameters() if p.ndim > 1 and name not in ("missing", "position")]
    others = [p for name, p in network.named_parameters() if p.ndim <= 1 or name in ("missing", "position")]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


# ------------------------------------------------------------------------------------------------------------------
# What goes into the bundle beside the weights.


def _bundle(
    network: Network,
    training: Dataset,
    validation: Dataset,
    rows: _Rows,
    checks: _Rows,
    config: TrainConfig,
    best_epoch: int,
    losses: list[dict[str, float]],
) -> Bundle:
    phi, f = _forward(network, rows, config.batch_rows)
    network.fit_components(phi)
    _, f_checks = _forward(network, checks, config.batch_rows)
    dispersion, fitted = horizon_dispersion(
        [(validation, f_checks.cpu().double().numpy()), (training, f.cpu().double().numpy())]
    )
    names, counts = np.unique(training.category[training.category != ""].astype(str), return_counts=True)
    top = sorted(zip((-counts).tolist(), names.tolist(), strict=True))[: config.categories]
    report = {
        "rows": {"training": len(training), "validation": len(validation)},
        "training_end": [int(training.end.min()), int(training.end.max())],
        "validation_end": [int(validation.end.min()), int(validation.end.max())],
        "best_epoch": best_epoch,
        "losses": losses,
        "dispersion_rows": fitted,
        "seed": config.seed,
        "device": config.device.partition(":")[0],
    }
    return Bundle(
        network=network,
        dispersion=dispersion,
        hour_profile=hour_profile(training),
        categories=tuple(name for _, name in top),
        encoders=training.encoders,
        trained_until=int(validation.end.max()),
        report=report,
    )


def hour_profile(dataset: Dataset) -> Doubles:
    """[24] share of units by hour of the day, drawn a little towards even."""
    units = dataset.day_units.sum(axis=0).astype(np.float64)  # [24]
    even = 1 + 0.01 * units.sum() / 24
    profile: Doubles = (units + even) / (units + even).sum()
    return profile


def horizon_dispersion(parts: list[tuple[Dataset, Doubles]]) -> tuple[Doubles, list[list[int]]]:
    """r [horizons, sales classes] of horizon sums, and how many rows each was fitted on.

    `parts`: rows with their f [n, delays], best first. A class with few rows takes the r of all classes, a horizon with
    few rows the next part, and without any the default.
    """
    r = np.full((len(HORIZONS), len(SalesClass)), DISPERSION)
    rows = np.zeros(r.shape, np.int64)
    for h in range(len(HORIZONS)):
        for dataset, f in parts:
            whole = (dataset.units[:, : h + 1] >= 0).all(axis=1)
            if whole.sum() < MIN_ROWS:
                continue
            units = dataset.units[whole, : h + 1].sum(axis=1)
            mean = (dataset.baseline * np.exp(f))[whole, : h + 1].sum(axis=1)
            r[h], rows[h] = _by_class(units, mean, dataset.sales_class[whole])
            break
    return r, rows.tolist()


def _delay_dispersion(dataset: Dataset) -> Doubles:
    """[delays, sales classes] r of each delay bucket around the baseline."""
    r = np.full((DELAYS, len(SalesClass)), DISPERSION)
    for b in range(DELAYS):
        known = dataset.units[:, b] >= 0
        if known.sum() >= MIN_ROWS:
            r[b], _ = _by_class(dataset.units[known, b], dataset.baseline[known, b], dataset.sales_class[known])
    return r


def _by_class(
    units: npt.NDArray[np.int64], mean: Doubles, sales_class: npt.NDArray[np.int64]
) -> tuple[Doubles, list[int]]:
    pooled = fit_dispersion(units, mean)
    r, rows = np.full(len(SalesClass), pooled), [0] * len(SalesClass)
    for c in SalesClass:
        mine = sales_class == c
        if mine.sum() >= MIN_ROWS:
            r[c], rows[c] = fit_dispersion(units[mine], mean[mine]), int(mine.sum())
    return r, rows


def fit_dispersion(units: npt.NDArray[np.int64], mean: Doubles) -> float:
    """The r of NB(mean, r) that makes the units likeliest, within R_BOUNDS."""
    y, m = units.astype(np.float64), np.maximum(mean, 1e-9)

    def loss(log_r: float) -> float:
        r = math.exp(log_r)
        each = special.gammaln(y + r) - math.lgamma(r) - (y + r) * np.log1p(m / r) - y * log_r
        return -float(each.sum())

    found = optimize.minimize_scalar(loss, bounds=tuple(map(math.log, R_BOUNDS)), method="bounded")
    return float(math.exp(found.x))
