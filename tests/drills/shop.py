"""A shop whose product p3 surged on a Tuesday, and whose past knows such weeks: its events, and a network trained on
them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.settings import Settings, load_settings
from deploy.sources import PlatformEvent
from deploy.topics import create_topics
from deploy.training import start_history, train_bundle
from model.network import NetworkConfig
from model.train import TrainConfig
from streams import kafka
from streams.partitioning import partition_of
from streams.stage import Output
from streams.topics import DAY_MS
from tests.drills.stages import drained
from tests.e2e.running import running

PRODUCTS = 12
TUESDAY = 1_763_424_000_000  # 2025-11-18, UTC
FIRST = TUESDAY - 35 * DAY_MS  # of the days that are streamed
PAST_DAYS = 200  # that the network learns from
PAST = FIRST - PAST_DAYS * DAY_MS
HOUR_MS = DAY_MS // 24

PRAISE = (
    "Saw it in a video last night, ordered two, and they are wonderful",
    "Everybody talks about it since yesterday, and everybody is right",
    "Half the price and the best that I ever had",
)
USUAL = ("Does what it should", "Fine, nothing special", "Arrived on time, as described")


def events(first: int, last: int, seed: int, surges: set[tuple[int, int]]) -> Iterator[PlatformEvent]:
    """Days from one instant up to another, UTC ms; `surges` are product and first day (an instant)."""
    rng = np.random.default_rng(seed)
    began = {(p, day + d * DAY_MS): d for p, day in surges for d in range(-1, 7)}
    made: list[tuple[str, int, dict[str, Any]]] = []
    for product in range(PRODUCTS):
        made += _known(product, first)
    for day in range(first, last, DAY_MS):
        for product in range(PRODUCTS):
            made += _day(rng, product, day, began.get((product, day)))
    for topic, at, body in sorted(made, key=lambda event: event[1]):
        if at < last:
            key = body.get("order_id") or body["product_id"]
            yield PlatformEvent(topic, key, json.dumps({"platform": "shop", **body}).encode(), at)


def _known(product: int, at: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    name, kind = f"p{product}", "bread" if product % 2 else "fruit"
    about = {"title": f"{kind} {product}", "category": ["food", kind], "price": "8.00", "currency": "EUR"}
    yield "products", at, {"product_id": name, **about, "updated_at": at}
    level = {"on_hand": 400, "on_order": 0, "lead_time_days": 3, "unit_cost": "4.00"}
    yield "inventory.levels", at, {"product_id": name, **level, "updated_at": at}
    yield from _picture(product, at)


def _picture(product: int, at: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    held = io.BytesIO()
    Image.new("RGB", (64, 64), (20 * product, at // DAY_MS % 255, 90)).save(held, "PNG")
    content = base64.b64encode(held.getvalue()).decode()
    about = {"image_id": f"p{product}-{at}", "kind": "image", "content_type": "image/png", "content": content}
    yield "images", at, {"product_id": f"p{product}", **about, "captured_at": at}


def _day(
    rng: np.random.Generator, product: int, day: int, began: int | None
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """`began`: days since a surge began, -1 on the day before, when it is announced that the price falls for a week."""
    name, price = f"p{product}", "8.00"
    views, orders, texts = 4.0, 3.0, USUAL[: int(rng.poisson(0.15))]
    if began == -1:
        at, first = day + 18 * HOUR_MS, day + DAY_MS
        about = {"kind": "price", "depth": 0.5, "starts_at": first, "ends_at": first + 7 * DAY_MS, "announced_at": at}
        yield "promotions", at, {"product_id": name, **about}
    elif began is not None:
        views, orders, price = 40.0 - 4 * began, 13.0 - began, "4.00"
    if began == 0:
        texts = PRAISE
        yield from _picture(product, day + 7 * HOUR_MS)

    def times(mean: float) -> list[int]:
        found: list[int] = np.sort(rng.integers(day, day + DAY_MS, int(rng.poisson(mean)))).tolist()
        return found

    for at in times(views):
        yield "behaviors", at, {"product_id": name, "user_id": f"u{at % 97}", "kind": "view", "occurred_at": at}
    for at in times(orders):
        line = {"product_id": name, "quantity": 1 + at % 3, "unit_price": price}
        order = {"order_id": f"{name}-{at}", "buyer_id": f"b{at % 89}", "ordered_at": at, "currency": "EUR"}
        yield "orders", at, {**order, "status": "placed", "lines": [line]}
    for number, text in enumerate(texts):
        at = day + (8 + number) * HOUR_MS
        about = {"review_id": f"{name}-{at}", "buyer_id": f"b{number}", "rating": 5 if began == 0 else 4, "text": text}
        yield "reviews", at, {"product_id": name, **about, "written_at": at}


def streamed() -> Iterator[PlatformEvent]:
    """What the platform sends up to the Thursday after."""
    return events(FIRST, TUESDAY + 3 * DAY_MS, 1, {(3, TUESDAY)})


@dataclass(frozen=True)
class Past:
    """The months before, as `trendstream train` reads a source."""

    platform: str = "shop"
    description: Mapping[str, object] = field(default_factory=dict)
    estimate: int = 0
    pictures: Path | None = None

    def __iter__(self) -> Iterator[PlatformEvent]:
        rng = np.random.default_rng(7)
        surges = {(int(rng.integers(PRODUCTS)), PAST + day * DAY_MS) for day in range(20, PAST_DAYS - 5, 3)}
        return events(PAST, FIRST, 2, surges)


def train(settings: Settings) -> None:
    """A network of the shop's past, in the model folder."""
    past = Past()
    history = start_history(past, settings, FIRST)
    history.feed(past)
    train_bundle(history, settings, TrainConfig(network=NetworkConfig(width=32, hidden=64), epochs=6))


