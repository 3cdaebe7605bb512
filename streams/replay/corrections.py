"""Makes a replay's outcome hold: the same ids again, with a higher revision.

A correction is what is not said yet: whoever asks again, after a crash or for the second time, gets the rest, and in
the end nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from streams.codecs import encode_json
from streams.records.outside import AdsSignal, InventorySignal, Score
from streams.replay.pairs import ADS, INVENTORY, Pair, differs
from streams.stage import Output


@dataclass(frozen=True)
class Correction:
    """One record to publish, and the one that it takes the place of."""

    output: Output
    before: Score | InventorySignal | AdsSignal | None
    after: Score | InventorySignal | AdsSignal


def corrections(pair: Pair, replay: str) -> Iterator[Correction]:
    """What is left to send of one window."""
    was, now = pair.published, pair.shadow
    score_id = was.score_id if was else now.score_id
    # It is the same window for whoever keeps the newest of a product: only what was said of it changes.
    window = {
        "window_end": now.window_end,
        "window_revision": was.window_revision if was else now.window_revision,
        "as_of": was.as_of if was else now.as_of,
    }
    if differs(was, now):
        of_score = {"score_id": score_id, "revision": was.revision + 1 if was else now.revision, "replay": replay}
        if was:
            of_score |= {"window_id": was.window_id, "window_kind": was.window_kind}
            of_score["events_offset"] = was.events_offset
        yield _correction("trend.scores", pair, was, msgspec.structs.replace(now, **of_score, **window))
    for topic, suffix, (before, after) in ((INVENTORY, "inventory", pair.inventory), (ADS, "ads", pair.ads)):
        if after is not None and differs(before, after):
            revision = before.revision + 1 if before else after.revision
            of_signal = {"signal_id": f"{score_id}/{suffix}", "score_id": score_id, "revision": revision}
            yield _correction(topic, pair, before, msgspec.structs.replace(after, **of_signal, **window, replay=replay))


def _correction(
    topic: str,
    pair: Pair,
    before: Score | InventorySignal | AdsSignal | None,
    after: Score | InventorySignal | AdsSignal,
) -> Correction:
    return Correction(Output(topic, pair.partition, encode_json(after), pair.product.encode()), before, after)
