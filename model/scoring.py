"""The inference stage: windows in, predictions and scores out; outcomes and closes are handed on as they are.

What a message gives depends on its bytes, the bundle and the heads that score it, and on nothing else: the network sees
batches of one fixed, padded shape. Which head scores a window is a rule of event time (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from model.distribution import Forecast, predict
from model.errors import ScoringError
from model.features import Doubles, extract
from model.heads import Correction, HeadStore, category_codes, frozen_head
from model.reading import Reading, read
from model.registry import Bundle
from model.scores import Forecasts, scores
from streams.codecs import Coded, Rows, decode, split
from streams.records import CHANNELS, HORIZONS, THRESHOLDS, WindowKind
from streams.records.inside import CLOSES, OUTCOMES, PREDICTIONS, WINDOWS
from streams.records.outside import Head
from streams.stage import Fact, Message, Output, TaskKey

PREDICTIONS_TOPIC, SCORES_TOPIC = "trend.predictions", "trend.scores"
COUNTERS = ("windows", "live", "scores", "head_late", "outcomes")

_UNITS = CHANNELS.index("units")
_HANDED_ON = tuple(name for name in PREDICTIONS.schema.names if name in WINDOWS.schema.names)
_FORECAST = tuple(f.name for f in fields(Forecasts) if f.name in PREDICTIONS.schema.names)
_KEPT_HEADS = 4  # as arrays

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


def forecast(bundle: Bundle, head: Correction, rows: Rows, reading: Reading, mine: npt.NDArray[np.int64]) -> Forecast:
    """What a head makes of some rows of WINDOWS, all of one kind, and of the network's reading of them."""
    baseline = rows["baseline"][mine]
    category, names = rows.coded("category")
    mu, s2 = head.correct(
        np.log(np.maximum(baseline, 1e-9)),
        reading.f[mine].astype(np.float64),
        reading.components[mine].astype(np.float64),
        category_codes(head.head.categories, names)[category[mine]],
    )
    r = head.row_dispersion(rows["sales_class"][mine]) * np.exp(reading.spread[mine].astype(np.float64))
    thresholds = rows["thresholds"][mine].reshape(len(mine), len(HORIZONS), len(THRESHOLDS))
    if rows["kind"][mine[0]] == WindowKind.CLOSE:
        return predict(mu, s2, r, baseline, thresholds, head.conformal)
    share = elapsed_share(bundle.hour_profile, rows["open_share"][mine])
    units = np.maximum(rows["open"][mine, _UNITS], 0)
    return predict(mu, s2, r, baseline, thresholds, head.conformal, units, share)


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
    _corrections: dict[str, Correction] = field(default_factory=dict)  # by version
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
        forecasts = Forecasts.of(n)
        for choice in self._choose(message, rows):
            mine = choice.rows
            control, head = self._correction(self._frozen), self._correction(choice.head)
            frozen = forecast(self.bundle, control, rows, reading, mine)
            used = frozen if head is control else forecast(self.bundle, head, rows, reading, mine)
            forecasts.put(mine, used, frozen, head, choice.late)
        outputs = [
            Output(PREDICTIONS_TOPIC, message.partition, value)
            for value in split(PREDICTIONS, self._columns(message, rows, reading, forecasts), self.config.max_bytes)
        ]
        outputs += [
            Output(SCORES_TOPIC, message.partition, score, product.encode())
            for score, product in zip(
                scores(rows, forecasts, reading.contributions, self.bundle.version), rows["product"], strict=True
            )
        ]
        live = int((rows["kind"] == WindowKind.LIVE).sum())
        counts = {"windows": n - live, "live": live, "scores": n, "head_late": int(forecasts.head_late.sum())}
        for name, count in counts.items():
            self._counters[name] += count
        return outputs

    def _columns(self, message: Message, rows: Rows, reading: Reading, forecasts: Forecasts) -> dict[str, Any]:
        """Of PREDICTIONS."""
        n = len(rows)
        return {
            **{name: rows.column(name) for name in _HANDED_ON},
            **{name: getattr(forecasts, name) for name in _FORECAST},
            **{name: getattr(reading, name) for name in ("f", "components", "contributions")},
            "window_offset": np.full(n, message.offset, np.int64),
            "open_units": rows["open"][:, _UNITS],
            "model": Coded(np.zeros(n, np.int32), [self.bundle.version]),
        }

    def _correction(self, head: Head) -> Correction:
        """The head as arrays, kept while it is in use: to make them of its lists takes as long as many rows."""
        kept = self._corrections.pop(head.version, None)
        if kept is None or kept.head is not head:
            kept = Correction.of(head)
        self._corrections[head.version] = kept  # the newest in use is last
        if len(self._corrections) > _KEPT_HEADS:
            del self._corrections[next(iter(self._corrections))]
        return kept
