"""Dead letters on their way back: opened, located, mended, and held against the rules of ingest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from streams.errors import StreamsError
from streams.ingest.config import IngestConfig
from streams.ingest.decoding import RecordDecoder
from streams.ingest.events import EventReader
from streams.ingest.privacy import Keyring, unseal
from streams.ingest.reasons import Reason, RejectedError
from streams.records.outside import DeadLetter
from streams.stage import Message

# A JSON document, or the bytes of what is none, to what is sent in its place; None leaves it dead.
Transform: TypeAlias = Callable[[Any], Any]
# What says that an event is the same one: a repeat of it is known by these, so a transform leaves them alone.
IDENTITY = ("platform", "event_id", "order_id", "review_id", "image_id")
_PATH = re.compile(r"^(?:[A-Za-z_]\w*|\[\d+\])(?:\.[A-Za-z_]\w*|\[\d+\])*(?=[ :(,])")
_STEP = re.compile(r"([A-Za-z_]\w*)|\[(\d+)\]")
_BYTE = re.compile(r"\(byte (\d+)\)")
_SPACE = re.compile(r"[ \t\r\n]*")
_SCANNER = json.JSONDecoder()


class TransformError(StreamsError):
    """A transform failed on an original, or changed what says that it is the same event."""


@dataclass(frozen=True)
class Opened:
    """A dead letter with its original."""

    letter: DeadLetter
    key: bytes | None
    value: bytes


def opened(letter: DeadLetter, secret: bytes) -> Opened:
    """Raises CodecError where the secret is not the one that it was sealed with."""
    return Opened(letter, *unseal(letter, secret))


def transformed(original: bytes, transform: Transform | None) -> bytes | None:
    """What is sent in place of an original; None where the transform leaves it out. Raises TransformError."""
    if transform is None:
        return original
    before = _document(original)
    try:
        after = transform(original if before is None else json.loads(original))
    except Exception as error:
        raise TransformError(f"the transform failed: {type(error).__name__}: {error}") from error
    if after is None:
        return None
    if isinstance(before, dict) and isinstance(after, dict):
        moved = [name for name in IDENTITY if before.get(name) != after.get(name)]
        if moved:
            raise TransformError(
                f"the transform changed {', '.join(moved)}: it would be another event, and could count twice"
            )
    return after if isinstance(after, bytes) else msgspec.json.encode(after)


class Checker:
    """Ingest's own rules for one event, without its memory of others."""

    def __init__(self, config: IngestConfig) -> None:
        self._config = config
        self._keys = Keyring(config.secret)
        self._of: dict[str, tuple[RecordDecoder, EventReader]] = {}

    def check(self, topic: str, value: bytes, at: int, watermark: int | None) -> RejectedError | None:
        """Why ingest would not take an event that is sent at `at` to a partition with that watermark (UTC ms)."""
        if topic not in self._of:
            self._of[topic] = RecordDecoder(topic), EventReader(topic, self._config, self._keys)
        decoder, reader = self._of[topic]
        try:
            event = reader.read(decoder.decode(value), Message(topic, 0, 0, at, None, value))
        except RejectedError as rejected:
            return rejected
        if watermark is not None and event.bound_at is not None and event.bound_at < watermark - self._config.ring_ms:
            return RejectedError(Reason.TOO_LATE, f"windows reach back {self._config.ring_days} days before its source")
        return None


# --------------------------------------------------------------------------------------------------------------------
# Where the error lies.


def span(original: bytes, message: str) -> tuple[int, int] | None:
    """The characters of an original, as text, that a dead letter's message is about; None where it names no place."""
    text = original.decode(errors="replace")
    if found := _BYTE.search(message):
        at = len(original[: int(found.group(1))].decode(errors="replace"))
        return (min(at, max(len(text) - 1, 0)), min(at + 1, len(text)))
    if _document(original) is None or not (named := _PATH.match(message)):
        return None
    begin = _SPACE.match(text, 0).end()  # type: ignore[union-attr]
    for name, index in _STEP.findall(named.group()):
        try:
            inner = _member(text, begin, name) if name else _item(text, begin, int(index))
        except (ValueError, IndexError):
            return None
        if inner is None:  # it is missing: the object that should have it
            break
        begin = inner
    return begin, _SCANNER.raw_decode(text, begin)[1]


def _member(text: str, begin: int, name: str) -> int | None:
    """Where the value of a member of the object at `begin` begins; of members of one name the last counts."""
    if text[begin] != "{":
        raise ValueError(name)
    found, at = None, _after(text, begin + 1)
    while text[at] != "}":
        key, at = _SCANNER.raw_decode(text, at)
        at = _after(text, _after(text, at) + 1)  # the colon
        if key == name:
            found = at
        at = _past(text, at)
    return found


def _item(text: str, begin: int, index: int) -> int:
    if text[begin] != "[":
        raise ValueError(index)
    at = _after(text, begin + 1)
    for _ in range(index):
        at = _past(text, at)
    return at


def _past(text: str, at: int) -> int:
    """Behind the value at `at` and its comma."""
    at = _after(text, _SCANNER.raw_decode(text, at)[1])
    return _after(text, at + 1) if text[at] == "," else at


def _after(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _document(original: bytes) -> Any:
    """None where it is no JSON."""
    try:
        return msgspec.json.decode(original)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
