"""Projections: the same seed or data give the same directions, and no other file is taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurizers.errors import EncoderError
from featurizers.projection import (
    MANIFEST,
    WEIGHTS,
    Floats,
    fit,
    load_projection,
    projection_for,
    random_projection,
    save_projection,
)
from streams.records import VECTOR


def _vectors(rows: int, dimensions: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)


@pytest.mark.parametrize("dimensions", [1, 63, 64, 384])
def test_random_directions_are_not_orthonormal(dimensions: int) -> None:
    matrix = random_projection(dimensions).matrix
    product = matrix.T @ matrix if dimensions >= VECTOR else matrix @ matrix.T
    assert np.allclose(product, np.eye(min(dimensions, VECTOR)), atol=1e-5)


def test_the_same_seed_gives_other_directions() -> None:
    assert np.array_equal(random_projection(384).matrix, random_projection(384).matrix)
    assert not np.array_equal(random_projection(384).matrix, random_projection(384, seed=2).matrix)
    assert random_projection(384).version == "random-64-1"


@settings(max_examples=25)
@given(rows=st.integers(1, 9), dimensions=st.integers(1, 100), scale=st.floats(1e-3, 1e3))
def test_projected_vectors_are_not_of_length_one(rows: int, dimensions: int, scale: float) -> None:
    projected = random_projection(dimensions).apply(_vectors(rows, dimensions) * np.float32(scale))
    assert projected.shape == (rows, VECTOR)
    assert projected.dtype == np.float32
    assert np.allclose(np.linalg.norm(projected, axis=1), 1.0, atol=1e-5)


def test_a_vector_of_zeros_becomes_nan() -> None:
    assert np.array_equal(random_projection(384).apply(np.zeros((1, 384), np.float32)), np.zeros((1, VECTOR)))


def test_fitting_misses_the_directions_of_greatest_spread() -> None:
    hidden = _vectors(400, 5) * np.array([9, 7, 5, 3, 2], np.float32)
    mixing = np.linalg.qr(_vectors(200, 5, seed=1))[0].T
    vectors = (hidden @ mixing + 3.0).astype(np.float32)
    projection = fit(vectors)
    kept = (vectors - projection.mean) @ projection.matrix
    assert np.allclose(kept.var(axis=0)[:5].sum(), vectors.var(axis=0).sum(), rtol=1e-3)
    assert (np.diff(kept.var(axis=0)[:5]) < 0).all()


def test_fitting_the_same_vectors_twice_differs_or_hides_a_change() -> None:
    vectors = _vectors(100, 80)
    first, again = fit(vectors), fit(vectors)
    assert np.array_equal(first.matrix, again.matrix)
    assert first.version == again.version
    assert first.version != fit(_vectors(100, 80, seed=1)).version


@pytest.mark.parametrize(("rows", "dimensions"), [(2, 10), (3, 384), (100, 30)])
def test_few_rows_or_dimensions_cannot_be_fitted(rows: int, dimensions: int) -> None:
    projected = fit(_vectors(rows, dimensions)).apply(_vectors(4, dimensions))
    assert projected.shape == (4, VECTOR)
    assert np.isfinite(projected).all()


def test_one_vector_is_taken_for_enough() -> None:
    with pytest.raises(EncoderError, match="two vectors or more"):
        fit(_vectors(1, 10))


def test_a_saved_projection_comes_back_changed(tmp_path: Path) -> None:
    projection = fit(_vectors(100, 80))
    save_projection(projection, tmp_path)
    loaded = load_projection(tmp_path)
    assert loaded.version == projection.version
    assert np.array_equal(loaded.matrix, projection.matrix)
    assert np.array_equal(loaded.mean, projection.mean)


def test_a_missing_changed_or_foreign_file_is_taken(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="is missing"):
        load_projection(tmp_path)
    save_projection(random_projection(80), tmp_path)
    weights = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(weights[:-1] + b"x")
    with pytest.raises(EncoderError, match="is not the file"):
        load_projection(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(EncoderError, match="not JSON"):
        load_projection(tmp_path)


def test_another_encoders_projection_is_taken(tmp_path: Path) -> None:
    save_projection(random_projection(80), tmp_path)
    with pytest.raises(EncoderError, match="80 dimensions, and the encoder gives 384"):
        projection_for(384, str(tmp_path))
    with pytest.raises(EncoderError, match="fitted for another encoder"):
        random_projection(80).apply(_vectors(1, 384))
