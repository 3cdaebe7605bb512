"""The learner: one task that meets forecasts and sales in trend.matured and publishes a head per epoch.

An epoch is a day boundary c. It is complete when every partition of trend.predictions has passed c, and every platform
in it; then all rows that matured at c go into one update, whatever order the partitions came in, and a head is
published, changed or not, since inference waits for it. The frozen network runs along as a control and takes over while
the evidence is against the head.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from model.calibration import pseudo_uniform
from model.champion import Contest, compare, log_loss
from model.drift import DriftConfig, DriftWatch
from model.errors import ModelError
from model.estimation import FORGOTTEN, EstimationConfig, Estimator, Labels
from model.heads import Floats, Ints, category_codes, frozen_head, head_key, head_version, is_frozen
from streams.calendars import DAY
from streams.codecs import Rows, batches, decode, decode_json, encode_batch, encode_json
from streams.errors import SnapshotError
from streams.records import HORIZONS
from streams.records.inside import CLOSES, INSTALLS, MATURED
from streams.records.outside import Head, ModelEvent
from streams.stage import Fact, Message, Output, TaskKey

HEADS_TOPIC, EVENTS_TOPIC, PARTITION = "model.heads", "model.events", 0
COUNTERS = (
    "rows",
    "learned",
    "censored",
    "other_model",
    "late",
    "forgotten",
    "epochs",
    "drifts",
    "rollbacks",
    "installs",
)
EVERYTHING = "all"  # subject of what concerns all categories
UNREADABLE = -1  # epoch of a head whose version is not one of ours


@dataclass(frozen=True)
class LearnerConfig:
    partitions: int  # of trend.predictions: an epoch waits for all of them
    model: str  # the network's version
    dispersion: tuple[tuple[float, ...], ...]  # [horizons, sales classes] of the network
    categories: tuple[str, ...] = ()  # those that get an effect of their own
    estimation: EstimationConfig = field(default_factory=EstimationConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)


class _Progress(msgspec.Struct, kw_only=True):
    """The state that is not arrays, as it lies in a snapshot."""

    passed: dict[str, dict[int, int]] = {}  # newest close by platform and partition
    boundaries: list[int] = []  # closes that were seen and are no epochs yet
    epoch: int = 0  # newest; 0 before the first
    revision: int = 0  # heads that were installed by hand since
    counts: dict[str, int]
    contest: Contest
    drift: DriftWatch


class LearnerStage:
    """trend.matured in; heads to model.heads and events to model.events out."""

    def __init__(self, task: TaskKey, config: LearnerConfig) -> None:
        if config.partitions < 1:
            raise ModelError(f"learner: partitions is {config.partitions}; give the number of trend.predictions")
        self._config = config
        self._estimator = self._fresh()
        self._progress = _Progress(counts=dict.fromkeys(COUNTERS, 0), contest=Contest(), drift=DriftWatch())
        self._pending: dict[int, list[pa.RecordBatch]] = {}  # MATURED by boundary, in order of arrival
        self._shown: dict[str, Fact] = {}  # evidence of the newest epoch since the start

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs: list[Output] = []
        for _, rows in batches(messages):
            if rows.record.name == MATURED.name:
                self._gather(rows)
            elif rows.record.name == CLOSES.name:
                self._pass(rows)
                while (epoch := self._complete()) is not None:
                    outputs.extend(self._close(epoch))
            elif rows.record.name == INSTALLS.name:
                for blob, audit in zip(rows["head"].tolist(), rows["audit"].tolist(), strict=True):
                    outputs.extend(self._install(decode_json(blob, Head), audit))
        return outputs

    def ready(self, message: Message) -> bool:
        return True

    def snapshot(self) -> dict[str, bytes]:
        blobs = {"progress": msgspec.json.encode(self._progress)}
        for name, array in self._estimator.arrays().items():
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            blobs[f"head.{name}"] = buffer.getvalue()
        for at, pending in sorted(self._pending.items()):
            for number, batch in enumerate(pending):
                blobs[f"pending.{at}.{number:06d}"] = encode_batch(batch)
        return blobs

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        try:
            self._progress = msgspec.json.decode(blobs["progress"], type=_Progress)
            self._estimator = self._fresh()
            arrays = {name: blob for name, blob in blobs.items() if name.startswith("head.")}
            self._estimator.load(
                {name.removeprefix("head."): np.load(io.BytesIO(b), allow_pickle=False) for name, b in arrays.items()}
            )
            self._pending = {}
            for name in sorted(blobs):
                if name.startswith("pending."):
                    self._pending.setdefault(int(name.split(".")[1]), []).append(decode(blobs[name]).batch)
        except (KeyError, ValueError, msgspec.DecodeError) as error:
            raise SnapshotError(
                f"learner: the snapshot does not fit network {self._config.model}: {error}; "
                "take one of the same network, or start without"
            ) from error

    def counters(self) -> dict[str, int]:
        return dict(self._progress.counts)

    def report(self) -> dict[str, Fact]:
        """The newest epoch, who is champion, and what the newest epoch with outcomes showed."""
        p = self._progress
        epoch: dict[str, Fact] = {"event_time": p.epoch, "epoch": p.epoch} if p.epoch else {}
        return {**epoch, "model": self._config.model, "champion": p.contest.champion, **self._shown}

    def _fresh(self) -> Estimator:
        c = self._config
        return Estimator(len(c.categories), np.array(c.dispersion, np.float64), c.estimation)

    # ----------------------------------------------------------------------------------------------------------------
    # Which epoch is complete.

    def _gather(self, rows: Rows) -> None:
        self._progress.counts["rows"] += len(rows)
        boundaries = rows["at"]
        for at in np.unique(boundaries).tolist():
            mine = np.flatnonzero(boundaries == at)
            if self._progress.epoch and at <= self._progress.epoch:
                self._progress.counts["late"] += len(mine)
            else:
                batch = rows.batch if len(mine) == len(rows) else rows.batch.take(mine)
                self._pending.setdefault(at, []).append(batch)

    def _pass(self, rows: Rows) -> None:
        p = self._progress
        columns = [rows[name].tolist() for name in ("platform", "partition", "end")]
        for platform, partition, end in zip(*columns, strict=True):
            of_platform = p.passed.setdefault(platform, {})
            of_platform[partition] = max(of_platform.get(partition, end), end)
            if end > p.epoch and end not in p.boundaries:
                p.boundaries = sorted([*p.boundaries, end])

    def _complete(self) -> int | None:
        p = self._progress
        if not p.boundaries:
            return None
        # A partition's first close says that it has nothing to say about any boundary before. Platforms whose days end
        # together close one after the other, so each counts by itself; before its first close none has outcomes.
        for of_platform in p.passed.values():
            if len(of_platform) < self._config.partitions or min(of_platform.values()) < p.boundaries[0]:
                return None
        return p.boundaries[0]

    # ----------------------------------------------------------------------------------------------------------------
    # What an epoch does.

    def _close(self, epoch: int) -> list[Output]:
        p, config = self._progress, self._config
        elapsed = (epoch - p.epoch) / DAY if p.epoch else config.estimation.close_every
        taken = [self._pending.pop(at) for at in sorted(self._pending) if at <= epoch]
        batches = sorted((b for of_boundary in taken for b in of_boundary), key=_partition)  # stable: arrival is kept
        labels = self._labels([Rows(MATURED, batch) for batch in batches])
        p.boundaries, p.epoch, p.revision = p.boundaries[1:], epoch, 0
        p.counts["epochs"] += 1
        p.counts["learned"] += len(labels)
        events: list[ModelEvent] = []
        if len(labels):
            mean = self._estimator.replay(labels)
            gains = compare(labels, mean)
            decision = p.contest.weigh(gains, epoch, elapsed)
            self._shown = self._evidence(labels, mean)
            events.append(self._event("epoch", EVERYTHING, self._shown))
            if decision is not None:
                p.counts["rollbacks"] += decision.kind == "rollback"
                evidence: dict[str, float | int | str] = {"wealth": decision.wealth, "veto": decision.veto}
                evidence.update({f"gain_{HORIZONS[delay]}": gain for delay, gain in gains.items()})
                events.append(self._event(decision.kind, EVERYTHING, evidence))
            events.extend(self._watch(labels))
        self._estimator.learn(labels, epoch, elapsed)
        self._estimator.keep(epoch)
        head = self._head(epoch, len(labels))
        outputs = [Output(HEADS_TOPIC, PARTITION, encode_json(head), head.version.encode())]
        outputs.extend(map(self._told, events))
        return outputs

    def _install(self, head: Head, audit: str) -> list[Output]:
        """Publish this head at the newest epoch once more, and go on from it: from the state that made it where that is
        kept. One of another network or form, or one that comes before the first epoch, is refused."""
        p, key = self._progress, head_key(self._config.model, head.version)
        fits = np.shape(head.theta) == self._estimator.theta.shape and tuple(head.categories) == self._config.categories
        kind = "rollback" if key is not None and key <= p.epoch else "promotion"
        evidence: dict[str, float | int | str] = {"by": "hand", "version": head.version, "audit": audit}
        if head.model != self._config.model or not fits or not p.epoch:
            return [self._told(self._event("refused", EVERYTHING, evidence))]
        frozen = is_frozen(head)
        if not self._estimator.go_back(key or 0) and not frozen:
            self._estimator.adopt(head)
        p.revision += 1
        p.counts["installs"] += 1
        p.contest = Contest(champion="frozen" if frozen else "head")
        self._estimator.keep(p.epoch + p.revision)
        version = head_version(head.model, p.epoch, p.revision)
        new = msgspec.structs.replace(head, version=version, epoch=p.epoch, revision=p.revision)
        return [
            Output(HEADS_TOPIC, PARTITION, encode_json(new), version.encode()),
            self._told(self._event(kind, EVERYTHING, evidence | {"published": version})),
        ]

    def _told(self, event: ModelEvent) -> Output:
        return Output(EVENTS_TOPIC, PARTITION, encode_json(event), event.subject.encode())

    def _head(self, epoch: int, rows: int) -> Head:
        c = self._config
        if self._progress.contest.champion == "frozen":
            return frozen_head(c.model, np.array(c.dispersion, np.float64), c.categories, epoch)
        return self._estimator.head(c.model, list(c.categories), epoch, rows)

    def _labels(self, batches: list[Rows]) -> Labels:
        """The rows to learn from."""
        parts: list[dict[str, npt.NDArray[np.generic]]] = [self._columns(rows) for rows in batches]
        if not parts:
            return _NOTHING
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        counts = self._progress.counts
        other, censored = columns.pop("other"), columns.pop("censored") != 0
        head = columns["head"]
        forgotten = (head == UNREADABLE) | (self._estimator.index(np.asarray(head, np.int64)) == FORGOTTEN)
        counts["other_model"] += int(other.sum())
        counts["censored"] += int((~other & censored).sum())
        counts["forgotten"] += int((~other & ~censored & forgotten).sum())
        usable = np.flatnonzero(~other & ~censored & ~forgotten)
        return Labels(**columns).take(usable)

    def _columns(self, rows: Rows) -> dict[str, npt.NDArray[np.generic]]:
        codes, products = rows.coded("product")
        category, names = rows.coded("category")
        model, models = rows.coded("model")
        head, versions = rows.coded("head")
        epochs = np.array([self._epoch_of(version) for version in versions], np.int64)
        doubles = ("units", "total", "median", "baseline", "f", "components")
        frozen = ("frozen_mean", "frozen_total_mean", "frozen_dispersion", "frozen_median")
        return {
            **{name: rows[name].astype(np.float64) for name in doubles + frozen},
            **{name: rows[name].astype(np.int64) for name in ("delay", "sales_class", "censored")},
            "category": category_codes(self._config.categories, names)[category],
            "other": np.array([name != self._config.model for name in models], np.bool_)[model],
            "head": epochs[head],
            "uniform": pseudo_uniform(products, codes, rows["end"], rows["delay"]),
        }

    def _epoch_of(self, version: str) -> int:
        key = head_key(self._config.model, version)
        return UNREADABLE if key is None else key

    # ----------------------------------------------------------------------------------------------------------------
    # What it tells.

    def _event(self, kind: str, subject: str, evidence: dict[str, float | int | str]) -> ModelEvent:
        epoch, revision = self._progress.epoch, self._progress.revision
        event_id = f"{self._config.model}/{epoch}{f'.{revision}' if revision else ''}/{kind}/{subject}"
        return ModelEvent(event_id=event_id, kind=kind, epoch=epoch, subject=subject, evidence=evidence)  # type: ignore[arg-type]

    def _evidence(self, labels: Labels, mean: Floats) -> dict[str, float | int | str]:
        """Sums of absolute errors of the medians by horizon, mean log losses of learnt and frozen means, and what
        share of its own learning the newest head publishes for each horizon."""
        found: dict[str, float | int | str] = {
            "rows": len(labels),
            "champion": self._progress.contest.champion,
            "wealth": self._progress.contest.evidence,
            "loss": float(log_loss(labels.units, mean, labels.frozen_dispersion).mean()),
            "frozen_loss": float(log_loss(labels.units, labels.frozen_mean, labels.frozen_dispersion).mean()),
        }
        shares = self._estimator.shares(self._estimator.gains)
        for delay, days in enumerate(HORIZONS):
            found[f"share_{days}"] = float(shares[delay])
            mine = labels.take(np.flatnonzero(labels.delay == delay))
            if len(mine):
                found[f"units_{days}"] = int(mine.total.sum())
                found[f"error_{days}"] = float(np.abs(mine.total - mine.median).sum())
                found[f"frozen_error_{days}"] = float(np.abs(mine.total - mine.frozen_median).sum())
        return found

    def _watch(self, labels: Labels) -> list[ModelEvent]:
        day = labels.delay == 0
        subjects = {EVERYTHING: day}
        for code, name in enumerate(self._config.categories):
            subjects[name] = day & (labels.category == code)
        events: list[ModelEvent] = []
        for subject, mine in subjects.items():
            rows = np.flatnonzero(mine)
            if len(rows) < self._config.drift.least_rows:
                continue
            units, median = labels.units[rows], labels.frozen_median[rows]
            error = float(np.abs(units - median).sum() / max(np.maximum(units, median).sum(), 1.0))
            found = self._progress.drift.observe(subject, error, self._config.drift)
            if found is not None:
                self._progress.counts["drifts"] += 1
                sold, expected = float(units.sum()), float(labels.frozen_mean[rows].sum())
                events.append(self._event("drift", subject, {**found, "units": sold, "frozen_expected": expected}))
        return events


def _partition(batch: pa.RecordBatch) -> int:
    return int(Rows(MATURED, batch)["partition"][0])


def _empty() -> Labels:
    columns: dict[str, Floats | Ints] = {f.name: np.empty(0) for f in fields(Labels)}
    for name in ("delay", "sales_class", "category", "head"):
        columns[name] = np.empty(0, np.int64)
    columns["components"] = np.empty((0, 8))
    return Labels(**columns)  # type: ignore[arg-type]


_NOTHING = _empty()
