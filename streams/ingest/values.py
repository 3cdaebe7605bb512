"""Instants and money as platforms write them, turned into integers."""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Decimal
from functools import lru_cache

from streams.topics import DAY_MS

_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
END = int(dt.datetime(2099, 12, 1, tzinfo=dt.UTC).timestamp()) * 1000  # calendars end a month later
_DECIMAL = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?")

# ISO 4217: digits after the point, where they are not two.
_WHOLE = (
    "BIF",
    "CLP",
    "DJF",
    "GNF",
    "ISK",
    "JPY",
    "KMF",
    "KRW",
    "PYG",
    "RWF",
    "UGX",
    "UYI",
    "VND",
    "VUV",
    "XAF",
    "XOF",
)
_DIGITS = {
    **dict.fromkeys((*_WHOLE, "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}


def digits_of(currency: str) -> int:
    """Decimals of a currency's minor unit."""
    return _DIGITS.get(currency, 2)


def epoch_ms(value: str | int) -> int | None:
    """UTC ms of an RFC 3339 text with an offset or of integer epoch ms; None if it is neither, or outside 1970–2099."""
    if isinstance(value, str):
        if _INSTANT.fullmatch(value) is None:
            return None
        try:
            since = dt.datetime.fromisoformat(value.upper()) - _EPOCH
        except ValueError:  # the 13th month, the 31st of June, a leap second
            return None
        at = since.days * DAY_MS + since.seconds * 1000 + since.microseconds // 1000
    else:
        at = value
    return at if 0 <= at < END else None


@lru_cache(maxsize=100_000, typed=True)
def minor_units(value: str | int | float, currency: str) -> int | None:
    """Amount in the currency's minor unit; None if it is no number, or finer than that unit."""
    if isinstance(value, str):
        if _DECIMAL.fullmatch(value) is None:
            return None
        number = Decimal(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            return None
        number = Decimal(repr(value))  # the shortest text is what the producer wrote
    else:
        number = Decimal(value)
    digits = digits_of(currency)
    numerator, denominator = number.as_integer_ratio()
    scaled, rest = divmod(numerator * 10**digits, denominator)
    return None if rest else scaled
