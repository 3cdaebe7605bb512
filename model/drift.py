"""Drift: river's Page-Hinkley test over the recent errors of the frozen network, of all products and of each category.

The frozen network is watched and not the published forecast, since a head follows a drift and hides it. The detector is
a function of the last errors and is fed anew each epoch, so a snapshot holds numbers and nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from river.drift import PageHinkley


@dataclass(frozen=True)
class DriftConfig:
    recent: int = 60  # epochs
    least_epochs: int = 10
    tolerated: float = 0.03  # rise of the error that is none
    threshold: float = 0.6  # errors in [0, 1], summed over epochs
    least_rows: int = 20  # of a subject in an epoch


class DriftWatch(msgspec.Struct, kw_only=True):
    """Recent errors by subject, as they lie in a snapshot."""

    errors: dict[str, list[float]] = {}

    def observe(self, subject: str, error: float, config: DriftConfig) -> dict[str, float | int | str] | None:
        """Add an epoch's error, in [0, 1]; the evidence if it shows a drift, after which the watch begins anew."""
        series = [*self.errors.get(subject, []), error][-config.recent :]
        detector = PageHinkley(
            min_instances=config.least_epochs, delta=config.tolerated, threshold=config.threshold, alpha=1.0, mode="up"
        )
        found = False
        for value in series:
            detector.update(value)
            found = bool(detector.drift_detected)
        self.errors[subject] = [error] if found else series
        if not found:
            return None
        before = series[:-1]
        return {"error": error, "usual_error": sum(before) / len(before), "epochs": len(series)}
