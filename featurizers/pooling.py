"""Text, picture and title vectors of a product as one decayed mean each, never of two encoder versions.

mean = Σ 2^(-(newest − at) / half-life) · vector / Σ 2^(-(newest − at) / half-life), kept as sum and weight. Titles go
through the text encoder, so a new version of it empties both. Only products that had a vector have room for one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from featurizers.state import Array, Column, Floats, Ints, Table, dump_arrays, load_arrays
from streams.records import NO_WATERMARK, VECTOR, Modality

POOLED = (Modality.TEXT, Modality.IMAGE, Modality.TITLE)
FAMILIES = {Modality.TEXT: 0, Modality.IMAGE: 1, Modality.TITLE: 0}  # which encoder makes a modality
NEVER = NO_WATERMARK
NO_ENCODER = 0  # the code of ""
_NO_SLOT = -1
_BLOB = 1 << 14  # slots of one blob

COLUMNS = {
    "pool": Column(np.int32, (len(POOLED),), _NO_SLOT),  # slot of each modality's sum
    "pool_encoder": Column(np.int32, (2,), NO_ENCODER),
}
_SLOTS = {"sum": Column(np.float64, (VECTOR,)), "weight": Column(np.float64)}


def shares(at: Ints, half_life_ms: float) -> Floats:
    """[vectors] of each its share of the mean; times in UTC ms, at least one."""
    weight = np.exp2((at - at.max()) / half_life_ms)
    share: Floats = weight / weight.sum()
    return share


class _Frozen:
    """The slots as they were at a moment: the live arrays, and what was written over since."""

    def __init__(self, slots: Table) -> None:
        self._arrays = {name: slots[name] for name in _SLOTS}
        self._over: list[tuple[Ints, dict[str, Array]]] = []

    def keep(self, slots: Ints, table: Table) -> None:
        """Note what stands in slots that are about to be written over."""
        slots = slots[slots < len(self._arrays["weight"])]
        self._over.append((slots, {name: table[name][slots] for name in _SLOTS}))

    def dump(self, start: int) -> bytes:
        part = {name: array[start : start + _BLOB].copy() for name, array in self._arrays.items()}
        for slots, before in reversed(self._over):
            here = (slots >= start) & (slots < start + _BLOB)
            for name, array in part.items():
                array[slots[here] - start] = before[name][here]
        return dump_arrays(part)


class Pools:
    """The pools of the products in a table, which holds `COLUMNS` and in `times` the newest row of each modality."""

    def __init__(self, table: Table, newest: Callable[[], Array], half_life_ms: float) -> None:
        self._table = table
        self._newest = newest  # [products, modalities], to be written to
        self._half_life = half_life_ms
        self._slots = Table(_SLOTS)
        self._frozen: list[weakref.ref[_Frozen]] = []

    def add(self, rows: Array, modality: Array, at: Ints, encoder: Array, vectors: Array) -> None:
        """Take vectors [rows, VECTOR] in order of arrival."""
        for start, stop in _runs(modality, encoder):
            part = slice(start, stop)
            kind = Modality(int(modality[start]))
            self._change_encoder(rows[part], kind, int(encoder[start]))
            self._add_run(rows[part], kind, at[part], vectors[part])

    def means(self, rows: Array, modality: Modality) -> Array:
        """[rows, VECTOR] float32, zeros where there is none."""
        slots = self._table["pool"][rows, modality]
        means = np.zeros((len(rows), VECTOR), np.float32)
        some = slots != _NO_SLOT
        weight, total = self._slots["weight"][slots[some]], self._slots["sum"][slots[some]]
        means[some] = total / np.where(weight > 0, weight, 1.0)[:, None]
        return means

    def _change_encoder(self, rows: Array, modality: Modality, encoder: int) -> None:
        family = FAMILIES[modality]
        changed = rows[self._table["pool_encoder"][rows, family] != encoder]
        if len(changed) == 0:
            return
        self._table["pool_encoder"][changed, family] = encoder
        for other in POOLED:
            if FAMILIES[other] == family:
                slots = self._table["pool"][changed, other].astype(np.int64)
                slots = slots[slots != _NO_SLOT]
                self._write(slots, np.zeros((len(slots), VECTOR)), np.zeros(len(slots)))
                self._newest()[changed, other] = NEVER

    def _add_run(self, rows: Array, modality: Modality, at: Ints, vectors: Array) -> None:
        products, inverse = np.unique(rows, return_inverse=True)
        slots = self._slots_of(products, modality)
        before = self._newest()[products, modality]
        after = before.copy()
        np.maximum.at(after, inverse, at)
        faded = np.where(before == NEVER, 0.0, np.exp2((before - after) / self._half_life))
        total = self._slots["sum"][slots] * faded[:, None]
        weight: Floats = self._slots["weight"][slots] * faded
        share = np.exp2((at - after[inverse]) / self._half_life)
        np.add.at(total, inverse, share[:, None] * vectors.astype(np.float64))
        np.add.at(weight, inverse, share)
        self._write(slots, total, weight)
        self._newest()[products, modality] = after

    def _slots_of(self, products: Array, modality: Modality) -> Ints:
        """[products] their slots, new ones in order of the products."""
        slots: Ints = self._table["pool"][products, modality].astype(np.int64)
        fresh = np.flatnonzero(slots == _NO_SLOT)
        if len(fresh):
            slots[fresh] = np.arange(self._slots.rows, self._slots.rows + len(fresh))
            self._slots.append(len(fresh))
            self._table["pool"][products, modality] = slots
        return slots

    def _write(self, slots: Ints, total: Floats, weight: Floats) -> None:
        for frozen in [one for ref in self._frozen if (one := ref()) is not None]:
            frozen.keep(slots, self._slots)
        self._slots["sum"][slots] = total
        self._slots["weight"][slots] = weight

    def freeze(self) -> dict[str, Callable[[], bytes]]:
        """Blobs of the slots by name, as this moment left them; each is encoded when it is called."""
        frozen = _Frozen(self._slots)
        self._frozen = [ref for ref in self._frozen if ref() is not None] + [weakref.ref(frozen)]

        def blob(start: int) -> Callable[[], bytes]:
            return lambda: frozen.dump(start)

        return {f"{start // _BLOB:06d}": blob(start) for start in range(0, self._slots.rows, _BLOB)}

    def load(self, blobs: Mapping[str, bytes]) -> None:
        """The inverse of `freeze`, on fresh pools."""
        for name in sorted(blobs):
            arrays = load_arrays(blobs[name])
            before = self._slots.rows
            self._slots.append(len(arrays["weight"]))
            for column, array in arrays.items():
                self._slots[column][before:] = array


def _runs(modality: Array, encoder: Array) -> list[tuple[int, int]]:
    if len(modality) == 0:
        return []
    changes = np.flatnonzero((modality[1:] != modality[:-1]) | (encoder[1:] != encoder[:-1])) + 1
    edges = [0, *changes.tolist(), len(modality)]
    return list(pairwise(edges))
