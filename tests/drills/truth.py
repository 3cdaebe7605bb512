"""What should have been said, from the same stages in this process, and what a consumer of the topics holds."""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import TopicPartition

from deploy.settings import Settings
from model.registry import Bundle, save_bundle
from streams import kafka
from streams.embedded import EmbeddedLog, EmbeddedRunner
from streams.replay.plan import INPUTS
from streams.stage import Message, Output
from streams.topics import DAY_MS, topics
from tests.drills.events import START
from tests.drills.stages import loop
from tests.unit.replay_world import OUTSIDE
from tests.unit.synthetic_windows import lively_bundle

_LABELS = {"revision", "replay", "events_offset", "window_id", "head"}  # where it comes from, not what it says

Decisions = Mapping[str, Mapping[str, Any]]  # fields of scores and signals of close windows, by id


def network(settings: Settings) -> Bundle:
    """One that says something, and lies where the commands look for it."""
    bundle = lively_bundle()
    save_bundle(bundle, settings.model_dir)
    return bundle


def from_platform(settings: Settings, bundle: Bundle, events: Iterable[Output]) -> EmbeddedRunner:
    """All stages over these events, none of which is late."""
    runner = EmbeddedRunner(EmbeddedLog(topics(2)), [make() for make in loop(settings, bundle).values()])
    for number, event in enumerate(events):
        runner.send(event.topic, event.partition, event.value, event.key, 2**41 + number)
        if number % 4 == 0:
            runner.run()
    for _ in range(2):
        runner.tick(runner.now + settings.idle_ms + 1)
    return runner


def from_events(settings: Settings, bundle: Bundle, events: Mapping[int, Iterable[Message]]) -> EmbeddedRunner:
    """All stages behind ingest over trend.events as it lies."""
    specs = loop(settings, bundle)
    del specs["ingest"]
    runner = EmbeddedRunner(EmbeddedLog(topics(2)), [make() for make in specs.values()])
    for message in heapq.merge(*events.values(), key=lambda m: m.timestamp):
        runner.log.put(message)
        runner.advance()
    runner.run()
    return runner


def said(runner: EmbeddedRunner) -> Decisions:
    return decisions(m for topic in OUTSIDE for m in runner.log.records(topic))


def held(bootstrap: str) -> Decisions:
    """What a consumer holds that keeps the highest revision of an id."""
    return decisions(m for topic in OUTSIDE for m in kafka.read(bootstrap, topic))


def decisions(messages: Iterable[Message]) -> Decisions:
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for message in messages:
        fields = json.loads(message.value or b"")
        name = _id(fields)
        if not fields["window_revision"] and fields["revision"] >= found.get(name, (-1, {}))[0]:
            found[name] = (fields["revision"], fields)
    return {name: {k: v for k, v in f.items() if k not in _LABELS} for name, (_, f) in sorted(found.items())}


def require_equal(found: Decisions, expected: Decisions, first: int, last: int) -> None:
    """Fail at the first close window that ends in [first, last] days and says something else, to the last digit."""
    wanted = {n: f for n, f in expected.items() if START + first * DAY_MS <= f["window_end"] <= START + last * DAY_MS}
    assert len(wanted) == 3 * 6 * (last - first + 1)
    for name, fields in wanted.items():
        assert found[name] == fields, name


def corrections(bootstrap: str) -> Counter[str]:
    """How often a replay has spoken of each id."""
    told = (json.loads(m.value or b"") for topic in OUTSIDE for m in kafka.read(bootstrap, topic))
    return Counter(_id(fields) for fields in told if "replay" in fields)


def ends(bootstrap: str) -> dict[tuple[str, int], tuple[int, int]]:
    """Of the topics that others read; taken when nothing has been published for a second and a half."""
    before = None
    while before != (now := kafka.ranges(bootstrap, dict.fromkeys(OUTSIDE, 2))):
        before = now
        time.sleep(1.5)
    return now


def committed(bootstrap: str) -> dict[tuple[str, int], int]:
    """Offsets of the live groups but the windows', which read control rows all the time."""
    found = {}
    for stage, topic in INPUTS.items():
        if stage != "windows":
            reader = kafka.consumer(bootstrap, f"trendstream.{stage}")
            wanted = [TopicPartition(topic, p) for p in range(kafka.partition_counts(bootstrap)[topic])]
            found.update({(stage, p.partition): p.offset for p in reader.committed(wanted, timeout=10)})
            reader.close()
    return found


def _id(fields: Mapping[str, Any]) -> str:
    return str(fields.get("signal_id") or fields["score_id"])
