"""How long a worker waits for a broker: what is tried again, how soon, and when it is given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streams import kafka
from streams.kafka_errors import PASSING, UNREACHED, is_fatal


class Patience:
    def __init__(self, limit_ms: int, stop: Callable[[], bool]) -> None:
        """With errors that pass for `limit_ms` at a time; with a broker out of reach until `stop()`."""
        self._limit_s = limit_ms / 1000
        self._stop = stop
        self._failing_since: float | None = None
        self._give_up_at: float | None = None  # told to stop: when calls that wait for an answer end
        self.pause_s = _FIRST_PAUSE_S  # before the next try

    def passes(self, cause: KafkaError, in_transaction: bool) -> bool:
        """Whether an abort and another try may help."""
        if is_fatal(cause):
            return False
        passing = cause.txn_requires_abort() or cause.retriable() or cause.code() in PASSING
        return cause.code() in UNREACHED or ((passing or in_transaction) and self._is_left())

    def _is_left(self) -> bool:
        self._failing_since = self._failing_since or time.monotonic()
        return time.monotonic() - self._failing_since < self._limit_s

    def pause(self) -> None:
        """What failed at once is not asked again at once."""
        kafka.sleep(self.pause_s, self._stop)
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)

    def renew(self) -> None:
        """All went well."""
        self._failing_since, self.pause_s = None, _FIRST_PAUSE_S

    def is_ending(self) -> bool:
        """Whether the worker was told to stop; from then on it does not wait for a broker for long."""
        if self._stop() and self._give_up_at is None:
            self._give_up_at = time.monotonic() + _LAST_WAIT_S
        return self._give_up_at is not None

    def ask(self, call: Callable[..., Any], *arguments: Any) -> None:
        """A call of the transactional producer. After a time-out it is called again, and goes on where it was."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                call(*arguments, _ANSWER_S)
                return
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable() or cause.code() == KafkaError._CONFLICT or self._is_too_late(deadline):
                    raise

    def flush(self, producer: Any) -> int:
        """Records that the broker has not taken in time."""
        deadline = time.monotonic() + _WAIT_S
        while left := producer.flush(_ANSWER_S):
            if self._is_too_late(deadline):
                break
        return int(left)

    def _is_too_late(self, deadline: float) -> bool:
        limit = self._give_up_at if self.is_ending() else deadline
        return time.monotonic() >= (limit or deadline)


_ANSWER_S = 1.0  # of one call; it is called again until …
_WAIT_S = 30.0  # … it gives up,
_LAST_WAIT_S = 5.0  # or this soon after the worker was told to stop
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between tries, doubled each time
