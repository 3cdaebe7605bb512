"""The equal job, as every worker knows it: by product and hour, how many orders, units and revenue.

An order counts if its quantity is a positive whole number and its currency is EUR. No import from outside the standard
library: the scripts of the peers use it in environments of their own.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import NoReturn

PARTITIONS = 4
START_MS = 1_767_225_600_000  # 2026-01-01T00:00Z
HOUR_MS = 3_600_000
LAG_MS = 120_000  # how far event times may lie behind the newest one before they are late
WAIT_MS = 20  # how long a poll waits for more: at the end of the log it waits in vain
CLOSING = "closing"  # product of the last order of each partition, whose own window stays open


Mark = tuple[float, float]


def mark() -> Mark:
    """Wall clock (epoch s) and CPU time (s) of this process."""
    return time.time(), time.process_time()


def report(first: Mark, last: Mark) -> None:
    """Tell the driver when the first and the last event were handled."""
    out = sys.__stdout__  # some engines put their log in place of sys.stdout
    assert out is not None
    out.write(json.dumps({"first": first[0], "last": last[0], "cpu": last[1] - first[1]}) + "\n")
    out.flush()


def wait() -> NoReturn:
    """For an engine that ends by itself: stay until the driver has seen the process's memory and ends it."""
    while True:
        signal.pause()
