"""The equal job on Pathway: `python -m tests.bench.peers.pathway_hourly BOOTSTRAP INPUT OUTPUT EVENTS STATE`.

Input persisted to files, which needs no licence key (persisting operators instead does); windows as updates: with four
partitions read at their own pace, a common watermark would drop orders as late.
"""

import sys
from time import time as now

import pathway as pw

from tests.bench.job import CLOSING, HOUR_MS, LAG_MS, PARTITIONS, START_MS, report

COMMIT_MS = 1_500  # its default
first = 0.0
closings = 0


class Order(pw.Schema):
    product_id: str
    ordered_at: int
    quantity: int
    unit_price: int
    currency: str


def mark(key, row, time, is_addition):
    """The engine shows no order to Python but these few, when the commit that they are in has been worked off."""
    global first, closings
    first = first or now() - COMMIT_MS / 1000  # what was collected for one commit before
    if row["product_id"] == CLOSING:
        closings += 1
        if closings == PARTITIONS:
            report(first, now())


def main():
    bootstrap, source, output, _events, state = sys.argv[1:6]
    settings = {"bootstrap.servers": bootstrap, "group.id": output, "auto.offset.reset": "earliest"}
    orders = pw.io.kafka.read(
        settings, source, schema=Order, format="json", autocommit_duration_ms=COMMIT_MS, name="orders"
    )
    good = orders.filter((pw.this.quantity > 0) & (pw.this.currency == "EUR"))
    windows = (
        good.select(
            pw.this.product_id,
            pw.this.quantity,
            start=pw.this.ordered_at // HOUR_MS * HOUR_MS,
            revenue=pw.this.quantity * pw.this.unit_price,
        )
        .groupby(pw.this.product_id, pw.this.start)
        .reduce(
            product=pw.this.product_id,
            start=pw.this.start,
            count=pw.reducers.count(),
            units=pw.reducers.sum(pw.this.quantity),
            revenue=pw.reducers.sum(pw.this.revenue),
        )
    )
    pw.io.kafka.write(windows, settings, output, format="json")
    marks = good.filter((pw.this.ordered_at < START_MS + LAG_MS) | (pw.this.product_id == CLOSING))
    pw.io.subscribe(marks, on_change=mark)
    pw.run(
        monitoring_level=pw.MonitoringLevel.NONE,
        terminate_on_error=False,
        persistence_config=pw.persistence.Config(
            pw.persistence.Backend.filesystem(state),
            snapshot_interval_ms=5_000,
        ),
    )


if __name__ == "__main__":
    main()
