"""What inventory and ads make of a prediction: a fold whose decisions are a function of one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streams.codecs import Rows, batches, encode_json
from streams.errors import SnapshotError
from streams.records import PREDICTIONS, AdsSignal, InventorySignal, split_product, window_id
from streams.signals.ads import decide_ads
from streams.signals.config import SignalConfig
from streams.signals.demand import Bools, Demand, Floats
from streams.signals.inventory import decide_inventory
from streams.stage import Fact, Message, Output, TaskKey

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
        products, models, heads = rows["product"], rows["model"], rows["head"]
        ends, kinds, revisions, as_of = (rows[name].tolist() for name in ("end", "kind", "revision", "as_of"))
        on_hand, on_order = _rounded(inventory.on_hand, 3), _rounded(inventory.on_order, 3)
        lead_time, service_level = _rounded(inventory.lead_time_days, 3), _rounded(inventory.service_level, 4)
        expected, reorder_point = _rounded(inventory.expected_demand, 3), _rounded(inventory.reorder_point, 0)
        suggested_order = inventory.suggested_order.tolist()
        multiplier, trend, confidence = (_rounded(c, 4) for c in (ads.multiplier, ads.trend, ads.confidence))
        outputs: list[Output] = []
        for row, product in enumerate(products):
            platform, product_id = split_product(product)
            score_id = f"{window_id(product, ends[row], kinds[row], revisions[row])}/{models[row]}"
            key = product.encode()
            if inventory.known[row]:
                order = InventorySignal(
                    signal_id=f"{score_id}/inventory",
                    revision=revisions[row],
                    score_id=score_id,
                    platform=platform,
                    product_id=product_id,
                    window_end=ends[row],
                    window_revision=revisions[row],
                    as_of=as_of[row],
                    on_hand=on_hand[row],
                    on_order=on_order[row],
                    lead_time_days=lead_time[row],
                    service_level=service_level[row],
                    expected_demand=expected[row],
                    reorder_point=reorder_point[row],
                    suggested_order=suggested_order[row],
                    reason=inventory.reason(row),
                    model=models[row],
                    head=heads[row],
                )
                outputs.append(Output(INVENTORY_TOPIC, self._partition, encode_json(order), key))
            bid = AdsSignal(
                signal_id=f"{score_id}/ads",
                revision=revisions[row],
                score_id=score_id,
                platform=platform,
                product_id=product_id,
                window_end=ends[row],
                window_revision=revisions[row],
                as_of=as_of[row],
                bid_multiplier=multiplier[row],
                trend=trend[row],
                confidence=confidence[row],
                reason=ads.reason(row),
                model=models[row],
                head=heads[row],
            )
            outputs.append(Output(ADS_TOPIC, self._partition, encode_json(bid), key))
        known = int(inventory.known.sum())
        self._counts["inventory"] += known
        self._counts["no_level"] += len(rows) - known
        self._counts["ads"] += len(rows)
        return outputs


def _finite(rows: Rows, column: str) -> Bools:
    return np.asarray(np.isfinite(rows[column]).all(axis=1))


def _rounded(column: Floats, digits: int) -> list[float]:
    return [round(value, digits) + 0.0 for value in column.tolist()]  # + 0.0: no negative zero
