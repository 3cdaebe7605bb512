"""What a runner tells about its work: hooks, so that neither runner nor stages know who listens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.records.outside import Progress
from streams.stage import TaskKey


class Observer(Protocol):
    def assigned(self, stage: str, tasks: Sequence[TaskKey]) -> None:
        """All that is owned from now on."""

    def restored(self, stage: str, task: TaskKey, snapshot: int, offset: int, seconds: float) -> None: ...

    def committed(self, stage: str, records: int, outputs: int, seconds: float) -> None: ...

    def progressed(self, progress: Progress, delay_s: float | None) -> None:
        """A task in a commit; `delay_s` is the age of the newest record folded since the last, if any."""

    def lagging(self, stage: str, task: TaskKey, records: int) -> None:
        """How many offsets are left to read, about once a second."""

    def aborted(self, stage: str, reason: str) -> None: ...

    def warned(self, stage: str, message: str) -> None: ...


class Silent:
    """The observer that tells nobody."""

    def assigned(self, stage: str, tasks: Sequence[TaskKey]) -> None:
        return None

    def restored(self, stage: str, task: TaskKey, snapshot: int, offset: int, seconds: float) -> None:
        return None

    def committed(self, stage: str, records: int, outputs: int, seconds: float) -> None:
        return None

    def progressed(self, progress: Progress, delay_s: float | None) -> None:
        return None

    def lagging(self, stage: str, task: TaskKey, records: int) -> None:
        return None

    def aborted(self, stage: str, reason: str) -> None:
        return None

    def warned(self, stage: str, message: str) -> None:
        return None


class Several:
    """Tells each of several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def assigned(self, stage: str, tasks: Sequence[TaskKey]) -> None:
        for each in self._observers:
            each.assigned(stage, tasks)

    def restored(self, stage: str, task: TaskKey, snapshot: int, offset: int, seconds: float) -> None:
        for each in self._observers:
            each.restored(stage, task, snapshot, offset, seconds)

    def committed(self, stage: str, records: int, outputs: int, seconds: float) -> None:
        for each in self._observers:
            each.committed(stage, records, outputs, seconds)

    def progressed(self, progress: Progress, delay_s: float | None) -> None:
        for each in self._observers:
            each.progressed(progress, delay_s)

    def lagging(self, stage: str, task: TaskKey, records: int) -> None:
        for each in self._observers:
            each.lagging(stage, task, records)

    def aborted(self, stage: str, reason: str) -> None:
        for each in self._observers:
            each.aborted(stage, reason)

    def warned(self, stage: str, message: str) -> None:
        for each in self._observers:
            each.warned(stage, message)