def unusable() -> Iterator[PlatformEvent]:
    """Orders with their quantity as text, and a picture that is none."""
    for number in range(20):
        line = {"product_id": "p0", "quantity": "1", "unit_price": "8.00"}
        order = {"order_id": f"text-{number}", "buyer_id": "b0", "ordered_at": TUESDAY, "currency": "EUR"}
        value = json.dumps({"platform": "shop", **order, "status": "placed", "lines": [line]})
        yield PlatformEvent("orders", f"text-{number}", value.encode(), TUESDAY)
    topic, at, body = next(_picture(0, TUESDAY))
    value = json.dumps({"platform": "shop", **body, "content": "AAAA"})
    yield PlatformEvent(topic, "p0", value.encode(), at)


STAGES = ("ingest", "windows", "inference", "labels", "learner", "signals", "text", "image")


@contextmanager
def running_shop(bootstrap: str, folder: Path, metrics_port: int) -> Iterator[dict[str, str]]:
    """Every worker a process of its own, with all that the shop sent read; gives the environment of workers and
    commands."""
    create_topics(bootstrap, 2)
    options = {"PARTITIONS": "2", "PLATFORMS": '{"shop": {}}', "IDLE_MS": "1000", "SNAPSHOT_INTERVAL_S": "2"}
    train(load_settings(partitions=2, platforms={"shop": {}}, model_dir=folder / "models"))
    environment = {
        f"TRENDSTREAM_{name}": value for name, value in {**options, "METRICS_PORT": str(metrics_port)}.items()
    }
    events = list(streamed())
    evening = TUESDAY + 20 * HOUR_MS

    def send(chosen: Iterable[PlatformEvent]) -> None:
        kafka.append(bootstrap, [Output(e.topic, partition_of(e.key, 2), e.value, e.key.encode()) for e in chosen])

    def read_up_to(at: int) -> bool:
        return drained(bootstrap, at, *STAGES)

    with running(bootstrap, folder, **environment) as workers:
        workers.start("all")
        # Reviews and pictures count when they have come: Tuesday's do before it is over.
        send(event for event in events if event.at < evening)
        workers.wait_until(lambda: read_up_to(evening - 3 * HOUR_MS), "up to Tuesday's evening")
        send([*(event for event in events if event.at >= evening), *unusable()])
        workers.wait_until(lambda: read_up_to(events[-1].at - 3 * HOUR_MS), "up to Thursday's end")
        yield {name: value for name, value in workers.environment().items() if name.startswith("TRENDSTREAM_")}
