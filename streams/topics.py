"""The table of topics: name, key, partitions, cleanup, retention, record.

Kafka deletes by record time stamp: replayed records carry the time at which they are produced, event time is in the
payload. `trend.dlq` takes records twice the platform topics' limit, since an envelope around a full-sized record must
fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

MIB = 1024 * 1024
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Topic:
    name: str
    key: str
    record: str
    about: str
    partitions: int = 0  # 0: as many as the settings say
    compacted: bool = False
    retention_days: int = 14
    max_bytes: int = MIB

    def configuration(self) -> dict[str, str]:
        """Broker settings of the topic."""
        retention = -1 if self.compacted else self.retention_days * DAY_MS
        return {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "retention.ms": str(retention),
            "max.message.bytes": str(self.max_bytes),
        }


PLATFORM_MAX_BYTES = 4 * MIB

TOPICS: dict[str, Topic] = {
    t.name: t
    for t in (
        Topic("orders", "order_id", "Order", "orders, cancellations, returns", max_bytes=PLATFORM_MAX_BYTES),
        Topic("behaviors", "product_id", "Behavior", "views, carts, favourites", max_bytes=PLATFORM_MAX_BYTES),
        Topic("reviews", "product_id", "Review", "ratings and texts of buyers", max_bytes=PLATFORM_MAX_BYTES),
        Topic("images", "product_id", "Image", "pictures and videos", max_bytes=PLATFORM_MAX_BYTES),
        Topic("products", "product_id", "Product", "catalogue", max_bytes=PLATFORM_MAX_BYTES),
        Topic("inventory.levels", "product_id", "InventoryLevel", "stock", max_bytes=PLATFORM_MAX_BYTES),
        Topic("promotions", "product_id", "Promotion", "announced", max_bytes=PLATFORM_MAX_BYTES),
        Topic(
            "trend.events",
            "product",
            "events, control, vectors, promotions (Arrow)",
            "clean events, one log per product",
        ),
        Topic("trend.reviews", "product", "texts (Arrow)", "texts for the encoder", max_bytes=PLATFORM_MAX_BYTES * 2),
        Topic(
            "trend.images", "product", "pictures (Arrow)", "pictures for the encoder", max_bytes=PLATFORM_MAX_BYTES * 2
        ),
        Topic("trend.windows", "product", "windows, outcomes, closes (Arrow)", "rolling windows", max_bytes=8 * MIB),
        Topic("trend.predictions", "product", "predictions, outcomes, closes (Arrow)", "forecasts", max_bytes=8 * MIB),
        Topic(
            "trend.matured", "none", "matured, closes, installs (Arrow)", "forecasts and sales", 1, max_bytes=8 * MIB
        ),
        Topic("trend.scores", "product", "Score", "trend scores, for everyone"),
        Topic("signals.inventory", "product", "InventorySignal", "reorder points and suggested orders"),
        Topic("signals.ads", "product", "AdsSignal", "bid multipliers"),
        Topic("model.heads", "version", "Head", "heads as versioned data", 1, compacted=True, max_bytes=8 * MIB),
        Topic("model.events", "subject", "ModelEvent", "drift and decisions of the learner", 1, retention_days=365),
        Topic(
            "trend.dlq",
            "dead_letter_id",
            "DeadLetter",
            "events that could not be used",
            retention_days=90,
            max_bytes=PLATFORM_MAX_BYTES * 2,
        ),
        Topic("trend.progress", "task", "Progress", "counters of every stage task", 1, compacted=True),
        Topic(
            "trend.skips", "task and offset", "Skip", "records that a stage passes over, by command", 1, compacted=True
        ),
        Topic("trend.redrives", "dead_letter_id", "Redrive", "dead letters that were sent again", 1, compacted=True),
        Topic("trend.audit", "audit_id", "Audit", "who changed what by command, and why", 1, compacted=True),
        Topic(
            "trend.snapshots",
            "chunk",
            "bytes, SnapshotManifest",
            "state of the stages",
            compacted=True,
            max_bytes=8 * MIB,
        ),
    )
}

PLATFORM_TOPICS = ("orders", "behaviors", "reviews", "images", "products", "inventory.levels", "promotions")
TIME_TOPICS = ("orders", "behaviors")  # the only sources that hold event time back


def topics(partitions: int) -> list[Topic]:
    """Every topic with its number of partitions filled in."""
    return [t if t.partitions else replace(t, partitions=partitions) for t in TOPICS.values()]
