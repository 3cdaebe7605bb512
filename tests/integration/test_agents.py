"""The encoders' Faust shell on a real broker: what it reads, what it acknowledges, and how it ends."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.lifecycle import Stopper
from deploy.local_kafka import LocalKafka
from deploy.topics import create_topics
from featurizers.agents import AgentConfig, run_encoder
from featurizers.encoding import ImageConfig, TextConfig, TextStage, VectorCache
from featurizers.projection import Floats, random_projection
from streams import kafka
from streams.codecs import decode, decode_json, encode
from streams.observing import Silent
from streams.records import Modality
from streams.records.inside import PICTURES, TEXTS
from streams.records.outside import DeadLetter
from streams.stage import StageSpec, TaskKey
from tests.conftest import JARS

pytestmark = pytest.mark.kafka
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
    from featurizers.encoding import ImageStage
    from featurizers.image import ImageEncoder

    def seal(identifier: str, original: bytes) -> str:
        return f"{identifier}:{original.hex()}"

    config, encoder = ImageConfig(), ImageEncoder()
    projection, cache = random_projection(encoder.dimensions), VectorCache(100)
    return StageSpec(
        "image-encoder",
        ("trend.images",),
        lambda task: ImageStage(encoder, projection, cache, seal, config),
        stateful=False,
    )


SPECS: dict[str, Callable[[], StageSpec]] = {
    "hash": lambda: _hash_spec(""),
    "refusing": lambda: _hash_spec("poison"),
    "image": _real_image_spec,
}


def main(bootstrap: str, kind: str) -> None:
    """A worker process."""
    stop = Stopper().listen()
    if kind == "image":
        import torch

        torch.set_num_threads(1)
    run_encoder(SPECS[kind](), AgentConfig(bootstrap, PARTITIONS), stop)


class Workers:
    """Starts worker processes, leaves none behind, and reads what they wrote since this was made."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._started: list[Any] = []
        self._begin = {t: [end for _, end in kafka.end_offsets(bootstrap, t)] for t in ("trend.events", "trend.dlq")}

    def start(self, kind: str) -> Any:
        worker = multiprocessing.get_context("forkserver").Process(target=main, args=(self.bootstrap, kind))
        worker.start()
        self._started.append(worker)
        return worker

    def end(self, worker: Any) -> int | None:
        worker.terminate()
        return self.wait(worker)

    def wait(self, worker: Any) -> int | None:
        worker.join(30)
        code: int | None = worker.exitcode
        return code

    def send(self, topic: str, values: Sequence[tuple[int, bytes]]) -> None:
        to = kafka.producer(self.bootstrap)
        for partition, value in values:
            kafka.send(to, topic, partition, value)
        assert to.flush(30) == 0

    def read(self, topic: str, partition: int) -> list[bytes]:
        start = {partition: self._begin[topic][partition]}
        return [m.value or b"" for m in kafka.read(self.bootstrap, topic, [partition], start)]

    def offsets(self, partition: int) -> list[int]:
        """Source offsets of the vectors of an events partition, in order."""
        return [offset for value in self.read("trend.events", partition) for offset in decode(value)["source_offset"]]

    def wait_for(self, rows: int, timeout: float = 150) -> None:
        deadline = time.monotonic() + timeout
        while sum(len(set(self.offsets(p))) for p in range(PARTITIONS)) < rows:
            assert time.monotonic() < deadline, f"fewer than {rows} vectors after {timeout} s"
            time.sleep(0.3)

    def close(self) -> None:
        for worker in self._started:
            if worker.is_alive():
                worker.kill()
            worker.join(10)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker whose topics have these tests' number of partitions."""
    with LocalKafka(tmp_path_factory.mktemp("kafka"), jars=JARS) as local:
        create_topics(local.bootstrap, PARTITIONS)
        yield local.bootstrap


@pytest.fixture
def workers(broker: str) -> Iterator[Workers]:
    workers = Workers(broker)
    yield workers
    workers.close()


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


def test_texts_become_vectors_in_another_partition_or_order(workers: Workers) -> None:
    batches = [
        (p, _texts([f"review {i} of {p}" for i in range(i, i + 5)], p, i)) for p in (0, 1) for i in range(0, 40, 5)
    ]
    workers.send("trend.reviews", batches)
    worker = workers.start("hash")
    workers.wait_for(80)
    assert workers.end(worker) == 0
    for partition in (0, 1):
        assert workers.offsets(partition) == list(range(40))
        for value in workers.read("trend.events", partition):
            rows = decode(value)
            assert set(rows["source_partition"]) == {partition}
            assert np.allclose(np.linalg.norm(rows["vector"], axis=1), 1.0, atol=1e-5)


