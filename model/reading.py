"""What the network makes of windows, and what each modality adds: forward passes of one fixed, padded batch shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from model.features import Doubles, Features
from model.network import Batch, Network
from streams.records import CONTRIBUTIONS, Modality

# What each contribution takes away, in the order of CONTRIBUTIONS.
_PARTS: dict[str, tuple[Modality, ...]] = {
    "text": (Modality.TEXT,),
    "image": (Modality.IMAGE,),
    "catalogue": (Modality.TITLE, Modality.CATALOGUE, Modality.LEVEL),
    "behaviour": (Modality.BEHAVIOR,),
}


@dataclass(frozen=True)
class Reading:
    """What the network makes of n windows."""

    f: npt.NDArray[np.float32]  # [n, DELAYS]
    spread: npt.NDArray[np.float32]  # [n, HORIZONS] log of a factor on r
    components: npt.NDArray[np.float32]  # [n, COMPONENTS]
    contributions: npt.NDArray[np.float32]  # [n, CONTRIBUTIONS] log mean of the longest horizon, with less without


def read(network: Network, features: Features, baseline: Doubles, batch_rows: int) -> Reading:
    """Run the network on windows with baseline [n, DELAYS] (n > 0), and again without each modality that is there."""
    n = len(features)
    without = np.zeros((len(CONTRIBUTIONS), len(Modality)), bool)
    for i, name in enumerate(CONTRIBUTIONS):
        without[i, list(_PARTS[name])] = True
    part, owner = np.nonzero((features.present[None] & without[:, None]).any(axis=2))  # which part of which row
    rows = np.concatenate([np.arange(n), owner])
    present = np.concatenate([features.present, features.present[owner] & ~without[part]])
    every = forward(network, features, rows, present, batch_rows)
    log_total = _log_total(baseline[rows], every.f)
    contributions = np.zeros((n, len(CONTRIBUTIONS)), np.float32)
    contributions[owner, part] = log_total[owner] - log_total[n:]
    return Reading(every.f[:n], every.spread[:n], every.components[:n], contributions)


def forward(
    network: Network,
    features: Features,
    rows: npt.NDArray[np.int64],
    present: npt.NDArray[np.bool_],
    batch_rows: int,
) -> Reading:
    """Of `rows` [m] with what is `present` [m, modalities]; without contributions.

    Series and context are most of the work; of them behaviour alone can be missing, so each row is read at most twice.
    """
    device = network.device
    batch = Batch.of(features, device)
    wanted, place = np.unique(2 * rows + present[:, Modality.BEHAVIOR], return_inverse=True)
    behaviour = torch.from_numpy(wanted % 2 == 1).to(device)
    with torch.inference_mode():
        trunks = []
        for start, index in _padded(len(wanted), batch_rows):
            part = batch.take(torch.from_numpy(wanted[index] // 2).to(device))
            part.present[:, Modality.BEHAVIOR] = behaviour[index]
            trunks.append(network.read(part)[: len(wanted) - start])
        trunk = torch.cat(trunks)
        rest = replace(batch, days=batch.days[:, :0], hours=batch.hours[:, :0])  # the series have been read
        found: list[tuple[torch.Tensor, ...]] = []
        for start, index in _padded(len(rows), batch_rows):
            part = rest.take(torch.from_numpy(rows[index]).to(device))
            part = replace(part, present=torch.from_numpy(present[index]).to(device))
            answer = network.fuse(trunk[torch.from_numpy(place[index]).to(device)], part)
            columns = (answer.f, answer.spread, network.components(answer.phi))
            found.append(tuple(column[: len(rows) - start] for column in columns))
        f, spread, components = (torch.cat(column).cpu().numpy() for column in zip(*found, strict=True))
    return Reading(f, spread, components, np.zeros((len(rows), len(CONTRIBUTIONS)), np.float32))


def _padded(count: int, batch_rows: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Where each batch starts, and its rows, padded with the last one."""
    for start in range(0, count, batch_rows):
        yield start, np.arange(start, start + batch_rows).clip(max=count - 1)


def _log_total(baseline: Doubles, f: npt.NDArray[np.float32]) -> Doubles:
    means = baseline * np.exp(f.astype(np.float64))  # [m, DELAYS]
    total: Doubles = np.log(np.maximum(means.sum(axis=1), 1e-12))
    return total
