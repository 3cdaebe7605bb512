"""Model bundles: a folder with `weights.safetensors` and `manifest.json`. Nothing is unpickled.

A bundle's version is a hash of everything that a prediction depends on; a folder whose content does not give the
version in its manifest is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from model.dispersion import DISPERSION
from model.errors import ExportError, ModelError, RegistryError
from model.export import Export, Lowered, Probe, difference
from model.features import Doubles
from model.network import Network, NetworkConfig, make_network
from streams.records import HORIZONS, SalesClass

FORMAT = 2
WEIGHTS, MANIFEST, PROBE = "weights.safetensors", "manifest.json", "probe.safetensors"


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    version: str
    config: dict[str, int | str]
    dispersion: list[list[float]]  # [horizons, sales classes]
    hour_profile: list[float]  # [24]
    categories: list[str]
    encoders: dict[str, str]
    trained_until: int
    report: dict[str, Any]
    export: Export | None = None


@dataclass(frozen=True, eq=False)
class Bundle:
    """A network and what belongs to it; `network` is in evaluation mode on `device`."""

    network: Network
    dispersion: Doubles  # [horizons, sales classes] r of horizon sums
    hour_profile: Doubles  # [24] share of a day's units in each hour, sum 1
    categories: tuple[str, ...]  # those that a head may correct, most frequent first
    encoders: dict[str, str] = field(default_factory=dict)  # text and image: what its vectors were made by
    trained_until: int = 0  # end of the newest window it has seen; 0 = untrained
    report: dict[str, Any] = field(default_factory=dict)  # how training went; not part of the version
    probe: Probe | None = None  # windows to compare exports on; not part of the version
    export: Export | None = None  # `network` is Lowered, and the probe's answers are those of the network it is of

    def __post_init__(self) -> None:
        self.network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        object.__setattr__(self, "version", _version(self))

    version: str = field(init=False)

    @property
    def device(self) -> torch.device:
        return self.network.device


def _weights(bundle: Bundle) -> bytes:
    if isinstance(bundle.network, Lowered):
        return save_tensors(bundle.network.stored())
    return save_tensors({name: t.detach().cpu().contiguous() for name, t in bundle.network.state_dict().items()})


def _version(bundle: Bundle) -> str:
    digest = hashlib.sha256(_weights(bundle))
    content = (
        FORMAT,
        asdict(bundle.network.config),
        bundle.dispersion.tolist(),
        bundle.hour_profile.tolist(),
        bundle.categories,
        bundle.encoders,
        bundle.export.kind if bundle.export else "",
    )
    digest.update(msgspec.json.encode(content, order="deterministic"))
    return "n" + digest.hexdigest()[:10]


def untrained_bundle(seed: int = 0, config: NetworkConfig | None = None, device: str = "cpu") -> Bundle:
    """Forecasts the baseline: for the time before a first training."""
    network = make_network(config or NetworkConfig(), seed).to(device)
    dispersion = np.full((len(HORIZONS), len(SalesClass)), DISPERSION)
    return Bundle(network, dispersion, np.full(24, 1 / 24), ())


def save_bundle(bundle: Bundle, folder: Path) -> Path:
    """Write to `folder/<version>` and return it. The same bundle again changes the file times alone."""
    manifest = _Manifest(
        format=FORMAT,
        version=bundle.version,
        config=asdict(bundle.network.config),
        dispersion=bundle.dispersion.tolist(),
        hour_profile=bundle.hour_profile.tolist(),
        categories=list(bundle.categories),
        encoders=bundle.encoders,
        trained_until=bundle.trained_until,
        report=bundle.report,
        export=bundle.export,
    )
    path = folder / bundle.version
    path.mkdir(parents=True, exist_ok=True)
    _replace(path / WEIGHTS, _weights(bundle))
    if bundle.probe is not None:
        _replace(path / PROBE, save_tensors(bundle.probe.tensors()))
    # The manifest comes last: a folder without one is a save that did not end.
    encoded = msgspec.json.encode(manifest, order="deterministic")
    _replace(path / MANIFEST, msgspec.json.format(encoded, indent=2) + b"\n")
    return path


def _replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(content)
    part.replace(path)


def load_bundle(path: Path, device: str = "cpu") -> Bundle:
    """Raises RegistryError when the folder holds no whole bundle, or another one than its manifest says."""
    manifest = _manifest(path)
    try:
        config = NetworkConfig(**manifest.config)  # type: ignore[arg-type]
        network, weights = make_network(config, 0), load_tensors((path / WEIGHTS).read_bytes())
        if manifest.export:
            network = Lowered(network, manifest.export.kind)
            network.restore(weights)
        else:
            network.load_state_dict(weights)
        probe = Probe.of(load_tensors((path / PROBE).read_bytes())) if (path / PROBE).is_file() else None
        dispersion = np.array(manifest.dispersion, np.float64).reshape(len(HORIZONS), len(SalesClass))
        hour_profile = np.array(manifest.hour_profile, np.float64).reshape(24)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError, KeyError, ModelError) as error:
        raise RegistryError(f"{path} holds no usable network: {error}; train again or take another bundle") from error
    bundle = Bundle(
        network.to(device),
        dispersion,
        hour_profile,
        tuple(manifest.categories),
        manifest.encoders,
        manifest.trained_until,
        manifest.report,
        probe,
        manifest.export,
    )
    if bundle.version != manifest.version:
        raise RegistryError(
            f"{path} says it is {manifest.version} but its content is {bundle.version}: "
            "it was changed after training; take another bundle"
        )
    if bundle.export is not None:
        check_export(bundle)
    return bundle


def check_export(bundle: Bundle) -> float:
    """The largest difference of f from the network that an export is of. Raises ExportError beyond its tolerance."""
    assert bundle.export is not None
    if bundle.probe is None:
        raise ExportError(f"{bundle.version} has no {PROBE} to compare it on; export {bundle.export.of} again")
    found = difference(bundle.network, bundle.probe)
    if not found <= bundle.export.tolerance:
        raise ExportError(
            f"{bundle.version}, the {bundle.export.kind} export of {bundle.export.of}, differs from it by {found:.2g} "
            f"in log units on this machine, and states {bundle.export.tolerance:g}; use {bundle.export.of} itself, or "
            "export with a higher tolerance"
        )
    return found


def _manifest(path: Path) -> _Manifest:
    try:
        manifest = msgspec.json.decode((path / MANIFEST).read_bytes(), type=_Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise RegistryError(f"{path} is no model bundle: {error}; train one with `trendstream train`") from error
    if manifest.format != FORMAT:
        raise RegistryError(
            f"{path} has format {manifest.format}, this version reads {FORMAT}: train again with this version"
        )
    return manifest


def newest(folder: Path) -> Path | None:
    """The bundle in `folder` that has seen the newest window; of equals, the one saved last. None if there is none."""
    found = []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        found.append((_manifest(path.parent).trained_until, path.stat().st_mtime_ns, path.parent))
    return max(found)[2] if found else None
