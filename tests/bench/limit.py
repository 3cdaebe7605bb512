"""The limit of the equal job: librdkafka's consumer and msgspec's decoder, and nothing else.

`python -m tests.bench.limit BOOTSTRAP INPUT OUTPUT EVENTS`; it reports as tests/bench/job.py says.
"""

from __future__ import annotations

import sys

import msgspec
from confluent_kafka import TopicPartition

from streams import kafka
from streams.memory import set_up_worker
from tests.bench.hourly import Order
from tests.bench.job import PARTITIONS, WAIT_MS, mark, report


def main() -> None:
    bootstrap, source, events = sys.argv[1], sys.argv[2], int(sys.argv[4])
    consumer = kafka.consumer(bootstrap, "bench.limit")
    consumer.assign([TopicPartition(source, p, 0) for p in range(PARTITIONS)])
    decode = msgspec.json.Decoder(Order).decode
    first, seen, bad = None, 0, 0
    set_up_worker()
    while seen < events:
        for record in consumer.consume(10_000, WAIT_MS / 1000):
            if record.error() is not None:  # the end of a partition
                continue
            first = first or mark()
            seen += 1
            try:
                decode(record.value() or b"")
            except msgspec.DecodeError:
                bad += 1
    assert first is not None
    report(first, mark())
    consumer.close()


if __name__ == "__main__":
    main()
