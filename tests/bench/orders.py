"""The orders of the equal job, and what pandas makes of them.

A day of orders over products whose shares fall like Zipf's law; event times rise with a jitter of less than the lag
that every engine allows, so no order is late. One order in a thousand is bad, in one of four ways. Each partition ends
with one closing order far ahead in event time, which closes the last hour for every engine alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from streams import kafka
from streams.partitioning import partition_of
from tests.bench.job import CLOSING, HOUR_MS, LAG_MS, PARTITIONS, START_MS

PRODUCTS = 20_000
HOURS = 24
MAX_SHARE = 0.35  # of one partition


@dataclass(frozen=True)
class Orders:
    """Columns [events] of one day of orders, in the order in which they are sent."""

    product: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]  # event time, epoch ms
    quantity: npt.NDArray[np.int64]
    price: npt.NDArray[np.int64]  # minor units
    fault: npt.NDArray[np.int64]  # 0: none; 1: no quantity; 2: unknown currency; 3: quantity as text; 4: cut off

    def __len__(self) -> int:
        return len(self.product)

    def first(self, count: int) -> Orders:
        """The first orders alone."""
        return Orders(*(column[:count] for column in vars(self).values()))


def name(product: int) -> str:
    return f"p-{product:05d}"


def draw(events: int, seed: int = 11) -> Orders:
    """Asserts what the job promises of its data: most products occur, and no partition is above its share.

    A short job has fewer products, so that they still come often enough.
    """
    products = min(PRODUCTS, max(events // 10, 1))
    rng = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, products + 1)
    shares /= shares.sum()
    while True:  # the largest products may meet in one partition: then deal again
        dealt = rng.permutation(products)
        if np.bincount(_partition_of_each(products)[dealt], shares).max() < MAX_SHARE - 0.01:
            break
    product = dealt[rng.choice(products, events, p=shares)]
    step = HOURS * HOUR_MS / events
    at = START_MS + (np.arange(events) * step).astype(np.int64) + rng.integers(0, LAG_MS // 2, events)
    orders = Orders(
        product=product,
        at=at,
        quantity=rng.integers(1, 6, events),
        price=rng.integers(199, 19_999, events),
        fault=np.where(rng.random(events) < 0.001, rng.integers(1, 5, events), 0),
    )
    occurring = len(np.unique(product))
    assert occurring >= 0.75 * products, f"{occurring} of {products} products occur"
    largest = np.bincount(partitions(orders), minlength=PARTITIONS).max() / events
    assert largest <= MAX_SHARE, f"one partition holds {largest:.0%} of the orders"
    return orders


def partitions(orders: Orders) -> npt.NDArray[np.int64]:
    """Partition of each order: its product's, as every producer of trendstream counts it."""
    return _partition_of_each(int(orders.product.max()) + 1)[orders.product]


def _partition_of_each(products: int) -> npt.NDArray[np.int64]:
    return np.array([partition_of(name(p), PARTITIONS) for p in range(products)])


def send(bootstrap: str, topic: str, orders: Orders) -> int:
    """Fill an empty topic with the orders and one closing order a partition; bytes of their keys and values."""
    to = kafka.producer(bootstrap)
    sent = 0
    columns = (partitions(orders), orders.product, orders.at, orders.quantity, orders.price, orders.fault)
    for i, (partition, product, at, quantity, price, fault) in enumerate(
        zip(*(column.tolist() for column in columns), strict=True)
    ):
        key = name(product).encode()
        value = encode(i, name(product), at, quantity, price, fault)
        kafka.send(to, topic, partition, value, key)
        sent += len(key) + len(value)
        if i % 10_000 == 0:
            to.poll(0)
    end = START_MS + (HOURS + 1) * HOUR_MS + LAG_MS
    for partition in range(PARTITIONS):
        kafka.send(to, topic, partition, encode(len(orders) + partition, CLOSING, end, 1, 100, 0), CLOSING.encode())
    left = to.flush(60)
    assert left == 0, f"{left} orders were not taken by the broker within 60 s"
    return sent


def encode(i: int, product: str, at: int, quantity: int, price: int, fault: int) -> bytes:
    """One order as JSON, about 200 bytes; `fault` as in `Orders`."""
    amount = f'"{quantity}"' if fault == 3 else str(0 if fault == 1 else quantity)
    currency = "XXX" if fault == 2 else "EUR"
    buyer = f"b-{i * 7919 % 1_000_003:07d}"
    text = (
        f'{{"platform":"shop","order_id":"o-{i:09d}","product_id":"{product}","buyer_id":"{buyer}",'
        f'"ordered_at":{at},"quantity":{amount},"unit_price":{price},"currency":"{currency}","status":"placed",'
        f'"region":"north-{i % 10}"}}'
    )
    return text.encode()[: -20 if fault == 4 else None]


def expected(orders: Orders) -> pd.DataFrame:
    """Windows by pandas: count, units and revenue (int64) by product and start (epoch ms), in that order.

    With fewer orders than a day's, the windows of the hours that they reach.
    """
    good = orders.fault == 0
    rows = pd.DataFrame(
        {
            "product": orders.product[good],
            "start": orders.at[good] // HOUR_MS * HOUR_MS,
            "units": orders.quantity[good],
            "revenue": orders.quantity[good] * orders.price[good],
        }
    )
    windows = rows.groupby(["product", "start"]).agg(
        count=("units", "size"), units=("units", "sum"), revenue=("revenue", "sum")
    )
    windows = windows.reset_index()
    windows["product"] = windows["product"].map(name)
    return windows.set_index(["product", "start"]).sort_index().astype("int64")
