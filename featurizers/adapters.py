"""Bottleneck adapters (Houlsby et al., arXiv 1902.00751): a small detour behind each block of a frozen model.

They cannot be folded into the weights around them, so a folder of such a model holds them beside it, in
`adapters.safetensors`, and they are put in place again when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from featurizers.errors import EncoderError

FILE = "adapters.safetensors"


class Bottleneck(nn.Module):
    """x + up(relu(down(x))) over the channels of a block's output; begins as x."""

    def __init__(self, block: nn.Module, channels: int, axis: int, width: int) -> None:
        super().__init__()
        self.block = block
        self.axis = axis
        self.down = nn.Linear(channels, width)
        self.up = nn.Linear(width, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.block(*args, **kwargs)
        if isinstance(out, tuple):
            return (self._detour(out[0]), *out[1:])
        return self._detour(out)

    def _detour(self, x: Tensor) -> Tensor:
        moved = x.movedim(self.axis, -1)
        added: Tensor = self.up(self.down(moved).relu())
        return x + added.movedim(-1, self.axis)


def insert(model: nn.Module, width: int, dry_run: Callable[[], object]) -> list[nn.Parameter]:
    """Put an adapter behind every block, and return what it learns. `dry_run` runs the model once on any item."""
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = []
    for name, block in _blocks(model):

        def note(_: nn.Module, __: object, out: Any, name: str = name) -> None:
            shapes[name] = tuple((out[0] if isinstance(out, tuple) else out).shape)

        hooks.append(block.register_forward_hook(note))
    with torch.no_grad():
        dry_run()
    for hook in hooks:
        hook.remove()
    learns: list[nn.Parameter] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, block in _blocks(model):
            if name in shapes:
                learns += _wrap(model, name, block, shapes[name], width)
    if not learns:
        raise EncoderError(
            f"{type(model).__name__} is no stack of blocks for adapters to stand behind; use full or lora"
        )
    return learns


def _wrap(model: nn.Module, name: str, block: nn.Module, shape: tuple[int, ...], width: int) -> list[nn.Parameter]:
    axis = 1 if len(shape) == 4 else len(shape) - 1  # pictures keep channels first
    adapter = Bottleneck(block, shape[axis], axis, width).to(next(model.parameters()).device)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, adapter)
    return [*adapter.down.parameters(), *adapter.up.parameters()]


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The members of the longest stack of the model, and of its like: a transformer's layers, a convnet's stages."""
    kinds = (nn.ModuleList, nn.Sequential)
    stacks = [(name, part) for name, part in model.named_modules() if isinstance(part, kinds) and len(part) > 1]
    outermost = [(name, part) for name, part in stacks if not _inside(name, stacks)]
    if not outermost:
        return []
    name, stack = max(outermost, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
    return [(f"{name}.{child}", block) for child, block in stack.named_children()]


def _inside(name: str, stacks: Sequence[tuple[str, nn.Module]]) -> bool:
    return any(other and name.startswith(f"{other}.") for other, _ in stacks)


def take_out(model: nn.Module) -> dict[str, Tensor]:
    """Remove the adapters; what they have learnt, by the name of their block."""
    tensors: dict[str, Tensor] = {}
    for name, part in list(model.named_modules()):
        if isinstance(part, Bottleneck):
            for tensor, value in part.state_dict().items():
                if not tensor.startswith("block."):
                    tensors[f"{name}/{tensor}"] = value.detach().cpu().contiguous()
            tensors[f"{name}/axis"] = torch.tensor(part.axis)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, part.block)
    return tensors


def save_adapters(tensors: dict[str, Tensor], folder: Path) -> None:
    save_file(tensors, folder / FILE)


def put_back(model: nn.Module, folder: Path) -> None:
    """Adapters that lie in a model's folder, if any."""
    if not (folder / FILE).is_file():
        return
    tensors = load_file(folder / FILE)
    for name in sorted({key.partition("/")[0] for key in tensors}):
        mine = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{name}/")}
        width, channels = mine["down.weight"].shape
        adapter = Bottleneck(model.get_submodule(name), channels, int(mine.pop("axis")), width)
        adapter.load_state_dict({**adapter.state_dict(), **mine})
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, adapter)
