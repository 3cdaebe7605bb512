"""Orders at a fixed rate, whatever the system makes of them.

As in Karimov et al., Benchmarking Distributed Stream Processing Systems (ICDE 2018): the time of an event begins when
the schedule says that it is due, whether or not the driver was in time, and the driver never slows down for the system.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

from streams import kafka
from streams.calendars import DAY
from tests.bench.suite import BenchError

LINES = 2  # of an order
HEAD_START_S = 3.0  # from the sign to begin until the first order is due


@dataclass(frozen=True)
class Load:
    rate: float  # order lines a second
    seconds: float
    products: int  # drawn by Zipf's law
    partitions: int
    seed: int = 0  # tells the orders of one load from another's
    day_s: float = 0.0  # wall clock of one day of event time, so that the last day ends now; 0: event time is now

    @property
    def orders(self) -> int:
        return int(self.rate * self.seconds / LINES)

    def event_time(self, due: float, began: float) -> int:
        """UTC ms of what is due at this time, epoch s."""
        last = began + self.seconds
        return int(due * 1000 if not self.day_s else last * 1000 - (last - due) / self.day_s * DAY)

    def events(self, began: float) -> Iterator[tuple[float, int, bytes]]:
        """When each order is due (epoch s), its partition, and the order."""
        draw = np.random.default_rng(self.seed)
        weights = 1 / np.arange(1, self.products + 1)
        lines = draw.choice(self.products, (self.orders, LINES), p=weights / weights.sum()).tolist()
        for number, sold in enumerate(lines):
            due = began + number * LINES / self.rate
            listed = b",".join(b'{"product_id":"p%d","quantity":1,"unit_price":"9.99"}' % product for product in sold)
            yield (
                due,
                number % self.partitions,
                b'{"platform":"shop","order_id":"%d-%d","buyer_id":"b%d","ordered_at":%d,"currency":"EUR",'
                b'"status":"placed","lines":[%s]}'
                % (self.seed, number, number % 10_007, self.event_time(due, began), listed),
            )


def offer(bootstrap: str, load: Load, began: float) -> float:
    """Send the load from `began` (epoch s) on; by how much the driver was late at worst, s. The records' time is when
    they were due."""
    to = kafka.producer(bootstrap)
    failed: list[str] = []

    def told(error: object, _: object) -> None:
        if error is not None:
            failed.append(str(error))

    latest = 0.0
    for due, partition, value in [*load.events(began)]:  # made before the first is due
        while (wait := due - time.time()) > 0:
            to.poll(0)
            time.sleep(min(wait, 0.002))
        latest = max(latest, -wait)
        while True:
            try:
                to.produce("orders", value, partition=partition, timestamp=int(due * 1000), on_delivery=told)
                break
            except BufferError:  # its time has begun all the same
                to.poll(0.01)
    if to.flush(60) or failed:
        raise BenchError(f"orders were not delivered: {failed[:1] or 'within 60 s'}")
    return latest


class Driver:
    """A driver in a process of its own, so that nothing which watches the system delays it."""

    def __init__(self, bootstrap: str, load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_drive, args=(there, bootstrap, load))
        self._process.start()

    def begin(self) -> float:
        """When the first order is due, epoch s."""
        self._here.recv()  # imports take seconds: a load that begins before they are done would begin with a burst
        began = time.time() + HEAD_START_S
        self._here.send(began)
        return began

    def end(self) -> float:
        """Wait until all is sent; by how much the driver was late at worst, s."""
        self._process.join()
        if self._process.exitcode:
            raise BenchError(f"the driver ended with {self._process.exitcode}")
        late: float = self._here.recv()
        return late


def _drive(connection: Connection, bootstrap: str, load: Load) -> None:
    connection.send("ready")
    connection.send(offer(bootstrap, load, connection.recv()))
