"""Orders through the ingest stage, beside bare decoding of the same records."""

from __future__ import annotations

import datetime as dt
import gc
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate
from typing import Any

import msgspec

from streams.calendars import Platform
from streams.ingest import IngestConfig, IngestStage
from streams.ingest.privacy import DIGEST_BYTES
from streams.memory import collect_rarely
from streams.records.platform import Order
from streams.stage import Message
from tests.bench.suite import Part, Piece, Settings, Table

POLL = 2_000  # records, as the runner takes them
PRODUCTS = 20_000
_T = 1_795_500_000_000  # 2026-11-24
_LINES = (0.45, 0.25, 0.17, 0.08, 0.05)  # of an order: mean 2.03
_CONFIG = IngestConfig(
    partitions=4, platforms={"shop": Platform("shop", "America/Sao_Paulo", "BRL")}, secret=b"a secret of the benchmarks"
)


def orders(records: int, lines: Sequence[float] = _LINES, seed: int = 5) -> tuple[list[Message], int]:
    """A log of orders as a shop sends them, and the lines in it.

    A thousand a second, some seconds out of order; products as Zipf has it, prices with the product; one in five with
    times in milliseconds. 1 % are sent again within the next thousands, 1 % cancelled later, 0.1 % malformed.
    """
    chance = random.Random(seed)
    # A flat head: no product alone may decide how full its partition is.
    weights = list(accumulate(1 / (rank + 20) for rank in range(PRODUCTS)))
    shares = list(accumulate(lines))
    recent: list[dict[str, Any]] = []
    messages, total = [], 0
    for offset in range(records):
        now = _T + offset
        kind = chance.random()
        if recent and kind < 0.01:
            event = chance.choice(recent)
        elif recent and kind < 0.02:
            event = chance.choice(recent)
            event = {**event, "event_id": _id(chance), "status": "cancelled", "status_at": _text(now)}
        else:
            count = 1 + chance.choices(range(len(shares)), cum_weights=shares)[0]
            event = _order(
                chance,
                f"2026-{offset:09d}",
                now - chance.randrange(5_000),
                chance.choices(range(PRODUCTS), cum_weights=weights, k=count),
            )
            if kind < 0.021:
                event["lines"][0]["quantity"] = 0
            else:
                recent.append(event)
                del recent[:-5_000]
        total += len(event["lines"])
        messages.append(_message(offset, now, event))
    return messages, total


def measure(records: int = 200_000) -> dict[str, dict[str, float]]:
    """Lines a second of CPU, for a mix of orders and for orders of one line, beside decoding alone."""
    mix, one = _measured(records, _LINES), _measured(records, (1.0,))
    return {
        "ingest": {
            "lines_per_s": mix["lines_per_s"],
            "of_decoding": mix["of_decoding"],
            "one_line_per_s": one["lines_per_s"],
            "one_line_of_decoding": one["of_decoding"],
            "ids": mix["ids"],
            "snapshot_s": mix["snapshot_s"],
        }
    }


def _measured(records: int, shares: Sequence[float]) -> dict[str, float]:
    stage = IngestStage(("orders", 0), _CONFIG)
    stage.fold(_every_product())  # a product costs most when it is first seen
    messages, lines = orders(records, shares)
    decode = msgspec.json.Decoder(Order).decode

    def decoded(poll: list[Message]) -> None:
        for message in poll:
            with suppress(msgspec.ValidationError):
                decode(message.value or b"")

    # Poll by poll in turn: what else the machine does falls on both alike.
    bare = whole = 0.0
    with _collecting_as_a_worker():
        for start in range(0, records, POLL):
            poll = messages[start : start + POLL]
            bare += _spent(partial(decoded, poll))
            whole += _spent(partial(stage.fold, poll))
    snapshot = _spent(stage.snapshot)
    ids = len(stage.snapshot()["seen"]) // DIGEST_BYTES
    return {"lines_per_s": lines / whole, "of_decoding": bare / whole, "ids": ids, "snapshot_s": snapshot}


@contextmanager
def _collecting_as_a_worker() -> Iterator[None]:
    """Else the collector would go through the messages of this bench again and again."""
    before = gc.get_threshold()
    collect_rarely()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _every_product() -> list[Message]:
    chance = random.Random(0)
    return [
        _message(offset, _T, _order(chance, f"first-{offset}", _T, range(offset * 500, offset * 500 + 500)))
        for offset in range(PRODUCTS // 500)
    ]


def _spent(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _order(chance: random.Random, order_id: str, at: int, products: Iterable[int]) -> dict[str, Any]:
    return {
        "event_id": _id(chance),
        "platform": "shop",
        "order_id": order_id,
        "buyer_id": f"b{chance.randrange(1_000_000):07d}",
        "ordered_at": at if chance.random() < 0.2 else _text(at),
        "currency": "BRL",
        "region": "SP",
        "status": "placed",
        "lines": [
            {
                "product_id": f"sku-{i:05d}",
                "quantity": chance.choice((1, 1, 1, 2, 3)),
                "unit_price": f"{1 + i * 7_919 % 99_901 / 100:.2f}",
            }
            for i in products
        ],
    }


def _message(offset: int, now: int, event: dict[str, Any]) -> Message:
    value = json.dumps(event, separators=(",", ":")).encode()
    return Message("orders", 0, offset, now, event["order_id"].encode(), value)


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _text(at: int) -> str:
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def run(settings: Settings) -> Piece:
    found = measure()["ingest"]
    rows = [
        (
            "orders of 1 to 5 lines, some again, cancelled or wrong",
            f"{found['lines_per_s']:,.0f}",
            f"{found['of_decoding']:.2f}",
        ),
        ("orders of one line", f"{found['one_line_per_s']:,.0f}", f"{found['one_line_of_decoding']:.2f}"),
    ]
    told = f"{found['ids']:,.0f} ids remembered, a snapshot of them in {found['snapshot_s']:.2f} s"
    head = ("ingest", "lines per CPU second", "of decoding alone")
    return Piece({"ingest": found}, [Table(f"Order lines through ingest, one process ({told})", head, rows)])


PART = Part("ingest", "order lines through the ingest stage, beside bare decoding of them", lambda _: 90, run)