class Told(Silent):
    """What an observer heard, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def assigned(self, stage: str, tasks: Sequence[TaskKey]) -> None:
        self.heard.append(("assigned", *tasks))

    def lagging(self, stage: str, task: TaskKey, records: int) -> None:
        self.heard.append(("lagging", task, records))

    def committed(self, stage: str, records: int, outputs: int, seconds: float) -> None:
        self.heard.append(("committed", records))


def test_an_encoder_that_is_busy_says_nothing_of_what_waits(workers: Workers) -> None:
    texts = _texts([f"slow {i}" for i in range(250)], 0, 0)
    workers.send("trend.reviews", [(0, texts), *((0, _texts([f"after {i}"], 0, 300 + i)) for i in range(5))])
    told, stop = Told(), threading.Event()
    config = AgentConfig(workers.bootstrap, PARTITIONS, max_records=1)
    worker = threading.Thread(target=run_encoder, args=(_hash_spec(""), config, stop.is_set, told))
    worker.start()
    workers.wait_for(255)
    stop.set()
    worker.join(20)
    tasks = (("trend.reviews", 0), ("trend.reviews", 1))
    assert ("assigned", *tasks) in told.heard
    before = told.heard[: told.heard.index(("committed", 1))]
    assert max(heard[2] for heard in before if heard[:2] == ("lagging", tasks[0])) >= 6


def test_one_bad_picture_harms_the_good_ones_or_leaves_no_dead_letter(workers: Workers) -> None:
    good = [_png(shade) for shade in (0, 100, 200)]
    workers.send("trend.images", [(1, _pictures([good[0], b"no picture", good[1], b"", good[2]], 1))])
    worker = workers.start("image")
    workers.wait_for(3)
    assert workers.end(worker) == 0
    assert workers.offsets(0) == []
    assert workers.offsets(1) == [0, 2, 4]
    letters = [decode_json(value, DeadLetter) for value in workers.read("trend.dlq", 1)]
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
    workers.wait_for(9)
    assert workers.end(worker) == 0
    expected = [i for i in range(12) if i not in (1, 2, 7)]
    assert workers.offsets(0) == expected

    workers.send("trend.reviews", [(0, _texts(["one more"], 0, 12))])
    worker = workers.start("hash")
    workers.wait_for(10)
    assert workers.end(worker) == 0
    assert workers.offsets(0) == [*expected, 12], "what was acknowledged is encoded once"


def test_a_batch_that_raised_is_acknowledged_or_the_process_goes_on(workers: Workers) -> None:
    texts = ["fine", "poison", "after"]
    worker = workers.start("refusing")
    for offset, text in enumerate(texts):
        workers.send("trend.reviews", [(0, _texts([text], 0, offset))])
        if text == "fine":
            workers.wait_for(1)
    assert workers.wait(worker) not in (0, None)
    assert workers.offsets(0) == [0], "nothing passes what failed"
    worker = workers.start("hash")
    workers.wait_for(3)
    assert workers.end(worker) == 0
    assert workers.offsets(0) == [0, 1, 2]


def test_a_kill_in_mid_run_loses_a_row(workers: Workers) -> None:
    batches = [(i % 2, _texts([f"slow {i}"], i % 2, i)) for i in range(300)]
    workers.send("trend.reviews", batches)
    worker = workers.start("hash")
    for rows in (40, 120):
        workers.wait_for(rows)
        worker.kill()
        worker.join(10)
        worker = workers.start("hash")
    workers.wait_for(300)
    assert workers.end(worker) == 0
    for partition in (0, 1):
        offsets = workers.offsets(partition)
        first_seen = list(dict.fromkeys(offsets))
        assert first_seen == list(range(partition, 300, 2)), "a repeat may go back, but nothing is passed over"


def test_a_second_worker_that_joins_and_leaves_loses_a_row(workers: Workers) -> None:
    first = workers.start("hash")
    workers.send("trend.reviews", [(i % 2, _texts([f"slow {i}"], i % 2, i)) for i in range(200)])
    workers.wait_for(20)
    second = workers.start("hash")
    workers.send("trend.reviews", [(i % 2, _texts([f"slow {i}"], i % 2, i)) for i in range(200, 1_000)])
    workers.wait_for(700)
    assert workers.end(first) == 0
    workers.wait_for(1_000)
    assert workers.end(second) == 0
    for partition in (0, 1):
        assert sorted(set(workers.offsets(partition))) == list(range(partition, 1_000, 2))


def test_a_zombie_throws_its_heir_out_or_its_rows_are_lost(workers: Workers) -> None:
    def send(numbers: range) -> None:
        workers.send("trend.reviews", [(i % 2, _texts([f"slow {i}"], i % 2, i)) for i in numbers])

    send(range(600))  # more than the first worker can do before it stands still
    zombie = workers.start("hash")
    workers.wait_for(10)
    os.kill(zombie.pid, signal.SIGSTOP)
    heir = workers.start("hash")
    workers.wait_for(600)
    os.kill(zombie.pid, signal.SIGCONT)
    time.sleep(2)  # it hears that it is no member any more
    send(range(600, 700))
    workers.wait_for(700)
    assert workers.end(zombie) in (0, 1), "it may go on beside its heir, or have ended"
    send(range(700, 740))
    workers.wait_for(740)
    assert workers.end(heir) == 0
    for partition in (0, 1):
        seen = workers.offsets(partition)
        assert sorted(set(seen)) == list(range(partition, 740, 2))
