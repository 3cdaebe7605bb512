"""Event-time progress: what one source partition knows, and what all of them together allow.

A source partition's watermark is made in ingest and crosses `trend.events` as CONTROL rows; the windows combine the
rows of every source into one watermark of their own partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streams.records import NO_WATERMARK, SourceState
from streams.topics import DAY_MS


class SourceWatermark:
    """Newest confirmed event time of one source partition, less an allowance for disorder.

    A step of at most `max_step_ms` counts at once. A longer one waits for the next record: if that lies beyond the
    step too, the smaller of both counts; if not, the jump was one wrong date and is forgotten. The very first record
    is such a jump, so that one wrong date at the head of a log does not make all the rest too late.
    """

    def __init__(self, out_of_order_ms: int, max_step_ms: int = DAY_MS) -> None:
        self._out_of_order = out_of_order_ms
        self._step = max_step_ms
        self._newest: int | None = None
        self._jump: int | None = None

    def observe(self, at: int) -> None:
        """Take the event time (UTC ms) of one more accepted record."""
        newest, jump = self._newest, self._jump
        if newest is not None and at - newest <= self._step:
            self._jump = None
            if at > newest:
                self._newest = at
        elif jump is None or (newest is None and at < jump - self._step):
            self._jump = at
        else:
            confirmed = min(jump, at)
            self._newest = confirmed
            self._jump = None
            rest = max(jump, at)
            if rest - confirmed <= self._step:
                self._newest = rest
            else:
                self._jump = rest

    def observe_all(self, times: Sequence[int]) -> None:
        """`observe` each in turn."""
        newest = self._newest
        # If even the newest is no jump from where we stand, none of them is from where it finds us.
        if newest is not None and times and (last := max(times)) - newest <= self._step:
            self._newest, self._jump = max(newest, last), None
        else:
            for at in times:
                self.observe(at)

    @property
    def value(self) -> int | None:
        """No record older than this is expected any more (UTC ms); None before the first confirmed one."""
        return None if self._newest is None else self._newest - self._out_of_order

    @property
    def newest(self) -> int | None:
        """Newest confirmed event time (UTC ms)."""
        return self._newest

    def dump(self) -> list[int | None]:
        return [self._newest, self._jump]

    def load(self, state: list[int | None]) -> None:
        self._newest, self._jump = state


class CombinedWatermark:
    """Minimum over the registered sources that are not idle; the maximum over all of them when every one is idle.

    `update` takes a CONTROL row, `value` is asked after the last row of a control record: between two rows of one
    record the picture is half old and half new. The value never goes back, a source that joins late included.
    """

    def __init__(self) -> None:
        self._sources: dict[tuple[str, int], tuple[int, int]] = {}
        self._held = NO_WATERMARK
        self._least: int | None = None

    def update(self, source: str, partition: int, state: int, watermark: int) -> None:
        """Note what a source partition says: `SourceState`, and its watermark (UTC ms) or NO_WATERMARK."""
        self._sources[source, partition] = (state, watermark)
        if watermark != NO_WATERMARK:
            self._least = watermark if self._least is None else min(watermark, self._least)

    @property
    def least(self) -> int | None:
        """The least watermark that any source has ever shown, UTC ms."""
        return self._least

    def value(self) -> int | None:
        """UTC ms; None before every active source has shown an event time once."""
        active = [watermark for state, watermark in self._sources.values() if state != SourceState.IDLE]
        if active:
            now = min(active)
        else:
            now = max((watermark for _, watermark in self._sources.values()), default=NO_WATERMARK)
        self._held = max(self._held, now)
        return None if self._held == NO_WATERMARK else self._held

    def report(self) -> dict[str, int | str]:
        """Where it stands, and the source that holds it back: the least of those that are not idle."""
        value = self.value()
        if value is None:
            waiting = [key for key, (_, mark) in sorted(self._sources.items()) if mark == NO_WATERMARK]
            return {"held_by": ", ".join(f"{source}/{p}" for source, p in waiting)}
        active = [(mark, key) for key, (state, mark) in self._sources.items() if state != SourceState.IDLE]
        holds = "nothing: every source is idle"
        if active:
            mark, (source, partition) = min(active)
            holds = f"{source}/{partition}" + (", which has shown no event time" if mark == NO_WATERMARK else "")
        return {"event_time": value, "held_by": holds, "idle": len(self._sources) - len(active)}

    def dump(self) -> list[list[Any]]:
        """Whole state as plain rows: value and least, then [source, partition, state, watermark] in order."""
        return [[self._held, self._least], *([*key, *self._sources[key]] for key in sorted(self._sources))]

    def load(self, rows: list[list[Any]]) -> None:
        """The inverse of `dump`."""
        self._held, self._least = rows[0]
        self._sources = {(source, partition): (state, mark) for source, partition, state, mark in rows[1:]}
