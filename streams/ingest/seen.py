"""Ids of accepted events, remembered for the dedupe horizon of record time."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from streams.codecs import Array
from streams.errors import SnapshotError
from streams.ingest.privacy import DIGEST_BYTES


class SeenIds:
    """Digests with the record time at which they were accepted; times must not fall from one `add` to the next."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        # The same digests in the order in which they came, end to end: a snapshot is a copy of the bytes.
        self._digests = bytearray()
        self._times = array("q")
        self._gone = 0  # entries at the head that are forgotten and not cut off yet

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def among(self, digests: Iterable[bytes]) -> set[bytes]:
        """Those that are remembered."""
        return self._known.intersection(digests)

    def add(self, digests: Iterable[bytes], now: int) -> None:
        for digest in digests:
            if digest not in self._known:
                self._known.add(digest)
                self._digests += digest
                self._times.append(now)

    def extend(self, digests: Sequence[bytes], times: Array) -> None:
        """Add digests that are new and differ from each other, each with its time, int64."""
        self._known.update(digests)
        self._digests += b"".join(digests)
        self._times.frombytes(times.tobytes())

    def discard(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            if digest in self._known:
                self._known.remove(digest)
                at = self._digests.find(digest, self._gone * DIGEST_BYTES)
                while at % DIGEST_BYTES:
                    at = self._digests.find(digest, at + 1)
                del self._digests[at : at + DIGEST_BYTES]
                del self._times[at // DIGEST_BYTES]

    def forget(self, until: int) -> None:
        """Drop what was added at or before this record time."""
        times, gone = self._times, self._gone
        if gone == len(times) or times[gone] > until:
            return
        self._gone = bisect_right(times, until, gone)
        self._known.difference_update(_cut(self._digests[gone * DIGEST_BYTES : self._gone * DIGEST_BYTES]))
        if 2 * self._gone > len(times):
            del self._digests[: self._gone * DIGEST_BYTES]
            del times[: self._gone]
            self._gone = 0

    def dump(self) -> tuple[bytes, bytes]:
        """Digests and times [ids] int64, oldest first."""
        with memoryview(self._digests) as digests:
            return bytes(digests[self._gone * DIGEST_BYTES :]), np.array(self._times[self._gone :], "<i8").tobytes()

    def load(self, digests: bytes, times: bytes) -> None:
        """The inverse of `dump`."""
        moments = np.frombuffer(times, "<i8")
        if len(digests) != len(moments) * DIGEST_BYTES:
            raise SnapshotError(
                f"ingest: {len(moments)} times for {len(digests)} bytes of digests; take an older snapshot"
            )
        self._known = set(_cut(digests))
        self._digests, self._times, self._gone = bytearray(digests), array("q", moments.tolist()), 0


def _cut(digests: bytes | bytearray) -> list[bytes]:
    whole = bytes(digests)
    return [whole[i : i + DIGEST_BYTES] for i in range(0, len(whole), DIGEST_BYTES)]
