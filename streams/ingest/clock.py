"""Control rows on the ingest worker's own clock: how far each source is, and which of them are silent.

A fold cannot notice silence, so silence is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.codecs import encode
from streams.ingest.stage import IngestStage
from streams.records import NO_WATERMARK, SourceState
from streams.records.inside import CONTROL
from streams.stage import Output, TaskKey, TaskStatus
from streams.topics import DAY_MS, TIME_TOPICS

_Vector = list[tuple[str, int, int, int]]  # source, partition, state, watermark; sorted


@dataclass(frozen=True)
class ClockConfig:
    """Intervals in ms of wall clock; `max_skew_ms` of event time."""

    partitions: int  # of trend.events
    idle_ms: int = 1500  # a source with nothing to read for so long is idle
    live_ms: int = 250  # between control records while data comes
    lively_ms: int = 5000  # data came within this time
    heartbeat_ms: int = 5000  # between control records in silence
    max_skew_ms: int = 2 * DAY_MS


class IngestClock:
    """Clock of one worker: one vector of its time sources (`orders`, `behaviors`) to every events partition."""

    def __init__(self, config: ClockConfig) -> None:
        self._config = config
        self._last: _Vector | None = None
        self._emitted_at = 0
        self._silent: set[TaskKey] = set()
        self._woke_at = 0  # the newest end of a silence of all time sources
        self._idle: set[TaskKey] = set()

    def tick(self, tasks: Mapping[TaskKey, TaskStatus], now: int) -> list[Output]:
        """A control record when anything changed, and at intervals otherwise; none without a time source."""
        config = self._config
        self._listen(tasks, now)
        vector = self._vector(tasks)
        if not vector:
            self._last = None
            return []
        lively = any(now - status.last_input_at < config.lively_ms for status in tasks.values())
        interval = config.live_ms if lively else config.heartbeat_ms
        if vector == self._last and now - self._emitted_at < interval:
            return []
        self._last, self._emitted_at = vector, now
        names = ("source", "source_partition", "state", "watermark")
        value = encode(CONTROL, dict(zip(names, zip(*vector, strict=True), strict=True)))
        return [Output("trend.events", partition, value) for partition in range(config.partitions)]

    def paused(self, tasks: Mapping[TaskKey, TaskStatus]) -> set[TaskKey]:
        """Partitions whose newest event is over `max_skew_ms` ahead of the slowest source: a time source that is not
        idle, or any that has records left, since what comes much later than the orders of its day finds it gone."""
        newest = {key: _stage(status).newest for key, status in tasks.items()}
        floors: list[int] = []
        for key, status in tasks.items():
            at = newest[key]
            holds_time = key[0] in TIME_TOPICS
            if (holds_time and key in self._idle) or (not holds_time and (status.caught_up or at is None)):
                continue
            if at is not None:
                floors.append(at)
            else:
                # Nothing is known of a source that is not silent yet: it may be the slowest of all.
                return {k for k, known in newest.items() if known is not None}
        if not floors:
            return set()
        limit = min(floors) + self._config.max_skew_ms
        return {key for key, at in newest.items() if at is not None and at > limit}

    def _listen(self, tasks: Mapping[TaskKey, TaskStatus], now: int) -> None:
        """Who is silent, and who is idle: silent while others spoke.

        After a silence of all of them what waits in one partition is read before what waits in another. If that one
        still counted as idle, event time would follow the first alone, and the rows of the second would be late.
        """
        idle_ms = self._config.idle_ms
        silent = {k for k, s in tasks.items() if s.caught_up and now - s.last_input_at >= idle_ms}
        sources = {k for k in tasks if k[0] in TIME_TOPICS}
        if sources <= self._silent and not sources <= silent:
            self._woke_at = now
        self._silent = silent
        just_woken = now - self._woke_at < idle_ms and not sources <= silent
        self._idle = {k for k in silent if not just_woken or _stage(tasks[k]).watermark is None}

    def _vector(self, tasks: Mapping[TaskKey, TaskStatus]) -> _Vector:
        rows = []
        for key in sorted(k for k in tasks if k[0] in TIME_TOPICS):
            watermark = _stage(tasks[key]).watermark
            state = SourceState.IDLE if key in self._idle else SourceState.ACTIVE
            rows.append((*key, int(state), NO_WATERMARK if watermark is None else watermark))
        return rows


def _stage(status: TaskStatus) -> IngestStage:
    if not isinstance(status.stage, IngestStage):
        raise TypeError(f"the ingest clock reads ingest stages, not {type(status.stage).__name__}")
    return status.stage
