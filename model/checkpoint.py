"""Where training stands, in one file: tensors and a JSON line, nothing that is unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model.errors import RegistryError

_KEY = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """`fingerprint` says of which training: its configuration, its rows, and how many processes share it."""

    fingerprint: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # plain values


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the file at once: who is interrupted finds the one before."""
    note = msgspec.json.encode({"fingerprint": checkpoint.fingerprint, "state": checkpoint.state}).decode()
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in checkpoint.tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(save(tensors, {_KEY: note}))
    part.replace(path)


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """None where there is none, or that of another training. Raises RegistryError for a file that cannot be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            note = msgspec.json.decode(file.metadata()[_KEY])
            if note["fingerprint"] != fingerprint:
                return None
            return Checkpoint(fingerprint, {name: file.get_tensor(name) for name in file.keys()}, note["state"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise RegistryError(
            f"{path} is no checkpoint of a training: {error}; delete it to train from the start"
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and step counts, by name."""
    return {
        f"optimizer/{group}/{i}/{name}": value
        for group, parameters in enumerate(optimizer.param_groups)
        for i, parameter in enumerate(parameters["params"])
        for name, value in optimizer.state[parameter].items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, on an optimizer of the same parameters."""
    for group, parameters in enumerate(optimizer.param_groups):
        for i, parameter in enumerate(parameters["params"]):
            prefix = f"optimizer/{group}/{i}/"
            state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            # Step counts stay on the CPU, moments go where their parameter is.
            optimizer.state[parameter] = {
                name: t.clone() if name == "step" else t.to(parameter.device).clone() for name, t in state.items()
            }
