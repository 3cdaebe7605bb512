"""The pipeline, or its first part, in one process over a source: history for training, backtests, a demo without Java.

Event time drives everything. Records carry the event time at which they were fed as their own time, so a backtest of
last year gives today what it gave then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.sources import PlatformEvent
from streams.calendars import Calendar
from streams.embedded import EmbeddedLog, EmbeddedRunner
from streams.partitioning import partition_of
from streams.stage import Message, StageSpec
from streams.topics import topics


@dataclass
class Loop:
    """Feeds platform events to stages on an in-process log.

    `timestamp` gives the record time of an event (epoch ms); by default its event time, but never before the one of the
    event before it. The stages run before a day of one of the `calendars` begins: what encoders make of a day's reviews
    and pictures is then there when its window closes, as it is live.
    """

    specs: Sequence[StageSpec]
    partitions: int
    timestamp: Callable[[PlatformEvent], int] | None = None
    on_output: Callable[[Message], None] | None = None
    chunk: int = 1_000  # events between two runs of the stages
    calendars: Sequence[Calendar] = ()

    def __post_init__(self) -> None:
        self._midnights = np.unique(np.concatenate([[2**62], *(c.midnights for c in self.calendars)]))
        self.log = EmbeddedLog(topics(self.partitions))
        self.runner = EmbeddedRunner(self.log, self.specs, self.on_output)
        self.produced: dict[str, int] = {}

    def feed(self, events: Iterable[PlatformEvent], progress: Callable[[int], None] | None = None) -> int:
        """Run the stages over these events; returns how many there were. `progress` hears the count now and then."""
        count, midnight = 0, -(2**62)
        for event in events:
            if event.at >= midnight:
                self.runner.run()
                midnight = int(self._midnights[np.searchsorted(self._midnights, event.at, side="right")])
            at = self.timestamp(event) if self.timestamp else max(event.at, self.runner.now)
            partition = partition_of(event.key, self.partitions)
            self.runner.send(event.topic, partition, event.value, event.key.encode(), at)
            self.produced[event.topic] = self.produced.get(event.topic, 0) + 1
            count += 1
            if count % self.chunk == 0:
                self.runner.run()
                if progress:
                    progress(count)
        self.runner.run()
        if progress:
            progress(count)
        return count

    def settle(self, idle_ms: int) -> None:
        """Let the sources fall silent, so that event time reaches the newest event."""
        self.runner.tick(self.runner.now + idle_ms + 1)
        self.runner.tick(self.runner.now + idle_ms + 1)
