"""Instants as people give them on a command line."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from deploy.errors import ConfigurationError

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
HELP = "as 2026-05-01T10:00 (UTC unless it says otherwise), as epoch ms, or as 90m, 2h, 3d before now"


def instant(text: str, option: str, now: int | None = None) -> int | None:
    """UTC ms; None for "". Raises ConfigurationError, which names the option."""
    if not text:
        return None
    if re.fullmatch(r"\d{10,}", text):
        return int(text)
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        return (int(time.time() * 1000) if now is None else now) - int(ago.group(1)) * _UNITS[ago.group(2)]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option}: {text!r} is no instant; give it {HELP}") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
