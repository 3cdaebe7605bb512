"""The whole loop on real Kafka, with all workers as processes, on a span of the Olist sample and its photos.

One run is left in peace, started by `worker all`; in the other the windows worker, the inference worker and the text
encoder are killed in mid-run and started again. Both must hold the same promises.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.following import CloseFollower
from deploy.local_kafka import LocalKafka
from deploy.settings import Settings, load_settings
from deploy.sources import OLIST, PlatformEvent, Span
from deploy.sources.olist import Olist
from deploy.sources.replayer import KafkaSink, Pace, Replayer
from deploy.topics import create_topics
from model.registry import Bundle, load_bundle, newest, save_bundle, untrained_bundle
from streams import kafka
from streams.codecs import decode, decode_json
from streams.records import WindowKind
from streams.records.inside import PREDICTIONS, WINDOWS
from streams.records.outside import DeadLetter, Score
from streams.signals.read_model import ReadModel
from streams.stage import Message
from tests.conftest import JARS
from tests.e2e.contract import CHECKED, check_contract
from tests.e2e.running import Workers, running
from tests.e2e.sums import check_units

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(420)]
PARTITIONS = 2
SPAN = Span(dt.date(2018, 3, 1), dt.date(2018, 3, 18))
ALL = ("ingest", "text", "image", "windows", "inference", "labels", "learner", "signals")
READS = {
    "windows": "trend.events",
    "inference": "trend.windows",
    "labels": "trend.predictions",
    "learner": "trend.matured",
    "signals": "trend.predictions",
}


@dataclass(frozen=True)
class Finished:
    """A run that is over: what was produced and what lies in the topics."""

    bootstrap: str
    settings: Settings
    bundle: Bundle
    produced: dict[str, int]
    counters: dict[str, dict[str, int]]
    topics: dict[str, dict[int, list[Message]]]
    codes: dict[str, int | None]


def _network(folder: Path) -> None:
    """A network that says something: random corrections of the baseline."""
    bundle = untrained_bundle(seed=3)
    generator = torch.Generator().manual_seed(3)
    for parameter in bundle.network.parameters():
        if not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    save_bundle(Bundle(bundle.network, bundle.dispersion, bundle.hour_profile, ("beleza_saude",)), folder)


def _leave_aborted(bootstrap: str) -> None:
    """An aborted transaction under each stage: whoever took a record of it could not go on, or would count it."""
    to = kafka.producer(bootstrap, "aborted")
    to.init_transactions(30)
    to.begin_transaction()
    counts = kafka.partition_counts(bootstrap)
    for topic in ("orders", "reviews", "trend.reviews", "trend.images", "model.heads", *READS.values()):
        for partition in range(counts[topic]):
            kafka.send(to, topic, partition, b"aborted")
    assert to.flush(30) == 0
    to.abort_transaction(30)


def _disturb(workers: Workers, events: Iterator[PlatformEvent]) -> Iterator[PlatformEvent]:
    """Hand the events on, and kill a worker after each quarter of them."""
    listed = list(events)
    quarter = len(listed) // 4
    for number, name in enumerate(("windows", "inference", "text"), start=1):
        yield from itertools.islice(listed, (number - 1) * quarter, number * quarter)
        time.sleep(2.0)
        workers.kill(name)
        workers.start(name)
    yield from listed[3 * quarter :]


@pytest.fixture(scope="module", params=["in peace", "with kills"])
def finished(
    request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("loop")
    source = Olist(shared_data / "olist", SPAN, shared_data / "photos")
    _network(folder / "models")
    with LocalKafka(folder / "kafka", jars=JARS) as broker:
        create_topics(broker.bootstrap, PARTITIONS)
        _leave_aborted(broker.bootstrap)
        platforms = {"olist": {"timezone": OLIST.timezone, "currency": OLIST.currency}}
        options = {
            "TRENDSTREAM_PARTITIONS": str(PARTITIONS),
            "TRENDSTREAM_PLATFORMS": json.dumps(platforms),
            "TRENDSTREAM_PICTURE_ROOTS": json.dumps([str(source.pictures)]),
            "TRENDSTREAM_IDLE_MS": "2000",
            "TRENDSTREAM_SNAPSHOT_INTERVAL_S": "2",
        }
        with (
            running(broker.bootstrap, folder, **options) as workers,
            CloseFollower(broker.bootstrap, PARTITIONS) as closes,
        ):
            # In peace as on-call engineers start them, by one command; killed can be only what was started alone.
            workers.start(*(ALL if request.param == "with kills" else ("all",)))
            events = iter(source)
            if request.param == "with kills":
                events = _disturb(workers, events)
            counts = kafka.partition_counts(broker.bootstrap)
            played = Replayer(events, KafkaSink(broker.bootstrap), counts, Pace()).run()
            calendar = OLIST.calendar
            boundary = calendar.start(int(calendar.day(played.last - 60_000)))
            workers.wait_until(lambda: closes.boundary >= boundary, "the last day is closed everywhere", 240)
            vectors = played.produced["products"] + played.produced["images"]
            workers.wait_until(
                lambda: workers.counters("windows").get("vectors", 0) >= vectors, "pictures and titles are in", 120
            )
            workers.wait_until(
                lambda: workers.is_quiet("trend.windows", "trend.matured") and workers.is_drained(READS),
                "nothing more comes, and all of it is taken",
                120,
            )
            codes = workers.stop()
            settings = load_settings(
                partitions=PARTITIONS,
                platforms=platforms,
                bootstrap=broker.bootstrap,
                model_dir=folder / "models",
                database_url=f"sqlite:///{folder / 'read-model.db'}",
            )
            path = newest(folder / "models")
            assert path is not None
            yield Finished(
                bootstrap=broker.bootstrap,
                settings=settings,
                bundle=load_bundle(path),
                produced=played.produced,
                counters={name: workers.counters(name) for name in ALL},
                topics={topic: workers.topic(topic) for topic in ("orders", *CHECKED)},
                codes=codes,
            )


def test_no_worker_ends_by_itself_or_badly(finished: Finished) -> None:
    assert set(finished.codes.values()) == {0}


def test_every_platform_event_is_accepted_repeated_or_dead(finished: Finished) -> None:
    counts = finished.counters["ingest"]
    assert counts["read"] == sum(finished.produced.values())
    assert counts["read"] == counts["accepted"] + counts["repeated"] + counts["dead"]
    letters = [decode_json(m.value or b"", DeadLetter) for log in finished.topics["trend.dlq"].values() for m in log]
    assert len([d for d in letters if d.stage == "ingest"]) == counts["dead"]


def test_units_per_product_and_day_equal_a_group_by_over_the_orders(finished: Finished) -> None:
    lines = check_units(finished.topics["orders"], finished.topics["trend.dlq"], finished.topics["trend.windows"])
    assert lines > 250


def test_what_stages_published_is_the_fold_of_their_input_byte_for_byte(finished: Finished) -> None:
    check_contract(finished.topics, finished.settings, finished.bundle)


def test_heads_are_learnt_and_used_in_time(finished: Finished) -> None:
    versions = [m.key for m in finished.topics["model.heads"][0]]
    assert len(versions) == len(set(versions)) >= 12
    assert finished.counters["inference"]["head_late"] == 0
    used = {
        str(head)
        for log in finished.topics["trend.predictions"].values()
        for m in log
        if (rows := decode(m.value or b"")).record is PREDICTIONS
        for head in rows["head"]
    }
    assert len(used) >= 10


def test_no_score_is_published_twice(finished: Finished) -> None:
    scores = [decode_json(m.value or b"", Score) for log in finished.topics["trend.scores"].values() for m in log]
    ids = [(s.score_id, s.revision) for s in scores]
    assert len(ids) == len(set(ids)) == finished.counters["inference"]["scores"]
    assert any("image" not in s.missing for s in scores)
    assert any("text" not in s.missing for s in scores)


def test_the_read_model_holds_the_newest_score_of_every_product(finished: Finished) -> None:
    newest_end: dict[str, int] = {}
    for message in itertools.chain.from_iterable(finished.topics["trend.scores"].values()):
        score = decode_json(message.value or b"", Score)
        newest_end[score.product_id] = max(newest_end.get(score.product_id, 0), score.window_end)
    read_model = ReadModel(finished.settings.database_url)
    try:
        for product in itertools.islice(sorted(newest_end), 0, None, 25):
            row = read_model.product("olist", product)
            assert row is not None
            assert row.score is not None
            assert row.score.window_end == newest_end[product]
    finally:
        read_model.close()


def test_windows_before_t_do_not_change_without_the_events_from_t_on(finished: Finished) -> None:
    import pyarrow as pa

    from deploy import pipeline
    from streams.codecs import encode_batch
    from streams.embedded import fold
    from streams.records.inside import CONTROL

    spec = pipeline.windows_spec(finished.settings)
    log = finished.topics["trend.events"][0]
    cut = OLIST.calendar.start(OLIST.calendar.index(dt.date(2018, 3, 11))) + 7 * 3_600_000
    shortened = []
    for message in log:
        rows = decode(message.value or b"")
        if rows.record is not CONTROL:
            batch = rows.batch.filter(pa.array(rows["at"] < cut))
            message = Message(*_place(message), message.key, encode_batch(batch))
        shortened.append(message)
    whole = _windows_until(fold(spec.make(("trend.events", 0)), log), cut)
    short = _windows_until(fold(spec.make(("trend.events", 0)), shortened), cut)
    assert len(whole) > 500
    assert short == whole


def _place(message: Message) -> tuple[str, int, int, int]:
    return message.topic, message.partition, message.offset, message.timestamp


def _windows_until(outputs: object, cut: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for output in outputs:  # type: ignore[attr-defined]
        rows = decode(output.value)
        if rows.record is WINDOWS:
            seen = np.where(rows["kind"] == WindowKind.CLOSE, rows["end"] - 1, rows["as_of"])
            found += [row for row, at in zip(rows.batch.to_pylist(), seen, strict=True) if at < cut]
    return [repr(row) for row in found]  # type: ignore[misc]


def test_topics_cat_shows_windows_that_a_person_can_read(finished: Finished) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "deploy.cli", "topics", "cat", "trend.windows", "--limit", "3"]
    done = subprocess.run(
        [*command, "--bootstrap", finished.bootstrap], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "olist:" in done.stdout
    assert "2018-0" in done.stdout
    assert "units" in done.stdout
