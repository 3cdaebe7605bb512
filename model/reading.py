"""What the network makes of windows, and what each modality adds: forward passes of one fixed, padded batch shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from model.features import Doubles, Features
from model.network import Batch, Network
from streams.records import COMPONENTS, CONTRIBUTIONS, DELAYS, Modality

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
    components: npt.NDArray[np.float32]  # [n, COMPONENTS]
    contributions: npt.NDArray[np.float32]  # [n, CONTRIBUTIONS] log mean of the longest horizon, with less without


def read(network: Network, features: Features, baseline: Doubles, batch_rows: int) -> Reading:
    """Run the network on windows with baseline [n, DELAYS], and again without each modality that is there.

    Every run of a row is a row of a padded batch of `batch_rows`, so a modality that is missing costs nothing.
    """
    n = len(features)
    without = np.zeros((len(CONTRIBUTIONS), len(Modality)), bool)
    for i, name in enumerate(CONTRIBUTIONS):
        without[i, list(_PARTS[name])] = True
    part, owner = np.nonzero((features.present[None] & without[:, None]).any(axis=2))  # which part of which row
    rows = np.concatenate([np.arange(n), owner])
    present = np.concatenate([features.present, features.present[owner] & ~without[part]])
    f, components = forward(network, features, rows, present, batch_rows)
    log_total = _log_total(baseline[rows], f)
    contributions = np.zeros((n, len(CONTRIBUTIONS)))
    contributions[owner, part] = log_total[owner] - log_total[n:]
    return Reading(f[:n], components[:n], contributions.astype(np.float32))


def forward(
    network: Network,
    features: Features,
    rows: npt.NDArray[np.int64],
    present: npt.NDArray[np.bool_],
    batch_rows: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """f [m, DELAYS] and components [m, COMPONENTS] of `rows` [m] with what is `present` [m, modalities]."""
    m = len(rows)
    f, components = np.empty((m, DELAYS), np.float32), np.empty((m, COMPONENTS), np.float32)
    device = network.position.device
    with torch.inference_mode():
        for start in range(0, m, batch_rows):
            stop = min(start + batch_rows, m)
            index = np.arange(start, start + batch_rows).clip(max=stop - 1)  # padded with the last row
            batch = Batch.of(replace(features.take(rows[index]), present=present[index]), device)
            phi, correction = network(batch)
            f[start:stop] = correction[: stop - start].cpu().numpy()
            components[start:stop] = network.components(phi)[: stop - start].cpu().numpy()
    return f, components


def _log_total(baseline: Doubles, f: npt.NDArray[np.float32]) -> Doubles:
    means = baseline * np.exp(f.astype(np.float64))  # [m, DELAYS]
    total: Doubles = np.log(np.maximum(means.sum(axis=1), 1e-12))
    return total
