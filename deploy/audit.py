"""Who did what: a command that changes something leaves a record in `trend.audit`, before the change and after it.

Both lie under one key, so a command that did not live to its end stands there as begun. The signals worker copies them
to SQL.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from streams import kafka
from streams.codecs import decode_json, encode_json
from streams.records.outside import Audit, Facts
from streams.stage import Output

TOPIC = "trend.audit"


@dataclass
class Change:
    """A change that is being made; `result` says what came of it, as far as it has come."""

    begun: Audit
    result: Facts = field(default_factory=dict)


def operator() -> str:
    """Who calls a command: user@host, behind sudo too."""
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{socket.gethostname()}"


@contextmanager
def audited(
    bootstrap: str, command: str, plan: Facts, reason: str, now: Callable[[], int] | None = None
) -> Iterator[Change]:
    """Record a change around the block that makes it. Raises BrokerError, before anything is changed, where the record
    cannot be written. An error in the block is recorded and goes on."""
    clock = now or _now
    begun = Audit(
        audit_id="",
        command=command,
        by=operator(),
        at=clock(),
        reason=reason,
        plan=plan,
        outcome="begun",
        result={},
        ended_at=0,
    )
    begun = msgspec.structs.replace(begun, audit_id=f"{begun.at}/{command.replace(' ', '-')}/{os.getpid()}")
    _write(bootstrap, begun)
    change = Change(begun)
    try:
        yield change
    except BaseException as error:
        result = change.result | {"error": str(error) or type(error).__name__}
        _write(bootstrap, msgspec.structs.replace(begun, outcome="failed", result=result, ended_at=clock()))
        raise
    _write(bootstrap, msgspec.structs.replace(begun, outcome="done", result=change.result, ended_at=clock()))


def audits(bootstrap: str) -> list[Audit]:
    """All changes, oldest first."""
    found: dict[str, Audit] = {}
    for message in kafka.read(bootstrap, TOPIC):
        if message.value is not None:
            audit = decode_json(message.value, Audit)
            found[audit.audit_id] = audit
    return sorted(found.values(), key=lambda audit: audit.at)


def _write(bootstrap: str, audit: Audit) -> None:
    kafka.append(bootstrap, [Output(TOPIC, 0, encode_json(audit), audit.audit_id.encode())])


def _now() -> int:
    return int(time.time() * 1000)
