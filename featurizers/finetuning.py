"""Fine-tuning of an encoder on a user's own labels: all weights, or few (LoRA, AdaLoRA, bottleneck adapters).

What is learnt is saved as a model folder. Its weights give it a name of its own, so it is a new encoder version:
vectors of the old one and of the new one are never pooled together, and a model bundle names the one it was trained
with.
Sources: Hu et al. 2021 (LoRA), Zhang et al. 2023 (AdaLoRA), both as peft has them; Houlsby et al. 2019 (adapters).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from featurizers.adapters import insert
from featurizers.augmentation import Augmentation
from featurizers.device import quiet_torchao
from featurizers.errors import EncoderError
from featurizers.probing import Targets

Method = Literal["full", "lora", "adalora", "adapter"]
# Items to vectors [items, dimensions] with gradients; with a generator, as they are trained on.
Forward = Callable[[npt.NDArray[np.int64], np.random.Generator | None], Tensor]


@dataclass(frozen=True)
class TuningConfig:
    method: Method = "lora"
    epochs: int = 3
    batch_rows: int = 16
    learning_rate: float = 0.0  # 0: what is usual for the method
    rank: int = 8  # of LoRA and AdaLoRA; a bottleneck's width is four times that
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    @property
    def rate(self) -> float:
        return self.learning_rate or (3e-5 if self.method == "full" else 1e-3)


@dataclass(eq=False)
class Tuned:
    """A model that is being tuned."""

    model: nn.Module
    learns: list[nn.Parameter]
    allocate: Callable[[int], None]  # AdaLoRA moves ranks between layers after each step
    merged: Callable[[], nn.Module]  # the model with what was learnt in its own weights, where a method allows it


def prepare(model: nn.Module, config: TuningConfig, steps: int, dry_run: Callable[[], object]) -> Tuned:
    """Make the parameters of a method learn, and no others. Raises EncoderError where a model has no place for them."""
    if config.method == "full":
        model.requires_grad_(True)
        return Tuned(model, list(model.parameters()), lambda step: None, lambda: model)
    model.requires_grad_(False)
    if config.method == "adapter":
        learns = insert(model, 4 * config.rank, dry_run)
        return Tuned(model, learns, lambda step: None, lambda: model)
    return _low_rank(model, config, steps)


def _low_rank(model: nn.Module, config: TuningConfig, steps: int) -> Tuned:
    quiet_torchao()  # peft imports it
    import peft  # imported here: it takes seconds

    kinds: tuple[type[nn.Module], ...] = (nn.Linear,) if config.method == "adalora" else (nn.Linear, nn.Conv2d)
    # A transformer's pooler is not read: a text is the mean over its tokens.
    parts = [(name, part) for name, part in model.named_modules() if "pooler" not in name]
    targets = [name for name, part in parts if isinstance(part, kinds) and _plain(part)]
    if not targets:
        raise EncoderError(f"{config.method} has no layer to work on in {type(model).__name__}; use full or adapter")
    if config.method == "lora":
        settings: Any = peft.LoraConfig(r=config.rank, lora_alpha=2 * config.rank, target_modules=targets)
    else:
        warm = steps // 5
        settings = peft.AdaLoraConfig(
            init_r=config.rank + config.rank // 2, target_r=config.rank, lora_alpha=2 * config.rank,
            target_modules=targets, total_step=steps, tinit=warm, tfinal=warm,
        )  # fmt: skip
    tuned = peft.get_peft_model(model, settings)
    learns = [p for p in tuned.parameters() if p.requires_grad]
    allocate = tuned.base_model.update_and_allocate if config.method == "adalora" else lambda step: None
    return Tuned(tuned, learns, allocate, tuned.merge_and_unload)


def _plain(part: nn.Module) -> bool:
    return not isinstance(part, nn.Conv2d) or part.groups == 1  # a low rank across groups is none


def tune(
    tuned: Tuned,
    forward: Forward,
    targets: Targets,
    train: npt.NDArray[np.int64],
    check: npt.NDArray[np.int64],
    config: TuningConfig,
    progress: Callable[[int], None] = lambda step: None,
) -> list[dict[str, float]]:
    """Learn to tell the targets of the `train` items; ends with the weights that told those of `check` best."""
    generator, changes = np.random.default_rng(config.seed), np.random.default_rng((config.seed, 1))
    device = tuned.learns[0].device
    values = torch.from_numpy(targets.values).float().to(device)
    level, spread = values[train].mean(dim=0), values[train].std(dim=0).clamp(min=1e-6)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(config.seed)
        head = nn.Linear(forward(train[:1], None).shape[1], values.shape[1]).to(device)
    groups = [{"params": tuned.learns, "lr": config.rate}, {"params": list(head.parameters()), "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    per_epoch = math.ceil(len(train) / config.batch_rows)
    steps = per_epoch * config.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) * 10 / steps))

    def loss_of(rows: npt.NDArray[np.int64], changes: np.random.Generator | None = None) -> Tensor:
        said = head(forward(rows, changes))
        if targets.classes:
            return nn.functional.cross_entropy(said, values[rows])
        return nn.functional.mse_loss(said, (values[rows] - level) / spread)

    def judge() -> float:
        tuned.model.eval()
        with torch.no_grad():
            losses = [float(loss_of(rows)) * len(rows) for rows in _batches(check, config.batch_rows)]
        return sum(losses) / len(check)

    best, step = judge(), 0
    kept = [p.detach().clone() for p in tuned.learns]
    told = [{"epoch": 0.0, "check": best}]
    for epoch in range(1, config.epochs + 1):
        tuned.model.train()
        for part in tuned.model.modules():  # a few rows at a time say little about means and variances
            part.train(not isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training)
        total = 0.0
        for rows in _batches(generator.permutation(train), config.batch_rows):
            loss = loss_of(rows, changes)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            tuned.allocate(step)
            step, total = step + 1, total + float(loss.detach()) * len(rows)
            progress(step)
        found = judge()
        told.append({"epoch": float(epoch), "training": total / len(train), "check": found})
        if found < best:
            best, kept = found, [p.detach().clone() for p in tuned.learns]
    with torch.no_grad():
        for parameter, value in zip(tuned.learns, kept, strict=True):
            parameter.copy_(value)
    tuned.model.eval()
    return told


def _batches(rows: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
