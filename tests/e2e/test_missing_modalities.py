"""Scores where each modality is missing, and where all are: with masks, never an error."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from deploy import pipeline
from deploy.loop import Loop
from deploy.settings import Settings, load_settings
from deploy.sources import PlatformEvent
from deploy.training import Encoders
from featurizers.image import ImageEncoder
from featurizers.projection import random_projection
from featurizers.text import TextEncoder
from model.registry import untrained_bundle
from streams.codecs import decode_json
from streams.records.outside import Score

DAY = 86_400_000
START = 1_704_067_200_000  # 2024-01-01
MODALITIES = ("reviews", "images", "products", "inventory.levels", "behaviors")
MISSING = {"reviews": "text", "images": "image", "products": "catalogue", "inventory.levels": "level"}


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    text, image = TextEncoder(), ImageEncoder()
    return Encoders(text, image, random_projection(text.dimensions), random_projection(image.dimensions))


def _picture(number: int) -> str:
    sink = io.BytesIO()
    Image.new("RGB", (48, 48), (40 * number % 255, 90, 200)).save(sink, "JPEG")
    return base64.b64encode(sink.getvalue()).decode()


def _events(left_out: tuple[str, ...]) -> Iterator[PlatformEvent]:
    """Five products over six days, with everything but what is left out."""

    def event(topic: str, product: str, at: int, **fields: object) -> PlatformEvent:
        body = {"platform": "shop", "product_id": product, **fields}
        return PlatformEvent(topic, product, json.dumps(body).encode(), at)

    for day in range(6):
        for number in range(5):
            product, at = f"p{number}", START + day * DAY + number * 60_000
            events = []
            if day == 0:
                events = [
                    event("products", product, at, title=f"Lamp {number}", category=["home"], updated_at=at),
                    event(
                        "images",
                        product,
                        at,
                        image_id=f"i{number}",
                        kind="image",
                        captured_at=at,
                        content_type="image/jpeg",
                        content=_picture(number),
                    ),
                    event("inventory.levels", product, at, on_hand=9, on_order=0, lead_time_days=3, updated_at=at),
                    event(
                        "reviews",
                        product,
                        at,
                        review_id=f"r{number}",
                        buyer_id="b",
                        rating=4,
                        text="bright and quiet",
                        written_at=at,
                    ),
                ]
            events.append(event("behaviors", product, at, user_id=f"u{day}", kind="view", occurred_at=at))
            yield from (e for e in events if e.topic not in left_out)
            line = {"product_id": product, "quantity": 1 + number, "unit_price": "10.00"}
            order = {
                "platform": "shop",
                "order_id": f"o{day}-{number}",
                "buyer_id": "b",
                "ordered_at": at + 1,
                "currency": "EUR",
                "status": "placed",
                "lines": [line],
            }
            yield PlatformEvent("orders", str(order["order_id"]), json.dumps(order).encode(), at + 1)


def _run(encoders: Encoders, left_out: tuple[str, ...]) -> list[Score]:
    settings: Settings = load_settings(partitions=2, platforms={"shop": {}})
    bundle = untrained_bundle()
    specs = [
        pipeline.ingest_spec(settings),
        *encoders.specs(settings),
        pipeline.windows_spec(settings, live=False),
        pipeline.inference_spec(settings, bundle),
        pipeline.labels_spec(settings),
        pipeline.learner_spec(settings, bundle),
        pipeline.signals_spec(settings),
    ]
    loop = Loop(specs, settings.partitions, chunk=5)
    loop.feed(_events(left_out))
    loop.settle(settings.idle_ms)
    return [decode_json(m.value or b"", Score) for m in loop.log.records("trend.scores")]


@pytest.mark.parametrize("left_out", [(), *((topic,) for topic in MODALITIES), MODALITIES], ids=lambda t: "+".join(t))
def test_what_is_missing_is_in_the_mask_and_the_score_is_there(encoders: Encoders, left_out: tuple[str, ...]) -> None:
    scores = _run(encoders, left_out)
    newest = {s.product_id: s for s in scores}
    assert sorted(newest) == [f"p{i}" for i in range(5)]
    for score in newest.values():
        for topic, modality in MISSING.items():
            assert (modality in score.missing) == (topic in left_out), (topic, score.missing)
        assert ("behavior" in score.missing) == ("behaviors" in left_out)
        for horizon in score.horizons:
            numbers = [horizon.expected, horizon.trend, horizon.dispersion, *horizon.quantiles.values()]
            assert np.isfinite(numbers).all()
            assert sum(horizon.probabilities.values()) == pytest.approx(1)
