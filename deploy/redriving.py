"""Sends the events of dead letters again, to the partition that they came from, so that ingest knows their repeats.

An event and the record that it was sent lie in one transaction: a redrive that is called again, or broke off, sends no
event twice. What would fail again is not sent; its letter goes back with one attempt more.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import Any

import jq
import msgspec
from confluent_kafka import KafkaException

from deploy.dead_letters import DLQ, REDRIVES, Letter, decode_letter
from deploy.errors import ConfigurationError, RedriveError
from streams import kafka
from streams.codecs import encode_json
from streams.ingest.letters import Checker, Transform, TransformError, opened, transformed
from streams.records.outside import Redrive, SourcePosition
from streams.stage import TaskKey

_TRANSACTIONAL_ID = "trendstream.redrive"  # a second redrive fences the first
_ANSWER_S, _COUNTED_EACH_S = 30.0, 2.0


@dataclass(frozen=True)
class Mended:
    """What would become of one letter."""

    letter: Letter
    key: bytes | None
    before: bytes
    after: bytes | None  # None: the transform leaves it dead, or it is refused
    refusal: tuple[str, str] | None = None  # reason and message

    @property
    def sendable(self) -> bool:
        return self.after is not None and self.refusal is None


class Mender:
    """Opens, transforms and checks letters, with the secret and the rules of ingest."""

    def __init__(
        self, checker: Checker, secret: bytes, transform: Transform | None, watermarks: Mapping[TaskKey, int]
    ) -> None:
        self._checker = checker
        self._secret = secret
        self._transform = transform
        self._watermarks = watermarks

    def mend(self, letter: Letter, now: int) -> Mended:
        """Raises CodecError where the secret does not open it."""
        dead = letter.dead
        original = opened(dead, self._secret)
        try:
            after = transformed(original.value, self._transform)
        except TransformError as error:
            return Mended(letter, original.key, original.value, None, (dead.reason, str(error)))
        if after is None:
            return Mended(letter, original.key, original.value, None)
        watermark = self._watermarks.get((dead.source.topic, dead.source.partition))
        rejected = self._checker.check(dead.source.topic, after, now, watermark)
        refusal = None if rejected is None else (rejected.reason.code, rejected.message)
        return Mended(letter, original.key, original.value, after, refusal)


def load_transform(text: str) -> Transform:
    """`module:function`, looked for in this folder too, or a jq expression.

    Raises ConfigurationError for what is neither.
    """
    module, colon, name = text.partition(":")
    if colon and module.replace(".", "").isidentifier() and name.isidentifier():
        sys.path.insert(0, os.getcwd())
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"no transform {text!r}: {error}") from error
        finally:
            sys.path.pop(0)
        if not callable(found):
            raise ConfigurationError(f"no transform {text!r}: it is no function")
        return found  # type: ignore[no-any-return]
    try:
        program = jq.compile(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text!r} is neither module:function nor a jq expression: {' '.join(str(error).split())}"
        ) from error

    def by_jq(document: Any) -> Any:
        if isinstance(document, bytes):
            raise TransformError("the original is no JSON, which jq needs; use module:function, which gets the bytes")
        results = program.input_value(document).all()
        if len(results) > 1:
            raise TransformError(f"the jq expression gave {len(results)} documents for one")
        return results[0] if results else None

    return by_jq


@dataclass
class Counts:
    """What came of a redrive, so far."""

    sent: int = 0
    refused: int = 0  # they would have failed again
    left_out: int = 0  # by the transform
    came_back: int = 0  # ingest refused them after all

    @property
    def failures(self) -> int:
        return self.refused + self.came_back

    def facts(self) -> dict[str, int]:
        return {each.name.replace("_", " "): getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class Pace:
    batch: int = 100  # events of a transaction
    rate: float = 500.0  # events a second at most
    max_errors: int = 10  # failures at which it stops


@dataclass
class Redriver:
    """One redrive; `run` may be called once."""

    bootstrap: str
    mender: Mender
    pace: Pace
    audit_id: str
    now: Callable[[], int] = lambda: int(time.time() * 1000)
    counts: Counts = field(default_factory=Counts)
    _sent: dict[TaskKey, set[int]] = field(default_factory=dict)  # offsets
    _begin: dict[int, int] = field(default_factory=dict)  # of trend.dlq, by partition
    _counted: float = 0.0  # monotonic seconds

    def run(self, letters: Sequence[Letter], done: Callable[[int], None] = lambda _: None) -> Counts:
        """Send the open ones of these letters. Raises RedriveError at the error limit, with all before it sent."""
        producer = kafka.producer(self.bootstrap, _TRANSACTIONAL_ID)
        self._begin = {p: end for p, (_, end) in enumerate(kafka.end_offsets(self.bootstrap, DLQ))}
        began, looked = time.monotonic(), 0
        try:
            producer.init_transactions(
                _ANSWER_S
            )  # from here on no other redrive gets any further: see what it has sent
            sent = {message.key for message in kafka.read(self.bootstrap, REDRIVES)}
            left = (letter for letter in letters if letter.open and letter.id.encode() not in sent)
            for batch in _batches(left, self.pace.batch):
                mended = [self.mender.mend(letter, self.now()) for letter in batch]
                self._send(producer, mended)
                looked += len(batch)
                done(looked)
                if time.monotonic() - self._counted > _COUNTED_EACH_S:
                    self._count_back()
                if self.counts.failures > self.pace.max_errors:
                    raise RedriveError(
                        f"stopped: {self.counts.failures} of {looked} letters failed again, more than --max-errors "
                        f"{self.pace.max_errors}; {self.counts.sent} were sent and stay sent. See `trendstream dlq "
                        "show`, mend the transform, and call it again: it goes on with those that are left"
                    )
                time.sleep(max(looked / self.pace.rate - (time.monotonic() - began), 0.0))
        except KafkaException as error:
            raise RedriveError(
                f"{error.args[0].str()}; what is committed stays sent, call it again and it goes on with the rest"
            ) from error
        return self.counts

    def wait(self, seconds: float) -> bool:
        """Until ingest has read all that was sent; False where it has not within that time."""
        deadline = time.monotonic() + seconds
        while self._sent:
            read = kafka.committed(self.bootstrap, "trendstream.ingest", self._sent)
            if all(read[task] > max(offsets) for task, offsets in self._sent.items()):
                break
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        self._count_back()
        return True

    def _send(self, producer: Any, mended: Sequence[Mended]) -> None:
        """One transaction: events first, since their offsets belong into the records that they were sent."""
        producer.begin_transaction()
        offsets: dict[str, int] = {}
        failed: list[str] = []

        def note(identifier: str) -> Callable[[Any, Any], None]:
            def delivered(error: Any, record: Any) -> None:
                if error is not None:
                    failed.append(error.str())
                else:
                    offsets[identifier] = record.offset()

            return delivered

        sendable = [each for each in mended if each.sendable]
        for each in sendable:
            source = each.letter.dead.source
            kafka.send(producer, source.topic, source.partition, each.after, each.key, note(each.letter.id))
        if producer.flush(_ANSWER_S) or failed:
            producer.abort_transaction(_ANSWER_S)
            raise RedriveError(f"the broker did not take a batch: {failed[0] if failed else 'no answer in time'}")
        for each in sendable:
            record = self._redrive(each.letter, offsets[each.letter.id])
            kafka.send(producer, REDRIVES, 0, encode_json(record), each.letter.id.encode())
        for each in mended:
            if each.refusal is not None:
                self._back(producer, each.letter, *each.refusal)
        producer.commit_transaction(_ANSWER_S)
        self.counts.sent += len(sendable)
        self.counts.refused += sum(each.refusal is not None for each in mended)
        self.counts.left_out += sum(each.after is None and each.refusal is None for each in mended)
        for each in sendable:
            source = each.letter.dead.source
            self._sent.setdefault((source.topic, source.partition), set()).add(offsets[each.letter.id])

    def _redrive(self, letter: Letter, offset: int) -> Redrive:
        source = letter.dead.source
        return Redrive(
            dead_letter_id=letter.id,
            sent=SourcePosition(topic=source.topic, partition=source.partition, offset=offset),
            attempts=letter.attempts,
            first=letter.first,
            audit_id=self.audit_id,
            at=self.now(),
        )

    def _back(self, producer: Any, letter: Letter, reason: str, message: str) -> None:
        again = msgspec.structs.replace(
            letter.dead, reason=reason, message=message, attempts=letter.attempts + 1, first=letter.first
        )
        partition = letter.dead.source.partition % len(self._begin)  # where ingest has put it
        kafka.send(producer, DLQ, partition, encode_json(again), letter.id.encode())

    def _count_back(self) -> None:
        """Count the events that ingest has made dead letters of again."""
        sources = (decode_letter(message).source for message in kafka.read(self.bootstrap, DLQ, start=self._begin))
        places = {((source.topic, source.partition), source.offset) for source in sources}
        self._counted = time.monotonic()
        self.counts.came_back = sum(offset in self._sent.get(task, ()) for task, offset in places)


def _batches(letters: Iterable[Letter], size: int) -> Iterator[list[Letter]]:
    rest = iter(letters)
    while batch := list(islice(rest, size)):
        yield batch
