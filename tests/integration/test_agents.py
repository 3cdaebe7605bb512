"""The encoders' Faust shell on a real broker: what it reads, what it acknowledges, and how it ends."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featurizers.encoding import ImageConfig, TextConfig, TextStage, VectorCache
from featurizers.projection import Floats, random_projection
from streams import kafka
from streams.codecs import decode, decode_json, encode
from streams.records import PICTURES, TEXTS, DeadLetter, Modality
from streams.stage import StageSpec

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]
PARTITIONS = 2


class HashEncoder:
    """A text model that needs no weights: fails on "poison", takes its time over "slow"."""

    name = "hash@0"
    dimensions = 64

    def __init__(self, refuses: str = "") -> None:
        self._refuses = refuses

    def encode(self, texts: Sequence[str]) -> Floats:
        if self._refuses and any(self._refuses in text for text in texts):
            raise ValueError(f"no vector for {self._refuses}")
        time.sleep(0.01 * sum(text.startswith("slow") for text in texts))
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        return np.stack([np.random.default_rng(seed).standard_normal(64) for seed in seeds]).astype(np.float32)


def _hash_spec(refuses: str) -> StageSpec:
    encoder, cache = HashEncoder(refuses), VectorCache(100)
    return StageSpec(
        "text-encoder",
        ("trend.reviews",),
        lambda task: TextStage(encoder, random_projection(64), cache, TextConfig()),
        stateful=False,
    )


def _real_image_spec() -> StageSpec:
    from featurizers.image import image_stages

    def seal(identifier: str, original: bytes) -> str:
        return f"{identifier}:{original.hex()}"

    return StageSpec("image-encoder", ("trend.images",), image_stages(ImageConfig(), seal), stateful=False)


SPECS: dict[str, Callable[[], StageSpec]] = {
    "hash": lambda: _hash_spec(""),
    "refusing": lambda: _hash_spec("poison"),
    "image": _real_image_spec,
}


def main(bootstrap: str, kind: str, slot: str) -> None:
    """A worker process."""
    from deploy.lifecycle import Stopper
    from featurizers.agents import AgentConfig, run_encoder

    stop = Stopper().listen()
    if kind == "image":
        import torch

        torch.set_num_threads(1)
    run_encoder(SPECS[kind](), AgentConfig(bootstrap, PARTITIONS, int(slot)), stop)


class Workers:
    """Starts worker processes, and leaves none behind."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, kind: str, slot: int = 0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.integration.test_agents", self.bootstrap, kind, str(slot)]
        worker = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.started.append(worker)
        return worker

    def end(self, worker: subprocess.Popen[bytes]) -> int:
        worker.send_signal(signal.SIGTERM)
        return worker.wait(30)


@pytest.fixture
def workers(fresh_kafka: Any) -> Iterator[Workers]:
    fresh_kafka.create_topics(PARTITIONS)
    workers = Workers(fresh_kafka.bootstrap)
    yield workers
    for worker in workers.started:
        if worker.poll() is None:
            worker.kill()
        worker.wait(10)


def _texts(texts: Sequence[str], partition: int, first: int) -> bytes:
    count = len(texts)
    return encode(
        TEXTS,
        {
            "product": [f"shop:{i}" for i in range(count)],
            "modality": np.full(count, Modality.TEXT),
            "at": np.arange(count),
            "source": ["reviews"] * count,
            "source_partition": np.full(count, partition),
            "source_offset": np.arange(first, first + count),
            "text": list(texts),
        },
    )


def _pictures(contents: Sequence[bytes], partition: int) -> bytes:
    count = len(contents)
    return encode(
        PICTURES,
        {
            "product": [f"shop:{i}" for i in range(count)],
            "at": np.arange(count),
            "source": ["images"] * count,
            "source_partition": np.full(count, partition),
            "source_offset": np.arange(count),
            "image_id": [str(i) for i in range(count)],
            "content_type": ["image/png"] * count,
            "content": list(contents),
            "uri": [""] * count,
        },
    )


def _png(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (40, 40), (shade, 80, 160)).save(sink, "PNG")
    return sink.getvalue()


def _send(bootstrap: str, topic: str, values: Sequence[tuple[int, bytes]]) -> None:
    to = kafka.producer(bootstrap)
    for partition, value in values:
        kafka.send(to, topic, partition, value)
    assert to.flush(30) == 0


def _offsets(bootstrap: str, partition: int) -> list[int]:
    """Source offsets of the vectors of an events partition, in order."""
    found: list[int] = []
    for message in kafka.read(bootstrap, "trend.events", [partition]):
        found += decode(message.value or b"")["source_offset"].tolist()
    return found


def _wait_for(bootstrap: str, rows: int, timeout: float = 150) -> None:
    deadline = time.monotonic() + timeout
    while sum(len(set(_offsets(bootstrap, p))) for p in range(PARTITIONS)) < rows:
        assert time.monotonic() < deadline, f"fewer than {rows} vectors after {timeout} s"
        time.sleep(0.2)


