"""Records that a stage cannot fold: named where they fail, and passed over where `trend.skips` says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from streams import kafka
from streams.codecs import decode_json
from streams.errors import PoisonError, StreamsError
from streams.observing import Observer
from streams.records.outside import Skip
from streams.stage import Message, Output, Stage

SKIPS = "trend.skips"


class Guard:
    """Stands before the code of one stage."""

    def __init__(self, stage: str, observer: Observer) -> None:
        self._stage = stage
        self._observer = observer
        self._skips: set[tuple[str, int, int]] = set()  # topic, partition and offset

    def read_skips(self, bootstrap: str) -> None:
        skips = (decode_json(m.value, Skip) for m in kafka.read(bootstrap, SKIPS) if m.value is not None)
        self._skips = {(s.topic, s.partition, s.offset) for s in skips if s.stage == self._stage}

    def ready(self, stage: Stage, message: Message) -> bool:
        """Raises PoisonError where the stage's own code fails, as `fold` does."""
        with self._at([message]):
            return _place(message) in self._skips or stage.ready(message)

    def fold(self, stage: Stage, messages: Sequence[Message]) -> Sequence[Output]:
        with self._at(messages):
            return stage.fold(self._without_skips(messages) if self._skips else messages)

    def _without_skips(self, messages: Sequence[Message]) -> Sequence[Message]:
        kept = [m for m in messages if _place(m) not in self._skips]
        for message in messages:
            if _place(message) in self._skips:
                self._observer.warned(self._stage, f"passed over {_named(message)}, as {SKIPS} says")
        return kept

    @contextmanager
    def _at(self, messages: Sequence[Message]) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            what = str(error) if isinstance(error, StreamsError) else f"{type(error).__name__}: {error}"
            first, last = messages[0], messages[-1]
            until = f" to {last.offset}" if last.offset > first.offset else ""
            raise PoisonError(
                f"{self._stage} cannot fold {_named(first)}{until}: {what}. See it with `trendstream topics cat "
                f"{first.topic} --partition {first.partition} --offset {first.offset}`; go past it with `trendstream "
                f"topics skip {self._stage} {first.topic} {first.partition} {first.offset} --reason …`"
            ) from error


def _place(message: Message) -> tuple[str, int, int]:
    return message.topic, message.partition, message.offset


def _named(message: Message) -> str:
    return f"{message.topic}/{message.partition} offset {message.offset}"
