"""What was published beside what a replay says instead, window by window.

Close windows meet by their id. Live windows do not come at the same moments once rows stand elsewhere: what was
published at an offset of trend.events meets the newest window of its product that the replay had at that offset, which
is what should have been said then.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from streams.codecs import decode_json
from streams.records import product_key
from streams.records.outside import AdsSignal, InventorySignal, Score
from streams.replay.cut import cut
from streams.replay.log import Log
from streams.replay.plan import Plan
from streams.replay.shadow import Shadow

INVENTORY, ADS = "signals.inventory", "signals.ads"
_LABELS = {
    *("schema_version", "score_id", "signal_id", "revision", "replay", "window_id", "window_kind", "window_revision"),
    *("as_of", "events_offset", "head_late", "model", "head", "encoders"),
}


@dataclass(frozen=True)
class Pair:
    """One window: what holds of the published records (their highest revision), and what the replay says."""

    partition: int
    product: str
    published: Score | None  # None: the product had no such window
    shadow: Score
    inventory: tuple[InventorySignal | None, InventorySignal | None] = (None, None)
    ads: tuple[AdsSignal | None, AdsSignal | None] = (None, None)

    @property
    def changed(self) -> bool:
        return any(differs(*both) for both in ((self.published, self.shadow), self.inventory, self.ads))


def differs(published: msgspec.Struct | None, shadow: msgspec.Struct | None) -> bool:
    """Whether a consumer would decide otherwise: numbers, classes and texts, and not who said it."""
    if shadow is None:
        return False  # what was said cannot be unsaid
    return published is None or _said(published) != _said(shadow)


def pairs(plan: Plan, log: Log, shadow: Shadow, waiting: bool = False) -> Iterator[Pair]:
    """Of the plan's range and products, a partition at a time. `waiting`: windows were left out at the replay's end."""
    shadows = _Shadows.of(shadow, set(plan.products))
    ends = {} if waiting else {fork.partition: fork.end for fork in plan.of("windows")}
    for partition in range(plan.partitions):
        if partition not in shadows.scores:
            continue
        # What runs has gone on since: of what it has read from here on the replay knows nothing.
        end = ends.get(partition, shadows.end(partition))
        published = _published(plan, log, "trend.scores", partition, Score)
        inventory = _published(plan, log, INVENTORY, partition, InventorySignal)
        ads = _published(plan, log, ADS, partition, AdsSignal)
        met: set[str] = set()
        for score in published.values():
            product = product_key(score.platform, score.product_id)
            other = shadows.counterpart(partition, product, score)
            if other is None or score.events_offset >= end or (plan.products and product not in plan.products):
                continue
            met.add(other.window_id)
            yield Pair(
                partition,
                product,
                score,
                other,
                (inventory.get(f"{score.score_id}/inventory"), shadows.inventory.get(other.score_id)),
                (ads.get(f"{score.score_id}/ads"), shadows.ads.get(other.score_id)),
            )
        for of_product in shadows.scores[partition].values():
            for other in of_product:
                if other.window_kind == "close" and other.window_id not in met:
                    mine = (None, shadows.inventory.get(other.score_id)), (None, shadows.ads.get(other.score_id))
                    yield Pair(partition, product_key(other.platform, other.product_id), None, other, *mine)


@dataclass
class _Shadows:
    """What the replay says, by product and window end in order of time."""

    scores: dict[int, dict[tuple[str, int], list[Score]]] = field(default_factory=lambda: defaultdict(dict))
    inventory: dict[str, InventorySignal] = field(default_factory=dict)  # by score id
    ads: dict[str, AdsSignal] = field(default_factory=dict)

    @staticmethod
    def of(shadow: Shadow, products: set[str]) -> _Shadows:
        found = _Shadows()
        for message in shadow.records("trend.scores"):
            score = decode_json(message.value or b"", Score)
            product = product_key(score.platform, score.product_id)
            if not products or product in products:
                found.scores[message.partition].setdefault((product, score.window_end), []).append(score)
        for message in shadow.records(INVENTORY):
            order = decode_json(message.value or b"", InventorySignal)
            found.inventory[order.score_id] = order
        for message in shadow.records(ADS):
            bid = decode_json(message.value or b"", AdsSignal)
            found.ads[bid.score_id] = bid
        return found

    def end(self, partition: int) -> int:
        """Offset of trend.events behind the newest window."""
        return 1 + max(s.events_offset for of_product in self.scores[partition].values() for s in of_product)

    def counterpart(self, partition: int, product: str, score: Score) -> Score | None:
        of_product = self.scores[partition].get((product, score.window_end), [])
        if score.window_kind == "close":
            return next((s for s in of_product if s.window_kind == "close"), None)
        place = bisect.bisect_right(of_product, score.events_offset, key=lambda s: s.events_offset)
        return of_product[place - 1] if place else None


Record = TypeVar("Record", Score, InventorySignal, AdsSignal)


def _published(plan: Plan, log: Log, topic: str, partition: int, kind: type[Record]) -> dict[str, Record]:
    """By id, the highest revision of each; corrections lie behind all the others."""
    found: dict[str, Record] = {}
    task = (topic, partition)
    for message in log.read(task, cut(log, task, plan.start), log.range(task)[1]):
        record = decode_json(message.value or b"", kind)
        if not plan.start <= record.window_end < plan.to:
            continue
        name = record.score_id if isinstance(record, Score) else record.signal_id
        if name not in found or record.revision > found[name].revision:
            found[name] = record
    return found


def _said(record: msgspec.Struct) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(record).items() if name not in _LABELS}
