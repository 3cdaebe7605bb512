"""Where and in which precision an encoder runs, by name; and the name of its weights."""

from __future__ import annotations

import hashlib
import logging

import torch

from featurizers.errors import EncoderError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`, or `auto` for CUDA where there is one. Raises EncoderError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EncoderError(f"no device is called {name!r}; use cpu, cuda or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EncoderError(f"device {name!r} was asked for, and torch sees no CUDA here; use cpu or auto")
    return device


def torch_dtype(name: str) -> torch.dtype:
    """Raises EncoderError."""
    try:
        return DTYPES[name]
    except KeyError:
        raise EncoderError(f"no precision is called {name!r}; use one of {', '.join(DTYPES)}") from None


def weights_hash(model: torch.nn.Module) -> str:
    """8 hex digits that change with any weight, whatever file it came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def quiet_torchao() -> None:
    """Before torchao is imported: it registers two enums that torch knows by itself by now, and torch would say so in
    every worker's log."""
    logging.getLogger("torch.utils._pytree").addFilter(_is_not_of_enums)


def _is_not_of_enums(record: logging.LogRecord) -> bool:
    return "is an Enum subclass" not in record.getMessage()
