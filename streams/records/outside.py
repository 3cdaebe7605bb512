"""What leaves trendstream, and what it keeps about itself: JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from streams.records import VERSION
from streams.records.platform import Instant


class Horizon(msgspec.Struct, frozen=True, kw_only=True):
    days: int
    expected: float
    quantiles: dict[str, float]  # "0.1", "0.5", "0.9", "0.95": units
    baseline: float
    trend: float  # log2((expected + 1/2) / (baseline + 1/2))
    trend_class: Literal["surging", "rising", "steady", "falling"]
    probabilities: dict[str, float]
    means: list[float]  # M_b of the delay buckets up to this horizon
    dispersion: float  # r: any quantile at any lead time follows from means and r


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """`trend.scores`, keyed by product: the forecast from one window. Keep the highest revision of a score_id."""

    schema_version: int = VERSION
    score_id: str
    revision: int
    replay: str | msgspec.UnsetType = msgspec.UNSET  # the replay that corrected it; not there in what was first said
    platform: str
    product_id: str
    window_id: str
    window_kind: Literal["close", "live"]
    window_end: int  # forecasts count from here
    window_revision: int = 0  # counts a product's live windows of a window_end; the greater is the newer window
    as_of: int  # event time that the window has seen
    events_offset: int  # of trend.events
    horizons: list[Horizon]
    contributions: dict[str, float]  # by modality: change of the log mean
    missing: list[str]  # modalities that were not there
    head_late: bool
    model: str
    head: str
    encoders: dict[str, str]


class _Signal(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = VERSION
    signal_id: str
    revision: int  # of this signal_id: the highest holds
    replay: str | msgspec.UnsetType = msgspec.UNSET  # the replay that corrected it
    score_id: str
    platform: str
    product_id: str
    window_end: int = 0  # of the prediction: with window_revision and as_of, says which signal is newer
    window_revision: int = 0
    as_of: int


class InventorySignal(_Signal, frozen=True, kw_only=True):
    """`signals.inventory`: reorder point and suggested order at the product's lead time and service level."""

    on_hand: float
    on_order: float
    lead_time_days: float
    service_level: float
    expected_demand: float  # over the lead time
    reorder_point: float
    suggested_order: int
    reason: str
    model: str
    head: str


class AdsSignal(_Signal, frozen=True, kw_only=True):
    """`signals.ads`: factor on the product's bid; zero where stock will not last."""

    bid_multiplier: float
    trend: float
    confidence: float
    reason: str
    model: str
    head: str


class SourcePosition(msgspec.Struct, frozen=True, kw_only=True):
    topic: str
    partition: int
    offset: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    reason: str
    message: str
    at: int  # record time of the dead letter


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """`trend.dlq`: an event that could not be used, why, and its sealed original."""

    schema_version: int = VERSION
    dead_letter_id: str  # "<topic>/<partition>/<offset>"
    reason: str
    message: str
    stage: str
    source: SourcePosition
    record_time: int
    attempts: int = 1
    key: str | None = None  # sealed, base64
    sealed: str  # AES-SIV of the original bytes, base64
    first: Failure | None = None  # of a letter that came back from a redrive: why it was dead at first


class Redrive(msgspec.Struct, frozen=True, kw_only=True):
    """`trend.redrives`: where the event of a dead letter was sent again; committed with the event itself."""

    schema_version: int = VERSION
    dead_letter_id: str
    sent: SourcePosition
    attempts: int  # times that the event was tried before
    first: Failure
    audit_id: str
    at: int


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """`model.heads`: one epoch of the online head. Arrays as lists, float64 exactly."""

    schema_version: int = VERSION
    version: str
    model: str
    epoch: int  # boundary in event time up to which outcomes went in; 0 = frozen
    theta: list[list[float]]  # [delays, features]
    covariance: list[list[list[float]]]  # [delays, features, features]
    dispersion: list[list[float]]  # [horizons, sales classes]
    categories: list[str]  # names of the category effects, in the order of the features
    conformal: list[list[float]]  # [horizons, knots]: PIT level -> calibrated level
    rows: int  # outcomes that went into this epoch
    revision: int = 0  # how often a head was installed by hand at this epoch; the highest holds


class ModelEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`model.events`: what the learner noticed or decided, with its evidence."""

    schema_version: int = VERSION
    event_id: str
    kind: Literal["drift", "epoch", "promotion", "rollback", "refused"]
    epoch: int
    subject: str
    evidence: dict[str, float | int | str]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """`trend.progress`: what a stage task has done up to an input offset; committed with it."""

    schema_version: int = VERSION
    stage: str
    topic: str
    partition: int
    offset: int  # next input offset
    counters: dict[str, int]
    state: dict[str, bytes] = {}  # small state of a stage that takes no snapshots, as base64
    report: dict[str, int | float | str] = {}  # of now: see `streams.stage.Reports`
    slot: int = 0  # of the worker that has the task
    snapshot_offset: int = -1  # of the newest snapshot; -1: none
    snapshot_at: int = 0


class Skip(msgspec.Struct, frozen=True, kw_only=True):
    """`trend.skips`: one record of a stage's input that it passes over from its next start on, and who said so."""

    schema_version: int = VERSION
    stage: str
    topic: str
    partition: int
    offset: int
    reason: str
    by: str
    at: Instant  # when it was said


Facts = dict[str, int | float | str | list[str]]


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """`trend.audit`: a command that changed something. Written before the change and again after it, under one key."""

    schema_version: int = VERSION
    audit_id: str
    command: str
    by: str
    at: int
    reason: str
    plan: Facts  # as it was shown before it was confirmed
    outcome: Literal["begun", "done", "failed"]  # begun for long: the command did not live to tell
    result: Facts
    ended_at: int  # 0 while it goes on


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a snapshot's manifest: where a named blob lies in `trend.snapshots`."""

    key: str
    bytes: int
    sha256: str


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = VERSION
    stage: str
    topic: str
    partition: int
    offset: int  # next input offset: the state holds everything before it
    taken_at: int
    chunks: list[Chunk]


JSON_RECORDS: dict[str, type[msgspec.Struct]] = {
    "trend.scores": Score,
    "signals.inventory": InventorySignal,
    "signals.ads": AdsSignal,
    "trend.dlq": DeadLetter,
    "model.heads": Head,
    "model.events": ModelEvent,
    "trend.progress": Progress,
    "trend.skips": Skip,
    "trend.audit": Audit,
    "trend.redrives": Redrive,
}
