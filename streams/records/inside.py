"""Arrow batches between stages. The metadata of a schema carries `record` and `version`: a batch says what it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from streams.records import (
    AHEAD,
    CHANNELS,
    CLASSES,
    COMPONENTS,
    DAYS,
    DELAYS,
    HOURS,
    KNOWN,
    QUANTILES,
    THRESHOLDS,
    VECTOR,
    VERSION,
    Modality,
)


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

    @cached_property
    def types(self) -> dict[str, pa.DataType]:
        """The schema's fields, which Arrow would make anew for every question."""
        return {field.name: field.type for field in self.schema}


TEXT = pa.dictionary(pa.int32(), pa.string())  # repeated strings: keys, categories, versions
I8, I32, I64, F32, F64 = pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64()


def _vector(item: pa.DataType, length: int) -> pa.DataType:
    return pa.list_(item, length)


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