def test_texts_become_vectors_in_another_partition_or_order(workers: Workers) -> None:
    batches = [
        (p, _texts([f"review {i} of {p}" for i in range(i, i + 5)], p, i)) for p in (0, 1) for i in range(0, 40, 5)
    ]
    _send(workers.bootstrap, "trend.reviews", batches)
    worker = workers.start("hash")
    _wait_for(workers.bootstrap, 80)
    assert workers.end(worker) == 0
    for partition in (0, 1):
        assert _offsets(workers.bootstrap, partition) == list(range(40))
        for message in kafka.read(workers.bootstrap, "trend.events", [partition]):
            rows = decode(message.value or b"")
            assert set(rows["source_partition"]) == {partition}
            assert np.allclose(np.linalg.norm(rows["vector"], axis=1), 1.0, atol=1e-5)


def test_one_bad_picture_harms_the_good_ones_or_leaves_no_dead_letter(workers: Workers) -> None:
    good = [_png(shade) for shade in (0, 100, 200)]
    _send(workers.bootstrap, "trend.images", [(1, _pictures([good[0], b"no picture", good[1], b"", good[2]], 1))])
    worker = workers.start("image")
    _wait_for(workers.bootstrap, 3)
    assert workers.end(worker) == 0
    assert _offsets(workers.bootstrap, 0) == []
    assert _offsets(workers.bootstrap, 1) == [0, 2, 4]
    letters = [decode_json(m.value or b"", DeadLetter) for m in kafka.read(workers.bootstrap, "trend.dlq", [1])]
    assert [(x.dead_letter_id, x.reason) for x in letters] == [
        ("images/1/1", "broken-picture"),
        ("images/1/3", "empty-picture"),
    ]
    assert letters[0].sealed == f"images/1/1:{b'no picture'.hex()}"


def test_aborted_records_are_encoded_or_the_gaps_they_leave_stop_the_commit(workers: Workers) -> None:
    to = kafka.producer(workers.bootstrap, "ingest.test")
    to.init_transactions(10)
    for first in range(12):
        aborts = first in (1, 2, 7)  # right after the first record too: an unwary commit never gets past that gap
        to.begin_transaction()
        kafka.send(to, "trend.reviews", 0, _texts([f"review {first}"], 0, 1_000 + first if aborts else first))
        to.flush(10)
        (to.abort_transaction if aborts else to.commit_transaction)()
    worker = workers.start("hash")
    _wait_for(workers.bootstrap, 9)
    assert workers.end(worker) == 0
    expected = [i for i in range(12) if i not in (1, 2, 7)]
    assert _offsets(workers.bootstrap, 0) == expected

    _send(workers.bootstrap, "trend.reviews", [(0, _texts(["one more"], 0, 12))])
    worker = workers.start("hash")
    _wait_for(workers.bootstrap, 10)
    assert workers.end(worker) == 0
    assert _offsets(workers.bootstrap, 0) == [*expected, 12], "what was acknowledged is encoded once"


def test_a_batch_that_raised_is_acknowledged_or_the_process_goes_on(workers: Workers) -> None:
    texts = ["fine", "poison", "after"]
    worker = workers.start("refusing")
    for offset, text in enumerate(texts):
        _send(workers.bootstrap, "trend.reviews", [(0, _texts([text], 0, offset))])
        if text == "fine":
            _wait_for(workers.bootstrap, 1)
    assert worker.wait(30) not in (0, None)
    assert _offsets(workers.bootstrap, 0) == [0], "nothing passes what failed"
    worker = workers.start("hash")
    _wait_for(workers.bootstrap, 3)
    assert workers.end(worker) == 0
    assert _offsets(workers.bootstrap, 0) == [0, 1, 2]


def test_a_kill_in_mid_run_loses_a_row(workers: Workers) -> None:
    batches = [(i % 2, _texts([f"slow {i}"], i % 2, i)) for i in range(300)]
    _send(workers.bootstrap, "trend.reviews", batches)
    worker = workers.start("hash")
    for rows in (40, 120):
        _wait_for(workers.bootstrap, rows)
        worker.kill()
        worker.wait(10)
        worker = workers.start("hash")
    _wait_for(workers.bootstrap, 300)
    assert workers.end(worker) == 0
    for partition in (0, 1):
        offsets = _offsets(workers.bootstrap, partition)
        first_seen = list(dict.fromkeys(offsets))
        assert first_seen == list(range(partition, 300, 2)), "a repeat may go back, but nothing is passed over"


def test_a_second_worker_that_joins_and_leaves_loses_a_row(workers: Workers) -> None:
    first = workers.start("hash", 0)
    _send(workers.bootstrap, "trend.reviews", [(i % 2, _texts([f"slow {i}"], i % 2, i)) for i in range(200)])
    _wait_for(workers.bootstrap, 20)
    second = workers.start("hash", 1)
    _send(workers.bootstrap, "trend.reviews", [(i % 2, _texts([f"slow {i}"], i % 2, i)) for i in range(200, 1_000)])
    _wait_for(workers.bootstrap, 700)
    assert workers.end(first) == 0
    _wait_for(workers.bootstrap, 1_000)
    assert workers.end(second) == 0
    for partition in (0, 1):
        assert sorted(set(_offsets(workers.bootstrap, partition))) == list(range(partition, 1_000, 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
