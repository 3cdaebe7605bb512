"""What is named as having moved a score: the product's own texts, those that move it most, as they were sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from deploy import pipeline
from deploy.lineage import lineage
from deploy.loop import Loop
from deploy.settings import Settings, load_settings
from deploy.sources import PlatformEvent
from featurizers.pooling import shares
from featurizers.projection import random_projection
from model.registry import save_bundle
from streams.calendars import DAY, HOUR, Calendar
from streams.codecs import decode_json
from streams.embedded import EmbeddedLog
from streams.records import Modality
from streams.records.outside import Score
from streams.replay.log import MemoryLog
from tests.unit.synthetic_windows import lively_bundle
from tests.unit.test_encoding import LetterEncoder

START = 1_704_067_200_000  # 2024-01-01
DAYS = 12
TEXTS = ("aaaa bbbb", "zzzz yyyy", "mmmm nnnn", "eeee iiii", "qqqq xxxx")  # on as many days from the fourth on


def _events() -> Iterator[PlatformEvent]:
    for day in range(DAYS):
        at = START + day * DAY + HOUR
        if 3 <= day < 3 + len(TEXTS):
            for product, text in (("p", TEXTS[day - 3]), ("other", "jjjj kkkk")):
                review = {"platform": "shop", "product_id": product, "review_id": f"{product}{day}", "buyer_id": "b",
                          "rating": 3, "text": text, "written_at": at}  # fmt: skip
                yield PlatformEvent("reviews", product, json.dumps(review).encode(), at)
        order = {"platform": "shop", "order_id": f"o{day}", "buyer_id": "b", "ordered_at": at + HOUR, "currency": "EUR",
                 "status": "placed", "lines": [{"product_id": p, "quantity": 2, "unit_price": "1.00"}
                                               for p in ("p", "other")]}  # fmt: skip
        yield PlatformEvent("orders", f"o{day}", json.dumps(order).encode(), at + HOUR)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[EmbeddedLog, Settings, str]:
    """A log, and the newest score of product p in it."""
    folder = tmp_path_factory.mktemp("models")
    settings = load_settings(partitions=1, platforms={"shop": {}}, model_dir=folder)
    encoder, bundle = LetterEncoder(), lively_bundle()
    save_bundle(bundle, folder)
    specs = [
        pipeline.ingest_spec(settings),
        pipeline.text_spec(settings, encoder, random_projection(encoder.dimensions)),
        pipeline.windows_spec(settings, live=False),
        pipeline.inference_spec(settings, bundle),
    ]
    loop = Loop(specs, 1, calendars=[Calendar("UTC")])
    loop.feed(_events())
    loop.settle(settings.idle_ms)
    scores = [decode_json(m.value or b"", Score) for m in loop.log.records("trend.scores")]
    score = max((s for s in scores if s.product_id == "p"), key=lambda s: s.window_end)
    return loop.log, settings, score.score_id


def test_texts_of_another_product_or_the_weaker_or_faded_ones_would_be_named(
    scored: tuple[EmbeddedLog, Settings, str],
) -> None:
    log, settings, score_id = scored
    found = lineage(MemoryLog(log), settings, score_id)
    assert {piece.modality for piece in found.pieces} == {"text"}
    direction = np.sign(found.explanation.parts["text"][1])
    moved = [piece.share * piece.effect[1] * direction for piece in found.pieces]
    assert len(moved) == 3
    assert moved == sorted(moved, reverse=True)
    assert all(piece.at == START + (3 + TEXTS.index(piece.says)) * DAY + HOUR for piece in found.pieces)
    halved = 2 ** (-np.arange(len(TEXTS))[::-1] / 3)  # in the window's mean a text of three days before counts half
    assert [p.share for p in found.pieces] == pytest.approx(
        [halved[TEXTS.index(p.says)] / halved.sum() for p in found.pieces]
    )


def test_what_has_faded_from_the_mean_would_be_named_for_want_of_others(
    scored: tuple[EmbeddedLog, Settings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, settings, score_id = scored
    monkeypatch.setattr("deploy.evidence._LEAST", 0.3)
    assert {piece.says for piece in lineage(MemoryLog(log), settings, score_id).pieces} == {TEXTS[-1]}


def test_a_share_of_the_mean_would_not_be_that_of_the_window(scored: tuple[EmbeddedLog, Settings, str]) -> None:
    log, settings, score_id = scored
    found = lineage(MemoryLog(log), settings, score_id)
    vectors = [v for v in found.origins.vectors if v["modality"] == Modality.TEXT]
    share = shares(np.array([v["at"] for v in vectors]), 3 * DAY)
    np.testing.assert_allclose(share @ np.array([v["vector"] for v in vectors]), found.window["text"], rtol=1e-5)


def test_of_a_review_that_is_not_kept_any_more_another_would_be_shown(
    scored: tuple[EmbeddedLog, Settings, str],
) -> None:
    log, settings, score_id = scored
    first, *others = lineage(MemoryLog(log), settings, score_id).pieces
    records = log.records(first.topic, first.partition)
    records[:] = [m for m in records if m.offset != first.offset]
    again = lineage(MemoryLog(log), settings, score_id).pieces
    assert again == [replace(first, says=""), *others]
