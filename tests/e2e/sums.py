"""What the windows sum up against a group-by over the orders as they were produced."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence

import numpy as np

from deploy.sources import OLIST
from streams.codecs import decode_json
from streams.records.outside import DeadLetter
from streams.stage import Message
from tests.e2e.contract import units_of_days

Topic = Mapping[int, Sequence[Message]]  # by partition
Units = dict[tuple[str, int], int]  # by product and local day


def check_units(orders: Topic, letters: Topic, windows: Topic) -> int:
    """Every line of an order is in a window or its order is a dead letter; the number of lines in windows.

    Where a line was cancelled, the day holds at most what was ordered.
    """
    dead = {
        (d.source.topic, d.source.partition, d.source.offset)
        for log in letters.values()
        for d in (decode_json(m.value or b"", DeadLetter) for m in log)
    }
    placed: Units = {}
    cancelled: set[str] = set()
    lines = 0
    for message in itertools.chain.from_iterable(orders.values()):
        if ("orders", message.partition, message.offset) in dead:
            continue
        event = json.loads(message.value or b"")
        at = event["ordered_at"]
        if isinstance(at, str):
            at = int(np.datetime64(at.replace("Z", ""), "ms").astype(np.int64))
        day = int(OLIST.calendar.day(at))
        for line in event["lines"]:
            product = f"olist:{line['product_id']}"
            if event["status"] == "placed":
                lines += 1
                placed[(product, day)] = placed.get((product, day), 0) + line["quantity"]
            else:
                cancelled.add(product)
    found = units_of_days(windows, OLIST.calendar)
    expected = {key: units for key, units in placed.items() if key[0] not in cancelled}
    assert len(expected) > 0.9 * len(placed)
    found_of = {key: units for key, units in found.items() if key[0] not in cancelled}
    wrong = {key: (found_of.get(key, 0), expected.get(key, 0)) for key in found_of.keys() | expected.keys()}
    wrong = {key: pair for key, pair in sorted(wrong.items()) if pair[0] != pair[1]}
    assert not wrong, f"{len(wrong)} products and days hold other units than were ordered: {list(wrong.items())[:9]}"
    for key, units in found.items():
        assert 0 <= units <= placed.get(key, 0)
    return lines
