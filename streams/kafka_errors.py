"""What an error of librdkafka asks of whoever meets it: wait, try again, or end."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError

# Nobody answers: there is nothing that a restart would change, so it is waited for without end.
UNREACHED = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
}
# While a broker is away and its partitions and groups find another one.
PASSING = {
    *UNREACHED,
    KafkaError._WAIT_COORD,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError._UNKNOWN_PARTITION,  # of a broker that is just back: that all topics are there was asked before
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
# What says of an abort that the producer's heir has to do it: a call that did not come back holds the producer; or the
# abort has overtaken the first record on the way to its coordinator, and librdkafka calls that fatal (its issue 4849).
ABORTED_BY_THE_NEXT = {KafkaError._CONFLICT, KafkaError.INVALID_TXN_STATE}
_FENCED = {KafkaError._FATAL, KafkaError._FENCED, KafkaError.FENCED_INSTANCE_ID}


def ending(error: Any, slot: int) -> str:
    """What to say of an error that ends a worker."""
    taken = f"; another worker of this stage has slot {slot} now: give each one of its own, with --slot"
    return f"{error.str()} ({error.name()})" + (taken if error.code() in _FENCED and "fenced" in error.str() else "")


def is_fatal(error: Any) -> bool:
    # A consumer says only once that it was fenced, and that error's own flag is not set.
    return bool(error.fatal()) or error.code() in _FENCED
