"""The whole network: what reads the series (`sequences.py`), fused with text, picture, title, catalogue and stock.

    series, modalities, summary → φ → f, the log corrections of the baseline's delay buckets

The summary is what goes straight to φ: the context, the newest week, and what is known ahead. A modality that is not
there is learned numbers, so shapes never depend on the data. The last layer starts at zero: an untrained network
forecasts the baseline.

Nothing here mixes the rows of a batch, and on a fixed batch shape a row's result is the same bits whatever its company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.errors import ModelError
from model.features import (
    BEHAVIOUR,
    BEHAVIOUR_CONTEXT,
    BUCKETS,
    CATALOGUE,
    CATEGORY_BUCKETS,
    CONTEXT,
    DAY_SERIES,
    LEVEL,
    SERIES,
    Features,
)
from model.sequences import Dilated, Lstm, Transformer
from streams.records import AHEAD, CLASSES, COMPONENTS, DELAYS, HORIZONS, KNOWN, VECTOR, Modality

LIMIT = 3.0  # |f| stays below: a network moves the baseline by a factor of 20 at most
SPREAD_LIMIT = 2.0  # |spread| stays below
COMPONENT_LIMIT = 4.0  # components are in standard deviations, cut here
DIRECT = 2.5  # factor on what the summary says by itself: its weights then need few steps to grow
NEWEST = 7  # days that go straight to phi: what leads sales by a day is learnt within a hundred steps
SEQUENCES = ("transformer", "lstm", "cnn")
NETWORKS = (*SEQUENCES, "ensemble")  # an ensemble has one member of each
# What the last layer gives: log corrections of the delay buckets (count, regression) or of every day of the longest
# horizon (sequence); log odds of the trend classes by horizon (classification).
TASKS = {"count": DELAYS, "regression": DELAYS, "sequence": AHEAD, "classification": len(HORIZONS) * len(CLASSES)}


@dataclass(frozen=True)
class NetworkConfig:
    network: str = "cnn"  # one of NETWORKS
    task: str = "count"  # one of TASKS
    width: int = 64
    layers: int = 2
    heads: int = 2
    day_patch: int = 7
    hour_patch: int = 12
    category_width: int = 8
    modality_width: int = 16
    hidden: int = 128

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ModelError(f"there is no network {self.network!r}; take one of {', '.join(NETWORKS)}")
        if self.task not in TASKS:
            raise ModelError(f"there is no task {self.task!r}; take one of {', '.join(TASKS)}")

    @property
    def members(self) -> tuple[str, ...]:
        return SEQUENCES if self.network == "ensemble" else (self.network,)


@dataclass(frozen=True)
class Batch:
    """`Features` as tensors on the network's device; same shapes."""

    days: Tensor  # [n, DAYS, day series]
    hours: Tensor  # [n, HOURS, series]
    ahead: Tensor  # [n, DELAYS, KNOWN]
    vectors: Tensor  # [n, 3, VECTOR]
    context: Tensor  # [n, CONTEXT]
    catalogue: Tensor  # [n, CATALOGUE]
    level: Tensor  # [n, LEVEL]
    age: Tensor  # [n, modalities]
    category: Tensor  # [n] int64
    present: Tensor  # [n, modalities] bool

    @staticmethod
    def of(features: Features, device: torch.device) -> Batch:
        return Batch(**{name: torch.from_numpy(values).to(device) for name, values in vars(features).items()})

    def take(self, rows: Tensor) -> Batch:
        return Batch(**{name: values.index_select(0, rows) for name, values in vars(self).items()})


@dataclass(frozen=True)
class Answer:
    """What a network says of n windows."""

    phi: Tensor  # [n, phi_width]
    f: Tensor  # [n, DELAYS] log corrections of the baseline's delay buckets; 0 where the task gives no units
    spread: Tensor  # [n, HORIZONS] log of a factor on the r of the row's sales class
    last: Tensor  # [n, TASKS[task]] the last layer


