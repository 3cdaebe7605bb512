"""Texts to vectors without a network: the mean of the word-piece embeddings that another model begins with.

The cheapest encoder there is, and a yardstick: what a transformer adds to it is what its layers are worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featurizers.encoding import TextConfig
from featurizers.projection import Floats, normalise
from featurizers.text import TextEncoder


class StaticTextEncoder:
    """Of the model that `config` names."""

    def __init__(self, config: TextConfig | None = None) -> None:
        whole = TextEncoder(config)
        self._tokenizer = whole.tokenizer
        self._table: Floats = whole.model.get_input_embeddings().weight.detach().float().cpu().numpy()
        self.name = f"static {whole.name}"
        self.dimensions = self._table.shape[1]

    def encode(self, texts: Sequence[str]) -> Floats:
        """[texts, dimensions] float32 of length 1; a text without a word stays zero."""
        tokens = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        means = [self._table[ids].mean(axis=0) if ids else np.zeros(self.dimensions, np.float32) for ids in tokens]
        return normalise(np.stack(means).astype(np.float32))
