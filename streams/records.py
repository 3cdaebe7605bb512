"""Every record that crosses a topic: one type per arrow of docs/architecture.md.

Outside records (platform topics, scores, signals, heads, dead letters) are JSON and msgspec structs; their JSON
Schemas in docs/contracts/ are made from this file. Inside records are Arrow record batches; an `ArrowRecord` names the
schema, and the Arrow schema's metadata carries `record` and `version`, so that a batch says what it is.

Conventions: a product key is `platform:product_id`; instants are UTC epoch milliseconds (int64); money is integer minor
units; an unknown number is NaN (float64 columns) or -1 (price columns), an unknown text is "".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import pyarrow as pa

VERSION = 1

# --------------------------------------------------------------------------------------------------------------------
# Platform records: JSON in, one per event. Unknown fields are allowed and ignored.

Instant = Annotated[str | int, msgspec.Meta(description="RFC 3339 with an offset, or integer epoch milliseconds")]
Money = Annotated[str | int | float, msgspec.Meta(description="decimal text or a number, in units of the currency")]
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$", description="ISO 4217")]


class PlatformRecord(msgspec.Struct, frozen=True, kw_only=True):
    platform: Identifier
    event_id: Identifier | None = None


class OrderLine(msgspec.Struct, frozen=True, kw_only=True):
    product_id: Identifier
    quantity: int
    unit_price: Money


class Order(PlatformRecord, frozen=True, kw_only=True):
    order_id: Identifier
    buyer_id: Identifier
    ordered_at: Instant
    currency: Currency
    status: Literal["placed", "cancelled", "returned"]
    status_at: Instant | None = None
    region: str | None = None
    lines: Annotated[list[OrderLine], msgspec.Meta(min_length=1, max_length=1000)]


class Behavior(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    user_id: Identifier
    kind: Literal["view", "cart", "favourite"]
    occurred_at: Instant


class Review(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    review_id: Identifier
    buyer_id: Identifier
    rating: Annotated[int, msgspec.Meta(ge=1, le=5)]
    title: str | None = None
    text: str | None = None
    language: str | None = None
    written_at: Instant


class Image(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    image_id: Identifier
    kind: Literal["image", "video"]
    captured_at: Instant
    content_type: str
    content: Annotated[str, msgspec.Meta(description="base64; this or uri")] | None = None
    uri: str | None = None


class Product(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    title: str
    description: str | None = None
    category: Annotated[list[str], msgspec.Meta(description="path from the widest to the narrowest")]
    brand: str | None = None
    price: Money | None = None
    currency: Currency | None = None
    attributes: dict[str, str | int | float | bool | None] | None = None
    updated_at: Instant


class InventoryLevel(PlatformRecord, frozen=True, kw_only=True):
    product_id: Identifier
    on_hand: int
    on_order: int
    lead_time_days: float
    unit_cost: Money | None = None
    updated_at: Instant


class Promotion(PlatformRecord, frozen=True, kw_only=True):
    """Counts from `announced_at` on; announced again with the same kind and start, the newer one holds."""

    product_id: Identifier
    kind: Literal["price", "display", "mailer", "offer"]
    depth: (
        Annotated[
            float, msgspec.Meta(description="price: share taken off, below zero if it rises; else its reach, 0 to 1")
        ]
        | None
    ) = None
    starts_at: Instant
    ends_at: Instant
    announced_at: Instant


PLATFORM_RECORDS: dict[str, type[PlatformRecord]] = {
    "orders": Order,
    "behaviors": Behavior,
    "reviews": Review,
    "images": Image,
    "products": Product,
    "inventory.levels": InventoryLevel,
    "promotions": Promotion,
}

# --------------------------------------------------------------------------------------------------------------------
# Inside records: Arrow.


@dataclass(frozen=True)
class ArrowRecord:
    """The schema of one kind of Arrow batch; `version` rises with every change of meaning."""

    name: str
    schema: pa.Schema
    version: int

    @staticmethod
    def of(name: str, fields: dict[str, pa.DataType], version: int = VERSION) -> ArrowRecord:
        metadata = {"record": name, "version": str(version)}
        return ArrowRecord(name, pa.schema([pa.field(k, t) for k, t in fields.items()], metadata=metadata), version)


TEXT = pa.dictionary(pa.int32(), pa.string())  # repeated strings: keys, categories, versions
I8, I32, I64, F32, F64 = pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64()


def _vector(item: pa.DataType, length: int) -> pa.DataType:
    return pa.list_(item, length)


VECTOR = 64  # dimensions of a projected text or picture vector
HORIZONS = (1, 7, 28)  # days; also the right ends of the delay buckets (0,1], (1,7], (7,28]
DELAYS = len(HORIZONS)
DAYS = 56  # closed day buckets in a window
AHEAD = max(HORIZONS)  # days of the longest horizon
HOURS = 48  # hour buckets in a window
CHANNELS = ("units", "orders", "returned", "revenue", "views", "carts", "favourites", "reviews", "rating_sum")
QUANTILES = (0.1, 0.5, 0.9, 0.95)
COMPONENTS = 8  # principal components of phi that a head may use
PROMOTION_KINDS = ("price", "display", "mailer", "offer")
KNOWN = ("holiday", *PROMOTION_KINDS)  # what is known of a day before it comes


class Trend(enum.IntEnum):
    """Trend classes, in the order of every probability array."""

    SURGING = 0
    RISING = 1
    STEADY = 2
    FALLING = 3


CLASSES = tuple(c.name.lower() for c in Trend)
THRESHOLDS = ("surge", "rise", "fall")  # units over the horizon; -1 where there is none


class SalesClass(enum.IntEnum):
    FAST = 0
    SLOW = 1
    SPORADIC = 2
    NEW = 3


class EventKind(enum.IntEnum):
    ORDER = 1
    CANCELLED = 2
    RETURNED = 3
    VIEW = 4
    CART = 5
    FAVOURITE = 6
    REVIEW = 7
    IMAGE = 8
    CATALOGUE = 9
    LEVEL = 10


class Modality(enum.IntEnum):
    """What a vector was made from; also the order of a window's mask bits (1 << value)."""

    TEXT = 0
    IMAGE = 1
    TITLE = 2
    CATALOGUE = 3
    LEVEL = 4
    BEHAVIOR = 5


