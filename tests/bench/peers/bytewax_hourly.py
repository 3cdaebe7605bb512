"""The equal job on Bytewax: `python -m tests.bench.peers.bytewax_hourly BOOTSTRAP INPUT OUTPUT EVENTS STATE`.

State in recovery partitions; a product's window is final when its next order is past it, or the input ends.
"""

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import bytewax.operators as op
import msgspec
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from tests.bench.job import HOUR_MS, LAG_MS, START_MS, report, wait

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
first = last = 0.0


class Order(msgspec.Struct, gc=False):
    product_id: str
    ordered_at: int
    quantity: int
    unit_price: int
    currency: Literal["EUR"]


decode = msgspec.json.Decoder(Order).decode


def orders(messages):
    global first, last
    first = first or time.time()
    found = []
    for message in messages:
        try:
            order = decode(message.value)
        except msgspec.DecodeError:
            continue
        if order.quantity > 0:
            at = EPOCH + timedelta(milliseconds=order.ordered_at)
            found.append((order.product_id, (at, order.quantity, order.quantity * order.unit_price)))
    last = time.time()
    return found


def add(sums, order):
    sums[0] += 1
    sums[1] += order[1]
    sums[2] += order[2]
    return sums


def merge(one, other):
    return [a + b for a, b in zip(one, other, strict=True)]


def window(item):
    global last
    product, (number, (count, units, revenue)) = item
    last = time.time()
    value = {
        "product": product,
        "start": START_MS + number * HOUR_MS,
        "count": count,
        "units": units,
        "revenue": revenue,
    }
    return KafkaSinkMessage(product.encode(), msgspec.json.encode(value))


def main():
    bootstrap, source, output, _events, state = sys.argv[1:6]
    Path(state).mkdir(parents=True)
    init_db_dir(Path(state), 1)
    flow = Dataflow("hourly")
    messages = op.input("orders", flow, KafkaSource([bootstrap], [source], tail=False))
    clock = EventClock(
        ts_getter=lambda order: order[0],
        wait_for_system_duration=timedelta(milliseconds=LAG_MS),
        to_system_utc=lambda _: None,  # event time is not the clock's: nothing to wake up for
    )
    windower = TumblingWindower(
        align_to=EPOCH + timedelta(milliseconds=START_MS), length=timedelta(milliseconds=HOUR_MS)
    )
    keyed = op.flat_map_batch("decode", messages, orders)
    windows = fold_window("hourly", keyed, clock, windower, lambda: [0, 0, 0], add, merge, ordered=False)
    op.output("windows", op.map("window", windows.down, window), KafkaSink([bootstrap], output))
    cli_main(flow, epoch_interval=timedelta(seconds=10), recovery_config=RecoveryConfig(Path(state)))
    report(first, last)
    wait()


if __name__ == "__main__":
    main()
