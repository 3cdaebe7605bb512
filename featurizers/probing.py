"""How much of a label can be read off an encoder's vectors by a straight line: ridge regression, nothing tuned."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurizers.errors import EncoderError
from featurizers.projection import Floats

Doubles = npt.NDArray[np.float64]
RIDGE = 0.01  # of the vectors' mean variance and a row


@dataclass(frozen=True, eq=False)
class Targets:
    """What is to be read: one column a class (0 or 1), one number, or several in a row."""

    values: Doubles  # [items, columns]
    classes: tuple[str, ...] = ()  # of a classification

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: npt.NDArray[np.int64]) -> Targets:
        return Targets(self.values[rows], self.classes)

    @staticmethod
    def of(labels: Sequence[object]) -> Targets:
        """Texts are classes, numbers a regression, lists of numbers a sequence. Raises EncoderError for a mixture."""
        if all(isinstance(label, str) for label in labels):
            classes = sorted({str(label) for label in labels})
            columns = np.array([classes.index(str(label)) for label in labels], np.int64)
            return Targets(np.eye(len(classes))[columns], tuple(classes))
        try:
            values = np.array(labels, np.float64)
        except (TypeError, ValueError):
            raise EncoderError("labels are a mixture; give texts, or numbers, or lists of one length") from None
        return Targets(values.reshape(len(labels), -1))


def read_off(train: Floats, targets: Targets, test: Floats) -> Doubles:
    """[test, columns] what ridge regression on the vectors [train, dimensions] says of others."""
    mean, x = train.mean(axis=0), train.astype(np.float64)
    centred = x - mean
    gram = centred.T @ centred
    level = targets.values.mean(axis=0)
    ridge = RIDGE * np.trace(gram) + 1e-9
    weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), centred.T @ (targets.values - level))
    return np.asarray((test - mean) @ weights + level, np.float64)


def quality(said: Doubles, targets: Targets) -> float:
    """Share of right classes; of numbers R², against the mean of what is judged."""
    if targets.classes:
        return float((said.argmax(axis=1) == targets.values.argmax(axis=1)).mean())
    spread = ((targets.values - targets.values.mean(axis=0)) ** 2).sum()
    return float(1 - ((said - targets.values) ** 2).sum() / max(spread, 1e-12))


def chance(targets: Targets) -> float:
    """The quality of who knows nothing but how frequent the classes are."""
    return float(targets.values.mean(axis=0).max()) if targets.classes else 0.0


def parts(products: Sequence[str], shares: Sequence[float]) -> npt.NDArray[np.int64]:
    """[items] part of each item by its product, so that a product is in one part alone; `shares` sum to 1."""
    at = np.array([zlib.crc32(f"part {product}".encode()) / 2**32 for product in products])
    return np.searchsorted(np.cumsum(shares)[:-1], at, side="right").astype(np.int64)


def cross_validated(vectors: Floats, targets: Targets, products: Sequence[str], folds: int = 5) -> tuple[float, float]:
    """Quality on products that were left out, and its standard error over the folds."""
    part = parts(products, [1 / folds] * folds)
    found = []
    for fold in range(folds):
        inside, outside = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        if len(inside) and len(outside):
            said = read_off(vectors[inside], targets.take(inside), vectors[outside])
            found.append(quality(said, targets.take(outside)))
    if len(found) < 2:
        raise EncoderError(f"{len(set(products))} products are too few to leave some out; give items of more")
    return float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found)))
