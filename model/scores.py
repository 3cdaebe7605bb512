"""From forecasts to the records of `trend.scores`: one for each window, with numbers of six significant digits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from model.distribution import Forecast
from model.features import Doubles
from model.heads import Correction
from streams.codecs import Rows
from streams.records import (
    CLASSES,
    CONTRIBUTIONS,
    DELAYS,
    HORIZONS,
    QUANTILES,
    Modality,
    WindowKind,
    split_product,
    window_id,
)
from streams.records.outside import Horizon, Score

_LIVE = int(WindowKind.LIVE)  # to ask the enum for every row takes as long as to make its horizon


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of a message's rows, filled in head by head."""

    mean: Doubles  # [n, delays]
    total: Doubles  # [n, horizons]
    dispersion: Doubles  # [n, horizons]
    quantiles: Doubles  # [n, horizons, quantiles]
    probabilities: Doubles  # [n, horizons, classes]
    trend: Doubles  # [n, horizons]
    frozen_mean: Doubles  # [n, delays]
    frozen_dispersion: Doubles  # [n, horizons]
    frozen_median: Doubles  # [n, horizons]
    head: npt.NDArray[np.object_]  # [n] versions
    head_epoch: npt.NDArray[np.int64]  # [n]
    head_late: npt.NDArray[np.int8]  # [n]

    @staticmethod
    def of(n: int) -> Forecasts:
        by_horizon = ("total", "dispersion", "trend", "frozen_dispersion", "frozen_median")
        shapes: dict[str, tuple[int, ...]] = {name: (n, len(HORIZONS)) for name in by_horizon}
        shapes |= dict.fromkeys(("mean", "frozen_mean"), (n, DELAYS))
        shapes |= {"quantiles": (n, len(HORIZONS), len(QUANTILES)), "probabilities": (n, len(HORIZONS), len(CLASSES))}
        return Forecasts(
            **{name: np.empty(shape) for name, shape in shapes.items()},
            head=np.empty(n, object),
            head_epoch=np.empty(n, np.int64),
            head_late=np.empty(n, np.int8),
        )

    def put(
        self, rows: npt.NDArray[np.int64], forecast: Forecast, frozen: Forecast, head: Correction, late: bool
    ) -> None:
        for name in ("mean", "total", "dispersion", "quantiles", "probabilities", "trend"):
            getattr(self, name)[rows] = getattr(forecast, name)
        for name in ("mean", "dispersion", "median"):
            getattr(self, f"frozen_{name}")[rows] = getattr(frozen, name)
        self.head[rows], self.head_epoch[rows], self.head_late[rows] = head.head.version, head.head.epoch, late


def scores(rows: Rows, forecasts: Forecasts, contributions: npt.NDArray[np.float32], model: str) -> Iterator[Score]:
    """Of rows of WINDOWS, with contributions [n, CONTRIBUTIONS], by a network's version."""
    keys = [rows[name].tolist() for name in ("product", "end", "kind", "revision", "as_of", "offset", "mask")]
    encoders = [rows[name].tolist() for name in ("text_encoder", "image_encoder")]
    said = (forecasts.head.tolist(), forecasts.head_late.astype(bool).tolist())
    numbers = (rounded(_horizon_numbers(rows["baseline"], forecasts)), rounded(forecasts.mean))
    classes = forecasts.probabilities.argmax(axis=2).tolist()  # [n, horizons]
    changes = rounded(contributions.astype(np.float64))
    columns = (*keys, *encoders, *said, *numbers, classes, changes)
    for row in zip(*columns, strict=True):
        product, end, kind, revision, as_of, offset, mask, text, image, head, late, horizons, means, best, change = row
        platform, product_id = split_product(product)
        window = window_id(product, end, kind, revision)
        yield Score(
            score_id=f"{window}/{model}",
            revision=revision if kind == _LIVE else 0,
            platform=platform,
            product_id=product_id,
            window_id=window,
            window_kind="live" if kind == _LIVE else "close",
            window_end=end,
            window_revision=revision if kind == _LIVE else 0,
            as_of=as_of,
            events_offset=offset,
            horizons=[_horizon(d, horizons[h], means[: h + 1], CLASSES[best[h]]) for h, d in enumerate(HORIZONS)],
            contributions=dict(zip(CONTRIBUTIONS, change, strict=True)),
            missing=_missing(mask),
            head_late=late,
            model=model,
            head=head,
            encoders=_encoders(text, image),
        )


def _horizon_numbers(baseline: Doubles, forecasts: Forecasts) -> Doubles:
    """[n, horizons, numbers] what `_horizon` takes apart."""
    single = (forecasts.total, np.cumsum(baseline, axis=1), forecasts.trend, forecasts.dispersion)
    return np.concatenate([np.stack(single, axis=2), forecasts.quantiles, forecasts.probabilities], axis=2)


def _horizon(days: int, numbers: list[float], means: list[float], best: str) -> Horizon:
    expected, baseline, trend, dispersion, q10, q50, q90, q95, surging, rising, steady, falling = numbers
    return Horizon(
        days=days,
        expected=expected,
        quantiles={"0.1": q10, "0.5": q50, "0.9": q90, "0.95": q95},
        baseline=baseline,
        trend=trend,
        trend_class=best,  # type: ignore[arg-type]
        probabilities={"surging": surging, "rising": rising, "steady": steady, "falling": falling},
        means=means,
        dispersion=dispersion,
    )


@lru_cache(maxsize=1 << len(Modality))
def _missing(mask: int) -> list[str]:
    return [m.name.lower() for m in Modality if not mask >> m & 1]


@lru_cache(maxsize=1_000)
def _encoders(text: str, image: str) -> dict[str, str]:
    return {name: encoder for name, encoder in (("text", text), ("image", image)) if encoder}


_TENS = np.array([10.0**k for k in range(16)])  # exact


def rounded(values: Doubles) -> list[Any]:
    """Nested lists of numbers with six significant digits; from a million up whole ones, below 1e-15 zero."""
    size = np.floor(np.log10(np.maximum(np.abs(values), 1e-15))).astype(np.int64)
    tens = _TENS[np.clip(5 - size, 0, 15)]
    # Adding 0.0 turns -0.0 into 0.0.
    return (np.round(values * tens) / tens + 0.0).tolist()  # type: ignore[no-any-return]
