"""Product names by number: an arena of bytes and a hash table, both numpy; 32 to 56 bytes a name beside its text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurizers.state import Array, Ints, dump_arrays, load_arrays

Codes = npt.NDArray[np.int32]
Words = npt.NDArray[np.uint64]

_BYTES = 8  # of a word
_PART = np.asarray([(1 << (8 * n)) - 1 for n in range(_BYTES + 1)], np.uint64)  # the first n bytes of a word
_TAG = np.uint64(0xFFFFFFFF00000000)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_AHEAD = np.arange(8, dtype=np.uint64)
_SMALLEST = 1024


class ProductNames:
    """Texts in order of first appearance. A slot of the hash table holds half of a hash and 1 + the code."""

    def __init__(self) -> None:
        self._count = 0
        self._words = np.zeros(_SMALLEST, np.uint64)  # texts, each filled up with zeros to whole words
        self._used = 0  # words
        self._starts = np.zeros(_SMALLEST, np.uint32)  # [names] first word
        self._lengths = np.zeros(_SMALLEST, np.int32)  # [names] bytes
        self._slots = np.zeros(_SMALLEST, np.uint64)  # at most a third is taken

    def __len__(self) -> int:
        return self._count

    def codes(self, texts: pa.StringArray) -> Codes:
        """[texts] code of each text; unknown ones get the next free codes."""
        if len(texts) == 0:
            return np.empty(0, np.int32)
        lengths, words = _read(texts)
        hashes = _hashes(lengths, words)
        codes = self._find(lengths, words, hashes)
        while codes.min() < 0:
            fresh = np.flatnonzero(codes < 0)
            # One text of each hash at a time: what is left is the same text again, or a collision.
            fresh = fresh[np.sort(np.unique(hashes[fresh], return_index=True)[1])]
            self._append(lengths[fresh], [word[fresh] for word in words], hashes[fresh])
            codes = self._find(lengths, words, hashes)
        return codes

    def texts(self, codes: Array) -> pa.StringArray:
        """The text of each code [codes]."""
        lengths = self._lengths[codes]
        ends = np.cumsum(lengths, dtype=np.int64)
        at = np.arange(ends[-1] if len(ends) else 0)
        at += np.repeat(self._starts[codes].astype(np.int64) * _BYTES - ends + lengths, lengths)
        data = self._words.view(np.uint8)[at]
        offsets = np.append(0, ends).astype(np.int32)
        return pa.StringArray.from_buffers(len(codes), pa.py_buffer(offsets), pa.py_buffer(data))

    def freeze(self) -> Callable[[], bytes]:
        """All names as one blob, to be made later: what is written here stays as it is."""
        words, lengths = self._words[: self._used], self._lengths[: self._count]

        def blob() -> bytes:
            head = dump_arrays({"lengths": lengths})
            return len(head).to_bytes(_BYTES, "little") + head + dump_arrays({"words": words})

        return blob

    def load(self, blob: bytes) -> None:
        """The inverse of `freeze`, on fresh names."""
        size = int.from_bytes(blob[:_BYTES], "little")
        self._lengths = load_arrays(blob[_BYTES : _BYTES + size])["lengths"]
        self._words = load_arrays(blob[_BYTES + size :])["words"]
        self._used, self._count = len(self._words), len(self._lengths)
        count = _words_of(self._lengths)
        self._starts = (np.cumsum(count) - count).astype(np.uint32)
        self._rehash()

    # --------------------------------------------------------------------------------------------- table

    def _find(self, lengths: Codes, words: list[Words], hashes: Words) -> Codes:
        codes = np.full(len(lengths), -1, np.int32)
        if self._count == 0:
            return codes
        mask = np.uint64(len(self._slots) - 1)
        slot = hashes & mask
        entry = self._slots[slot]
        code = (entry & ~_TAG).astype(np.int64) - 1
        equal = self._equal(code, lengths, words)
        equal &= code >= 0
        np.copyto(codes, code, where=equal, casting="same_kind")
        waiting = np.flatnonzero(~equal & (code >= 0))
        slot = slot[waiting] + np.uint64(1)
        while len(waiting):  # most names stand where they should; the rest a few slots further on
            entry = self._slots[(slot[:, None] + _AHEAD) & mask]  # [waiting, slots]
            which, place = np.nonzero(((entry ^ hashes[waiting, None]) & _TAG) == 0)
            code = (entry[which, place] & ~_TAG).astype(np.int64) - 1
            of = waiting[which]
            equal = self._equal(code, lengths[of], [word[of] for word in words])
            equal &= code >= 0
            codes[of[equal]] = code[equal]
            further = (entry != 0).all(axis=1) & (codes[waiting] < 0)
            waiting, slot = waiting[further], slot[further] + np.uint64(len(_AHEAD))
        return codes

    def _equal(self, code: Ints, lengths: Codes, words: list[Words]) -> npt.NDArray[np.bool_]:
        """Whether the names of some codes are the texts; for the code -1, anything."""
        equal: npt.NDArray[np.bool_] = self._lengths[code] == lengths
        start = self._starts[code]
        for i, word in enumerate(words):
            # Past the end of a text its own word is 0, and another name's must not be compared with it.
            alike = self._words[np.minimum(start + np.uint32(i), max(self._used, 1) - 1)] == word
            equal &= alike | (lengths <= i * _BYTES)
        return equal

    def _append(self, lengths: Codes, words: list[Words], hashes: Words) -> None:
        count = _words_of(lengths)
        ends = self._used + np.cumsum(count)
        new = slice(self._count, self._count + len(lengths))
        self._words = _grown(self._words, int(ends[-1]))
        self._starts = _grown(self._starts, new.stop)
        self._lengths = _grown(self._lengths, new.stop)
        self._starts[new] = ends - count
        self._lengths[new] = lengths
        for i, word in enumerate(words):
            here = np.flatnonzero(count > i)
            self._words[(ends - count)[here] + i] = word[here]
        self._count, self._used = new.stop, int(ends[-1])
        if 3 * self._count > len(self._slots):
            self._rehash()
        else:
            self._place(hashes, np.arange(new.start, new.stop))

    def _place(self, hashes: Words, codes: Ints) -> None:
        mask = np.uint64(len(self._slots) - 1)
        entry = (hashes & _TAG) | (codes + 1).astype(np.uint64)
        slot = hashes & mask
        while len(entry):
            free = self._slots[slot] == 0
            self._slots[slot[free]] = entry[free]
            left = self._slots[slot] != entry  # several may have gone for one slot
            entry, slot = entry[left], (slot[left] + np.uint64(1)) & mask

    def _rehash(self) -> None:
        room = len(self._slots)
        while room < 3 * self._count:
            room *= 2
        self._slots = np.zeros(room, np.uint64)
        for start in range(0, self._count, 1 << 16):
            part = slice(start, min(start + (1 << 16), self._count))
            starts, lengths = self._starts[part].astype(np.int64), self._lengths[part]
            longest = int(_words_of(lengths).max())
            words = [self._words[np.minimum(starts + i, max(self._used, 1) - 1)] for i in range(longest)]
            self._place(_hashes(lengths, words), np.arange(part.start, part.stop))


def _words_of(lengths: Array) -> Ints:
    return np.asarray((lengths.astype(np.int64) + _BYTES - 1) // _BYTES, np.int64)


def _grown(array: Array, needed: int) -> Array:
    if needed <= len(array):
        return array
    larger = np.zeros(max(needed, len(array) + len(array) // 2), array.dtype)
    larger[: len(array)] = array
    return larger


def _read(texts: pa.StringArray) -> tuple[Codes, list[Words]]:
    """[texts] lengths in bytes, and the words of each text, filled up with zeros: the first ones, the second ones, …"""
    _, offsets_buffer, data_buffer = texts.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    size = int(offsets[-1])
    data = np.zeros(size + _BYTES, np.uint8)
    if size:
        data[:size] = np.frombuffer(data_buffer, np.uint8, size)
    anywhere = np.ndarray((size + 1,), np.dtype("<u8"), data, strides=(1,))  # the word that begins at each byte
    words = []
    for i in range(0, int(lengths.max(initial=0)), _BYTES):
        part = _PART[np.clip(lengths - i, 0, _BYTES)]
        words.append(anywhere[np.minimum(starts + i, size)] & part)
    return lengths.astype(np.int32), words


def _hashes(lengths: Codes, words: list[Words]) -> Words:
    hashes = (lengths.astype(np.uint64) + np.uint64(1)) * _ODD
    for i, word in enumerate(words):
        mixed = (hashes ^ word) * _ODD
        mixed ^= mixed >> np.uint64(32)
        # A text's hash depends on its own words alone, not on longer ones beside it.
        hashes = np.where(lengths > i * _BYTES, mixed, hashes)
    hashes *= _ODD
    return hashes ^ (hashes >> np.uint64(32))  # the low bits choose the slot: let all of them depend on all bytes
