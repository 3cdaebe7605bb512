"""Where a day begins in each topic.

Windows end days in one order in every partition: outcomes, close windows and a CLOSES row of a boundary, then what
comes before the next one. So the records of boundary B and after are all those from the first one on that belongs to a
boundary at or after B; that holds in every topic behind the windows, and is what a replay begins and ends with.
"""

from __future__ import annotations

from functools import cache

import msgspec

from streams.calendars import DAY
from streams.codecs import Rows, decode
from streams.records.inside import CLOSES, MATURED, OUTCOMES, PREDICTIONS, WINDOWS
from streams.replay.log import Log
from streams.stage import Message, TaskKey

NEVER = 2**62  # a boundary that does not come
_ENDS = {WINDOWS.name: "end", PREDICTIONS.name: "end", CLOSES.name: "end", OUTCOMES.name: "at", MATURED.name: "at"}
_SPREAD = 2 * DAY  # ms; platforms end their days at most a day apart


class _Outside(msgspec.Struct):
    window_end: int = 0  # of scores and signals
    epoch: int = 0  # of heads, and what the learner noticed
    replay: str = ""


def boundary_of(rows: Rows) -> int:
    """UTC ms of the boundary that a record belongs to, or that a live window follows."""
    column = _ENDS.get(rows.record.name)
    return int(rows[column].max(initial=0)) if column else 0


def boundary(message: Message) -> int:
    """The same of a record as it lies; 0 for one that belongs to none, such as a head installed by hand."""
    if message.value is None:
        return 0
    if message.value[:1] == b"{":
        outside = msgspec.json.decode(message.value, type=_Outside)
        return outside.window_end or outside.epoch
    return boundary_of(decode(message.value))


def is_correction(value: bytes | None) -> bool:
    """Whether an outside record was published by a replay: it lies behind newer ones, and belongs before them."""
    return value is not None and value[:1] == b"{" and bool(msgspec.json.decode(value, type=_Outside).replay)


def cut(log: Log, task: TaskKey, at: int) -> int:
    """Offset of the first record of boundary `at` or a later one; the end of the log where there is none."""
    first, end = log.range(task)

    @cache
    def probe(offset: int) -> tuple[int, int] | None:
        """The first record from an offset on that no replay has published: offset and boundary."""
        while (message := log.first(task, offset)) is not None:
            if not is_correction(message.value):
                return message.offset, boundary(message)
            offset = message.offset + 1
        return None

    low, high = first, end
    while low < high:
        middle = (low + high) // 2
        found = probe(middle)
        if found is None or found[1] >= at - _SPREAD:
            high = middle
        else:
            low = found[0] + 1
    for message in log.read(task, low, end):
        if boundary(message) >= at and not is_correction(message.value):
            return message.offset
    return end
