"""What the network makes of windows, and what each modality adds: forward passes of one fixed, padded batch shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from model.features import Doubles, Features
from model.network import Batch, Network
from streams.records import CONTRIBUTIONS, DELAYS, Modality

# What each contribution takes away, in the order of CONTRIBUTIONS.
_PARTS: dict[str, tuple[Modality, ...]] = {
    "text": (Modality.TEXT,),
    "image": (Modality.IMAGE,),
    "catalogue": (Modality.TITLE, Modality.CATALOGUE, Modality.LEVEL),
    "behaviour": (Modality.BEHAVIOR,),
}
_TAKEN = np.array([[m in _PARTS[name] for m in Modality] for name in CONTRIBUTIONS])  # [contributions, modalities]


@dataclass(frozen=True)
class Reading:
    """What the network makes of n windows."""

    f: npt.NDArray[np.float32]  # [n, DELAYS]
    spread: npt.NDArray[np.float32]  # [n, HORIZONS] log of a factor on r
    components: npt.NDArray[np.float32]  # [n, COMPONENTS]
    contributions: npt.NDArray[np.float32]  # [n, CONTRIBUTIONS] log mean of the longest horizon, with less without


def read(network: Network, features: Features, baseline: Doubles | None, batch_rows: int) -> Reading:
    """Run the network on n > 0 windows, and with their baseline [n, DELAYS] again without each modality that is there;
    without it contributions are zero."""
    n = len(features)
    found: list[tuple[torch.Tensor, ...]] = []
    with torch.inference_mode():
        for batch in _batches(features, network.device, batch_rows):
            trunk, embedded = network.read(batch), network.embed(batch)
            answer = network.fuse(trunk, embedded, batch.present)
            less = () if baseline is None else (_without(network, batch, trunk, embedded),)
            found.append((answer.f, answer.spread, network.components(answer.phi), *less))
        f, spread, components, *rest = (torch.cat(column)[:n].cpu().numpy() for column in zip(*found, strict=True))
    contributions = np.zeros((n, len(CONTRIBUTIONS)), np.float32)
    if baseline is not None:
        there = (features.present[:, None] & _TAKEN).any(axis=2)  # [n, contributions]
        change = _log_total(baseline, f)[:, None] - _log_total(baseline[:, None], rest[0])
        contributions[there] = change[there]
    return Reading(f, spread, components, contributions)


def _batches(features: Features, device: torch.device, batch_rows: int) -> Iterator[Batch]:
    """Full batches, the last one padded with the last row. Each is a copy that torch has laid out: how a sum is
    vectorised must not hang on where numpy has put an array."""
    n, whole = len(features), Batch.of(features, device)
    rows = torch.arange(-(-n // batch_rows) * batch_rows, device=device).clamp(max=n - 1)
    for start in range(0, len(rows), batch_rows):
        yield whole.take(rows[start : start + batch_rows])


def _without(network: Network, batch: Batch, trunk: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """[rows, contributions, DELAYS] f without each part. Series and context are most of the work, and behaviour alone
    is in them: where there is none, they are not read again."""
    present = batch.present & ~torch.from_numpy(_TAKEN).to(trunk.device)[:, None]  # [contributions, rows, modalities]
    trunks = trunk.expand(len(CONTRIBUTIONS), *trunk.shape)
    behaviour = CONTRIBUTIONS.index("behaviour")
    if batch.present[:, Modality.BEHAVIOR].any():
        trunks = trunks.clone()
        trunks[behaviour] = network.read(replace(batch, present=present[behaviour]))
    return network.fuse(trunks, embedded, present).f.transpose(0, 1)


def _log_total(baseline: Doubles, f: npt.NDArray[np.float32]) -> Doubles:
    """[...] log mean of the longest horizon, from what broadcasts to [..., DELAYS]."""
    means = baseline * np.exp(f.astype(np.float64))
    total = sum(means[..., b] for b in range(DELAYS))
    return np.asarray(np.log(np.maximum(total, 1e-12)), np.float64)
