"""The equal job on Quix Streams: `python -m tests.bench.peers.quix_hourly BOOTSTRAP INPUT OUTPUT EVENTS STATE`.

State in RocksDB with a changelog topic, windows final when the partition's time has passed them.
"""

import sys
import time

from quixstreams import Application

from tests.bench.job import CLOSING, HOUR_MS, LAG_MS, PARTITIONS, report

first = 0.0
closings = 0
reported = False


def good(order):
    global first, closings
    first = first or time.time()
    if order["product_id"] == CLOSING:
        closings += 1
    return type(order["quantity"]) is int and order["quantity"] > 0 and order["currency"] == "EUR"


def handled(topic, partition, offset):
    global reported
    if closings == PARTITIONS and not reported:
        reported = True
        report(first, time.time())


def add(sums, order):
    return [sums[0] + 1, sums[1] + order["quantity"], sums[2] + order["quantity"] * order["unit_price"]]


def window(value, key, _timestamp, _headers):
    count, units, revenue = value["value"]
    return {"product": key.decode(), "start": value["start"], "count": count, "units": units, "revenue": revenue}


def main():
    bootstrap, source, output, _events, state = sys.argv[1:6]
    app = Application(
        bootstrap,
        consumer_group=output,
        auto_offset_reset="earliest",
        state_dir=state,
        loglevel="WARNING",
        on_consumer_error=lambda *_: True,  # what is no JSON is passed over
        on_message_processed=handled,
    )
    orders = app.topic(source, value_deserializer="json", timestamp_extractor=lambda value, *_: value["ordered_at"])
    windows = (
        app.dataframe(orders)
        .filter(good)
        .tumbling_window(HOUR_MS, grace_ms=LAG_MS, name="hourly")
        .reduce(add, lambda order: [1, order["quantity"], order["quantity"] * order["unit_price"]])
        .final(closing_strategy="partition")
        .apply(window, metadata=True)
    )
    windows.to_topic(app.topic(output, value_serializer="json"))
    app.run()


if __name__ == "__main__":
    main()
