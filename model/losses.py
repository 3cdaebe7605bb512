"""What each task learns from: rows with their labels, the loss of every row and label, and the error in units."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.dataset import Dataset
from model.features import BUCKETS, Doubles
from model.network import Answer, Batch
from streams import negative_binomial
from streams.records import DELAYS, HORIZONS, THRESHOLDS, Trend

TEACHING = 10.0  # weight of a teacher against the sales
LEVELS = (0.1, 0.5, 0.9)  # of the weighted quantile loss


@dataclass(frozen=True)
class TrainRows:
    inputs: Batch
    baseline: Tensor  # [n, delays] B_b, at least a hair above zero
    units: Tensor  # [n, delays] float, 0 where there is no label
    known: Tensor  # [n, delays] float, 1 where there is one
    daily: Tensor  # [n, AHEAD] float, -1 where there is no label
    trend: Tensor  # [n, horizons] int64 trend class, -1 where there is no label
    sales_class: Tensor  # [n] int64
    taught: Tensor | None = None  # [n, DELAYS + HORIZONS] f and spread of a teacher

    def __len__(self) -> int:
        return len(self.sales_class)

    def take(self, rows: Tensor) -> TrainRows:
        columns = {name: t[rows] for name, t in vars(self).items() if name != "inputs" and t is not None}
        return TrainRows(self.inputs.take(rows), **columns)

    def whole(self) -> tuple[Tensor, Tensor]:
        """[n, horizons] units of the horizon, and 1 where every bucket of it has a label."""
        return accumulate(self.units), self.known.cumprod(dim=1)


def training_rows(dataset: Dataset, device: torch.device) -> TrainRows:
    units = torch.from_numpy(np.maximum(dataset.units, 0)).float()
    known = torch.from_numpy(dataset.units >= 0).float()
    return TrainRows(
        inputs=Batch.of(dataset.features, device),
        baseline=torch.from_numpy(np.maximum(dataset.baseline, 1e-6)).float().to(device),
        units=units.to(device),
        known=known.to(device),
        daily=torch.from_numpy(dataset.daily).float().to(device),
        trend=torch.from_numpy(trend_classes(dataset)).to(device),
        sales_class=torch.from_numpy(dataset.sales_class).to(device),
    )


def trend_classes(dataset: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """[n, horizons] the trend class that was, by the thresholds that the window was given; -1 where it is not known."""
    total = np.maximum(dataset.units, 0).cumsum(axis=1)
    surge, rise, fall = np.moveaxis(dataset.thresholds.reshape(len(total), len(HORIZONS), len(THRESHOLDS)), 2, 0)
    trend = np.where(total <= fall, Trend.FALLING, Trend.STEADY)
    trend = np.where(total >= rise, Trend.RISING, trend)
    trend = np.where(total >= surge, Trend.SURGING, trend)
    return np.where((dataset.units >= 0).cumprod(axis=1), trend, -1).astype(np.int64)


def labelled(task: str, rows: TrainRows) -> Tensor:
    """[n, labels] 1 where there is a label: by horizon, for sequence by day."""
    if task == "sequence":
        return (rows.daily >= 0).float()
    return rows.whole()[1]


def losses(task: str, answer: Answer, rows: TrainRows, r: Tensor) -> Tensor:
    """[n, labels] loss of every label, whether it is known or not. `r` [horizons, sales classes] is the dispersion that
    spread starts from."""
    shape = r.T[rows.sales_class] * answer.spread.exp()  # [n, horizons]
    if task == "sequence":
        widths = torch.tensor([b - a for a, b in BUCKETS], device=r.device)
        usual = (rows.baseline / widths).repeat_interleave(widths, dim=1)  # [n, AHEAD]
        return negative_log_likelihood(rows.daily.clamp(min=0), usual * answer.last.exp(), shape[:, :1])
    if task == "classification":
        odds = answer.last.view(-1, len(HORIZONS), len(Trend)).transpose(1, 2)  # [n, classes, horizons]
        return -odds.log_softmax(dim=1).gather(1, rows.trend.clamp(min=0)[:, None])[:, 0]
    total, mean = rows.whole()[0], accumulate(rows.baseline * answer.f.exp())  # [n, horizons]
    if task == "regression":
        return (mean.log1p() - total.log1p()) ** 2
    return negative_log_likelihood(total, mean, shape)


def missed(answer: Answer, taught: Tensor) -> Tensor:
    """[n, horizons] how far an answer is from the teacher's: squared log units, weighed so that they outdo the noise of
    single sales."""
    error = (torch.cat([answer.f, answer.spread], dim=1) - taught) ** 2
    return TEACHING * (error[:, :DELAYS] + error[:, DELAYS:])


def accumulate(buckets: Tensor) -> Tensor:
    """[n, horizons] sums over horizons of buckets [n, delays]: cumsum, in the same order on every device."""
    return torch.stack(list(itertools.accumulate(buckets.unbind(dim=1))), dim=1)


def negative_log_likelihood(units: Tensor, mean: Tensor, r: Tensor) -> Tensor:
    """Of NB(mean, r)."""
    ways = torch.lgamma(units + r) - torch.lgamma(r) - torch.lgamma(units + 1)
    return (units + r) * torch.log1p(mean / r) - torch.xlogy(units, mean / r) - ways


def quantile_loss(mean: Doubles, r: Doubles, units: Doubles, known: Doubles) -> Doubles:
    """[horizons] weighted quantile loss: of all known rows and LEVELS, against the units sold. All [n, horizons]."""
    found = np.zeros(len(HORIZONS))
    for h in range(len(HORIZONS)):
        rows = np.flatnonzero(known[:, h])
        y, q = units[rows, h, None], negative_binomial.quantiles(LEVELS, mean[rows, h], r[rows, h])
        missed = np.maximum(np.array(LEVELS) * (y - q), (np.array(LEVELS) - 1) * (y - q))
        found[h] = 2 * missed.mean(axis=1).sum() / max(float(y.sum()), 1.0)
    return found
