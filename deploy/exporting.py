"""Exports of trained bundles: written, loaded again as a worker would, and measured."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.errors import ExportError
from model.export import Export, difference, lowered
from model.network import Batch
from model.registry import WEIGHTS, Bundle, check_export, load_bundle, save_bundle

_SECONDS = 1.0  # of measuring


@dataclass(frozen=True)
class Measured:
    size: int  # bytes of the weights
    rate: float  # windows a second through the network alone, on one thread
    difference: float  # largest, of f


def export_bundle(path: Path, kind: str, tolerance: float, folder: Path) -> tuple[Bundle, Path]:
    """Write an export of the bundle in `path`. Raises ExportError if it does not keep to the tolerance."""
    bundle = load_bundle(path)
    if bundle.probe is None or bundle.export is not None:
        reason = "is an export itself" if bundle.export else "has no windows to compare an export on"
        raise ExportError(f"{path} {reason}; export a network that `trendstream train` has written")
    made = replace(bundle, network=lowered(bundle.network, kind), export=Export(kind, bundle.version, tolerance))
    check_export(made)
    where = save_bundle(made, folder)
    for projection in path.glob("projection-*"):
        shutil.copytree(projection, where / projection.name, dirs_exist_ok=True)
    return load_bundle(where), where


def measure(bundle: Bundle, path: Path) -> Measured:
    assert bundle.probe is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batch, rounds = Batch.of(bundle.probe.features, bundle.device), 0
    with torch.inference_mode():
        for _ in range(3):
            bundle.network(batch)
        start = time.perf_counter()
        while time.perf_counter() - start < _SECONDS:
            bundle.network(batch)
            rounds += 1
    rate = rounds * len(bundle.probe.f) / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    return Measured((path / WEIGHTS).stat().st_size, rate, difference(bundle.network, bundle.probe))
