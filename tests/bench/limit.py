"""The limit of the equal job: librdkafka's consumer and msgspec's decoder, and nothing else.

`python -m tests.bench.limit BOOTSTRAP INPUT OUTPUT EVENTS`; it reports as tests/bench/job.py says.
"""

from __future__ import annotations

import sys
import time

import msgspec
from confluent_kafka import TopicPartition

from streams import kafka
from tests.bench.hourly import Order
from tests.bench.job import PARTITIONS, report


def main() -> None:
    bootstrap, source, events = sys.argv[1], sys.argv[2], int(sys.argv[4])
    consumer = kafka.consumer(bootstrap, "bench.limit")
    consumer.assign([TopicPartition(source, p, 0) for p in range(PARTITIONS)])
    decode = msgspec.json.Decoder(Order).decode
    first, seen, bad = 0.0, 0, 0
    while seen < events:
        for record in consumer.consume(10_000, 0.1):
            if record.error() is not None:  # the end of a partition
                continue
            first = first or time.time()
            seen += 1
            try:
                decode(record.value() or b"")
            except msgspec.DecodeError:
                bad += 1
    report(first, time.time())
    consumer.close()


if __name__ == "__main__":
    main()
