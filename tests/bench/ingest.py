"""Orders through the ingest stage, beside bare decoding of the same records: `python -m tests.bench.ingest`."""

from __future__ import annotations

import datetime as dt
import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from streams.calendars import Platform
from streams.ingest import IngestConfig, IngestStage
from streams.records import Order
from streams.stage import Message

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
    prices = [f"{chance.randrange(199, 99_999) / 100:.2f}" for _ in range(PRODUCTS)]
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
            at = now - chance.randrange(5_000)
            ids = chance.choices(
                range(PRODUCTS), cum_weights=weights, k=1 + chance.choices(range(len(shares)), cum_weights=shares)[0]
            )
            event = {
                "event_id": _id(chance),
                "platform": "shop",
                "order_id": f"2026-{offset:09d}",
                "buyer_id": f"b{chance.randrange(1_000_000):07d}",
                "ordered_at": at if chance.random() < 0.2 else _text(at),
                "currency": "BRL",
                "region": "SP",
                "status": "placed",
                "lines": [
                    {"product_id": f"sku-{i:05d}", "quantity": chance.choice((1, 1, 1, 2, 3)), "unit_price": prices[i]}
                    for i in ids
                ],
            }
            if kind < 0.021:
                event["lines"][0]["quantity"] = 0
            else:
                recent.append(event)
                del recent[:-5_000]
        total += len(event["lines"])
        value = json.dumps(event, separators=(",", ":")).encode()
        messages.append(Message("orders", 0, offset, now, event["order_id"].encode(), value))
    return messages, total


def measure(records: int = 200_000) -> dict[str, dict[str, float]]:
    """Lines a second of CPU, for a mix of orders and for orders of one line; what decoding alone would do."""
    mix, one = _measured(*orders(records)), _measured(*orders(records, (1.0,)))
    return {
        "ingest": {
            "lines_per_s": mix["lines_per_s"],
            "of_decoding": mix["of_decoding"],
            "one_line_per_s": one["lines_per_s"],
            "one_line_of_decoding": one["of_decoding"],
            "snapshot_s": mix["snapshot_s"],
        }
    }


def _measured(messages: list[Message], lines: int) -> dict[str, float]:
    polls = [messages[start : start + POLL] for start in range(0, len(messages), POLL)]
    decode = msgspec.json.Decoder(Order).decode
    stage = IngestStage(("orders", 0), _CONFIG)

    def decoded(poll: list[Message]) -> None:
        for message in poll:
            decode(message.value or b"")

    # Poll by poll in turn: what else the machine does falls on both alike.
    bare = whole = 0.0
    for poll in polls:
        bare += _spent(lambda poll=poll: decoded(poll))  # type: ignore[misc]
        whole += _spent(lambda poll=poll: stage.fold(poll))  # type: ignore[misc]
    return {"lines_per_s": lines / whole, "of_decoding": bare / whole, "snapshot_s": _spent(stage.snapshot)}


def _spent(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _id(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _text(at: int) -> str:
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main() -> None:
    found = measure()["ingest"]
    print(f"{'orders':<16}{'lines/s':>12}{'of decoding':>14}")
    print(f"{'mix':<16}{found['lines_per_s']:>12,.0f}{found['of_decoding']:>14.2f}")
    print(f"{'of one line':<16}{found['one_line_per_s']:>12,.0f}{found['one_line_of_decoding']:>14.2f}")
    print(f"snapshot after the mix: {found['snapshot_s']:.3f} s")


if __name__ == "__main__":
    main()