def _sequence(name: str, config: NetworkConfig) -> nn.Module:
    if name == "transformer":
        return Transformer(config.width, config.layers, config.heads, config.day_patch, config.hour_patch)
    return Lstm(config.width, config.layers) if name == "lstm" else Dilated(config.width)


class Member(nn.Module):
    """One sequence encoder with what is fused to it."""

    def __init__(self, sequence: str, config: NetworkConfig) -> None:
        super().__init__()
        width = config.modality_width
        self.series = _sequence(sequence, config)
        self.vectors = nn.ModuleList(nn.Sequential(nn.LayerNorm(VECTOR), nn.Linear(VECTOR, width)) for _ in range(3))
        self.category = nn.Embedding(CATEGORY_BUCKETS, config.category_width)
        self.catalogue = nn.Linear(CATALOGUE + config.category_width, width)
        self.level = nn.Linear(LEVEL, width)
        self.age = nn.Parameter(torch.zeros(len(Modality), width))
        self.there = nn.Parameter(torch.zeros(width))  # behaviour's: its numbers are in the series
        self.missing = nn.Parameter(torch.randn(len(Modality), width) * 0.02)
        summary = CONTEXT + NEWEST * len(DAY_SERIES) + DELAYS * len(KNOWN)
        self.trunk = nn.Linear(config.width + summary, config.hidden)
        self.modalities = nn.Linear(len(Modality) * width, config.hidden, bias=False)
        self.phi = nn.Linear(config.hidden, config.width)
        self.f = nn.Linear(config.width, TASKS[config.task])
        self.spread = nn.Linear(config.width, len(HORIZONS))
        # What leads sales by a day is in the summary, and is learnt by this layer within a hundred steps.
        self.direct = nn.Linear(summary, TASKS[config.task], bias=False)
        for layer in (self.f, self.spread, self.direct):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def read(self, days: Tensor, hours: Tensor, summary: Tensor) -> Tensor:
        """[n, hidden + outputs] all that does not hang on the modalities beside behaviour."""
        trunk = self.trunk(torch.cat([self.series(days, hours), summary], dim=1))
        return torch.cat([trunk, DIRECT * self.direct(summary)], dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """[n, modalities, modality width] in the order of Modality; of one that is missing, what nobody reads."""
        catalogue = torch.cat([batch.catalogue, self.category(batch.category)], dim=1)
        modalities = torch.stack(
            [
                *(layer(batch.vectors[:, i]) for i, layer in enumerate(self.vectors)),
                self.catalogue(catalogue),
                self.level(batch.level),
                self.there.expand(len(catalogue), -1),
            ],
            dim=1,
        )
        return modalities + batch.age[:, :, None] * self.age

    def fuse(self, trunk: Tensor, embedded: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi [..., width], last layer and spread, from what `read` and `embed` gave and what is there."""
        modalities = torch.where(present[..., None], embedded, self.missing)
        hidden, direct = trunk[..., : self.trunk.out_features], trunk[..., self.trunk.out_features :]
        phi = self.phi((hidden + self.modalities(modalities.flatten(-2))).relu()).relu()
        return phi, _bounded(self.f(phi) + direct, LIMIT), _bounded(self.spread(phi), SPREAD_LIMIT)


def _bounded(z: Tensor, limit: float) -> Tensor:
    return z / (1 + z.abs() / limit)


class Network(nn.Module):
    """Of several members phi lies side by side, and the rest is their mean."""

    components_mean: Tensor
    components_matrix: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(Member(sequence, config) for sequence in config.members)
        self.phi_width = config.width * len(self.members)
        # Fixed after training: standardised principal components of phi, for the heads.
        self.register_buffer("components_mean", torch.zeros(self.phi_width))
        self.register_buffer("components_matrix", torch.zeros(self.phi_width, COMPONENTS))

    @property
    def device(self) -> torch.device:
        return self.components_mean.device

    def forward(self, batch: Batch) -> Answer:
        return self.fuse(self.read(batch), self.embed(batch), batch.present)

    def read(self, batch: Batch) -> Tensor:
        """[n, members, …] what the members make of series and context: most of the work, and all that does not hang on
        the modalities beside behaviour."""
        keep = batch.present[:, Modality.BEHAVIOR].to(batch.days.dtype)[:, None]  # [n, 1] 0: no views, no carts
        series = keep.new_ones(len(keep), 1, len(DAY_SERIES))
        series[:, 0, BEHAVIOUR] = keep
        days, hours = batch.days * series, batch.hours * series[:, :, : len(SERIES)]
        context = [batch.context[:, :BEHAVIOUR_CONTEXT] * keep, batch.context[:, BEHAVIOUR_CONTEXT:]]
        summary = torch.cat([*context, days[:, -NEWEST:].flatten(1), batch.ahead.flatten(1)], dim=1)
        return torch.stack([member.read(days, hours, summary) for member in self._members], dim=1)

    def embed(self, batch: Batch) -> Tensor:
        """[n, members, modalities, …] what they make of the modalities beside the series, as if all were there."""
        return torch.stack([member.embed(batch) for member in self._members], dim=1)

    def fuse(self, trunk: Tensor, embedded: Tensor, present: Tensor) -> Answer:
        """The answer from what `read` and `embed` gave and the modalities that are `present` [..., n, modalities]; what
        goes before n stands for other sets of them on the same windows."""
        answers = self.answers(trunk, embedded, present)
        if len(answers) == 1:
            return answers[0]
        return Answer(
            torch.cat([a.phi for a in answers], dim=-1),
            *(torch.stack([getattr(a, name) for a in answers]).mean(dim=0) for name in ("f", "spread", "last")),
        )

    def answers(self, trunk: Tensor, embedded: Tensor, present: Tensor) -> list[Answer]:
        """What each member says by itself: each learns alone, so that their errors differ."""
        answers = []
        for i, member in enumerate(self._members):
            phi, last, spread = member.fuse(trunk[..., i, :], embedded[..., i, :, :], present)
            answers.append(Answer(phi, self._corrections(last), spread, last))
        return answers

    def _corrections(self, last: Tensor) -> Tensor:
        if self.config.task == "classification":
            return last.new_zeros(*last.shape[:-1], DELAYS)
        if self.config.task == "sequence":  # of a bucket: the mean over its days
            return torch.stack([last[..., a:b].exp().mean(dim=-1).log() for a, b in BUCKETS], dim=-1)
        return last

    @property
    def _members(self) -> Sequence[Member]:
        return cast(Sequence[Member], self.members)

    def components(self, phi: Tensor) -> Tensor:
        """[n, COMPONENTS] fixed principal components of phi in standard deviations, within ±COMPONENT_LIMIT."""
        return ((phi - self.components_mean) @ self.components_matrix).clamp(-COMPONENT_LIMIT, COMPONENT_LIMIT)

    @torch.no_grad()
    def fit_components(self, phi: Tensor) -> None:
        """Set the components from phi [rows, phi_width] of the training rows."""
        values = phi.double().cpu()
        mean = values.mean(dim=0)
        spread, directions = torch.linalg.eigh((values - mean).T @ (values - mean) / max(len(values) - 1, 1))
        directions, spread = directions.flip(1)[:, :COMPONENTS], spread.flip(0)[:COMPONENTS]
        # An eigenvector's sign is arbitrary: make its largest entry positive.
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        floor = max(float(spread[0]) * 1e-6, 1e-12)
        scaled = torch.where(spread > floor, directions * largest.sign() / spread.clamp(min=floor).sqrt(), 0.0)
        self.components_mean.copy_(mean)
        self.components_matrix[:, : scaled.shape[1]] = scaled.to(self.components_matrix)


def make_network(config: NetworkConfig, seed: int) -> Network:
    """An untrained network, the same for the same seed on any device; leaves the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(config)
