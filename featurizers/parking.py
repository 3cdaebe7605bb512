"""Rows whose event time lies at or after the end of the open day wait here until their day opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from featurizers.state import Array, Ints, dump_arrays, load_arrays

Columns = dict[str, Array]  # equally long arrays of rows, `at` among them
BEFORE_START = -(2**31)  # the place of rows that came before any day was open


class Parking:
    """Rows by day index, each day's in order of arrival."""

    def __init__(self) -> None:
        self._days: dict[int, list[Columns]] = {}
        self.rows = 0

    def put(self, day: int, columns: Columns) -> None:
        """Keep rows for one day."""
        self._days.setdefault(day, []).append(columns)
        self.rows += len(columns["at"])

    def spread(self, days: Ints, columns: Columns) -> None:
        """Keep each row [rows] for its own day."""
        for day in np.unique(days).tolist():
            here = days == day
            self.put(day, {name: array[here] for name, array in columns.items()})

    def take(self, day: int) -> Columns | None:
        """Hand out a day's rows, in order of arrival."""
        parts = self._days.pop(day, None)
        if parts is None:
            return None
        columns = _joined(parts)
        self.rows -= len(columns["at"])
        return columns

    def freeze(self) -> dict[str, Callable[[], bytes]]:
        """Blobs by day, as this moment left them; each is encoded when it is called."""

        def blob(parts: list[Columns]) -> Callable[[], bytes]:
            return lambda: dump_arrays(_joined(parts))

        return {str(day): blob(list(self._days[day])) for day in sorted(self._days)}

    def dump(self) -> dict[str, bytes]:
        return {day: blob() for day, blob in self.freeze().items()}

    def load(self, blobs: Mapping[str, bytes]) -> None:
        """The inverse of `freeze`, on a fresh parking."""
        for day, blob in blobs.items():
            self.put(int(day), load_arrays(blob))


def _joined(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