class SourceState(enum.IntEnum):
    ACTIVE = 1
    IDLE = 2


class WindowKind(enum.IntEnum):
    CLOSE = 0
    LIVE = 1


_CLOSE = int(WindowKind.CLOSE)  # an enum's member takes as long to look up as the rest of a score's id to make

NO_WATERMARK = -(2**62)  # a source that is registered and has shown no event time yet

_ORIGIN = {"source": TEXT, "source_partition": I32, "source_offset": I64}

EVENTS = ArrowRecord.of(
    "events",
    {
        "kind": I8,  # EventKind
        "product": TEXT,
        "at": I64,  # event time: when it happened (status_at of a cancellation or return)
        "ordered_at": I64,  # orders of any status: when the order was placed; else equal to `at`
        **_ORIGIN,
        "quantity": I64,  # units of the line (ORDER, CANCELLED, RETURNED), else 0
        "amount": I64,  # quantity x unit price, minor units, else 0
        "rating": I8,  # REVIEW: 1 to 5, else 0
        "category": TEXT,  # CATALOGUE: path joined by " > ", else ""
        "price": I64,  # CATALOGUE: minor units, -1 unknown
        "on_hand": F64,  # LEVEL, else NaN
        "on_order": F64,
        "lead_time_days": F64,
        "unit_cost": I64,  # LEVEL: minor units, -1 unknown
    },
)

CONTROL = ArrowRecord.of(
    "control",  # one vector per ingest worker and tick, to every partition of trend.events
    {"source": TEXT, "source_partition": I32, "state": I8, "watermark": I64},
)

