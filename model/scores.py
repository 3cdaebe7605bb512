"""From forecasts to the records of `trend.scores`: one for each window, with numbers of six significant digits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from model.distribution import Forecast
from model.features import Doubles
from model.heads import Correction
from streams.codecs import Rows, encode_json, json_texts
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
_READ = ("product", "end", "kind", "revision", "mask", "text_encoder", "image_encoder")
_CLASS_TEXTS = np.array([encode_json(name) for name in CLASSES], object)
_BY_HORIZON = ("expected", "baseline", "trend", "dispersion", *map(str, QUANTILES), *CLASSES)
_NUMBERS = [f"{name}_{h}" for name in _BY_HORIZON for h in range(len(HORIZONS))]  # of a score
_NUMBERS += [*(f"mean_{b}" for b in range(DELAYS)), *CONTRIBUTIONS]


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


def scores(rows: Rows, forecasts: Forecasts, contributions: npt.NDArray[np.float32], model: str) -> Iterator[bytes]:
    """A Score as JSON for each of n > 0 rows of WINDOWS; contributions [n, CONTRIBUTIONS], version of the network."""
    n = len(rows)
    product, end, kind, revision, mask, text, image = (rows[name].tolist() for name in _READ)
    window = [window_id(*key) for key in zip(product, end, kind, revision, strict=True)]
    platform, product_id = zip(*map(split_product, product), strict=True)
    counted = [r if k == _LIVE else 0 for r, k in zip(revision, kind, strict=True)]
    columns: dict[str, Iterable[Any]] = {
        "score_id": [f"{w}/{model}" for w in window],
        "revision": counted,
        "platform": platform,
        "product_id": product_id,
        "window_id": window,
        "window_kind": ["live" if k == _LIVE else "close" for k in kind],
        "window_end": end,
        "window_revision": counted,
        "as_of": rows["as_of"].tolist(),
        "events_offset": rows["offset"].tolist(),
        "missing": map(_missing, mask),
        "head_late": forecasts.head_late.astype(bool).tolist(),
        "model": [model] * n,
        "head": forecasts.head.tolist(),
        "encoders": map(_encoders, text, image),
    }
    texts = {name: json_texts(column) for name, column in columns.items()}
    classes = [_CLASS_TEXTS[best] for best in forecasts.probabilities.argmax(axis=2).T]  # [horizons][n]
    texts |= {f"trend_class_{h}": best.tolist() for h, best in enumerate(classes)}
    numbers = json_texts(rounded(_numbers(rows["baseline"], forecasts, contributions).reshape(-1)))
    texts |= {name: numbers[i * n : i * n + n] for i, name in enumerate(_NUMBERS)}
    return (_FORM % row for row in zip(*(texts[name] for name in _PLACES), strict=True))


def _numbers(baseline: Doubles, forecasts: Forecasts, contributions: npt.NDArray[np.float32]) -> Doubles:
    """[_NUMBERS, n]"""
    by_horizon = [forecasts.total, np.cumsum(baseline, axis=1), forecasts.trend, forecasts.dispersion]
    tables = [table.T.reshape(-1, len(baseline)) for table in (forecasts.quantiles, forecasts.probabilities)]
    return np.concatenate([*(a.T for a in by_horizon), *tables, forecasts.mean.T, contributions.T])


def _place(name: str) -> Any:
    return msgspec.Raw(f"<{name}>".encode())


def _horizon(h: int) -> Horizon:
    def at(name: str) -> Any:
        return _place(f"{name}_{h}")

    return Horizon(
        days=HORIZONS[h],
        expected=at("expected"),
        quantiles={str(q): at(str(q)) for q in QUANTILES},
        baseline=at("baseline"),
        trend=at("trend"),
        trend_class=at("trend_class"),
        probabilities={name: at(name) for name in CLASSES},
        means=[_place(f"mean_{b}") for b in range(h + 1)],
        dispersion=at("dispersion"),
    )


def _form() -> tuple[bytes, list[str]]:
    """A score's JSON with %b in each place, and the names of the places in order. To fill it in takes two thirds of the
    time of a record and its encoding: a number is written once, and all numbers in one call."""
    besides = ("schema_version", "replay", "horizons", "contributions")
    score = Score(
        **{f.name: _place(f.name) for f in msgspec.structs.fields(Score) if f.name not in besides},
        horizons=[_horizon(h) for h in range(len(HORIZONS))],
        contributions={name: _place(name) for name in CONTRIBUTIONS},
    )
    place, marked = re.compile(b"<(.+?)>"), encode_json(score)
    return place.sub(b"%b", marked), [name.decode() for name in place.findall(marked)]


_FORM, _PLACES = _form()


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
