"""History in one process: what a day's reviews say is known when its windows close."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from deploy import pipeline
from deploy.loop import Loop
from deploy.settings import load_settings
from deploy.sources import PlatformEvent
from featurizers.projection import random_projection
from streams.calendars import DAY, HOUR
from streams.codecs import decode
from streams.records.inside import WINDOWS
from tests.unit.test_encoding import LetterEncoder

START = 1_704_067_200_000  # 2024-01-01 in UTC, 19:00 of the day before in New York
MIDNIGHT = 5 * HOUR


def _events() -> Iterator[PlatformEvent]:
    """An order a day at noon in New York, and on the third day a review, an hour before midnight."""
    for day in range(6):
        at = START + day * DAY + 17 * HOUR
        order = {"platform": "shop", "order_id": f"o{day}", "buyer_id": "b", "ordered_at": at, "currency": "USD",
                 "status": "placed", "lines": [{"product_id": "p", "quantity": 1, "unit_price": "1.00"}]}  # fmt: skip
        yield PlatformEvent("orders", f"o{day}", json.dumps(order).encode(), at)
        if day == 2:
            at = START + 3 * DAY + MIDNIGHT - HOUR
            review = {"platform": "shop", "product_id": "p", "review_id": "r", "buyer_id": "b", "rating": 5,
                      "text": "bright", "written_at": at}  # fmt: skip
            yield PlatformEvent("reviews", "p", json.dumps(review).encode(), at)


def test_a_review_would_reach_windows_days_after_it_was_written() -> None:
    settings = load_settings(partitions=1, platforms={"shop": {"timezone": "America/New_York", "currency": "USD"}})
    encoder = LetterEncoder()
    specs = [
        pipeline.ingest_spec(settings),
        pipeline.text_spec(settings, encoder, random_projection(encoder.dimensions)),
        pipeline.windows_spec(settings, live=False),
    ]
    loop = Loop(specs, 1, calendars=[p.calendar for p in settings.calendars().values()])
    loop.feed(_events())
    loop.settle(settings.idle_ms)
    batches = [decode(message.value or b"") for message in loop.log.records("trend.windows")]
    known = {int(end): bool(np.any(text)) for rows in batches if rows.record is WINDOWS
             for end, text in zip(rows["end"], rows["text"], strict=True)}  # fmt: skip
    closes = [START + day * DAY + MIDNIGHT for day in range(1, 6)]
    assert known == {end: end > START + 2 * DAY + MIDNIGHT for end in closes}
