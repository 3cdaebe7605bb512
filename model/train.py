"""Training: history in, a bundle out. Reads from top to bottom.

The network learns log corrections f of the baseline's delay buckets, and how far its errors spread. It is trained
twice. The first time the weighted quantile loss of the validation rows says after which epoch it is best, and epoch 0
(f = 0, the baseline) takes part; what it says of these rows, which it has not learnt from, gives r by sales class. The
second time it makes as many steps on all rows: the newest ones, in gap and validation, tell most of what comes.

Interrupted, training goes on from its checkpoint to the same bytes as if it had not been.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.augmentation import Augmentation, augmented
from model.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, read_checkpoint, write_checkpoint
from model.dataset import Dataset, DatasetConfig, collect, matured, split
from model.dispersion import horizon_dispersion
from model.export import probe_of
from model.features import Doubles
from model.losses import TrainRows, accumulate, labelled, losses, missed, quantile_loss, training_rows
from model.network import Answer, Network, NetworkConfig, make_network
from model.parallel import Alone
from model.registry import Bundle
from streams.records import DELAYS, HORIZONS, Trend
from streams.stage import Message


@dataclass(frozen=True)
class TrainConfig:
    network: NetworkConfig = field(default_factory=NetworkConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    epochs: int = 3
    min_steps: int = 400  # a short history gets more epochs, so that it gets as many steps
    patience: float = 0.5  # share of the epochs without a better validation loss before training ends
    batch_rows: int = 256  # of all processes together
    learning_rate: float = 2e-3
    warm_up: float = 0.1  # share of all steps
    weight_decay: float = 0.2  # decoupled, of matrices alone
    gradient_limit: float = 1.0
    categories: int = 32
    device: str = "cpu"
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        daily = self.network.task == "sequence"
        object.__setattr__(self, "dataset", replace(self.dataset, daily=daily))


@dataclass(frozen=True)
class Step:
    """What a progress callback gets after each step; `eta` is in steps, the callback knows the time."""

    epoch: int
    step: int
    steps: int  # of the whole training, if it does not stop early
    loss: float
    learning_rate: float
    validation: dict[str, float] | None = None  # at the end of an epoch; the first one decides


Progress = Callable[[Step], None]


def train(
    messages: Iterable[Message],
    config: TrainConfig,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    workers: Alone | None = None,
) -> Bundle:
    """Train on the close windows and outcomes of `trend.windows`. Raises DatasetError if the history is too short."""
    return train_on(collect(messages, config.dataset), config, progress, checkpoint, workers)


def train_on(
    dataset: Dataset,
    config: TrainConfig,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    workers: Alone | None = None,
    teacher: Network | None = None,
) -> Bundle:
    """`checkpoint` is the file that an interrupted training goes on from; `workers` the processes that share it; from a
    `teacher` of the task count a smaller network learns what its sales alone would not tell it."""
    training, validation = split(dataset, config.dataset)
    per_epoch = math.ceil(len(training) / config.batch_rows)
    epochs = max(config.epochs, math.ceil(config.min_steps / per_epoch))
    trainer = _Trainer(config, per_epoch, epochs, _usual(training), progress, workers or Alone(), teacher)
    fingerprint = _fingerprint(dataset, trainer)
    checks = training_rows(validation, trainer.device)
    first = trainer.fit(trainer.rows(training), epochs, checkpoint, fingerprint, checks)
    first.network.load_state_dict(first.best)
    spread = _spread(first.network, validation, training, config)
    whole = matured(dataset)
    rows = trainer.rows(whole)
    second = checkpoint.with_stem(f"{checkpoint.stem}-whole") if checkpoint else None
    final = trainer.fit(rows, first.best_epoch, second, fingerprint)
    final.network.fit_components(answer_all(final.network, rows, config.batch_rows).phi)
    return _bundle(final.network, training, validation, whole, spread, first, config)


def _usual(training: Dataset) -> Doubles:
    """r [horizons, sales classes] around the baseline: the loss knows which rows are noisy before it starts."""
    nothing = np.zeros((len(training), DELAYS))
    return horizon_dispersion([(training, nothing, nothing)])[0]


@dataclass
class _Trainer:
    """What both trainings have in common."""

    config: TrainConfig
    per_epoch: int  # steps
    epochs: int  # that the learning rate's decline is laid out for
    usual: Doubles  # see `_usual`
    progress: Progress | None
    workers: Alone
    teacher: Network | None
    done: int = 0  # steps of the trainings before

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)

    def rows(self, dataset: Dataset) -> TrainRows:
        rows = training_rows(dataset, self.device)
        if self.teacher is None:
            return rows
        taught = answer_all(self.teacher.to(self.device), rows, self.config.batch_rows)
        return replace(rows, taught=torch.cat([taught.f, taught.spread], dim=1))

    def fit(
        self, rows: TrainRows, epochs: int, checkpoint: Path | None, fingerprint: str, checks: TrainRows | None = None
    ) -> _Run:
        """Train a new network on `rows` for so many epochs, or, where there are `checks`, until it gets no better on
        them."""
        config, workers = self.config, self.workers
        network = make_network(config.network, config.seed).to(self.device)
        optimizer = torch.optim.AdamW(_groups(network, config.weight_decay), lr=config.learning_rate)
        r = torch.from_numpy(self.usual).float().to(self.device)
        run = _Run(network, optimizer, checkpoint if workers.rank == 0 else None, fingerprint, config.seed)
        if not run.resume(checkpoint) and checks is not None:
            run.judge(validate(network, checks, r, config.batch_rows), 0)
        every, rate = self.epochs * self.per_epoch, 0.0
        longest = self.done + (2 * every if checks is not None else epochs * self.per_epoch)
        patience = max(1.0, config.patience * self.epochs) if checks is not None else math.inf
        told = self.progress or (lambda step: None)
        while run.epoch < epochs and run.epoch - run.best_epoch < patience:
            network.train()
            if run.step == run.epoch * self.per_epoch:
                run.begin_epoch(len(rows))
            for i in range(run.step - run.epoch * self.per_epoch, self.per_epoch):
                rate = _rate(run.step, every, config.warm_up) * config.learning_rate
                mine = rows.take(run.order[i * config.batch_rows : (i + 1) * config.batch_rows].to(self.device))
                loss = _step(network, optimizer, mine, r, rate, run.generator, config, workers)
                run.step, run.total = run.step + 1, run.total + loss
                told(Step(run.epoch + 1, self.done + run.step, longest, loss, rate))
                if run.step % config.checkpoint_steps == 0:
                    run.save()
            run.epoch += 1
            if checks is not None:
                found = workers.from_first(validate(network, checks, r, config.batch_rows))
                run.judge(found, run.total / self.per_epoch)
                told(Step(run.epoch, self.done + run.step, longest, run.total / self.per_epoch, rate, found))
            run.save()
        self.done += run.step
        return run


# ------------------------------------------------------------------------------------------------------------------
# One step, and how good the network is.


def _step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    batch: TrainRows,
    r: Tensor,
    rate: float,
    generator: torch.Generator,
    config: TrainConfig,
    workers: Alone,
) -> float:
    """One update from a batch, of which this process does every `size`-th row. Returns the loss of all."""
    task = config.network.task
    batch = augmented(batch, config.augmentation, generator)
    # Every process draws and weighs the whole batch: the sum of their gradients is that of one process.
    weight = labelled(task, batch)
    weight = weight / weight.sum(dim=0).clamp(min=1) / weight.shape[1]
    if workers.size > 1:
        part = torch.arange(workers.rank, len(batch), workers.size, device=weight.device)
        batch, weight = batch.take(part), weight[part]
    answers = network.answers(network.read(batch.inputs), network.embed(batch.inputs), batch.inputs.present)
    each = [losses(task, answer, batch, r) for answer in answers]
    if batch.taught is not None:
        each = [loss + missed(answer, batch.taught) for loss, answer in zip(each, answers, strict=True)]
    loss = (torch.stack(each) * weight).sum()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    total = (loss.detach() / len(answers)).reshape(1)
    workers.sum([total, *(p.grad for p in network.parameters() if p.grad is not None)])
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_limit)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(total)


@torch.no_grad()
def validate(network: Network, rows: TrainRows, r: Tensor, batch_rows: int) -> dict[str, float]:
    """How good the network is on these rows, the number that training goes by first; lower is better."""
    task, answer = network.config.task, answer_all(network, rows, batch_rows)
    found: dict[str, float] = {}
    if task == "classification":
        likely = answer.last.view(len(rows), len(HORIZONS), len(Trend)).argmax(dim=2)
        right = ((likely == rows.trend) & (rows.trend >= 0)).sum() / (rows.trend >= 0).sum().clamp(min=1)
        found["errors"] = 1 - float(right)
    else:
        units, known = rows.whole()
        mean, shape = accumulate(rows.baseline * answer.f.exp()), r.T[rows.sales_class] * answer.spread.exp()
        arrays = [t.double().cpu().numpy() for t in (mean, shape, units, known)]
        by_horizon = quantile_loss(*arrays)
        found["weighted_quantile_loss"] = float(by_horizon.mean())
        found |= {f"weighted_quantile_loss_{h}": float(v) for h, v in zip(HORIZONS, by_horizon, strict=True)}
    there = labelled(task, rows)
    each = losses(task, answer, rows, r) * there
    own = {"loss": float(each.sum() / there.sum().clamp(min=1))}
    return own | found if task == "classification" else found | own


@torch.no_grad()
def answer_all(network: Network, rows: TrainRows, batch_rows: int) -> Answer:
    """The answer on all rows, modalities as they are."""
    network.eval()
    every = torch.arange(len(rows), device=rows.baseline.device)
    answers = [network(rows.inputs.take(every[i : i + batch_rows])) for i in range(0, len(rows), batch_rows)]
    return Answer(*(torch.cat([getattr(a, name) for a in answers]) for name in ("phi", "f", "spread", "last")))


def _rate(step: int, steps: int, warm_up: float) -> float:
    """Factor on the learning rate: up in a line, down in a half cosine."""
    rising = max(1, round(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _groups(network: Network, decay: float) -> list[dict[str, Any]]:
    whole = {True: [], False: []}  # type: dict[bool, list[Tensor]]
    for name, parameter in network.named_parameters():
        whole[parameter.ndim > 1 and not name.endswith(("missing", "position", "summary"))].append(parameter)
    return [{"params": whole[True], "weight_decay": decay}, {"params": whole[False], "weight_decay": 0.0}]


# ------------------------------------------------------------------------------------------------------------------
# Where training stands.


class _Run:
    """All that changes while a network is trained."""

    def __init__(
        self, network: Network, optimizer: torch.optim.Optimizer, checkpoint: Path | None, fingerprint: str, seed: int
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on every device
        self.best = _copy(network)
        self.best_loss, self.best_epoch = math.inf, 0
        self.epoch = self.step = 0
        self.order = torch.empty(0, dtype=torch.int64)  # of the rows in this epoch
        self.total = 0.0  # loss of this epoch's steps
        self.losses: list[dict[str, float]] = []
        self._checkpoint, self._fingerprint = checkpoint, fingerprint

    def begin_epoch(self, rows: int) -> None:
        self.order = torch.randperm(rows, generator=self.generator)
        self.total = 0.0

    def judge(self, found: dict[str, float], training: float) -> None:
        """Keep the network if it is the best so far."""
        loss = next(iter(found.values()))
        self.losses.append({"epoch": self.epoch, "training": training, "validation": loss, **found})
        if loss < self.best_loss:
            self.best, self.best_loss, self.best_epoch = _copy(self.network), loss, self.epoch

    def save(self) -> None:
        if self._checkpoint is None:
            return
        tensors = {"generator": self.generator.get_state(), "order": self.order} | optimizer_tensors(self.optimizer)
        for prefix, weights in (("network", self.network.state_dict()), ("best", self.best)):
            tensors |= {f"{prefix}/{name}": t for name, t in weights.items()}
        names = ("best_loss", "best_epoch", "epoch", "step", "total", "losses")
        state = {name: getattr(self, name) for name in names}
        write_checkpoint(self._checkpoint, Checkpoint(self._fingerprint, tensors, state))

    def resume(self, path: Path | None) -> bool:
        """Go on from a checkpoint of this training, if there is one."""
        found = read_checkpoint(path, self._fingerprint) if path else None
        if found is None:
            return False
        for name, value in found.state.items():
            setattr(self, name, value)
        self.generator.set_state(found.tensors["generator"])
        self.order = found.tensors["order"]
        self.network.load_state_dict(_below("network/", found.tensors))
        self.best = {name: t.to(self.network.device) for name, t in _below("best/", found.tensors).items()}
        load_optimizer(self.optimizer, found.tensors)
        return True


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in network.state_dict().items()}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _fingerprint(dataset: Dataset, trainer: _Trainer) -> str:
    digest = hashlib.sha256(repr((trainer.config, trainer.workers.size)).encode())
    for tensor in trainer.teacher.state_dict().values() if trainer.teacher else ():
        digest.update(tensor.cpu().numpy().tobytes())
    columns = {**vars(dataset.features), **{n: c for n, c in vars(dataset).items() if isinstance(c, np.ndarray)}}
    for column in columns.values():
        digest.update(repr(column.tolist()).encode() if column.dtype == object else np.ascontiguousarray(column).data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------------
# What goes into the bundle beside the weights.


def _spread(
    network: Network, validation: Dataset, training: Dataset, config: TrainConfig
) -> tuple[Doubles, list[list[int]]]:
    """r [horizons, sales classes] and the rows behind it, from rows that the network has not learnt from, where they
    are enough."""
    parts = []
    for part in (validation, training):
        answer = answer_all(network, training_rows(part, network.device), config.batch_rows)
        parts.append((part, answer.f.double().cpu().numpy(), answer.spread.double().cpu().numpy()))
    return horizon_dispersion(parts)


def _bundle(
    network: Network,
    training: Dataset,
    validation: Dataset,
    whole: Dataset,
    spread: tuple[Doubles, list[list[int]]],
    first: _Run,
    config: TrainConfig,
) -> Bundle:
    dispersion, fitted = spread
    names, counts = np.unique(whole.category[whole.category != ""].astype(str), return_counts=True)
    top = sorted(zip((-counts).tolist(), names.tolist(), strict=True))[: config.categories]
    report = {
        "rows": {"training": len(training), "validation": len(validation), "whole": len(whole)},
        "training_end": [int(training.end.min()), int(training.end.max())],
        "validation_end": [int(validation.end.min()), int(validation.end.max())],
        "whole_end": [int(whole.end.min()), int(whole.end.max())],
        "best_epoch": first.best_epoch,
        "losses": first.losses,
        "dispersion_rows": fitted,
        "seed": config.seed,
        "device": config.device.partition(":")[0],
    }
    return Bundle(
        network=network,
        dispersion=dispersion,
        hour_profile=hour_profile(whole),
        categories=tuple(name for _, name in top),
        encoders=whole.encoders,
        trained_until=int(whole.end.max()),
        report=report,
        probe=probe_of(network.eval(), validation.features),
    )


def hour_profile(dataset: Dataset) -> Doubles:
    """[24] share of units by hour of the day, drawn a little towards even."""
    units = dataset.day_units.sum(axis=0).astype(np.float64)  # [24]
    even = 1 + 0.01 * units.sum() / 24
    profile: Doubles = (units + even) / (units + even).sum()
    return profile
