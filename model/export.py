"""Networks made smaller or faster: bfloat16, int8 (torchao), compiled.

What an export says is compared with the network that it was made from, on windows that lie beside it, whenever it is
loaded: beyond its stated tolerance it is refused.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from featurizers.device import quiet_torchao
from model.errors import ExportError
from model.features import Features
from model.network import Answer, Batch, Network

KINDS = ("bf16", "int8", "compiled")
PROBE_ROWS = 64  # as many as a forward pass of inference has


@dataclass(frozen=True)
class Export:
    kind: str  # one of KINDS
    of: str  # version of the network that it was made from
    tolerance: float  # the largest difference of f, in log units


@dataclass(frozen=True)
class Probe:
    """Windows, and what the network said of them."""

    features: Features
    f: np.ndarray[tuple[int, ...], np.dtype[np.float32]]  # [PROBE_ROWS, DELAYS]

    def tensors(self) -> dict[str, Tensor]:
        columns = {f"features.{name}": values for name, values in vars(self.features).items()} | {"f": self.f}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in columns.items()}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> Probe:
        columns = {f.name: tensors[f"features.{f.name}"].numpy() for f in fields(Features)}
        return Probe(Features(**columns), tensors["f"].numpy())


class Lowered(Network):
    """A network as an export of some kind runs it; takes and gives float32."""

    def __init__(self, network: Network, kind: str) -> None:
        super().__init__(network.config)
        self.load_state_dict(network.state_dict())
        self.kind = kind
        if kind == "bf16":
            self.members.to(torch.bfloat16)
        elif kind == "int8":
            _quantize(self.members)
        elif kind == "compiled":
            self._compiled = (torch.compile(super().read, dynamic=False), torch.compile(super().fuse, dynamic=False))
        else:
            raise ExportError(f"there is no export {kind!r}; take one of {', '.join(KINDS)}")
        self.to(network.device)

    def read(self, batch: Batch) -> Tensor:
        if self.kind == "compiled":
            return self._compiled[0](batch)
        return super().read(self._cast(batch)).float()

    def embed(self, batch: Batch) -> Tensor:
        if self.kind == "compiled":
            return super().embed(batch)
        return super().embed(self._cast(batch)).float()

    def fuse(self, trunk: Tensor, embedded: Tensor, present: Tensor) -> Answer:
        if self.kind == "compiled":
            return self._compiled[1](trunk, embedded, present)
        answer = super().fuse(trunk.to(self._dtype), embedded.to(self._dtype), present)
        return Answer(*(getattr(answer, field.name).float() for field in fields(Answer)))

    def stored(self) -> dict[str, Tensor]:
        """Every tensor as it is kept: whole numbers and their scales where there are such."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.state_dict().items():
            whole = hasattr(tensor, "qdata")
            parts = {f"{name}.{part}": getattr(tensor, part) for part in _INT8} if whole else {name: tensor}
            found |= {part: value.detach().cpu().contiguous() for part, value in parts.items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `stored`, on an export of the same network configuration."""
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if hasattr(tensor, "qdata"):
                    for part in _INT8:
                        getattr(tensor, part).copy_(tensors[f"{name}.{part}"])
                else:
                    tensor.copy_(tensors[name])

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.kind == "bf16" else torch.float32

    def _cast(self, batch: Batch) -> Batch:
        floats = {name: t.to(self._dtype) for name, t in vars(batch).items() if t.is_floating_point()}
        return replace(batch, **floats)


_INT8 = ("qdata", "scale")  # of torchao's Int8Tensor


def _quantize(module: nn.Module) -> None:
    """Weights of linear layers as whole numbers with a scale a row."""
    quiet_torchao()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao speaks of its own future
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError:
            raise ExportError("int8 needs torchao, which is not installed; install trendstream[export]") from None

        quantize_(module, Int8WeightOnlyConfig())


def difference(network: Network, probe: Probe) -> float:
    """The largest difference of f between the network and what the probe says."""
    with torch.inference_mode():
        answer = network(Batch.of(probe.features, network.device))
    return float(np.abs(answer.f.cpu().numpy() - probe.f).max())


def probe_of(network: Network, features: Features) -> Probe:
    """What the network says of windows, repeated or cut to PROBE_ROWS."""
    chosen = features.take(np.arange(PROBE_ROWS) % len(features))
    with torch.inference_mode():
        answer = network(Batch.of(chosen, network.device))
    return Probe(chosen, answer.f.cpu().numpy())


def lowered(network: Network, kind: str) -> Lowered:
    return Lowered(copy.deepcopy(network).cpu(), kind)
