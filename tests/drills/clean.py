"""What a platform without the error would have led to, and what a consumer holds that keeps the highest revisions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from deploy.settings import Settings, load_settings
from model.registry import Bundle, save_bundle
from streams import kafka
from streams.embedded import EmbeddedLog, EmbeddedRunner
from streams.replay.plan import INPUTS
from streams.stage import Message, Output
from streams.topics import topics
from tests.drills.events import START
from tests.drills.stages import loop
from tests.unit.synthetic_windows import lively_bundle

OUTSIDE = ("trend.scores", "signals.inventory", "signals.ads")
_LABELS = {"revision", "replay", "events_offset", "window_id", "model", "head"}


def installation(bootstrap: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, Bundle]:
    """Settings for the stages, the same as the commands read, and a network that says something."""
    bundle = lively_bundle()
    save_bundle(bundle, folder / "models")
    monkeypatch.setenv("TRENDSTREAM_PARTITIONS", "2")
    monkeypatch.setenv("TRENDSTREAM_MODEL_DIR", str(folder / "models"))
    monkeypatch.setenv("TRENDSTREAM_REPLAY_DIR", str(folder / "replays"))
    monkeypatch.setenv("TRENDSTREAM_DATABASE_URL", f"sqlite:///{folder}/read-model.db")
    return load_settings(bootstrap=bootstrap, idle_ms=1_000, snapshot_interval_s=1), bundle


def levels() -> list[Output]:
    """Stock of the six products, so that there are orders to suggest."""
    level = {"platform": "shop", "on_hand": 12, "on_order": 0, "lead_time_days": 3, "updated_at": START}
    return [
        Output("inventory.levels", i % 2, json.dumps({**level, "product_id": f"p{i}"}).encode(), f"p{i}".encode())
        for i in range(6)
    ]


def clean_run(settings: Settings, bundle: Bundle, events: Iterable[Output]) -> dict[str, dict[str, Any]]:
    """Scores and signals of close windows by id, from the same stages in this process."""
    specs = [make() for make in loop(settings, bundle).values()]
    runner = EmbeddedRunner(EmbeddedLog(topics(2)), specs)
    for number, event in enumerate(events):
        runner.send(event.topic, event.partition, event.value, event.key, 1_000_000 + number)
        if number % 4 == 0:
            runner.run()
    runner.run()
    for _ in range(2):
        runner.tick(runner.now + settings.idle_ms + 1)
    return decisions(m for topic in OUTSIDE for m in runner.log.records(topic))


def held(bootstrap: str) -> dict[str, dict[str, Any]]:
    """The same of a consumer of the topics as they are now."""
    return decisions(m for topic in OUTSIDE for m in kafka.read(bootstrap, topic))


def committed(bootstrap: str) -> dict[tuple[str, str, int], int]:
    """Offsets of the live groups."""
    found = {}
    for stage, topic in INPUTS.items():
        reader = kafka.consumer(bootstrap, f"trendstream.{stage}")
        wanted = [TopicPartition(topic, p) for p in range(kafka.partition_counts(bootstrap)[topic])]
        found.update({(stage, p.topic, p.partition): p.offset for p in reader.committed(wanted, timeout=10)})
        reader.close()
    return found


def decisions(messages: Iterable[Message]) -> dict[str, dict[str, Any]]:
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for message in messages:
        fields = json.loads(message.value or b"")
        name = fields.get("signal_id") or fields["score_id"]
        if not fields["window_revision"] and fields["revision"] >= found.get(name, (-1, {}))[0]:
            found[name] = (fields["revision"], fields)
    return {name: {k: v for k, v in f.items() if k not in _LABELS} for name, (_, f) in sorted(found.items())}


def require_equal(found: Mapping[str, Any], expected: Mapping[str, Any], first: int, last: int) -> int:
    """Fail at the first close window that ends in [first, last] days and is not the same; how many there are.

    Numbers to six digits: rows of two source partitions come in another order, and so do the sums of heads.
    """
    wanted = {n: f for n, f in expected.items() if START + first * _DAY <= f["window_end"] <= START + last * _DAY}
    for name, fields in wanted.items():
        assert _plain(found[name]) == pytest.approx(_plain(fields), rel=2e-5, abs=2e-6), name
    return len(wanted)


_DAY = 86_400_000


def _plain(value: Any, path: str = "") -> dict[str, Any]:
    """Nested values by their path."""
    if isinstance(value, dict):
        return {k: v for name, each in value.items() for k, v in _plain(each, f"{path}.{name}").items()}
    if isinstance(value, list):
        return {k: v for i, each in enumerate(value) for k, v in _plain(each, f"{path}.{i}").items()}
    return {path: value}
