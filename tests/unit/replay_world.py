"""A small shop that ran for two weeks on the in-process log, with snapshots and progress as the workers leave them, and
replays of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy import pipeline, replaying
from deploy.loop import Loop
from deploy.replaying import Request
from deploy.settings import Settings, load_settings
from deploy.sources import PlatformEvent
from model.registry import Bundle, save_bundle
from streams.calendars import DAY, HOUR
from streams.codecs import decode_json, encode_json
from streams.embedded import EmbeddedLog
from streams.records.outside import Progress, Score
from streams.replay.corrections import corrections
from streams.replay.log import MemoryLog
from streams.replay.pairs import pairs
from streams.replay.plan import Change, Plan
from streams.replay.running import Pace, Result
from streams.snapshots import Upload
from streams.stage import Message, frozen
from tests.unit.synthetic_windows import lively_bundle

START = 20_000 * DAY
PARTITIONS = 2
OUTSIDE = ("trend.scores", "signals.inventory", "signals.ads")
PRODUCTS = 10
TASKS = {"windows": "trend.events", "labels": "trend.predictions", "learner": "trend.matured"}

Events = Iterator[tuple[str, int, dict[str, Any]]]  # topic, event time, body
HELD = (START + 9 * DAY + 10 * HOUR, START + 9 * DAY + 15 * HOUR)


@dataclass
class World:
    """What lies in the topics afterwards, and the settings and the network that it was made with."""

    log: EmbeddedLog
    settings: Settings
    bundle: Bundle


def events(days: int, seed: int = 1) -> Events:
    """The shop's platform events: a catalogue and levels, then orders."""
    rng = np.random.default_rng(seed)
    for i in range(PRODUCTS):
        product, at = f"p{i}", START + i
        yield (
            "products",
            at,
            {
                "product_id": product,
                "title": f"product {i}",
                "category": ["food", "bread" if i % 2 else "fruit"],
                "price": f"{5 + i}.00",
                "currency": "EUR",
                "updated_at": at,
            },
        )
        level = {"on_hand": 20, "on_order": 0, "lead_time_days": 3, "unit_cost": "2.00", "updated_at": at}
        yield "inventory.levels", at, {"product_id": product, **level}
    number = 0
    for day in range(days):
        times = np.sort(rng.integers(0, DAY, 60))
        for at in (START + day * DAY + times).tolist():
            number += 1
            product = f"p{min(int(rng.exponential(3)), PRODUCTS - 1)}"
            line = {"product_id": product, "quantity": int(rng.integers(1, 4)), "unit_price": "5.00"}
            yield (
                "orders",
                at,
                {
                    "order_id": f"o{number}",
                    "buyer_id": f"b{number % 40}",
                    "ordered_at": at,
                    "currency": "EUR",
                    "status": "placed",
                    "lines": [line],
                },
            )


def held_back(events: Events) -> Events:
    """Orders of some hours come two days late."""
    held: list[tuple[str, int, dict[str, Any]]] = []
    for event in events:
        if event[0] == "orders" and HELD[0] <= event[1] < HELD[1]:
            held.append(event)
            continue
        if held and event[1] > START + 11 * DAY + 6 * HOUR:
            yield from held
            held = []
        yield event


def event(topic: str, at: int, body: dict[str, Any]) -> PlatformEvent:
    return PlatformEvent(topic, body.get("order_id") or body["product_id"], json.dumps(body).encode(), at)


def run_world(
    folder: Path,
    days: int = 14,
    live: bool = True,
    spoilt: Callable[[Events], Events] = iter,
    then: Mapping[int, Callable[[Loop], None]] | None = None,
) -> World:
    """Run all stages over the shop's events; `spoilt` may change what arrives, or when, and `then` does something after
    some days. Snapshots of every stage are taken after five, as the workers would."""
    bundle = lively_bundle()
    save_bundle(bundle, folder / "models")
    settings = load_settings(
        partitions=PARTITIONS,
        platforms={"shop": {"timezone": "UTC", "currency": "EUR"}},
        model_dir=folder / "models",
        replay_dir=folder / "replays",
        live_interval_ms=6 * HOUR,
        database_url=f"sqlite:///{folder / 'read-model.db'}",
    )
    if not live:
        settings = settings.model_copy(update={"live_interval_ms": pipeline.NO_LIVE_MS})
    specs = [
        pipeline.ingest_spec(settings),
        pipeline.windows_spec(settings),
        pipeline.inference_spec(settings, bundle),
        pipeline.labels_spec(settings),
        pipeline.learner_spec(settings, bundle),
        pipeline.signals_spec(settings),
    ]
    loop = Loop(specs, PARTITIONS, chunk=20)
    steps = sorted({5: take_snapshots, **(then or {})}.items())
    batch: list[PlatformEvent] = []
    for topic, at, body in spoilt(events(days)):
        batch.append(event(topic, at, {"platform": "shop", **body}))
        if steps and at > START + steps[0][0] * DAY:
            loop.feed(batch)
            batch = []
            steps.pop(0)[1](loop)
    loop.feed(batch)
    loop.settle(settings.idle_ms)
    _note_progress(loop)
    return World(loop.log, settings, bundle)


def take_snapshots(loop: Loop) -> None:
    """One of every stage that has some, at what it has read."""
    for name, topic in TASKS.items():
        for task, stage in loop.runner.stages(name).items():
            offset = loop.log.following.get(task, 0)
            upload = Upload(name, task, offset, frozen(stage), loop.runner.now, PARTITIONS)
            for output in [*upload, upload.manifest]:
                loop.log.append(output.topic, output.partition, output.value, output.key, loop.runner.now)
        assert topic == task[0]


def _note_progress(loop: Loop) -> None:
    for name in ("windows", "inference", "labels", "learner", "signals"):
        for (topic, partition), stage in loop.runner.stages(name).items():
            progress = Progress(
                stage=name,
                topic=topic,
                partition=partition,
                offset=loop.log.following.get((topic, partition), 0),
                counters=stage.counters(),
            )
            loop.log.append("trend.progress", 0, encode_json(progress), f"{name}/{topic}/{partition}".encode(), 0)


def copied(world: World) -> World:
    """To write into, while other tests use the world itself."""
    return World(copy.deepcopy(world.log), world.settings, world.bundle)


def plan(world: World, start: int = 8, to: int | None = 12, **change: Any) -> Plan:
    asked = {name: change.pop(name) for name in ("stages", "products") if name in change}
    to_ms = None if to is None else START + to * DAY
    request = Request(START + start * DAY + 5, to_ms, Change(**change), **asked)
    made = replaying.make_plan(world.settings, MemoryLog(world.log), request)
    replaying.save_plan(made, world.settings)
    return made


def run(world: World, made: Plan, stop: Callable[[], bool] = lambda: False) -> Result:
    shadow = replaying.shadow_of(made, world.settings, "")
    work = replaying.run_of(made, world.settings, MemoryLog(world.log), shadow)
    return replace(work, records=8).run(Pace(lambda: 100, stop))


def shadow(world: World, made: Plan, topic: str) -> list[Message]:
    return list(replaying.shadow_of(made, world.settings, "").records(topic))


def apply(world: World, made: Plan) -> list[Message]:
    """Publish what is left to correct; what was sent."""
    found = pairs(made, MemoryLog(world.log), replaying.shadow_of(made, world.settings, ""))
    outputs = [c.output for pair in found for c in corrections(pair, made.replay)]
    return [world.log.append(o.topic, o.partition, o.value, o.key, 0) for o in outputs]


def scores(messages: list[Message]) -> list[Score]:
    return [decode_json(m.value or b"", Score) for m in messages]
