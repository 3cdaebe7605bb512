"""The inference stage: windows in, predictions and scores out; outcomes and closes are handed on as they are.

What a message gives depends on its bytes, the bundle and the heads that score it, and on nothing else: the network sees
batches of one fixed, padded shape. Which head scores a window is a rule of event time (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from model.distribution import Forecast, predict
from model.errors import ScoringError
from model.features import Doubles, extract
from model.heads import HeadStore, correct, frozen_head, row_dispersion
from model.reading import Reading, read
from model.registry import Bundle
from streams.codecs import Coded, Rows, decode, encode_json, split
from streams.records import (
    CHANNELS,
    CLASSES,
    CLOSES,
    CONTRIBUTIONS,
    DELAYS,
    HORIZONS,
    OUTCOMES,
    PREDICTIONS,
    QUANTILES,
    THRESHOLDS,
    WINDOWS,
    Head,
    Horizon,
    Modality,
    Score,
    WindowKind,
    split_product,
    window_id,
)
from streams.stage import Fact, Message, Output, TaskKey

PREDICTIONS_TOPIC, SCORES_TOPIC = "trend.predictions", "trend.scores"
COUNTERS = ("windows", "live", "scores", "head_late", "outcomes")

_UNITS = CHANNELS.index("units")
_KEPT = ("end", "kind", "revision", "as_of", "offset", "baseline", "thresholds", "mask", "sales_class")
_STOCK = ("price", "unit_cost", "on_hand", "on_order", "lead_time_days")
_CODED = ("product", "category", "text_encoder", "image_encoder")


Recorded = Mapping[tuple[int, int], tuple[str, int]]


@dataclass(frozen=True)
class InferenceConfig:
    # Of every forward pass; part of what makes results equal. On CPU 64 rows are as fast a row as 256, and a small live
    # message does not wait for the padding of a large batch.
    batch_rows: int = 64
    max_bytes: int = 900_000  # of one record of trend.predictions


def elapsed_share(hour_profile: Doubles, open_share: Doubles) -> Doubles:
    """[n] share of a day's units that is usually sold in the first `open_share` [n] of the day."""
    hours = np.clip(open_share, 0.0, 1.0) * 24
    share: Doubles = np.interp(hours, np.arange(25), np.concatenate([[0.0], np.cumsum(hour_profile)])).clip(0.0, 1.0)
    return share


def forecast(bundle: Bundle, head: Head, rows: Rows, reading: Reading, mine: npt.NDArray[np.int64]) -> Forecast:
    """What a head makes of some rows of WINDOWS, all of one kind, and of the network's reading of them."""
    baseline = rows["baseline"][mine]
    mu, s2 = correct(
        head,
        np.log(np.maximum(baseline, 1e-9)),
        reading.f[mine].astype(np.float64),
        reading.components[mine].astype(np.float64),
        rows["category"][mine],
    )
    r = row_dispersion(head, rows["sales_class"][mine]) * np.exp(reading.spread[mine].astype(np.float64))
    thresholds = rows["thresholds"][mine].reshape(len(mine), len(HORIZONS), len(THRESHOLDS))
    conformal = np.asarray(head.conformal, np.float64)
    if rows["kind"][mine[0]] == WindowKind.CLOSE:
        return predict(mu, s2, r, baseline, thresholds, conformal)
    share = elapsed_share(bundle.hour_profile, rows["open_share"][mine])
    units = np.maximum(rows["open"][mine, _UNITS], 0)
    return predict(mu, s2, r, baseline, thresholds, conformal, units, share)


@dataclass(frozen=True)
class _Choice:
    """Rows of one message that the same head scores."""

    rows: npt.NDArray[np.int64]
    head: Head
    late: bool


