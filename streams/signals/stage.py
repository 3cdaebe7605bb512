"""What inventory and ads make of a prediction: a fold whose decisions are a function of one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from streams.codecs import Rows, decode, encode_json
from streams.errors import SnapshotError
from streams.records import PREDICTIONS, AdsSignal, InventorySignal, split_product, window_id
from streams.signals.ads import decide_ads
from streams.signals.config import SignalConfig
from streams.signals.demand import Bools, Demand
from streams.signals.inventory import decide_inventory
from streams.stage import Message, Output, TaskKey

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

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs: list[Output] = []
        for message in messages:
            if message.value is None:
                continue
            rows = decode(message.value)
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

    def _signals(self, rows: Rows) -> list[Output]:
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
                    as_of=as_of[row],
                    on_hand=_rounded(inventory.on_hand[row], 3),
                    on_order=_rounded(inventory.on_order[row], 3),
                    lead_time_days=_rounded(inventory.lead_time_days[row], 3),
                    service_level=_rounded(inventory.service_level[row], 4),
                    expected_demand=_rounded(inventory.expected_demand[row], 3),
                    reorder_point=_rounded(inventory.reorder_point[row], 0),
                    suggested_order=int(inventory.suggested_order[row]),
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
                as_of=as_of[row],
                bid_multiplier=_rounded(ads.multiplier[row], 4),
                trend=_rounded(ads.trend[row], 4),
                confidence=_rounded(ads.confidence[row], 4),
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


def _rounded(value: float, digits: int) -> float:
    return round(float(value), digits) + 0.0  # no negative zero
