"""The reviews, titles and pictures of a product that are nearest to what moved its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from featurizers.pooling import shares
from featurizers.window_config import WindowConfig
from model.explain import Explanation, effects
from model.registry import Bundle
from streams.calendars import DAY
from streams.codecs import Rows
from streams.records import HORIZONS, Modality
from streams.records.outside import Head
from streams.replay.log import Log

LOOKED_AT = 64  # newest vectors of a modality
_NAMED = 3  # of each modality
_LEAST = 0.01  # share of the mean below which a vector has faded
_WEEK = HORIZONS.index(7)
_ENCODERS = {Modality.TEXT: "text_encoder", Modality.IMAGE: "image_encoder", Modality.TITLE: "text_encoder"}
_SAYS = ("title", "text", "uri", "image_id")  # fields of a platform record, those that are there


@dataclass(frozen=True)
class Piece:
    """One review, title or picture."""

    modality: str
    at: int
    topic: str  # the platform record that it came with
    partition: int
    offset: int
    share: float  # of the mean that the window holds of its modality
    effect: tuple[float, ...]  # by horizon: log of what it alone would make of the units, beside none of its modality
    says: str  # "" where the record is not kept any more


def pieces(
    log: Log,
    window: Rows,
    vectors: Sequence[Mapping[str, Any]],
    bundle: Bundle,
    head: Head,
    explanation: Explanation,
) -> list[Piece]:
    """Of each modality that has a part in the score, those of the `vectors` (rows of VECTORS, oldest first) that move
    the 7 days' units most in the direction of that part: their effect times their share of the mean, since what was
    said long ago has faded from it."""
    found = []
    for modality, encoder in _ENCODERS.items():
        name = window[encoder][0]
        mine = [v for v in vectors if v["modality"] == modality and v["encoder"] == name][-LOOKED_AT:]
        part = explanation.parts.get(modality.name.lower())
        if part is None or not mine:
            continue
        gains = effects(window, bundle, head, modality, np.array([v["vector"] for v in mine], np.float32))
        share = shares(np.array([v["at"] for v in mine], np.int64), WindowConfig.vector_half_life * DAY)
        moved = share * gains[:, _WEEK] * np.sign(part[_WEEK])
        order = np.argsort(-moved, kind="stable")
        for i in order[share[order] >= _LEAST][:_NAMED].tolist():
            row, effect = mine[i], tuple(gains[i].tolist())
            place = (row["source"], row["source_partition"], row["source_offset"])
            found.append(Piece(modality.name.lower(), row["at"], *place, float(share[i]), effect, _says(log, *place)))
    return found


def _says(log: Log, topic: str, partition: int, offset: int) -> str:
    message = log.first((topic, partition), offset)
    if message is None or message.offset != offset or message.value is None:
        return ""
    record = msgspec.json.decode(message.value)
    return " ".join(str(record[name]) for name in _SAYS if record.get(name))