@dataclass
class InferenceStage:
    """One partition of `trend.windows`.

    `recorded` gives the heads of a run that is folded again: (offset of the record of trend.windows, window kind) to
    (head version, head_late). Where the windows are not the same ones, `live_epochs` alone says which epoch's head
    scored live windows then, by the offset of trend.events.
    """

    task: TaskKey
    config: InferenceConfig
    bundle: Bundle
    heads: HeadStore
    recorded: Recorded | None = None
    live_epochs: Callable[[int], int] | None = None
    _frozen: Head = field(init=False)
    _counters: dict[str, int] = field(init=False)
    _decoded: tuple[int, Rows] | None = None  # the record that `ready` has looked into, for `fold`
    _event_time: int = 0  # newest that a window has seen; 0 before the first

    def __post_init__(self) -> None:
        self._frozen = frozen_head(self.bundle.version, self.bundle.dispersion, self.bundle.categories)
        self._counters = dict.fromkeys(COUNTERS, 0)

    def ready(self, message: Message) -> bool:
        """False while a window's head has not arrived; live windows take the newest, unless an epoch is recorded."""
        if message.value is None or self.recorded is not None:
            return True
        rows = self._rows(message)
        if rows.record is not WINDOWS:
            return True
        return all(self.heads.has(epoch) for epoch in np.unique(self._epochs(rows)).tolist() if epoch)

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs: list[Output] = []
        for message in messages:
            if message.value is None:
                continue
            rows = self._rows(message)
            self._decoded = None
            if rows.record is WINDOWS:
                outputs += self._score(message, rows)
            elif rows.record is OUTCOMES or rows.record is CLOSES:
                self._counters["outcomes"] += len(rows) if rows.record is OUTCOMES else 0
                outputs.append(Output(PREDICTIONS_TOPIC, message.partition, message.value, message.key))
            else:
                raise ScoringError(
                    f"{message.topic}/{message.partition} offset {message.offset} holds {rows.record.name!r}: "
                    "it takes windows, outcomes and closes alone; look for a foreign producer"
                )
        return outputs

    def snapshot(self) -> dict[str, bytes]:
        return {"counters": msgspec.json.encode(self._counters, order="deterministic")}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        self._counters = msgspec.json.decode(blobs["counters"], type=dict[str, int])

    def counters(self) -> dict[str, int]:
        return dict(self._counters)

    def report(self) -> dict[str, Fact]:
        """The network, and the head that a live window gets now."""
        head = self.heads.newest() or self._frozen
        return {
            "model": self.bundle.version,
            "head": head.version,
            "head_epoch": head.epoch,
            **({"event_time": self._event_time} if self._event_time else {}),
        }

    def _rows(self, message: Message) -> Rows:
        if self._decoded is None or self._decoded[0] != message.offset:
            assert message.value is not None
            self._decoded = (message.offset, decode(message.value))
        return self._decoded[1]

    def _choose(self, message: Message, rows: Rows) -> list[_Choice]:
        """The head of every row, by its kind and epoch."""
        kind, epoch = rows["kind"], self._epochs(rows)
        choices = []
        for k, e in sorted(set(zip(kind.tolist(), epoch.tolist(), strict=True))):
            head, late = self._head(message, k, e)
            choices.append(_Choice(np.flatnonzero((kind == k) & (epoch == e)), head, late))
        return choices

    def _epochs(self, rows: Rows) -> npt.NDArray[np.int64]:
        """[rows] of the head that scores each; 0 for live windows that take the newest."""
        live = self.live_epochs(int(rows["offset"][0])) if self.live_epochs and len(rows) else 0
        epochs: npt.NDArray[np.int64] = np.where(rows["kind"] == WindowKind.CLOSE, rows["epoch"], live)
        return epochs

    def _head(self, message: Message, kind: int, epoch: int) -> tuple[Head, bool]:
        if self.recorded is not None:
            return self._recorded_head(message, kind)
        if kind == WindowKind.LIVE and self.live_epochs is None:
            return self.heads.newest() or self._frozen, False
        if epoch == 0:
            return self._frozen, False
        late = kind == WindowKind.CLOSE and not self.heads.has(epoch)
        return self.heads.select(epoch) or self._frozen, late

    def _recorded_head(self, message: Message, kind: int) -> tuple[Head, bool]:
        assert self.recorded is not None
        place = f"{message.topic}/{message.partition} offset {message.offset}"
        try:
            version, late = self.recorded[(message.offset, kind)]
        except KeyError:
            raise ScoringError(f"{place}: no head is recorded for it; read trend.predictions to its end") from None
        head = self._frozen if version == self._frozen.version else self.heads.get(version)
        if head is None:
            raise ScoringError(
                f"{place} was scored by head {version!r}, which is not in model.heads for {self.bundle.version}; "
                "read the topic from its start, and fold with the bundle of that run"
            )
        return head, bool(late)

    def _score(self, message: Message, rows: Rows) -> list[Output]:
        n = len(rows)
        if n == 0:
            return []
        self._event_time = max(self._event_time, int(rows["as_of"].max()))
        reading = read(self.bundle.network, extract(rows), rows["baseline"], self.config.batch_rows)
        choices = self._choose(message, rows)
        head, frozen = _Forecasts.of(n), _Forecasts.of(n)
        names, epochs, late = np.empty(n, object), np.zeros(n, np.int64), np.zeros(n, np.int8)
        for choice in choices:
            mine = choice.rows
            control = forecast(self.bundle, self._frozen, rows, reading, mine)
            frozen.put(mine, control)
            same = choice.head.version == self._frozen.version
            head.put(mine, control if same else forecast(self.bundle, choice.head, rows, reading, mine))
            names[mine], epochs[mine], late[mine] = choice.head.version, choice.head.epoch, choice.late
        columns: dict[str, Any] = {name: rows[name] for name in (*_KEPT, *_STOCK)}
        columns |= {name: Coded(*rows.coded(name)) for name in _CODED}
        columns |= {
            "window_offset": np.full(n, message.offset, np.int64),
            "mean": head.mean,
            "dispersion": head.dispersion,
            "frozen_mean": frozen.mean,
            "frozen_dispersion": frozen.dispersion,
            "f": reading.f,
            "components": reading.components,
            "contributions": reading.contributions,
            "quantiles": head.quantiles,
            "frozen_median": frozen.quantiles[:, :, QUANTILES.index(0.5)],
            "probabilities": head.probabilities,
            "trend": head.trend,
            "open_units": rows["open"][:, _UNITS],
            "model": Coded(np.zeros(n, np.int32), [self.bundle.version]),
            "head": names,
            "head_epoch": epochs,
            "head_late": late,
        }
        outputs = [
            Output(PREDICTIONS_TOPIC, message.partition, value)
            for value in split(PREDICTIONS, columns, self.config.max_bytes)
        ]
        products = rows["product"]
        scores = self._scores(rows, products, head, reading, names, late)
        outputs += [
            Output(SCORES_TOPIC, message.partition, encode_json(score), product.encode())
            for score, product in zip(scores, products, strict=True)
        ]
        live = int((rows["kind"] == WindowKind.LIVE).sum())
        counts = {"windows": n - live, "live": live, "scores": n, "head_late": int(late.sum())}
        for name, count in counts.items():
            self._counters[name] += count
        return outputs

    def _scores(
        self,
        rows: Rows,
        products: npt.NDArray[np.object_],
        forecast: _Forecasts,
        reading: Reading,
        heads: npt.NDArray[np.object_],
        late: npt.NDArray[np.int8],
    ) -> list[Score]:
        n = len(rows)
        keys = {name: rows[name].tolist() for name in ("end", "kind", "revision", "as_of", "offset", "mask")}
        keys |= {name: rows[name].tolist() for name in ("text_encoder", "image_encoder")}
        best = forecast.probabilities.argmax(axis=2).tolist()  # [n, horizons]
        numbers = {
            "mean": _rounded(forecast.mean),
            "expected": _rounded(forecast.total),
            "dispersion": _rounded(forecast.dispersion),
            "quantiles": _rounded(forecast.quantiles),
            "probabilities": _rounded(forecast.probabilities),
            "trend": _rounded(forecast.trend),
            "baseline": _rounded(np.cumsum(rows["baseline"], axis=1)),
            "contributions": _rounded(reading.contributions.astype(np.float64)),
        }
        scores = []
        for i in range(n):
            kind, revision = keys["kind"][i], keys["revision"][i]
            live = kind == WindowKind.LIVE
            platform, product_id = split_product(products[i])
            window = window_id(products[i], keys["end"][i], kind, revision)
            encoders = {"text": keys["text_encoder"][i], "image": keys["image_encoder"][i]}
            scores.append(
                Score(
                    score_id=f"{window}/{self.bundle.version}",
                    revision=revision if live else 0,
                    platform=platform,
                    product_id=product_id,
                    window_id=window,
                    window_kind="live" if live else "close",
                    window_end=keys["end"][i],
                    window_revision=revision if live else 0,
                    as_of=keys["as_of"][i],
                    events_offset=keys["offset"][i],
                    horizons=[_horizon(h, i, numbers, best[i][h]) for h in range(len(HORIZONS))],
                    contributions=dict(zip(CONTRIBUTIONS, numbers["contributions"][i], strict=True)),
                    missing=_missing(keys["mask"][i]),
                    head_late=bool(late[i]),
                    model=self.bundle.version,
                    head=heads[i],
                    encoders={name: encoder for name, encoder in encoders.items() if encoder},
                )
            )
        return scores


