"""From a platform record's bytes to its struct, or to the reason why not."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from streams.ingest.reasons import Reason, RejectedError
from streams.ingest.text import mask
from streams.records.platform import PLATFORM_RECORDS, PlatformRecord
from streams.topics import PLATFORM_MAX_BYTES

_SHOWN = 40  # characters of a value in a message
# Only these are named with their value: the others may hold what a person wrote, or who it was.
_PRICES = ("unit_price", "price", "unit_cost")
_COUNTS = ("quantity", "on_hand", "on_order", "lead_time_days")
_TIMES = (
    "ordered_at",
    "status_at",
    "occurred_at",
    "written_at",
    "captured_at",
    "updated_at",
    "starts_at",
    "ends_at",
    "announced_at",
)
# Only these are named with their value: the others may hold what a person wrote, or who it was.
_HARMLESS = frozenset(("platform", "status", "kind", "currency", "rating", "depth", *_PRICES, *_COUNTS, *_TIMES))
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")


class RecordDecoder:
    """Decodes and checks the records of one platform topic."""

    def __init__(self, topic: str) -> None:
        self._decoder = msgspec.json.Decoder(PLATFORM_RECORDS[topic])

    def decode(self, value: bytes | None) -> PlatformRecord:
        """Raises RejectedError."""
        if not value:
            raise RejectedError(Reason.EMPTY, "the record has no value; send the event as a JSON object")
        if len(value) > PLATFORM_MAX_BYTES:
            raise RejectedError(
                Reason.TOO_LARGE, f"the record has {len(value)} bytes; at most {PLATFORM_MAX_BYTES} are read"
            )
        try:
            return self._decoder.decode(value)
        except msgspec.ValidationError as error:
            raise _rejection(str(error), value) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _not_json(error) from error


def shown(value: object) -> str:
    """A value as messages show it: short, with contacts masked, and of a list or object the type alone."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(mask(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _not_json(error: Exception) -> RejectedError:
    # What follows the colon names a byte offset; decoders of UTF-8 would quote the bytes themselves.
    where = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
    return RejectedError(Reason.NOT_JSON, f"{where}; send one JSON object in UTF-8")


def _rejection(error: str, value: bytes) -> RejectedError:
    # A decoder stops at the first wrong field; whether the whole is JSON must be asked again.
    try:
        document = msgspec.json.decode(value)
    except msgspec.ValidationError:  # a number beyond float64
        document = None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        return _not_json(broken)
    what, _, path = error.partition(" - at `$")
    path = path.rstrip("`")
    if what.startswith("Object missing"):
        field = what.split("`")[1]
        return RejectedError(Reason.MISSING_FIELD, f"{path}.{field}: missing; it is required".lstrip("."))
    leaf = _leaf(path)
    name = path.lstrip(".") or "the record"
    reason, text = _reason(what, leaf)
    found = ""
    if leaf in _HARMLESS and document is not None:
        found = f" ({shown(_at(document, path))})"
    return RejectedError(reason, f"{name}{found}: {text}")


def _reason(what: str, leaf: str) -> tuple[Reason, str]:
    if what.startswith("Invalid enum"):
        reason = Reason.UNKNOWN_STATUS if leaf == "status" else Reason.UNKNOWN_KIND
        return reason, f"{reason.help}"
    if "matching regex" in what:
        return Reason.BAD_CURRENCY, "send the ISO 4217 code in capitals"
    if "of length >=" in what:
        return Reason.MISSING_FIELD, "must not be empty"
    if "of length <=" in what:
        return Reason.TOO_LARGE, what.replace("`", "")
    outside = "out of range" in what
    if leaf in _PRICES and outside:
        return Reason.BAD_PRICE, Reason.BAD_PRICE.help
    if leaf in _COUNTS and (outside or what.endswith("got `float`")):
        return Reason.BAD_QUANTITY, Reason.BAD_QUANTITY.help
    if leaf == "rating" and ("<=" in what or ">=" in what or what.endswith("got `float`")):
        return Reason.BAD_RATING, Reason.BAD_RATING.help
    return Reason.WRONG_TYPE, what.replace("`", "")


def _leaf(path: str) -> str:
    names = [name for name, _ in _STEP.findall(path) if name]
    return names[-1] if names else ""


def _at(document: Any, path: str) -> object:
    for name, index in _STEP.findall(path):
        document = document[name] if name else document[int(index)]
    return document