TEXTS = ArrowRecord.of(
    "texts",
    {"product": TEXT, "modality": I8, "at": I64, **_ORIGIN, "text": pa.string()},
)

PICTURES = ArrowRecord.of(
    "pictures",
    {
        "product": TEXT,
        "at": I64,
        **_ORIGIN,
        "image_id": pa.string(),
        "content_type": pa.string(),
        "content": pa.binary(),  # the picture itself, or empty
        "uri": pa.string(),  # where it lies, or ""
    },
)

VECTORS = ArrowRecord.of(
    "vectors",
    {"product": TEXT, "modality": I8, "at": I64, **_ORIGIN, "vector": _vector(F32, VECTOR), "encoder": TEXT},
)

PROMOTIONS = ArrowRecord.of(
    "promotions",  # in trend.events
    {
        "product": TEXT,
        "at": I64,  # announced
        **_ORIGIN,
        "promotion": I8,  # index in PROMOTION_KINDS
        "percent": I8,  # price: taken off, below zero if it rises; else its reach; 0 takes it back
        "starts": I64,
        "ends": I64,
    },
)

_WINDOW_KEY = {"product": TEXT, "end": I64, "kind": I8, "revision": I32, "as_of": I64, "offset": I64}
_STOCK = {"price": I64, "unit_cost": I64, "on_hand": F64, "on_order": F64, "lead_time_days": F64}

WINDOWS = ArrowRecord.of(
    "windows",
    {
        **_WINDOW_KEY,  # end: boundary of the newest closed day; as_of: event time that a live window has seen
        "epoch": I64,  # a close window's head: the newest epoch at or before this instant; 0 = the frozen head
        "day": _vector(I64, len(CHANNELS) * DAYS),  # [channels, days], oldest day first, before `end`
        "hour": _vector(I64, len(CHANNELS) * HOURS),  # [channels, hours], oldest first, up to as_of
        "open": _vector(I64, len(CHANNELS)),  # the open day so far; zeros in a close window
        "open_share": F64,  # elapsed share of the open day at as_of; 0 in a close window
        "weekday": I8,  # of the first day of the horizon, Monday 0, platform calendar
        # [KNOWN, DAYS + AHEAD] in percent, oldest day first: holidays, and promotions announced before `end`
        "known": _vector(I8, len(KNOWN) * (DAYS + AHEAD)),
        "text": _vector(F32, VECTOR),
        "image": _vector(F32, VECTOR),
        "title": _vector(F32, VECTOR),
        "mask": I32,  # bit 1 << Modality: present
        "age": _vector(F32, len(Modality)),  # days since the newest row of each modality, NaN where missing
        "text_encoder": TEXT,
        "image_encoder": TEXT,
        "category": TEXT,
        **_STOCK,
        "rate": F64,  # baseline units a day, before weekday factors
        "baseline": _vector(F64, DELAYS),  # B over each delay bucket (not cumulated)
        "thresholds": _vector(I64, DELAYS * len(THRESHOLDS)),  # [horizons, (surge, rise, fall)]
        "sales_class": I8,
        "age_days": I32,  # since the product's first event
        "late": I32,  # rows that came late to this product since its last close
        "late_source": TEXT,  # the platform record of the last of them to come; "" where there is none
        "late_partition": I32,  # -1 where there is none
        "late_offset": I64,  # -1 where there is none
    },
    version=2,  # 1 did not say where late rows came from
)

OUTCOMES = ArrowRecord.of(
    "outcomes",
    {
        "product": TEXT,
        "end": I64,  # of the close window it belongs to
        "delay": I8,  # index of the delay bucket
        "at": I64,  # boundary at which it matured
        "units": I64,
        "exposure": F64,  # share of the bucket in stock
        "censored": I8,  # out of stock at any time
    },
)

CLOSES = ArrowRecord.of(
    "closes",  # follows the outcomes and windows of its boundary in every partition
    {"partition": I32, "platform": TEXT, "end": I64, "windows": I64, "outcomes": I64},
)

