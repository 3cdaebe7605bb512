"""Changes of training rows that leave what they mean as it is. What is on by default was measured to help
(docs/benchmarks.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.features import BEHAVIOUR_CONTEXT, TREND_CONTEXT
from model.losses import TrainRows
from streams.records import Modality

_RATES = slice(BEHAVIOUR_CONTEXT, BEHAVIOUR_CONTEXT + 2)  # log1p of the rate, and a third of its log


@dataclass(frozen=True)
class Augmentation:
    """0 is off."""

    scaling: float = 0.0  # standard deviation of the log of a factor on a product's sales, before and after `end`
    jitter: float = 0.0  # standard deviation of noise on the series and the trends
    masked_days: float = 0.1  # share of days that look as usual
    vector_noise: float = 1.0  # of text, picture and title vectors, against their length
    modality_dropout: float = 0.2  # of each modality of a row, independently
    all_dropout: float = 0.1  # of all modalities of a row at once


def augmented(rows: TrainRows, how: Augmentation, generator: torch.Generator) -> TrainRows:
    """The rows as they are trained on. Draws come from the CPU, so that they are the same on every device."""
    batch, n, device = rows.inputs, len(rows), rows.baseline.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    if how.scaling:
        log_factor = how.scaling * normal(n, 1)
        factor, context = log_factor.exp(), batch.context.clone()
        rate = context[:, _RATES.start].expm1()[:, None]
        context[:, _RATES] = torch.cat(
            [(rate * factor).log1p(), batch.context[:, _RATES.start + 1 : _RATES.stop] + log_factor / 3], dim=1
        )
        batch = replace(batch, context=context)
        rows = replace(
            rows,
            baseline=rows.baseline * factor,
            units=rows.units * factor,
            daily=torch.where(rows.daily < 0, rows.daily, rows.daily * factor),
        )
    if how.jitter:
        noise = torch.zeros_like(batch.context)
        noise[:, TREND_CONTEXT] = how.jitter * normal(n, TREND_CONTEXT.stop - TREND_CONTEXT.start)
        days = batch.days + how.jitter * normal(*batch.days.shape) * (batch.days != 0)
        batch = replace(batch, days=days, context=batch.context + noise)
    if how.masked_days:
        kept = (chance(n, batch.days.shape[1], 1) >= how.masked_days).to(batch.days.dtype)
        batch = replace(batch, days=batch.days * kept)
    if how.vector_noise:
        length = batch.vectors.norm(dim=2, keepdim=True) / batch.vectors.shape[2] ** 0.5
        batch = replace(batch, vectors=batch.vectors + how.vector_noise * length * normal(*batch.vectors.shape))
    keep = chance(n, len(Modality)) >= how.modality_dropout
    keep &= chance(n, 1) >= how.all_dropout
    return replace(rows, inputs=replace(batch, present=batch.present & keep))
