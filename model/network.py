"""The whole network: a small transformer over a window's tokens, fused with text, picture, title and catalogue.

A window becomes 19 tokens: a summary, 8 weeks of days, 4 patches of 12 hours, text, picture, title, catalogue, level,
behaviour. A modality that is not there is a learned token, so shapes never depend on the data. The last layer starts at
zero: an untrained network forecasts the baseline.

Nothing here mixes the rows of a batch, and on a fixed batch shape a row's result is the same bits whatever its company.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from model.features import BEHAVIOUR, BEHAVIOUR_CONTEXT, CATALOGUE, CATEGORY_BUCKETS, CONTEXT, LEVEL, SERIES, Features
from streams.records import COMPONENTS, DAYS, DELAYS, HOURS, VECTOR, Modality

LIMIT = 3.0  # |f| stays below: a network moves the baseline by a factor of 20 at most
SPREAD = 4.0  # components are in standard deviations, cut here


@dataclass(frozen=True)
class NetworkConfig:
    width: int = 48
    layers: int = 2
    heads: int = 2
    day_patch: int = 7
    hour_patch: int = 12
    category_width: int = 8


@dataclass(frozen=True)
class Batch:
    """`Features` as tensors on the network's device; same shapes."""

    days: Tensor  # [n, DAYS, series]
    hours: Tensor  # [n, HOURS, series]
    vectors: Tensor  # [n, 3, VECTOR]
    context: Tensor  # [n, CONTEXT]
    catalogue: Tensor  # [n, CATALOGUE]
    level: Tensor  # [n, LEVEL]
    age: Tensor  # [n, modalities]
    category: Tensor  # [n] int64
    present: Tensor  # [n, modalities] bool

    @staticmethod
    def of(features: Features, device: torch.device) -> Batch:
        names = ("days", "hours", "vectors", "context", "catalogue", "level", "age", "category", "present")
        return Batch(**{name: torch.from_numpy(getattr(features, name)).to(device) for name in names})


class Block(nn.Module):
    """Attention over the tokens of a row, then two layers on each token; both added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.before_layers = nn.LayerNorm(width)
        # ReLU is exact: a vectorised GELU may round an element by its position in the batch.
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:  # [n, tokens, width]
        n, tokens, width = x.shape
        packed = self.queries_keys_values(self.before_attention(x))
        q, k, v = packed.view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(2, 3) * (width // self.heads) ** -0.5).softmax(dim=3)  # [n, heads, tokens, tokens]
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        return cast(Tensor, x + self.layers(self.before_layers(x)))


class Network(nn.Module):
    """phi [n, width] and f [n, DELAYS], the log corrections of the baseline's delay buckets."""

    components_mean: Tensor
    components_matrix: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.day = nn.Linear(config.day_patch * len(SERIES), width)
        self.hour = nn.Linear(config.hour_patch * len(SERIES), width)
        # The context and the newest days also go straight to phi: what leads sales by a day is learnt within a hundred
        # steps, where the way through the tokens alone took several hundred or got stuck.
        summary = CONTEXT + config.day_patch * len(SERIES)
        self.context = nn.Sequential(nn.Linear(summary, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.vectors = nn.ModuleList(nn.Sequential(nn.LayerNorm(VECTOR), nn.Linear(VECTOR, width)) for _ in range(3))
        self.category = nn.Embedding(CATEGORY_BUCKETS, config.category_width)
        self.catalogue = nn.Linear(CATALOGUE + config.category_width, width)
        self.level = nn.Linear(LEVEL, width)
        self.age = nn.Parameter(torch.zeros(len(Modality), width))
        self.there = nn.Parameter(torch.zeros(width))  # behaviour's token: its numbers are in the series
        self.missing = nn.Parameter(torch.randn(len(Modality), width) * 0.02)
        self.tokens = 1 + DAYS // config.day_patch + HOURS // config.hour_patch + len(Modality)
        self.position = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.last = nn.LayerNorm(width)
        self.phi = nn.Linear(2 * width + summary, width)
        self.f = nn.Linear(width, DELAYS)
        nn.init.zeros_(self.f.weight)
        nn.init.zeros_(self.f.bias)
        # Fixed after training: standardised principal components of phi, for the heads.
        self.register_buffer("components_mean", torch.zeros(width))
        self.register_buffer("components_matrix", torch.zeros(width, COMPONENTS))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        n, config = len(batch.category), self.config
        there = batch.present[:, :, None]  # [n, modalities, 1]
        days, hours, context = self._without_behaviour(batch)
        weeks = days.reshape(n, DAYS // config.day_patch, -1)  # [n, day tokens, day_patch * series]
        summary = torch.cat([context, weeks[:, -1]], dim=1)
        series = [
            self.context(summary)[:, None],
            self.day(weeks),
            self.hour(hours.reshape(n, HOURS // config.hour_patch, -1)),
        ]
        catalogue = torch.cat([batch.catalogue, self.category(batch.category)], dim=1)
        modalities = torch.stack(  # in the order of Modality
            [
                *(layer(batch.vectors[:, i]) for i, layer in enumerate(self.vectors)),
                self.catalogue(catalogue),
                self.level(batch.level),
                self.there.expand(n, -1),
            ],
            dim=1,
        )  # [n, modalities, width]
        modalities = torch.where(there, modalities + batch.age[:, :, None] * self.age, self.missing)
        x = torch.cat([*series, modalities], dim=1) + self.position  # [n, tokens, width]
        for block in self.blocks:
            x = block(x)
        x = self.last(x)
        phi = self.phi(torch.cat([x[:, 0], x.mean(dim=1), summary], dim=1)).relu()  # [n, width]
        z = self.f(phi)
        return phi, z / (1 + z.abs() / LIMIT)

    def _without_behaviour(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The series and the context with views, carts and favourites at zero where behaviour is missing."""
        keep = batch.present[:, Modality.BEHAVIOR].to(batch.days.dtype)[:, None]  # [n, 1]
        series = torch.ones(len(SERIES), device=keep.device).repeat(len(keep), 1)  # [n, series]
        series[:, BEHAVIOUR] = keep
        context = torch.ones(CONTEXT, device=keep.device).repeat(len(keep), 1)
        context[:, :BEHAVIOUR_CONTEXT] = keep
        return batch.days * series[:, None], batch.hours * series[:, None], batch.context * context

    def components(self, phi: Tensor) -> Tensor:
        """[n, COMPONENTS] fixed principal components of phi in standard deviations, within ±SPREAD."""
        return ((phi - self.components_mean) @ self.components_matrix).clamp(-SPREAD, SPREAD)

    @torch.no_grad()
    def fit_components(self, phi: Tensor) -> None:
        """Set the components from phi [rows, width] of the training rows."""
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
