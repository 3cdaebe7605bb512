"""Shops in which something else than sales says what will sell, as platform events, and the windows made of them.

Events go through the ingest, encoders, projections and windows that training uses. What the signal says is also kept as
numbers, for a network that reads it in place of a modality's vectors: the oracle.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw

from deploy.settings import load_settings
from deploy.sources import PlatformEvent
from deploy.training import start_history
from model.dataset import Dataset, DatasetConfig, collect
from model.features import BEHAVIOUR, BEHAVIOUR_CONTEXT, VECTORS
from streams.calendars import DAY, HOUR
from streams.records import VECTOR, Modality
from tests.simulation.world import Floats, Ints

START = 1_704_067_200_000  # 2024-01-01
LEAD = 3  # days by which reviews are ahead of demand

THINGS = ("lamp", "kettle", "chair", "jacket", "blender", "rucksack", "clock", "carpet")
PRAISE = (
    "I love this {0}, it works perfectly and looks wonderful",
    "Excellent {0}, best I ever had, highly recommended",
    "Very happy with the {0}: great quality, quick delivery",
    "A superb {0}, my whole family is delighted with it",
)
BLAME = (
    "This {0} broke after a day, a terrible waste of money",
    "Awful {0}, poor quality, I am sending it back",
    "Very disappointed with the {0}: it arrived damaged and smells",
    "The worst {0} I ever bought, do not buy it",
)
NEUTRAL = ("The {0} came in a brown box with a manual", "I ordered the {0} in the second week of the month")


@dataclass(frozen=True, eq=False)
class Shop:
    """A source of platform events. Arrays are [products, days]; day 0 is a Monday."""

    units: Ints
    signal: Floats  # what the signal has told by the start of each day
    born: Ints  # [products] day of the catalogue record
    reviews: dict[tuple[int, int], list[str]] = field(default_factory=dict)  # texts by product and day
    views: Ints | None = None
    photos: list[bytes] = field(default_factory=list)  # [products] JPEG
    platform: str = "shop"
    pictures: None = None  # all come with their content
    estimate: int = 0
    description: dict[str, object] = field(default_factory=dict)

    def __iter__(self) -> Iterator[PlatformEvent]:
        """In the order of their time."""
        products, days = self.units.shape
        for day in range(days):
            at = START + day * DAY
            for i in np.flatnonzero(self.born == day).tolist():
                yield _event("products", f"p{i}", at, title="Shirt", category=["clothes"], updated_at=at)
                if self.photos:
                    photo = base64.b64encode(self.photos[i]).decode()
                    yield _event("images", f"p{i}", at, image_id=f"i{i}", kind="image", captured_at=at,
                                 content_type="image/jpeg", content=photo)  # fmt: skip
            for i in range(products):
                for number, text in enumerate(self.reviews.get((i, day), [])):
                    yield _event("reviews", f"p{i}", at + HOUR, review_id=f"r{i}-{day}-{number}", buyer_id="b",
                                 rating=3, text=text, written_at=at + HOUR)  # fmt: skip
                for number in range(int(self.views[i, day]) if self.views is not None else 0):
                    yield _event("behaviors", f"p{i}", at + HOUR, user_id=f"u{number}", kind="view",
                                 occurred_at=at + HOUR)  # fmt: skip
            at += 12 * HOUR
            sold = np.flatnonzero(self.units[:, day]).tolist()
            lines = [{"product_id": f"p{i}", "quantity": int(self.units[i, day]), "unit_price": "10.00"} for i in sold]
            if lines:
                order = {"platform": "shop", "order_id": f"o{day}", "buyer_id": "b", "ordered_at": at,
                         "currency": "EUR", "status": "placed", "lines": lines}  # fmt: skip
                yield PlatformEvent("orders", f"o{day}", json.dumps(order).encode(), at)

    def dataset(self) -> Dataset:
        """The close windows of all days, with what sold after each."""
        settings = load_settings(partitions=1, platforms={"shop": {}})
        history = start_history(self, settings, START + self.units.shape[1] * DAY)
        history.feed(self)
        history.loop.settle(settings.idle_ms)
        return collect(history.windows, DatasetConfig(max_rows=10**9))

    def product(self, dataset: Dataset) -> Ints:
        """[rows] of each window."""
        return np.array([int(name.rpartition("p")[2]) for name in dataset.product])

    def told(self, dataset: Dataset) -> Floats:
        """[rows, VECTOR] the signal as each window's end has it, as a vector."""
        signal = self.signal[self.product(dataset), (dataset.end - START) // DAY]
        return np.pad(np.stack([signal, -signal], axis=1), ((0, 0), (0, VECTOR - 2)))


def sentiment_shop(seed: int, products: int = 60, days: int = 160) -> Shop:
    """Moods of 25 days on average halve or double what a product sells; reviews know them three days ahead."""
    rng = np.random.default_rng(seed)
    mood = np.ones((products, days + LEAD))
    mood[:, 0] = rng.choice([-1.0, 1.0], products)
    for day in range(1, days + LEAD):
        mood[:, day] = np.where(rng.random(products) < 0.96, mood[:, day - 1], -mood[:, day - 1])
    rate = rng.gamma(4.0, 2.0, products)[:, None]
    units = rng.poisson(rate * np.exp(0.8 * mood[:, :days]))
    reviews: dict[tuple[int, int], list[str]] = {}
    for i, day in np.ndindex(products, days):
        kinds = PRAISE if mood[i, day + LEAD] > 0 else BLAME
        for _ in range(rng.poisson(2.0)):
            text = str(rng.choice(NEUTRAL if rng.random() < 0.2 else kinds))
            reviews.setdefault((i, day), []).append(text.format(rng.choice(THINGS)))
    # When day d begins, the reviews of d - 1 are out, which know the mood of d + 2.
    return Shop(units, mood[:, LEAD - 1 : LEAD - 1 + days], np.zeros(products, np.int64), reviews)


def style_shop(seed: int, products: int = 240, days: int = 120) -> Shop:
    """Stripes sell four times what spots do: the picture alone says which. A quarter of the products comes late."""
    rng = np.random.default_rng(seed)
    stripes = rng.random(products) < 0.5
    late = rng.random(products) < 0.25
    born = np.where(late, rng.integers(days - 45, days - 40, products), rng.integers(0, 40, products))
    rate = rng.gamma(8.0, 0.08, products) * np.where(stripes, 2.0, 0.5)
    units = rng.poisson(rate[:, None] * (np.arange(days) >= born[:, None]))
    signal = np.repeat(np.where(stripes, 1.0, -1.0)[:, None], days, axis=1)
    return Shop(units, signal, born, photos=[_shirt(rng, bool(s)) for s in stripes])


def views_shop(seed: int, products: int = 60, days: int = 150) -> Shop:
    """Interest of a day is seen in its views, and sells on the next."""
    rng = np.random.default_rng(seed)
    interest = rng.normal(0.0, 0.7, (products, days + 1))
    rate = rng.gamma(4.0, 2.0, products)[:, None]
    views = rng.poisson(5 * np.exp(interest[:, 1:]))
    units = rng.poisson(rate * np.exp(interest[:, :-1] - 0.7**2 / 2))
    return Shop(units, interest[:, :-1], np.zeros(products, np.int64), views=views)


def _event(topic: str, product: str, at: int, **fields: object) -> PlatformEvent:
    body = {"platform": "shop", "product_id": product, **fields}
    return PlatformEvent(topic, product, json.dumps(body).encode(), at)


def _shirt(rng: np.random.Generator, stripes: bool) -> bytes:
    """A shirt's pattern in any two colours."""
    ground, paint = (tuple(int(c) for c in rng.integers(0, 256, 3)) for _ in range(2))
    picture = Image.new("RGB", (160, 160), ground)
    draw, step, shift = ImageDraw.Draw(picture), int(rng.integers(18, 30)), int(rng.integers(0, 18))
    for a in range(shift, 160, step):
        if stripes:
            draw.rectangle((0, a, 160, a + step // 2), fill=paint)
            continue
        for b in range(shift, 160, step):
            draw.ellipse((b, a, b + step // 2, a + step // 2), fill=paint)
    sink = io.BytesIO()
    picture.save(sink, "JPEG")
    return sink.getvalue()


# --------------------------------------------------------------------------------------------------------------------
# The same windows, reading something else.


def shuffled(dataset: Dataset, modality: Modality, seed: int) -> Dataset:
    """What each product's windows have of a modality is another product's, of the same day where it has that."""
    names = np.unique(dataset.product.astype(str))
    other = dict(zip(names.tolist(), np.roll(np.random.default_rng(seed).permutation(names), 1).tolist(), strict=True))
    keys = list(zip(dataset.product.tolist(), dataset.end.tolist(), strict=True))
    rows, newest = {key: i for i, key in enumerate(keys)}, {name: i for i, (name, _) in enumerate(keys)}
    take = np.array([rows.get((other[name], end), newest[other[name]]) for name, end in keys])
    features = dataset.features
    present = features.present.copy()
    present[:, modality] = present[take, modality]
    if modality in VECTORS:
        return reading(dataset, modality, features.vectors[take, VECTORS.index(modality)], present)
    days, hours, context = features.days.copy(), features.hours.copy(), features.context.copy()
    days[:, :, BEHAVIOUR], hours[:, :, BEHAVIOUR] = days[take][:, :, BEHAVIOUR], hours[take][:, :, BEHAVIOUR]
    context[:, :BEHAVIOUR_CONTEXT] = context[take, :BEHAVIOUR_CONTEXT]
    return replace(dataset, features=replace(features, days=days, hours=hours, context=context, present=present))


def without(dataset: Dataset, modality: Modality) -> Dataset:
    """The modality is missing; counts of reviews stay in the channels."""
    present = dataset.features.present.copy()
    present[:, modality] = False
    return replace(dataset, features=replace(dataset.features, present=present))


def reading(dataset: Dataset, modality: Modality, vectors: Floats, present: np.ndarray | None = None) -> Dataset:
    """`vectors` [rows, VECTOR] in place of the modality's own."""
    changed = dataset.features.vectors.copy()
    changed[:, VECTORS.index(modality)] = vectors
    if present is None:
        present = dataset.features.present.copy()
        present[:, modality] = True
    return replace(dataset, features=replace(dataset.features, vectors=changed, present=present))
