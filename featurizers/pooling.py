"""Text, picture and title vectors of a product as one decayed mean each, never of two encoder versions.

mean = Σ 2^(-(newest − at) / half-life) · vector / Σ 2^(-(newest − at) / half-life), kept as sum and weight. Titles go
through the text encoder, so a new version of it empties both.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from featurizers.state import Array, Column, Floats, Ints, Table
from streams.records import NO_WATERMARK, VECTOR, Modality

POOLED = (Modality.TEXT, Modality.IMAGE, Modality.TITLE)
FAMILIES = {Modality.TEXT: 0, Modality.IMAGE: 1, Modality.TITLE: 0}  # which encoder makes a modality
NEVER = NO_WATERMARK
NO_ENCODER = 0  # the code of ""

COLUMNS = {
    "pool_sum": Column(np.float64, (len(POOLED), VECTOR)),
    "pool_weight": Column(np.float64, (len(POOLED),)),
    "pool_encoder": Column(np.int32, (2,), NO_ENCODER),
}


def add_vectors(
    table: Table, rows: Array, modality: Array, at: Ints, encoder: Array, vectors: Array, half_life_ms: float
) -> None:
    """Take vectors [rows, VECTOR] in order of arrival into the pools of a product table that also holds `newest`."""
    for start, stop in _runs(modality, encoder):
        part = slice(start, stop)
        kind = Modality(int(modality[start]))
        _change_encoder(table, rows[part], kind, int(encoder[start]))
        _add_run(table, rows[part], kind, at[part], vectors[part], half_life_ms)


def means(table: Table, rows: Array, modality: Modality) -> Array:
    """[rows, VECTOR] float32, zeros where there is none."""
    weight = table["pool_weight"][rows, modality]
    total = table["pool_sum"][rows, modality]
    mean: Floats = total / np.where(weight > 0, weight, 1.0)[:, None]
    return mean.astype(np.float32)


def _runs(modality: Array, encoder: Array) -> list[tuple[int, int]]:
    if len(modality) == 0:
        return []
    changes = np.flatnonzero((modality[1:] != modality[:-1]) | (encoder[1:] != encoder[:-1])) + 1
    edges = [0, *changes.tolist(), len(modality)]
    return list(pairwise(edges))


def _change_encoder(table: Table, rows: Array, modality: Modality, encoder: int) -> None:
    family = FAMILIES[modality]
    changed = rows[table["pool_encoder"][rows, family] != encoder]
    if len(changed) == 0:
        return
    table["pool_encoder"][changed, family] = encoder
    for other in POOLED:
        if FAMILIES[other] == family:
            table["pool_sum"][changed, other] = 0
            table["pool_weight"][changed, other] = 0
            table["newest"][changed, other] = NEVER


def _add_run(table: Table, rows: Array, modality: Modality, at: Ints, vectors: Array, half_life_ms: float) -> None:
    products, inverse = np.unique(rows, return_inverse=True)
    before = table["newest"][products, modality]
    after = before.copy()
    np.maximum.at(after, inverse, at)
    faded = np.where(before == NEVER, 0.0, np.exp2((before - after) / half_life_ms))
    total = table["pool_sum"][products, modality] * faded[:, None]
    weight = table["pool_weight"][products, modality] * faded
    share = np.exp2((at - after[inverse]) / half_life_ms)
    np.add.at(total, inverse, share[:, None] * vectors.astype(np.float64))
    np.add.at(weight, inverse, share)
    table["pool_sum"][products, modality] = total
    table["pool_weight"][products, modality] = weight
    table["newest"][products, modality] = after
