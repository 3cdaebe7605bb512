"""The inference stage on one core beside a bare loop of the same network: `python -m tests.bench.inference`.

Close windows with text, picture, title, catalogue and stock, most of products that sell less than once a day.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from model.features import extract
from model.heads import HeadStore
from model.network import NETWORKS, Answer, Batch, Network, NetworkConfig
from model.reading import read
from model.registry import Bundle
from model.scoring import InferenceConfig, InferenceStage
from streams.codecs import Rows, decode, encode, encode_json
from streams.memory import set_up_worker
from streams.records import DAYS, Modality
from streams.records.inside import WINDOWS
from streams.records.outside import Head
from streams.stage import Message
from tests.unit.synthetic_windows import START, learnt_head, lively_bundle, message, window_columns

_TURN_S = 0.25
MASK = sum(1 << m for m in Modality if m != Modality.BEHAVIOR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=NetworkConfig().network)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    parser.add_argument("--rows", type=int, default=500, help="windows of one record of trend.windows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle, record, n = lively_bundle(config=NetworkConfig(options.network)), windows(options.rows), options.rows
    rows: Rows = decode(record.value or b"")
    features, baseline = extract(rows), rows["baseline"]
    batch_rows = InferenceConfig().batch_rows
    ready = Batch.of(features.take(np.arange(batch_rows) % n), bundle.device)
    frozen, learnt = (stage(bundle, heads) for heads in ([], [learnt_head(bundle, 1_000)]))
    set_up_worker()
    reading = partial(read, bundle.network, features, baseline, batch_rows)
    works: list[tuple[str, Callable[[], object], int]] = [
        ("bare loop on ready tensors", partial(forward, bundle.network, ready), batch_rows),
        ("reading with contributions, from numpy and back", reading, n),
        ("whole stage, frozen head", partial(frozen.fold, [record]), n),
        ("whole stage, a learnt head", partial(learnt.fold, [record]), n),
    ]
    found = rates([(work, count) for _, work, count in works], options.seconds)
    for (what, _, _), rate in zip(works, found, strict=True):
        print(f"{options.network:12} {what:50} {rate:>9,.0f} windows/s {rate / found[0]:>5.0%}")


def rates(works: list[tuple[Callable[[], object], int]], seconds: float) -> list[float]:
    """Windows per second of processor time, in turns: what else the machine does falls on all alike."""
    spent, done = [0.0] * len(works), [0] * len(works)
    for work, _ in works:
        work()
    while min(spent) < seconds:
        for i, (work, count) in enumerate(works):
            start = time.process_time()
            while time.process_time() - start < _TURN_S:
                work()
                done[i] += count
            spent[i] += time.process_time() - start
    return [count / taken for count, taken in zip(done, spent, strict=True)]


def stage(bundle: Bundle, heads: list[Head]) -> InferenceStage:
    store = HeadStore(bundle.version)
    for head in heads:
        store.put(Message("model.heads", 0, 0, 0, None, encode_json(head)))
    return InferenceStage(("trend.windows", 1), InferenceConfig(), bundle, store)


def windows(n: int) -> Message:
    """Of a head's first epoch."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(0.6, 1.5, n)
    units, products = rng.poisson(rate[:, None], (n, DAYS)), [f"shop:p{i}" for i in range(n)]
    columns = window_columns([START] * n, products, units, np.zeros((n, DAYS), np.int64), rate, 0, MASK)
    return message(encode(WINDOWS, {**columns, "epoch": np.full(n, 1_000)}))


def forward(network: Network, batch: Batch) -> Answer:
    with torch.inference_mode():
        answer: Answer = network(batch)
        return answer


if __name__ == "__main__":
    main()
