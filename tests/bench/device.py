"""What a device does with the networks: `python -m tests.bench.device [--device cuda] [--json FILE] [--seconds 3]`.

Checks first (the CPU's results, rows that do not depend on their company, the same seed twice), then speed beside loops
written by hand. Needs torch, numpy, scipy, pyarrow, msgspec and safetensors alone; minutes on a GPU, less with --short.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.processes import be_deterministic
from model.dataset import Dataset, DatasetConfig, collect
from model.features import Features, concatenate, extract
from model.heads import HeadStore
from model.losses import losses, training_rows
from model.network import NETWORKS, Answer, Batch, NetworkConfig, make_network
from model.reading import read
from model.scoring import InferenceConfig, InferenceStage
from model.train import TrainConfig, train_on
from streams.codecs import decode, encode
from streams.records import HORIZONS, SalesClass
from streams.records.inside import WINDOWS
from tests.unit.synthetic_windows import history, lively_bundle, message, small_windows

ROWS = 64
TOLERANCE = 2e-4  # of f and components in float32


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--short", action="store_true", help="the smallest batches alone")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    be_deterministic(options.device)
    torch.set_num_threads(1)  # as the workers do
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__} on {name}")
    checks = [*check_results(device), *check_training(device)]
    for check in checks:
        print(f"{'ok' if check['ok'] else 'WRONG':5} {check['what']}: {check['found']}", flush=True)
    batches = (64,) if options.short else (64, 1024, 8192) if device.type == "cuda" else (64, 256)
    speeds = []
    for kind in NETWORKS:
        for row in chain(*(measure(kind, device, batches, options.seconds) for measure in (inference, training))):
            print(f"{row['what']:60} {row['rate']:>12,.0f} {row['unit']:12} {row.get('share', ''):>6}", flush=True)
            speeds.append(row)
    if options.json:
        options.json.write_text(
            json.dumps({"device": name, "torch": torch.__version__, "checks": checks, "speeds": speeds})
        )
    return 0 if all(check["ok"] for check in checks) else 1


# --------------------------------------------------------------------------------------------------------------------
# Checks.


def check_results(device: torch.device) -> list[dict[str, Any]]:
    mine, others = _features(5, 0), _features(ROWS, 9)
    found = []
    for kind in NETWORKS:
        config = NetworkConfig(kind)
        on_cpu = lively_bundle(config=config).network
        on_device = lively_bundle(config=config, device=str(device)).network
        expected, got = (_all(network, others) for network in (on_cpu, on_device))
        found.append(_check(f"{kind}: results of the CPU", float(np.abs(expected - got).max()), TOLERANCE))
        places = np.random.default_rng(1).permutation(ROWS)[:5]
        index = np.arange(ROWS) + 5
        index[places] = np.arange(5)
        company = concatenate([mine, others]).take(index)
        apart = concatenate([mine, mine.take(np.zeros(ROWS - 5, np.int64))])
        difference = np.abs(_all(on_device, company)[places] - _all(on_device, apart)[:5]).max()
        found.append(_check(f"{kind}: a row in other company, bit for bit", float(difference), 0.0))
        half = _bf16(on_device, others, device)
        found.append(_check(f"{kind}: bfloat16 against float32, f", float(np.abs(half - got[:, :3]).max()), 0.1))
    return found


def check_training(device: torch.device) -> list[dict[str, Any]]:
    dataset = collect(history(12, 80), DatasetConfig())
    found = []
    for kind in NETWORKS:
        config = TrainConfig(network=NetworkConfig(kind), epochs=2, batch_rows=64, device=str(device), min_steps=20)
        one, two = (train_on(dataset, config) for _ in range(2))
        found.append(
            _check(f"{kind}: the same seed twice, bit for bit", 0.0 if one.version == two.version else 1.0, 0.0)
        )
        on_cpu = train_on(dataset, replace(config, device="cpu"))
        ours, theirs = (b.report["losses"][-1]["validation"] for b in (one, on_cpu))
        found.append(_check(f"{kind}: validation loss of the CPU's training", abs(ours / theirs - 1), 0.02))
    return found


def _check(what: str, found: float, bound: float) -> dict[str, Any]:
    return {"what": f"{what} (at most {bound:g})", "found": f"{found:.2g}", "ok": found <= bound}


# --------------------------------------------------------------------------------------------------------------------
# Speed.


def inference(kind: str, device: torch.device, batches: tuple[int, ...], seconds: float) -> Iterator[dict[str, Any]]:
    bundle = lively_bundle(config=NetworkConfig(kind), device=str(device))
    network, bare = bundle.network, 1.0
    for n in batches:
        features, baseline = _features(n, 3), np.ones((n, 3))
        ready, place = Batch.of(features, device), f"{kind}, {n} rows"

        def measure(what: str, work: Callable[[], object], n: int = n, place: str = place) -> dict[str, Any]:
            return {"what": f"{place}: {what}", "rate": _rate(work, n, seconds, device), "unit": "windows/s"}

        row = measure("bare loop on ready tensors", partial(_forward, network, ready))
        yield row
        bare = row["rate"]
        for what, work in (
            ("bare loop in bfloat16", partial(_forward_bf16, network, ready, device)),
            ("from numpy and back", partial(read, network, features, None, n)),
            ("… with contributions", partial(read, network, features, baseline, n)),
        ):
            row = measure(what, work)
            yield row | _share(row["rate"], bare)
    n = min(batches[-1], 1024)
    batch = message(encode(WINDOWS, small_windows(n, 4)))
    stage = InferenceStage(("trend.windows", 1), InferenceConfig(batch_rows=n), bundle, HeadStore(bundle.version))
    rate = _rate(lambda: stage.fold([batch]), n, seconds, device)
    what = f"{kind}: whole inference stage, {n} rows"
    yield {"what": what, "rate": rate, "unit": "windows/s", **_share(rate, bare)}


def training(kind: str, device: torch.device, batches: tuple[int, ...], seconds: float) -> Iterator[dict[str, Any]]:
    dataset = collect(history(120, 80), DatasetConfig())
    dataset = dataset.take(np.tile(np.arange(len(dataset)), 4))  # epochs of several steps
    for n in (n for n in batches if n <= 1024):
        bare = _bare_training(kind, dataset, n, device, seconds)
        yield {"what": f"{kind}, {n} rows: hand-written training loop", "rate": bare, "unit": "steps/s"}
        whole = _whole_training(kind, dataset, n, device, seconds)
        yield {"what": f"{kind}, {n} rows: train_on", "rate": whole, "unit": "steps/s", **_share(whole, bare)}


def _bare_training(kind: str, dataset: Dataset, n: int, device: torch.device, seconds: float) -> float:
    """Forward, loss, backward, AdamW on rows that lie on the device."""
    network = make_network(NetworkConfig(kind), 0).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    rows = training_rows(dataset.take(np.arange(n) % len(dataset)), device)
    r = torch.full((len(HORIZONS), len(SalesClass)), 3.0, device=device)

    def step() -> None:
        answers = network.answers(network.read(rows.inputs), network.embed(rows.inputs), rows.inputs.present)
        loss = torch.stack([losses("count", answer, rows, r) for answer in answers]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _rate(step, 1, seconds, device)


def _whole_training(kind: str, dataset: Dataset, n: int, device: torch.device, seconds: float) -> float:
    """Steps a second of `train_on` once it is under way, ends of epochs (validation and checkpoint) left out."""
    times: list[tuple[int, float]] = []
    config = TrainConfig(network=NetworkConfig(kind), epochs=1, batch_rows=n, min_steps=10_000, device=str(device))

    class _EnoughError(Exception):
        pass

    def watch(step: Any) -> None:
        if step.validation is None:
            times.append((step.epoch, time.perf_counter()))
            if times[-1][1] - times[0][1] > seconds and len(times) > 12:
                raise _EnoughError

    with suppress(_EnoughError):
        train_on(dataset, config, watch)
    steps = [t - s for (a, s), (b, t) in pairwise(times[2:]) if a == b]
    return float(1 / np.median(steps))


def _rate(work: Callable[[], object], rows: int, seconds: float, device: torch.device) -> float:
    """Rows a second, warm."""
    for _ in range(3):
        work()
    _wait(device)
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        rounds += 1
        if rounds % 8 == 0:
            _wait(device)
    _wait(device)
    return rounds * rows / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _share(rate: float, bare: float) -> dict[str, str]:
    return {"share": f"{rate / bare:.0%}"}


def _features(n: int, seed: int) -> Features:
    return extract(decode(encode(WINDOWS, small_windows(n, seed))))


def _forward(network: Any, batch: Batch) -> Answer:
    with torch.inference_mode():
        return network(batch)  # type: ignore[no-any-return]


def _forward_bf16(network: Any, batch: Batch, device: torch.device) -> Answer:
    with torch.autocast(device.type, torch.bfloat16):
        return _forward(network, batch)


def _bf16(network: Any, features: Features, device: torch.device) -> Any:
    return _forward_bf16(network, Batch.of(features, device), device).f.float().cpu().numpy()


def _all(network: Any, features: Features) -> Any:
    """[n, f and components] of one batch."""
    reading = read(network, features, None, len(features))
    return np.concatenate([reading.f, reading.components], axis=1)


if __name__ == "__main__":
    sys.exit(main())
