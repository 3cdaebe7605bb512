"""Training shared by several processes: each takes its part of every batch, and all make the same step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Sum over the processes, in place."""

    def from_first(self, value: T) -> T:
        """What the first process has, for all."""
        return value


@dataclass(frozen=True)
class Group(Alone):
    """The processes of an initialised `torch.distributed`, as `torchrun` starts them."""

    @staticmethod
    def of() -> Group:
        return Group(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def sum(self, tensors: Iterable[Tensor]) -> None:
        parts = list(tensors)
        flat = torch.cat([t.reshape(-1) for t in parts])  # one message for all of them
        torch.distributed.all_reduce(flat)
        begin = 0
        for tensor in parts:
            tensor.copy_(flat[begin : begin + tensor.numel()].view_as(tensor))
            begin += tensor.numel()

    def from_first(self, value: T) -> T:
        found = [value]
        torch.distributed.broadcast_object_list(found, 0)
        return found[0]
