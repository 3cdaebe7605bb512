"""The processes that `torchrun` starts for one training."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.parallel import Alone, Group

_PATIENCE = dt.timedelta(days=2)  # one folds the history while the others wait


@contextmanager
def processes(device: str) -> Iterator[tuple[Alone, str]]:
    """Who trains together, and this process's own device. Without `torchrun` it is alone."""
    be_deterministic(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Alone(), device
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Group.of(), device
    finally:
        torch.distributed.destroy_process_group()


def be_deterministic(device: str) -> None:
    """Let the GPU add in a fixed order: the same seed gives the same weights there too."""
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for, before its first use
        torch.use_deterministic_algorithms(True)
