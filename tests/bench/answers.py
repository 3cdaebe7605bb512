"""What order lines have waited for, and how long: read from the topics once a load is over."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.calendars import DAY
from streams.codecs import decode
from streams.records import WindowKind
from streams.records.inside import CONTROL, EVENTS, PREDICTIONS, WINDOWS
from streams.stage import Message
from streams.watermarks import CombinedWatermark

Place = tuple[int, int]  # partition and offset


@dataclass(frozen=True)
class Answers:
    """Of order lines."""

    waited: npt.NDArray[np.float64]  # [lines] ms until the first score that knows of the line; infinite: never
    held: npt.NDArray[np.bool_]  # [lines] whether the row cap kept the product out of the next live windows

    def quantile(self, q: float, held: bool = True) -> float:
        """Without those that the cap held back, if `held` is false; NaN where there are none."""
        some = self.waited if held else self.waited[~self.held]
        return float(np.quantile(some, q, method="higher")) if len(some) else float("nan")

    @property
    def unanswered(self) -> float:
        """Share of the lines."""
        return float(np.isinf(self.waited).mean())


class Emissions:
    """Products with a live window in one partition, by the offset of trend.events after which it was made."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.products: list[set[str]] = []

    def add(self, offset: int, products: set[str]) -> None:
        if not self.offsets or self.offsets[-1] != offset:
            self.offsets.append(offset)
            self.products.append(set())
        self.products[-1] |= products

    def __len__(self) -> int:
        """Live windows."""
        return sum(map(len, self.products))

    def left_out(self, product: str, offset: int) -> bool:
        """Whether the first emission after a record that touched the product is without it."""
        place = bisect_left(self.offsets, offset)
        return place < len(self.products) and product not in self.products[place]


def emissions(messages: Iterable[Message]) -> dict[int, Emissions]:
    """By partition, from records of trend.windows."""
    found: dict[int, Emissions] = defaultdict(Emissions)
    for message in messages:
        rows = decode(message.value or b"")
        if rows.record is WINDOWS and rows["kind"][0] == WindowKind.LIVE:
            found[message.partition].add(int(rows["offset"][0]), set(rows["product"]))
    return found


def answers(
    due: Mapping[Place, int],
    events: Iterable[Message],
    live: Mapping[int, Emissions],
    seen: Mapping[str, Sequence[tuple[int, float]]],
    lines: int,
) -> Answers:
    """For orders by their place in `orders`, each with when it was due (epoch ms) and so many `lines`.

    `events` are records of trend.events; `seen` says when (epoch ms) each score of a product could be read, with the
    offset of trend.events that it knows of, in order.
    """
    waited, held = [], []
    for message in events:
        for product, at in _lines(message, due):
            scores = seen.get(product, ())
            place = bisect_left(scores, (message.offset, 0.0))
            waited.append(scores[place][1] - at if place < len(scores) else np.inf)
            held.append(message.partition in live and live[message.partition].left_out(product, message.offset))
    missing = len(due) * lines - len(waited)  # not even in trend.events
    return Answers(np.asarray(waited + [np.inf] * missing), np.asarray(held + [False] * missing, np.bool_))


def _lines(message: Message, due: Mapping[Place, int]) -> Iterator[tuple[str, int]]:
    """Product of each order line of a record, and when its order was due."""
    rows = decode(message.value or b"")
    if rows.record is EVENTS:
        origins = zip(rows["source_partition"].tolist(), rows["source_offset"].tolist(), strict=True)
        for product, origin in zip(rows["product"], origins, strict=True):
            if origin in due:
                yield product, due[origin]


def days_passed(messages: Iterable[Message]) -> dict[int, int]:
    """When the first partition's watermark passed each end of a day (UTC), by records of trend.events: epoch ms."""
    marks: dict[int, CombinedWatermark] = defaultdict(CombinedWatermark)
    found: dict[int, int] = {}
    for message in messages:
        rows = decode(message.value or b"")
        if rows.record is not CONTROL:
            continue
        combined = marks[message.partition]
        before = combined.value()
        columns = [rows[name].tolist() for name in ("source", "source_partition", "state", "watermark")]
        for row in zip(*columns, strict=True):
            combined.update(*row)
        now = combined.value()
        if before is not None and now is not None:
            for end in range((before // DAY + 1) * DAY, now + 1, DAY):
                found[end] = min(found.get(end, message.timestamp), message.timestamp)
    return found


def heads_used(messages: Iterable[Message]) -> dict[int, int]:
    """When a prediction was first made with each epoch's head, by records of trend.predictions: epoch ms."""
    used: dict[int, int] = {}
    for message in messages:
        rows = decode(message.value or b"")
        if rows.record is PREDICTIONS:
            epoch = int(rows["head_epoch"].max())
            used[epoch] = min(used.get(epoch, message.timestamp), message.timestamp)
    return used
