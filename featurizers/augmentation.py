"""Changes of texts and pictures that leave what they mean as it is, for fine-tuning. What is on by default was measured
to help (docs/benchmarks.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featurizers.projection import Floats


@dataclass(frozen=True)
class Augmentation:
    """0 is off."""

    dropped_words: float = 0.0  # chance of each word of a text
    moved: float = 0.0  # how far a picture moves at most, as a share of its side; every other one is mirrored, too

    def text(self, text: str, generator: np.random.Generator) -> str:
        if not self.dropped_words:
            return text
        words = text.split()
        kept = generator.random(len(words)) >= self.dropped_words
        return " ".join(word for word, keep in zip(words, kept, strict=True) if keep) or text

    def picture(self, picture: Floats, generator: np.random.Generator) -> Floats:
        """A prepared one [3, height, width]. Where it moves away its edge is repeated."""
        if not self.moved:
            return picture
        if generator.random() < 0.5:
            picture = picture[:, :, ::-1]
        steps = generator.uniform(-self.moved, self.moved, 2) * picture.shape[1:]
        rows, columns = (
            (np.arange(side) + round(step)).clip(0, side - 1)
            for side, step in zip(picture.shape[1:], steps.tolist(), strict=True)
        )
        return np.ascontiguousarray(picture[:, rows[:, None], columns])
