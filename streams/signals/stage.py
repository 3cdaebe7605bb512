"""What inventory and ads make of a prediction: a fold whose decisions are a function of one row each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from streams.codecs import Rows, batches, encode_json
from streams.errors import SnapshotError
from streams.records import split_product, window_id
from streams.records.inside import PREDICTIONS
from streams.records.outside import AdsSignal, InventorySignal
from streams.signals.ads import AdsDecisions, decide_ads
from streams.signals.config import SignalConfig
from streams.signals.demand import Bools, Demand, Floats
from streams.signals.inventory import InventoryDecisions, decide_inventory
from streams.stage import Fact, Message, Output, TaskKey

Fields = dict[str, Any]

INVENTORY_TOPIC, ADS_TOPIC = "signals.inventory", "signals.ads"
COUNTERS = ("rows", "inventory", "ads", "no_level", "unusable")


class SignalStage:
    """A partition of trend.predictions in, the same partition of signals.inventory and signals.ads out.

    Every prediction gives an ads signal, and an inventory signal where its stock level is known (else it counts as
    `no_level`). A row whose forecast is no distribution counts as `unusable` and gives none.
    """

    def __init__(self, task: TaskKey, config: SignalConfig) -> None:
        self._partition = task[1]
        self._config = config
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._event_time = 0

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs: list[Output] = []
        for _, rows in batches(messages):
            if rows.record.name == PREDICTIONS.name:
                outputs.extend(self._signals(rows))
        return outputs

    def ready(self, message: Message) -> bool:
        return True

    def snapshot(self) -> dict[str, bytes]:
        return {"counters": msgspec.json.encode(self._counts)}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        try:
            counts = msgspec.json.decode(blobs["counters"], type=dict[str, int])
            self._counts = {name: counts[name] for name in COUNTERS}
        except (KeyError, msgspec.DecodeError) as error:
            raise SnapshotError(
                f"signals: the snapshot's counters cannot be read: {error}; take an older one"
            ) from error

    def counters(self) -> dict[str, int]:
        return dict(self._counts)

    def report(self) -> dict[str, Fact]:
        """The newest event time that a prediction has seen."""
        return {"event_time": self._event_time} if self._event_time else {}

    def _signals(self, rows: Rows) -> list[Output]:
        self._event_time = max(self._event_time, int(rows["as_of"].max(initial=0)))
        demand = Demand.of(rows)
        usable = demand.usable & _finite(rows, "trend") & _finite(rows, "probabilities")
        self._counts["rows"] += len(rows)
        self._counts["unusable"] += len(rows) - int(usable.sum())
        if not usable.all():
            kept = np.flatnonzero(usable)
            rows = Rows(rows.record, rows.batch.take(kept))
            demand = Demand(demand.mean[kept], demand.dispersion[kept], demand.elapsed[kept])
        inventory = decide_inventory(rows, demand, self._config)
        ads = decide_ads(rows, demand, self._config)
        outputs: list[Output] = []
        for product, shared, order, bid in zip(
            rows["product"], _shared(rows), _orders(inventory), _bids(ads), strict=True
        ):
            score_id, key = shared["score_id"], product.encode()
            if order is not None:
                signal = InventorySignal(signal_id=f"{score_id}/inventory", **shared, **order)
                outputs.append(Output(INVENTORY_TOPIC, self._partition, encode_json(signal), key))
            advert = AdsSignal(signal_id=f"{score_id}/ads", **shared, **bid)
            outputs.append(Output(ADS_TOPIC, self._partition, encode_json(advert), key))
        known = int(inventory.known.sum())
        self._counts["inventory"] += known
        self._counts["no_level"] += len(rows) - known
        self._counts["ads"] += len(rows)
        return outputs


def _shared(rows: Rows) -> Iterator[Fields]:
    """What both signals of a row say."""
    names = ("end", "kind", "revision", "as_of", "model", "head")
    columns = (rows[name].tolist() for name in names)
    for product, end, kind, revision, as_of, model, head in zip(rows["product"], *columns, strict=True):
        platform, product_id = split_product(product)
        yield {
            "revision": revision,
            "score_id": f"{window_id(product, end, kind, revision)}/{model}",
            "platform": platform,
            "product_id": product_id,
            "window_end": end,
            "window_revision": revision,
            "as_of": as_of,
            "model": model,
            "head": head,
        }


def _orders(decided: InventoryDecisions) -> Iterator[Fields | None]:
    """None where the stock level is unknown."""
    columns = {
        "on_hand": _rounded(decided.on_hand, 3),
        "on_order": _rounded(decided.on_order, 3),
        "lead_time_days": _rounded(decided.lead_time_days, 3),
        "service_level": _rounded(decided.service_level, 4),
        "expected_demand": _rounded(decided.expected_demand, 3),
        "reorder_point": _rounded(decided.reorder_point, 0),
        "suggested_order": decided.suggested_order.tolist(),
    }
    for row, known in enumerate(decided.known):
        yield {**{name: c[row] for name, c in columns.items()}, "reason": decided.reason(row)} if known else None


def _bids(decided: AdsDecisions) -> Iterator[Fields]:
    columns = {
        "bid_multiplier": _rounded(decided.multiplier, 4),
        "trend": _rounded(decided.trend, 4),
        "confidence": _rounded(decided.confidence, 4),
    }
    for row in range(len(decided.multiplier)):
        yield {**{name: c[row] for name, c in columns.items()}, "reason": decided.reason(row)}


def _finite(rows: Rows, column: str) -> Bools:
    return np.asarray(np.isfinite(rows[column]).all(axis=1))


def _rounded(column: Floats, digits: int) -> list[float]:
    return [round(value, digits) + 0.0 for value in column.tolist()]  # + 0.0: no negative zero
