"""What `streams/kafka.py` adds to librdkafka's calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streams import kafka


class Staying:
    """A producer whose call comes back when it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.given: list[Any] = []

    def send_offsets_to_transaction(self, positions: list[Any], group: Any, timeout: float) -> None:
        self.given.append((positions, group, timeout))
        if positions == ["fenced"]:
            raise KafkaException(KafkaError(KafkaError._FENCED, "fenced", True))
        self.free.wait(20)


@pytest.fixture
def staying() -> Iterator[Any]:
    producer = Staying()
    yield producer
    producer.free.set()


def test_offsets_whose_call_does_not_come_back_hold_the_worker(staying: Any) -> None:
    started = time.monotonic()
    with pytest.raises(KafkaException, match="has not come back") as raised:
        kafka.send_offsets(staying, [], "group", 1.0, lost_after=0.05)
    assert time.monotonic() - started < 5
    assert raised.value.args[0].txn_requires_abort()
    assert not raised.value.args[0].retriable(), "it would be called again, beside itself"


def test_offsets_are_sent_twice_or_their_error_is_lost(staying: Any) -> None:
    staying.free.set()
    kafka.send_offsets(staying, ["offsets"], "group", 1.0)
    assert staying.given == [(["offsets"], "group", 1.0)]
    with pytest.raises(KafkaException, match="fenced") as raised:
        kafka.send_offsets(staying, ["fenced"], "group", 1.0)
    assert raised.value.args[0].fatal()