@dataclass(frozen=True)
class _Forecasts:
    """Forecasts of a message's rows, filled in head by head."""

    mean: Doubles  # [n, delays]
    total: Doubles  # [n, horizons]
    dispersion: Doubles  # [n, horizons]
    quantiles: Doubles  # [n, horizons, quantiles]
    probabilities: Doubles  # [n, horizons, classes]
    trend: Doubles  # [n, horizons]

    @staticmethod
    def of(n: int) -> _Forecasts:
        h = len(HORIZONS)
        shapes = [(n, DELAYS), (n, h), (n, h), (n, h, len(QUANTILES)), (n, h, len(CLASSES)), (n, h)]
        return _Forecasts(*(np.empty(shape) for shape in shapes))

    def put(self, rows: npt.NDArray[np.int64], forecast: Forecast) -> None:
        for name, values in vars(self).items():
            values[rows] = getattr(forecast, name)


@lru_cache(maxsize=1 << len(Modality))
def _missing(mask: int) -> list[str]:
    return [m.name.lower() for m in Modality if not mask >> m & 1]


_LEVELS = tuple(str(q) for q in QUANTILES)


def _horizon(h: int, i: int, numbers: dict[str, list[Any]], best: int) -> Horizon:
    return Horizon(
        days=HORIZONS[h],
        expected=numbers["expected"][i][h],
        quantiles=dict(zip(_LEVELS, numbers["quantiles"][i][h], strict=True)),
        baseline=numbers["baseline"][i][h],
        trend=numbers["trend"][i][h],
        trend_class=CLASSES[best],  # type: ignore[arg-type]
        probabilities=dict(zip(CLASSES, numbers["probabilities"][i][h], strict=True)),
        means=numbers["mean"][i][: h + 1],
        dispersion=numbers["dispersion"][i][h],
    )


_TENS = np.array([10.0**k for k in range(16)])  # exact


def _rounded(values: Doubles) -> list[Any]:
    """Nested lists of numbers with six significant digits; from a million up whole ones, below 1e-15 zero."""
    size = np.floor(np.log10(np.maximum(np.abs(values), 1e-15))).astype(np.int64)
    tens = _TENS[np.clip(5 - size, 0, 15)]
    # Adding 0.0 turns -0.0 into 0.0.
    return (np.round(values * tens) / tens + 0.0).tolist()  # type: ignore[no-any-return]
