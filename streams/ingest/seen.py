"""Ids of accepted events, remembered for the dedupe horizon of record time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

from streams.errors import SnapshotError
from streams.ingest.privacy import DIGEST_BYTES


class SeenIds:
    """Digests with the record time at which they were accepted; times must not fall from one `add` to the next."""

    def __init__(self) -> None:
        self._at: dict[bytes, int] = {}
        self._order: deque[bytes] = deque()  # popping the head of a large dict would scan its holes

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._at

    def add(self, digests: Iterable[bytes], now: int) -> None:
        for digest in digests:
            if digest not in self._at:
                self._at[digest] = now
                self._order.append(digest)

    def discard(self, digests: Iterable[bytes]) -> None:
        for digest in digests:
            if self._at.pop(digest, None) is not None:
                self._order.remove(digest)

    def forget(self, until: int) -> None:
        """Drop what was added at or before this record time."""
        order, at = self._order, self._at
        while order and at[order[0]] <= until:
            del at[order.popleft()]

    def dump(self) -> tuple[bytes, bytes]:
        """Digests and times [ids] int64, oldest first."""
        times = np.fromiter((self._at[d] for d in self._order), np.int64, len(self._order))
        return b"".join(self._order), times.astype("<i8").tobytes()

    def load(self, digests: bytes, times: bytes) -> None:
        """The inverse of `dump`."""
        moments = np.frombuffer(times, "<i8").tolist()
        if len(digests) != len(moments) * DIGEST_BYTES:
            raise SnapshotError(
                f"ingest: {len(moments)} times for {len(digests)} bytes of digests; take an older snapshot"
            )
        ids = [digests[i : i + DIGEST_BYTES] for i in range(0, len(digests), DIGEST_BYTES)]
        self._at = dict(zip(ids, moments, strict=True))
        self._order = deque(ids)
