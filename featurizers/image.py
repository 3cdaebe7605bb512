"""Pictures to vectors, by any timm model: a name, a folder, or the packaged EfficientNet-Lite0."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from featurizers.adapters import put_back
from featurizers.device import torch_device, torch_dtype, weights_hash
from featurizers.efficientnet import ARCHITECTURE, packaged_weights, read_weights
from featurizers.encoding import ImageConfig
from featurizers.errors import EncoderError
from featurizers.projection import Floats


class ImageEncoder:
    """Pooled features of a timm model, on pictures prepared by the model's own data configuration."""

    def __init__(self, config: ImageConfig | None = None) -> None:
        """Raises EncoderError with the way out if the model cannot be had."""
        import timm
        from timm.data import create_transform, resolve_model_data_config

        self._config = config or ImageConfig()
        self._device = torch_device(self._config.device)
        self._dtype = torch_dtype(self._config.dtype)
        model = _load(self._config.model, timm)
        self.name = f"{_label(self._config.model)}@{weights_hash(model)}"
        self.dimensions = int(model.num_features)
        self._transform = create_transform(**resolve_model_data_config(model), is_training=False)
        # Channels last is the layout that convolutions run fastest in, on either kind of device.
        self.model = model.to(self._device, self._dtype, memory_format=torch.channels_last).eval()

    def prepare(self, picture: Image.Image) -> Floats:
        """An RGB picture, resized, cropped and normalised: [3, height, width] float32."""
        prepared: Floats = self._transform(picture).numpy()
        return prepared

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Floats]) -> Floats:
        """Prepared pictures to [pictures, dimensions] float32."""
        vectors = np.empty((len(pictures), self.dimensions), dtype=np.float32)
        for start in range(0, len(pictures), self._config.batch_size):
            part = pictures[start : start + self._config.batch_size]
            vectors[start : start + len(part)] = self.differentiable(part).cpu().numpy()
        return vectors

    def differentiable(self, pictures: Sequence[Floats]) -> torch.Tensor:
        """One micro-batch of prepared pictures as a tensor [pictures, dimensions], for fine-tuning."""
        batch = torch.from_numpy(np.stack(pictures))
        vectors: torch.Tensor = self.model(batch.to(self._device, self._dtype, memory_format=torch.channels_last))
        return vectors.float()


def _load(name: str, timm: Any) -> Any:
    if not name:
        model = timm.create_model(ARCHITECTURE, pretrained=False)
        model.load_state_dict(read_weights(packaged_weights()), strict=True)
        model.reset_classifier(0)  # what is left ends in the pooled features
        return model
    source = f"local-dir:{name}" if Path(name).is_dir() else name
    try:
        model = timm.create_model(source, pretrained=True, num_classes=0)
        if Path(name).is_dir():
            put_back(model, Path(name))
        return model
    except Exception as error:  # the hub's clients have error trees of their own
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        way_out = f"did you mean {' or '.join(close)}?" if close and name not in close else "check the name and the hub"
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(
            f"picture model {name!r} cannot be loaded ({first_line}); {way_out}, or leave it empty for the packaged one"
        ) from error


def _label(name: str) -> str:
    if not name:
        return ARCHITECTURE
    return Path(name).resolve().name if Path(name).is_dir() else name
