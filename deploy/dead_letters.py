"""What lies in `trend.dlq`, with what became of it: a letter is open until its event was sent again.

What failed again after that is a letter of its own, which carries the attempts and the first failure on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from streams import kafka
from streams.codecs import decode_json
from streams.errors import CodecError
from streams.records.outside import DeadLetter, Failure, Redrive
from streams.stage import Message

DLQ, REDRIVES = "trend.dlq", "trend.redrives"


@dataclass(frozen=True)
class Letter:
    """One dead letter as it stands now."""

    dead: DeadLetter
    at: int  # record time, UTC ms: when it died, the last time
    attempts: int
    first: Failure
    redrive: Redrive | None  # None: it is open

    @property
    def id(self) -> str:
        return self.dead.dead_letter_id

    @property
    def open(self) -> bool:
        """Whether it can be sent again. A picture's event cannot: ingest took it, and would call it a repeat."""
        return self.redrive is None and self.dead.stage == "ingest"


@dataclass(frozen=True)
class Selection:
    """Which letters; everything that is given must hold. Times are those at which letters died, UTC ms, half open."""

    ids: tuple[str, ...] = ()
    reason: str = ""
    topic: str = ""  # that the event came from
    since: int | None = None
    until: int | None = None

    def holds(self, letter: Letter) -> bool:
        dead = letter.dead
        return (
            (not self.ids or letter.id in self.ids)
            and self.reason in ("", dead.reason)
            and self.topic in ("", dead.source.topic)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
        )


def letters(bootstrap: str, selection: Selection, originals: bool = False) -> list[Letter]:
    """Selected letters in the order of their sources; without `originals` the sealed bytes are left out."""
    dead = (message for message in kafka.read(bootstrap, DLQ))
    return joined(dead, kafka.read(bootstrap, REDRIVES), selection, originals)


def joined(
    dead: Iterable[Message], redrives: Iterable[Message], selection: Selection, originals: bool = False
) -> list[Letter]:
    """`letters` of records as they lie in the two topics."""
    newest: dict[str, tuple[int, DeadLetter]] = {}
    for message in dead:
        letter = decode_letter(message)
        if not originals:
            letter = msgspec.structs.replace(letter, sealed="", key=None)
        newest[letter.dead_letter_id] = (message.timestamp, letter)
    by_id: dict[str, Redrive] = {}
    by_position: dict[tuple[str, int, int], Redrive] = {}
    for message in redrives:
        if message.value is not None:
            redrive = decode_json(message.value, Redrive)
            by_id[redrive.dead_letter_id] = redrive
            by_position[redrive.sent.topic, redrive.sent.partition, redrive.sent.offset] = redrive
    found = []
    for at, letter in newest.values():
        source = letter.source
        before = by_position.get((source.topic, source.partition, source.offset))
        first = letter.first or Failure(reason=letter.reason, message=letter.message, at=at)
        attempts = letter.attempts
        if before is not None and letter.first is None:  # it came back from ingest, which knows of no attempt before
            first, attempts = before.first, before.attempts + letter.attempts
        found.append(Letter(letter, at, attempts, first, by_id.get(letter.dead_letter_id)))
    found.sort(key=lambda each: (each.dead.source.topic, each.dead.source.partition, each.dead.source.offset))
    return [letter for letter in found if selection.holds(letter)]


def decode_letter(message: Message) -> DeadLetter:
    try:
        return decode_json(message.value or b"", DeadLetter)
    except CodecError as error:
        raise CodecError(f"{message.topic}/{message.partition} at offset {message.offset}: {error}") from error
