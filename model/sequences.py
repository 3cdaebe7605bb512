"""What may read the series of a window: a transformer, an LSTM, or dilated convolutions.

Each takes days [n, DAYS, day series] and hours [n, HOURS, series] and gives [n, width]. None mixes the rows of a batch.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from model.features import DAY_SERIES, SERIES
from streams.records import DAYS, HOURS


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


class Transformer(nn.Module):
    """A token a week of days and a token a patch of hours, and one that sums up."""

    def __init__(self, width: int, layers: int, heads: int, day_patch: int, hour_patch: int) -> None:
        super().__init__()
        self.patches = (day_patch, hour_patch)
        self.day = nn.Linear(day_patch * len(DAY_SERIES), width)
        self.hour = nn.Linear(hour_patch * len(SERIES), width)
        tokens = 1 + DAYS // day_patch + HOURS // hour_patch
        self.summary = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)

    def forward(self, days: Tensor, hours: Tensor) -> Tensor:
        n, (day_patch, hour_patch) = len(days), self.patches
        weeks = self.day(days.reshape(n, DAYS // day_patch, -1))
        halves = self.hour(hours.reshape(n, HOURS // hour_patch, -1))
        x = torch.cat([self.summary.expand(n, -1, -1), weeks, halves], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.last(x[:, 0]))


class Lstm(nn.Module):
    """The days from old to new through an LSTM, which begins with what the hours say."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.hour = nn.Linear(HOURS * len(SERIES), width)
        self.lstm = nn.LSTM(len(DAY_SERIES), width, layers, batch_first=True)
        self.last = nn.LayerNorm(width)

    def forward(self, days: Tensor, hours: Tensor) -> Tensor:
        states, _ = self.lstm(days)  # [n, DAYS, width]
        return cast(Tensor, self.last(states[:, -1] + self.hour(hours.flatten(1))))


class Dilated(nn.Module):
    """Causal convolutions over the days, each dilated to reach as far again as all below it. The newest day's column
    alone counts, so of each layer only the places that reach it are computed: pairs of days, pairs of those, …"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hour = nn.Linear(HOURS * len(SERIES), width)
        self.first = nn.Linear(len(DAY_SERIES), width)
        self.kernels = (2, 2, 2, DAYS // 8)
        self.layers = nn.ModuleList(nn.Linear(kernel * width, width) for kernel in self.kernels)
        self.last = nn.LayerNorm(width)

    def forward(self, days: Tensor, hours: Tensor) -> Tensor:
        x = self.first(days).relu()  # [n, DAYS, width]
        for kernel, layer in zip(self.kernels, self.layers, strict=True):
            taps = x.unflatten(1, (-1, kernel))  # [n, places, kernel, width]
            first, *others = taps.unbind(2)  # on a CPU added up four times as fast as by mean()
            x = sum(others, first) / kernel + layer(taps.flatten(2)).relu()
        return cast(Tensor, self.last(x[:, 0] + self.hour(hours.flatten(1))))
