"""What the simulated clients take over from librdkafka, asked of itself on its own mock of a broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition


@pytest.fixture
def consumer() -> Iterator[Consumer]:
    """A consumer beside a topic `t` of one partition with some records."""
    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})  # the mock lives as long as this client
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    for number in range(20):
        producer.produce("t", str(number).encode(), partition=0)
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": f"{broker.host}:{broker.port}", "group.id": "g", "log_level": 0})
    yield consumer
    consumer.close()


def _offsets(consumer: Consumer, seconds: float) -> list[int | None]:
    deadline = time.monotonic() + seconds
    found: list[int | None] = []
    while not found and time.monotonic() < deadline:
        found = [record.offset() for record in consumer.consume(1, 0.2) if record.error() is None]
    return found


def test_a_new_assignment_ends_a_pause_or_resume_does_not(consumer: Consumer) -> None:
    partition = TopicPartition("t", 0, 0)
    consumer.assign([partition])
    assert _offsets(consumer, 30) == [0]
    consumer.pause([partition])
    consumer.unassign()
    consumer.assign([TopicPartition("t", 0, 5)])
    assert _offsets(consumer, 2) == []
    consumer.assign([TopicPartition("t", 0, 7)])
    consumer.resume([partition])
    assert _offsets(consumer, 30) == [7]
    consumer.assign([])
    consumer.resume([])


def test_a_producer_in_a_call_takes_another_one_or_says_so_otherwise() -> None:
    """The runner replaces a producer that answers so: the call that it is in does not come back."""
    producer = Producer({"bootstrap.servers": "127.0.0.1:1", "transactional.id": "busy", "log_level": 0})
    timed_out = threading.Event()

    def call() -> None:
        conflict = True
        while conflict:  # where the other thread's call was there first
            with pytest.raises(KafkaException) as refused:
                producer.init_transactions(3)
            conflict = refused.value.args[0].code() == KafkaError._CONFLICT
        timed_out.set()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        while not timed_out.is_set():
            with pytest.raises(KafkaException) as raised:
                producer.abort_transaction(0.1)
            if raised.value.args[0].code() == KafkaError._CONFLICT:
                break
        assert not timed_out.is_set()
        assert raised.value.args[0].retriable()
    finally:
        thread.join(10)
