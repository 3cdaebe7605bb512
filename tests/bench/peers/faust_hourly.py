"""The equal job on faust-streaming: `python -m tests.bench.peers.faust_hourly BOOTSTRAP INPUT OUTPUT EVENTS STATE`.

A windowed table in memory with its changelog topic, the fastest of its stores; windows as updates, once a second for
those that changed, which is cheaper than one for each order.
"""

import sys
import time
from datetime import timedelta

import faust

from tests.bench.job import CLOSING, HOUR_MS, PARTITIONS, report

bootstrap, source, output, _events, state = sys.argv[1:6]
app = faust.App(
    output,
    broker=f"kafka://{bootstrap}",
    store="memory://",
    datadir=state,
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    topic_disable_leader=True,
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
)
orders = app.topic(source, key_serializer="raw", value_serializer="json")
windows = app.topic(output, key_serializer="raw", value_serializer="json")
table = (
    app.Table("hourly", default=lambda: [0, 0, 0], partitions=PARTITIONS)
    .tumbling(timedelta(milliseconds=HOUR_MS), expires=timedelta(days=2))
    .relative_to(lambda event: event.value["ordered_at"] / 1000)
)
first = last = 0.0
closings = 0
changed = {}


@app.agent(orders)
async def hourly(stream):
    global first, last, closings
    async for order in stream:
        first = first or time.time()
        quantity = order["quantity"]
        if type(quantity) is int and quantity > 0 and order["currency"] == "EUR":
            product = order["product_id"]
            count, units, revenue = table[product].value()
            sums = [count + 1, units + quantity, revenue + quantity * order["unit_price"]]
            table[product] = sums
            changed[product, order["ordered_at"] // HOUR_MS * HOUR_MS] = sums
            closings += product == CLOSING
        last = time.time()


@app.timer(1.0)
async def publish():
    global changed
    done = closings == PARTITIONS
    rows, changed = changed, {}
    for (product, start), (count, units, revenue) in rows.items():
        value = {"product": product, "start": start, "count": count, "units": units, "revenue": revenue}
        await windows.send(key=product.encode(), value=value)
    if done and rows:
        report(first, last)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "-l", "warn"]
    app.main()
