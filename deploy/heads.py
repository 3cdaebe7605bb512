"""Heads as they lie in `model.heads`: what each one was worth, how two differ, what one has touched, and how one is
installed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from deploy.errors import ConfigurationError
from model.heads import head_key, is_frozen
from streams import kafka
from streams.codecs import decode_json, encode, encode_json
from streams.records import HORIZONS, product_key
from streams.records.inside import INSTALLS
from streams.records.outside import AdsSignal, Head, InventorySignal, ModelEvent, Score
from streams.stage import Message, Output

LOG, PARTITION = "trend.matured", 0  # the learner's input, where it meets what is installed
_SIGNALS: Mapping[str, type[InventorySignal] | type[AdsSignal]] = {
    "signals.inventory": InventorySignal,
    "signals.ads": AdsSignal,
}


@dataclass(frozen=True)
class Published:
    """A head, when it was published (UTC ms), and what the learner said at its epoch."""

    head: Head
    at: int
    events: tuple[ModelEvent, ...] = ()

    @property
    def champion(self) -> str:
        return "frozen" if is_frozen(self.head) else "learnt"

    def error(self, days: int, of: str = "error") -> float | None:
        """Absolute error of the medians over units sold, of forecasts that matured at its epoch."""
        for event in self.events:
            units = float(event.evidence.get(f"units_{days}", 0))
            if event.kind == "epoch" and units:
                return float(event.evidence[f"{of}_{days}"]) / units
        return None


def published(bootstrap: str, model: str = "") -> list[Published]:
    """Heads of a network (of the newest one, without a name), oldest first."""
    found: dict[str, tuple[int, Head]] = {}
    for message in kafka.read(bootstrap, "model.heads"):
        if message.value is not None:
            head = decode_json(message.value, Head)
            found[head.version] = (message.timestamp, head)
    if not found:
        return []
    model = model or max(found.values(), key=lambda pair: pair[0])[1].model
    events: dict[tuple[int, int], list[ModelEvent]] = {}
    for message in kafka.read(bootstrap, "model.events"):
        if message.value is not None:
            event = decode_json(message.value, ModelEvent)
            name, _, rest = event.event_id.partition("/")
            if name == model:
                revision = int(rest.partition("/")[0].partition(".")[2] or 0)
                events.setdefault((event.epoch, revision), []).append(event)
    own = [(at, head) for at, head in found.values() if head.model == model]
    own.sort(key=lambda pair: (pair[1].epoch, pair[1].revision))
    return [Published(head, at, tuple(events.get((head.epoch, head.revision), ()))) for at, head in own]


def find(heads: Iterable[Published], version: str) -> Published:
    """By version, or by its end. Raises ConfigurationError where there is none."""
    fitting = [each for each in heads if each.head.version in (version, f"{each.head.model}-{version}")]
    if not fitting:
        raise ConfigurationError(f"no head {version!r}; `trendstream heads list` shows them")
    return fitting[-1]


def effects(head: Head) -> dict[str, float]:
    """Factor on the mean by what the head has learnt, of the level and of each category."""
    level = head.theta[0]
    return {"level": math.exp(level[0])} | {name: math.exp(level[1 + i]) for i, name in enumerate(head.categories)}


@dataclass(frozen=True)
class Change:
    """What one head made of one product's signal or score, beside what was there before."""

    product: str
    what: str
    before: float
    after: float

    @property
    def size(self) -> float:
        """Doublings."""
        return abs(math.log2((self.after + 0.5) / (self.before + 0.5)))


@dataclass
class Touched:
    """What some heads have made: numbers of records, products, and the largest change of each product."""

    counts: dict[str, int] = field(default_factory=dict)  # by topic
    products: set[str] = field(default_factory=set)
    first: int | None = None  # window end of the first and the last score, UTC ms
    last: int | None = None
    worst: dict[tuple[str, str], Change] = field(default_factory=dict)  # by product and what


def touched(bootstrap: str, versions: set[str], since: int) -> Touched:
    """Scores and signals that these heads have made, among records written since a record time (UTC ms). What they are
    compared with is the product's newest before, by another head."""
    found = Touched()
    for topic in ("trend.scores", *_SIGNALS):
        before: dict[str, float] = {}
        for message in kafka.read(bootstrap, topic, start=kafka.offsets_at(bootstrap, topic, since)):
            if message.value is not None:
                _touch(found, topic, message, versions, before)
    return found


def _touch(found: Touched, topic: str, message: Message, versions: set[str], before: dict[str, float]) -> None:
    assert message.value is not None
    if topic == "trend.scores":
        score = decode_json(message.value, Score)
        record: Score | InventorySignal | AdsSignal = score
        what, value = "expected in 7 days", next(h.expected for h in score.horizons if h.days == HORIZONS[1])
    else:
        record = decode_json(message.value, _SIGNALS[topic])
        if isinstance(record, InventorySignal):
            what, value = "suggested order", float(record.suggested_order)
        else:
            what, value = "bid multiplier", record.bid_multiplier
    product = product_key(record.platform, record.product_id)
    if record.head not in versions:
        before[product] = value
        return
    found.counts[topic] = found.counts.get(topic, 0) + 1
    found.products.add(product)
    end = record.window_end
    found.first, found.last = min(found.first or end, end), max(found.last or end, end)
    if product in before:
        change = Change(product, what, before[product], value)
        if change.size > found.worst.get((product, what), Change(product, what, 0.0, 0.0)).size:
            found.worst[product, what] = change


def install(bootstrap: str, head: Head, audit_id: str) -> None:
    """Write a head into the learner's log: it publishes it as a new version, and goes on from it."""
    value = encode(INSTALLS, {"head": [encode_json(head)], "audit": [audit_id]})
    kafka.append(bootstrap, [Output(LOG, PARTITION, value)])


def answer(bootstrap: str, audit_id: str) -> ModelEvent | None:
    """What the learner made of an installed head; None before it has met it."""
    for message in kafka.read(bootstrap, "model.events"):
        event = decode_json(message.value or b"", ModelEvent)
        if event.evidence.get("audit") == audit_id:
            return event
    return None


def later_than(heads: Iterable[Published], target: Head) -> list[Published]:
    """Those that were published after a head of the same network, in order of epoch and revision."""
    key = head_key(target.model, target.version) or 0
    return [each for each in heads if (head_key(each.head.model, each.head.version) or 0) > key]
