"""Where platform events come from: files in the platform's own format, and data sets replayed as if they happened."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from streams.calendars import Platform

COMPLETE_JOURNEY = Platform("complete-journey", "America/New_York", "USD", "US")
OLIST = Platform("olist", "America/Sao_Paulo", "BRL", "BR")
UCI = Platform("uci", "Europe/London", "GBP", "GB")


@dataclass(frozen=True, slots=True)
class PlatformEvent:
    """One record for a platform topic. `at` is its event time, UTC epoch ms; the payload carries it too."""

    topic: str
    key: str  # order_id or product_id, "" where the record does not say
    value: bytes  # JSON
    at: int

    @staticmethod
    def of(platform: Platform, topic: str, key: str, at: int, payload: dict[str, Any]) -> PlatformEvent:
        return PlatformEvent(topic, key, msgspec.json.encode({"platform": platform.name, **payload}), at)


class Source(Protocol):
    """Platform events in the order of their event time. It may be iterated again, with the same events."""

    @property
    def platform(self) -> str:
        """Name of the platform; several are joined by ", "."""

    @property
    def description(self) -> Mapping[str, object]:
        """What it is: rows, span, licence, what is simulated. Plain values, fit for a report."""

    @property
    def estimate(self) -> int:
        """How many events to expect."""

    @property
    def pictures(self) -> Path | None:
        """Folder that relative picture `uri`s start from; None where there are none."""

    def __iter__(self) -> Iterator[PlatformEvent]: ...


@dataclass(frozen=True)
class Span:
    """Days of a platform's calendar, `[first, last)`; None is open."""

    first: dt.date | None = None
    last: dt.date | None = None

    def instants(self, platform: Platform) -> tuple[int, int]:
        """UTC ms, half open."""
        calendar = platform.calendar
        begin = calendar.start(calendar.index(self.first)) if self.first else -(2**62)
        end = calendar.start(calendar.index(self.last)) if self.last else 2**62
        return begin, end


def describe_span(first: int, last: int, platform: Platform) -> dict[str, object]:
    """First and last local day of the events, and the number of days."""
    calendar = platform.calendar
    days = [int(d) for d in calendar.day([first, last])]
    return {
        "from": calendar.date(days[0]).isoformat(),
        "to": calendar.date(days[1]).isoformat(),
        "days": days[1] - days[0] + 1,
        "timezone": platform.timezone,
    }


__all__ = ["COMPLETE_JOURNEY", "OLIST", "UCI", "PlatformEvent", "Source", "Span", "describe_span"]
