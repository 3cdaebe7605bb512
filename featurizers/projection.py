"""From an encoder's own dimensions to the 64 of a window's vector.

A projection is versioned: vectors of two versions must never be pooled, so its version is part of the encoder's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from featurizers.errors import EncoderError
from streams.records import VECTOR

WEIGHTS = "projection.safetensors"
MANIFEST = "projection.json"
FORMAT = 1

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """Centre, project, normalise."""

    matrix: Floats  # [dimensions, VECTOR]
    mean: Floats  # [dimensions]
    version: str

    def __post_init__(self) -> None:
        dimensions = len(self.mean)
        if self.matrix.shape != (dimensions, VECTOR):
            raise EncoderError(
                f"projection {self.version}: the matrix has shape {self.matrix.shape}, not {(dimensions, VECTOR)}"
            )
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.mean).all()):
            raise EncoderError(f"projection {self.version} holds numbers that are not finite; fit it again")

    @property
    def dimensions(self) -> int:
        """Of the vectors that it takes."""
        return len(self.mean)

    def apply(self, vectors: Floats) -> Floats:
        """[rows, dimensions] to [rows, VECTOR] float32 of length 1; a vector equal to the mean stays zero."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise EncoderError(
                f"projection {self.version} takes [rows, {self.dimensions}], not {list(vectors.shape)}; "
                "it was fitted for another encoder"
            )
        centred = np.asarray(vectors, dtype=np.float32) - self.mean
        return normalise((centred @ self.matrix).astype(np.float32))


def normalise(vectors: Floats) -> Floats:
    """Rows of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def random_projection(dimensions: int, seed: int = 1) -> Projection:
    """Orthonormal directions drawn from a seed: keeps angles well enough before anything was fitted.

    Fewer than VECTOR dimensions are turned and padded, and keep their lengths.
    """
    normal = np.random.default_rng(seed).standard_normal((max(dimensions, VECTOR), min(dimensions, VECTOR)))
    q, r = np.linalg.qr(normal)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # QR leaves the signs open
    matrix = q if dimensions >= VECTOR else q.T
    return Projection(
        np.ascontiguousarray(matrix, dtype=np.float32),
        np.zeros(dimensions, dtype=np.float32),
        f"random-{VECTOR}-{seed}",
    )


def fit(vectors: Floats | Sequence[Floats], version: str = "") -> Projection:
    """Principal components (without whitening) of an encoder's vectors [rows, dimensions], from two rows on.

    Without a `version` it is named by its numbers: `pca-64-<8 hex digits>`.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise EncoderError(f"a projection is fitted on two vectors or more, not on an array of shape {rows.shape}")
    mean = rows.mean(axis=0)
    centred = rows - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # columns, smallest spread first
    kept = directions[:, ::-1][:, :VECTOR]
    largest = np.abs(kept).argmax(axis=0)
    kept = kept * np.where(kept[largest, np.arange(kept.shape[1])] < 0, -1.0, 1.0)  # eigenvectors leave signs open
    matrix = np.zeros((rows.shape[1], VECTOR), dtype=np.float32)
    matrix[:, : kept.shape[1]] = kept
    mean32 = mean.astype(np.float32)
    return Projection(matrix, mean32, version or f"pca-{VECTOR}-{_digest(matrix, mean32)[:8]}")


def save_projection(projection: Projection, folder: Path) -> None:
    """`projection.safetensors` and `projection.json` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({"matrix": projection.matrix, "mean": projection.mean})
    manifest = {
        "format": FORMAT,
        "version": projection.version,
        "dimensions": projection.dimensions,
        "vector": VECTOR,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    (folder / WEIGHTS).write_bytes(weights)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def load_projection(folder: Path) -> Projection:
    """What `save_projection` wrote. Raises EncoderError if a part is missing or is not what the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        weights = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as error:
        raise EncoderError(
            f"no projection in {folder}: {error.filename} is missing; `trendstream train` makes it"
        ) from None
    except ValueError as error:
        raise EncoderError(f"{folder / MANIFEST} is not JSON ({error}); train again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise EncoderError(f"{folder / MANIFEST} is of a format that this version does not read; train again")
    if hashlib.sha256(weights).hexdigest() != manifest.get("sha256"):
        raise EncoderError(f"{folder / WEIGHTS} is not the file that {MANIFEST} names; copy both again")
    try:
        tensors = load(weights)
        return Projection(tensors["matrix"], tensors["mean"], str(manifest["version"]))
    except (SafetensorError, KeyError) as error:
        raise EncoderError(f"{folder / WEIGHTS} holds no projection ({error}); train again") from error


def projection_for(dimensions: int, folder: str) -> Projection:
    """The projection saved in `folder`, or the random one where none is named; checked against the encoder."""
    projection = load_projection(Path(folder)) if folder else random_projection(dimensions)
    if projection.dimensions != dimensions:
        raise EncoderError(
            f"projection {projection.version} takes {projection.dimensions} dimensions, and the encoder gives "
            f"{dimensions}; train again with this encoder"
        )
    return projection


def _digest(*arrays: Floats) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