_FORECAST = {
    "mean": _vector(F64, DELAYS),  # M_b of each delay bucket
    "dispersion": _vector(F64, DELAYS),  # r of each horizon's sum
}

PREDICTIONS = ArrowRecord.of(
    "predictions",
    {
        **_WINDOW_KEY,
        "window_offset": I64,  # of the record of trend.windows that it was made from
        **_FORECAST,
        "frozen_mean": _vector(F64, DELAYS),
        "frozen_dispersion": _vector(F64, DELAYS),
        "f": _vector(F32, DELAYS),  # the network's log correction of each delay bucket
        "components": _vector(F32, COMPONENTS),  # of phi, fixed per network
        "contributions": _vector(F32, 4),  # text, image, catalogue, behaviour: change of log mean when it is there
        "baseline": _vector(F64, DELAYS),
        "thresholds": _vector(I64, DELAYS * len(THRESHOLDS)),
        "quantiles": _vector(F64, DELAYS * len(QUANTILES)),  # [horizons, quantiles], units from `end`
        "frozen_median": _vector(F64, DELAYS),
        "probabilities": _vector(F64, DELAYS * len(CLASSES)),  # [horizons, classes]
        "trend": _vector(F64, DELAYS),
        "open_units": I64,
        "mask": I32,
        "category": TEXT,
        **_STOCK,
        "sales_class": I8,
        "model": TEXT,
        "head": TEXT,  # head version; "<model>-frozen" before the first epoch
        "head_epoch": I64,
        "head_late": I8,  # 1: the head that event time asks for was not there within head_wait
        "text_encoder": TEXT,
        "image_encoder": TEXT,
    },
)
CONTRIBUTIONS = ("text", "image", "catalogue", "behaviour")

MATURED = ArrowRecord.of(
    "matured",
    {
        "product": TEXT,
        "partition": I32,  # of trend.predictions
        "end": I64,
        "delay": I8,
        "at": I64,
        "units": I64,  # in the delay bucket
        "total": I64,  # over the horizon that ends with it
        "mean": F64,  # M_b
        "total_mean": F64,  # M_h
        "dispersion": F64,  # r_h
        "median": F64,
        "frozen_mean": F64,
        "frozen_total_mean": F64,
        "frozen_dispersion": F64,
        "frozen_median": F64,
        "baseline": F64,  # B_b
        "f": F32,
        "components": _vector(F32, COMPONENTS),
        "category": TEXT,
        "sales_class": I8,
        "exposure": F64,
        "censored": I8,
        "model": TEXT,
        "head": TEXT,
    },
)

INSTALLS = ArrowRecord.of(
    "installs",  # written to trend.matured by `trendstream heads`, so that the learner's own log has it in its place
    {"head": pa.binary(), "audit": TEXT},  # a Head as JSON, to be published next and gone on from
)

ARROW_RECORDS = {
    r.name: r
    for r in (
        EVENTS,
        CONTROL,
        TEXTS,
        PICTURES,
        VECTORS,
        PROMOTIONS,
        WINDOWS,
        OUTCOMES,
        CLOSES,
        PREDICTIONS,
        MATURED,
        INSTALLS,
    )
}

# --------------------------------------------------------------------------------------------------------------------
# What leaves trendstream, and what it keeps about itself: JSON.


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


class InventorySignal(msgspec.Struct, frozen=True, kw_only=True):
    """`signals.inventory`: reorder point and suggested order at the product's lead time and service level."""

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


class AdsSignal(msgspec.Struct, frozen=True, kw_only=True):
    """`signals.ads`: factor on the product's bid; zero where stock will not last."""

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


def product_key(platform: str, product_id: str) -> str:
    return f"{platform}:{product_id}"


def split_product(key: str) -> tuple[str, str]:
    platform, _, product_id = key.partition(":")
    return platform, product_id


def window_id(product: str, end: int, kind: int, revision: int) -> str:
    """`<product>@<end>` for a close window, with `.<revision>` for the live ones after it."""
    return f"{product}@{end}" if kind == _CLOSE else f"{product}@{end}.{revision}"
