"""The inference stage on one core beside a bare loop of the same network: `python -m tests.bench.inference`.

Close windows with text, picture, title, catalogue and stock, most of products that sell less than once a day.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from model.features import extract
from model.heads import HeadStore
from model.network import NETWORKS, Answer, Batch, Network, NetworkConfig
from model.reading import read
from model.scoring import InferenceConfig, InferenceStage
from streams.codecs import Rows, decode, encode
from streams.records import DAYS, WINDOWS, Modality
from streams.stage import Message
from tests.unit.synthetic_windows import START, lively_bundle, message, window_columns

WINDOWS_A_RECORD = 500
MASK = sum(1 << m for m in Modality if m != Modality.BEHAVIOR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=NetworkConfig().network)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle, record = lively_bundle(config=NetworkConfig(options.network)), windows()
    rows: Rows = decode(record.value or b"")
    features, baseline = extract(rows), rows["baseline"]
    batch_rows = InferenceConfig().batch_rows
    ready = Batch.of(features.take(np.arange(batch_rows)), bundle.device)
    frozen = InferenceStage(("trend.windows", 1), InferenceConfig(), bundle, HeadStore(bundle.version))
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not look at torch again and again

    def rate(work: Callable[[], object], count: int) -> float:
        work()
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < options.seconds:
            work()
            rounds += 1
        return rounds * count / (time.perf_counter() - start)

    bare = rate(partial(forward, bundle.network, ready), batch_rows)
    parts = rate(partial(read, bundle.network, features, baseline, batch_rows), len(features))
    stage = rate(partial(frozen.fold, [record]), len(features))
    for what, found in (
        ("bare loop on ready tensors", bare),
        ("reading with contributions, from numpy and back", parts),
        ("whole stage, frozen head", stage),
    ):
        print(f"{options.network:12} {what:50} {found:>9,.0f} windows/s {found / bare:>5.0%}")


def windows() -> Message:
    rng = np.random.default_rng(0)
    n = WINDOWS_A_RECORD
    rate = rng.gamma(0.6, 1.5, n)
    units, products = rng.poisson(rate[:, None], (n, DAYS)), [f"shop:p{i}" for i in range(n)]
    columns = window_columns([START] * n, products, units, np.zeros((n, DAYS), np.int64), rate, 0, MASK)
    return message(encode(WINDOWS, columns))


def forward(network: Network, batch: Batch) -> Answer:
    with torch.inference_mode():
        answer: Answer = network(batch)
        return answer


if __name__ == "__main__":
    main()
