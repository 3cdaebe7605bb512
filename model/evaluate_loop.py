"""trendstream as a method: inference, labels and learner, the stages themselves, over a log of `trend.windows`.

A window is predicted with the head that event time allows, its outcome joins it when it has matured, and the learner
learns from it after that: prequential, by the same rules as on Kafka.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model.distribution import accumulate, at_most, predict
from model.evaluate import Cases, Forecasts, distribution
from model.evaluate_panel import Panel
from model.heads import HeadStore, Prior, identity_map
from model.labels import LabelStage
from model.learning import LearnerConfig, LearnerStage
from model.registry import Bundle
from model.scoring import InferenceConfig, InferenceStage
from streams.calendars import Calendar
from streams.codecs import Rows, decode, decode_json
from streams.records import CLASSES, DELAYS, QUANTILES, Trend
from streams.records.inside import OUTCOMES, PREDICTIONS
from streams.records.outside import Head
from streams.stage import Message, Output

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LITTLE = 1e-12  # a prior variance that holds a feature of the head at zero
_FOREVER = 2**62


def boundary(message: Message) -> int:
    """Close of the day at which a record of `trend.windows` was written, UTC ms; 0 for an empty one."""
    rows = decode(message.value or b"")
    if not len(rows):
        return 0
    return int(rows["at" if rows.record is OUTCOMES else "end"][0])


def between(messages: Iterable[Message], since: int = 0, until: int = _FOREVER) -> Iterator[Message]:
    """Records written at boundaries in [since, until]."""
    return (m for m in messages if since <= boundary(m) <= until)


@dataclass
class Loop:
    """The three stages in one process. `take` hears of every batch of predictions."""

    bundle: Bundle
    learner_config: LearnerConfig
    since: int  # first boundary, UTC ms
    take: Callable[[Rows], None]
    conformal: dict[str, Floats] = field(default_factory=dict)  # of every head version

    def __post_init__(self) -> None:
        partitions = range(self.learner_config.partitions)
        store = HeadStore(self.bundle.version, self.since)
        config = InferenceConfig()
        self._store = store
        self._inference = [InferenceStage(("trend.windows", p), config, self.bundle, store) for p in partitions]
        self._labels = [LabelStage(("trend.predictions", p)) for p in partitions]
        self._learner = LearnerStage(("trend.matured", 0), self.learner_config)
        self._waiting: list[deque[Message]] = [deque() for _ in partitions]
        self._offset = 0

    def run(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._waiting[message.partition].append(message)
            self._drain()
        while any(self._waiting):  # the end of the log: some head cannot come any more
            first = next(w for w in self._waiting if w)
            self._fold(first.popleft())
            self._drain()

    def _drain(self) -> None:
        moved = True
        while moved:
            moved = False
            for stage, waiting in zip(self._inference, self._waiting, strict=True):
                while waiting and stage.ready(waiting[0]):
                    self._fold(waiting.popleft())
                    moved = True

    def _fold(self, message: Message) -> None:
        partition = message.partition
        for output in self._inference[partition].fold([message]):
            if output.topic != "trend.predictions" or output.value is None:
                continue
            rows = decode(output.value)
            if rows.record is PREDICTIONS:
                self.take(rows)
            for matured in self._labels[partition].fold([self._message(output, message.timestamp)]):
                for learnt in self._learner.fold([self._message(matured, message.timestamp)]):
                    if learnt.topic == "model.heads" and learnt.value is not None:
                        self._store.put(self._message(learnt, message.timestamp))
                        head = decode_json(learnt.value, Head)
                        self.conformal[head.version] = np.asarray(head.conformal, np.float64)

    def _message(self, output: Output, timestamp: int) -> Message:
        self._offset += 1
        return Message(output.topic, output.partition, self._offset, timestamp, output.key, output.value)


def learner_of(bundle: Bundle, partitions: int) -> LearnerConfig:
    dispersion = tuple(tuple(row) for row in bundle.dispersion.tolist())
    return LearnerConfig(partitions, bundle.version, dispersion, bundle.categories)


def intercept_only(config: LearnerConfig) -> LearnerConfig:
    """The control: a head that learns one level for everything, and nothing else."""
    prior = replace(Prior(), category=LITTLE, network=LITTLE, component=LITTLE)
    return replace(config, categories=(), estimation=replace(config.estimation, prior=prior))


@dataclass
class _Kept:
    """Predictions of judged windows."""

    names: dict[str, int]
    calendar: Calendar
    wanted: dict[tuple[int, int], int]  # (product, day) -> case
    rows: list[Ints] = field(default_factory=list)
    parts: list[dict[str, npt.NDArray[Any]]] = field(default_factory=list)

    def take(self, rows: Rows) -> None:
        day = int(self.calendar.day(rows["end"][:1])[0])
        case = np.array([self.wanted.get((self.names.get(p, -1), day), -1) for p in rows["product"]], np.int64)
        keep = np.flatnonzero(case >= 0)
        if not len(keep):
            return
        columns = ("mean", "dispersion", "quantiles", "probabilities", "head", "baseline", "thresholds")
        frozen = ("frozen_mean", "frozen_dispersion")
        self.rows.append(case[keep])
        self.parts.append({name: rows[name][keep] for name in (*columns, *frozen)})


def run(
    messages: Iterable[Message],
    bundle: Bundle,
    config: LearnerConfig,
    since: int,
    panel: Panel,
    cases: Cases,
    calendar: Calendar,
) -> tuple[Forecasts, Forecasts]:
    """Forecasts of the cases by the updated heads, and by the frozen network, from records that begin at `since`."""
    wanted = {key: i for i, key in enumerate(zip(cases.product.tolist(), cases.day.tolist(), strict=True))}
    kept = _Kept({name: i for i, name in enumerate(panel.names.tolist())}, calendar, wanted)
    loop = Loop(bundle, config, since, kept.take)
    loop.run(messages)
    updated, frozen = Forecasts.empty(len(cases)), Forecasts.empty(len(cases))
    if kept.rows:
        rows = np.concatenate(kept.rows)
        columns = {name: np.concatenate([part[name] for part in kept.parts]) for name in kept.parts[0]}
        _put_updated(updated, cases, rows, columns, loop.conformal)
        _put_frozen(frozen, cases, rows, columns, bundle.version)
    return updated, frozen


def _put_updated(
    into: Forecasts, cases: Cases, rows: Ints, columns: dict[str, npt.NDArray[Any]], conformal: dict[str, Floats]
) -> None:
    versions = columns["head"].astype(str)
    for version in np.unique(versions).tolist():
        mine = np.flatnonzero(versions == version)
        of = {name: column[mine] for name, column in columns.items()}
        quantiles = of["quantiles"].reshape(len(mine), DELAYS, len(QUANTILES))
        surging = of["probabilities"].reshape(len(mine), DELAYS, len(CLASSES))[:, :, Trend.SURGING]
        total, r, levels = accumulate(of["mean"]), of["dispersion"], conformal.get(version, identity_map())
        part = distribution(cases.take(rows[mine]), total, quantiles, _cdf(total, r, levels), surging, version)
        into.put(rows[mine], part)


def _put_frozen(into: Forecasts, cases: Cases, rows: Ints, columns: dict[str, npt.NDArray[Any]], version: str) -> None:
    mean, r, levels = columns["frozen_mean"], columns["frozen_dispersion"], identity_map()
    thresholds = columns["thresholds"].reshape(len(rows), DELAYS, -1)
    forecast = predict(mean, np.zeros_like(mean), r, columns["baseline"], thresholds, levels)
    surging = forecast.probabilities[:, :, Trend.SURGING]
    cdf = _cdf(forecast.total, forecast.dispersion, levels)
    into.put(
        rows, distribution(cases.take(rows), forecast.total, forecast.quantiles, cdf, surging, f"{version}-frozen")
    )


def _cdf(total: Floats, r: Floats, conformal: Floats) -> Callable[[Floats], Floats]:
    def cdf(k: Floats) -> Floats:
        return at_most(k[:, :, None], total, r, conformal)[:, :, 0]

    return cdf
