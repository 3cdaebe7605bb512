"""Events as a platform sends them, and what the ingest fold makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from streams.calendars import Platform
from streams.codecs import decode, decode_json
from streams.ingest import IngestConfig, IngestStage
from streams.records.inside import CONTROL
from streams.records.outside import DeadLetter
from streams.stage import Message, Output

DAY = 86_400_000
T = 1_511_524_800_000  # 2017-11-24T12:00:00Z
SECRET = b"a secret of the tests, 32 bytes."
PLATFORMS = {"shop": Platform("shop", "America/Sao_Paulo", "BRL"), "tokyo": Platform("tokyo", "Asia/Tokyo", "JPY")}
CONFIG = IngestConfig(partitions=3, platforms=PLATFORMS, secret=SECRET)
RECORD_TIME = T + 1000

Event = dict[str, Any]


def order(
    order_id: str = "o1", lines: Sequence[tuple[str, object, object]] = (("p1", 2, "10.00"),), **more: object
) -> Event:
    return {
        "platform": "shop",
        "order_id": order_id,
        "buyer_id": "maria.silva",
        "ordered_at": T,
        "currency": "BRL",
        "status": "placed",
        "lines": [{"product_id": p, "quantity": q, "unit_price": u} for p, q, u in lines],
        **more,
    }


def cancelled(order_id: str, lines: Sequence[tuple[str, object, object]], at: int, **more: Any) -> Event:
    return order(order_id, lines, status="cancelled", status_at=at, **more)


def behavior(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "user_id": "joao", "kind": "view", "occurred_at": T}
    return {**event, **more}


def review(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "review_id": "r1", "buyer_id": "maria", "rating": 5}
    return {**event, "written_at": T, **more}


def image(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "image_id": "i1", "kind": "image", "captured_at": T}
    return {**event, "content_type": "image/png", **more}


def product(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "title": "Lamp", "category": ["home", "light"], "updated_at": T}
    return {**event, **more}


def level(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "on_hand": 5, "on_order": 0, "lead_time_days": 2.5}
    return {**event, "updated_at": T, **more}


def promotion(**more: Any) -> Event:
    event = {"platform": "shop", "product_id": "p1", "kind": "mailer", "starts_at": T + DAY, "ends_at": T + 8 * DAY}
    return {**event, "announced_at": T, **more}


def message(topic: str, offset: int, event: object, timestamp: int = RECORD_TIME, key: bytes | None = b"k") -> Message:
    value = event if isinstance(event, bytes | None) else json.dumps(event).encode()
    return Message(topic, 0, offset, timestamp, key, value)


def messages(topic: str, events: Sequence[object]) -> list[Message]:
    return [message(topic, offset, event) for offset, event in enumerate(events)]


def stage(topic: str, config: IngestConfig = CONFIG) -> IngestStage:
    return IngestStage((topic, 0), config)


def rows(outputs: Sequence[Output], topic: str = "trend.events") -> dict[int, list[dict[str, Any]]]:
    """Rows by partition, as plain values; control rows left out."""
    found: dict[int, list[dict[str, Any]]] = {}
    for output in outputs:
        if output.topic == topic:
            assert output.value is not None
            decoded = decode(output.value)
            if decoded.record is not CONTROL:
                found.setdefault(output.partition, []).extend(decoded.batch.to_pylist())
    return found


def flat(outputs: Sequence[Output], topic: str = "trend.events") -> list[dict[str, Any]]:
    """Rows of every partition in the order of the source."""
    everything = [row for part in rows(outputs, topic).values() for row in part]
    return sorted(everything, key=lambda row: row["source_offset"])


def letters(outputs: Sequence[Output]) -> list[DeadLetter]:
    return [decode_json(o.value or b"", DeadLetter) for o in outputs if o.topic == "trend.dlq"]


def lawful(task: IngestStage) -> dict[str, int]:
    counts = task.counters()
    assert counts["read"] == counts["accepted"] + counts["repeated"] + counts["dead"] + counts["waiting"]
    assert counts["dead"] == sum(n for name, n in counts.items() if name.startswith("dead."))
    return counts
