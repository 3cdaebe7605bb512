"""What must hold of the topics after a run, whatever was done to it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deploy import pipeline
from deploy.following import stage_counters
from deploy.settings import Settings
from model.registry import Bundle
from streams import kafka
from streams.codecs import decode, decode_json
from streams.records.inside import TEXTS, VECTORS, ArrowRecord
from streams.records.outside import DeadLetter, Score
from streams.signals.read_model import ReadModel
from streams.stage import Message
from streams.topics import PLATFORM_TOPICS
from tests.chaos.fleet import Ending
from tests.chaos.load import FIRST_DAY, Load
from tests.e2e.contract import CHECKED, Topics, check_contract, check_ingest, units_of_days

KEPT = (*PLATFORM_TOPICS, "trend.reviews", *CHECKED)


@dataclass(frozen=True)
class Finished:
    """A run that is over: what the load sent, what lies in the topics, and what the stages count."""

    settings: Settings
    bundle: Bundle
    load: Load
    topics: Topics
    counters: dict[str, dict[str, int]]
    endings: list[Ending]

    def messages(self, topic: str) -> Iterator[Message]:
        return itertools.chain.from_iterable(self.topics[topic].values())

    def origins(self, topic: str, record: ArrowRecord) -> Counter[tuple[str, int, int, int]]:
        """Rows by modality and platform record that they were made from."""
        found: Counter[tuple[str, int, int, int]] = Counter()
        for message in self.messages(topic):
            rows = decode(message.value or b"")
            if rows.record is record:
                names = ("source", "source_partition", "source_offset", "modality")
                found.update(zip(*(rows[name].tolist() for name in names), strict=True))
        return found

    def numbers(self) -> dict[str, int]:
        ingest, windows = self.counters["ingest"], self.counters["windows"]
        return {
            "produced": sum(self.load.produced.values()),
            **{name: ingest[name] for name in ("accepted", "repeated", "dead")},
            "units": sum(self.load.units.values()),
            "windows": windows["close"] + windows["live"],
            "days_closed": windows["closes"],
            "scores": sum(1 for _ in self.messages("trend.scores")),
            "heads": sum(1 for _ in self.messages("model.heads")),
            "vectors": windows["vectors"],
            "vectors_repeated": windows["vectors_repeated"],
        }


def finished(bootstrap: str, settings: Settings, load: Load, endings: list[Ending]) -> Finished:
    counts = kafka.partition_counts(bootstrap)
    topics: dict[str, dict[int, list[Message]]] = {name: {p: [] for p in range(counts[name])} for name in KEPT}
    for name in KEPT:
        for message in kafka.read(bootstrap, name):
            topics[name][message.partition].append(message)
    bundle = pipeline.current_bundle(settings)
    return Finished(settings, bundle, load, topics, stage_counters(bootstrap), endings)


def _endings(run: Finished) -> None:
    wrong = [e for e in run.endings if not e.is_explained()]
    assert not wrong, f"{len(wrong)} workers ended without a reason: {wrong[0]}"


def _counted(run: Finished) -> None:
    produced, counts = sum(run.load.produced.values()), run.counters["ingest"]
    lie = sum(1 for topic in PLATFORM_TOPICS for _ in run.messages(topic))
    assert lie == produced, f"{produced} events were delivered, {lie} lie in the topics"
    taken = {name: counts[name] for name in ("accepted", "repeated", "dead")}
    assert produced == sum(taken.values()), f"{produced} produced, {taken}"
    assert counts["read"] == produced, f"{produced} produced, {counts['read']} read"
    letters = [decode_json(m.value or b"", DeadLetter).dead_letter_id for m in run.messages("trend.dlq")]
    assert len(letters) == len(set(letters)) == counts["dead"], f"{len(letters)} dead letters, {counts['dead']} counted"


def _ingest(run: Finished) -> None:
    check_ingest(run.topics, run.settings)


def _folds(run: Finished) -> None:
    check_contract(run.topics, run.settings, run.bundle)


def _units(run: Finished) -> None:
    calendar = run.settings.calendars()["shop"].calendar
    last = run.load.boundary
    found = units_of_days(run.topics["trend.windows"], calendar)
    found = {key: units for key, units in found.items() if units and calendar.start(key[1]) < last}
    expected = {key: units for key, units in run.load.units.items() if units}
    differing = {key for key in found.keys() | expected.keys() if found.get(key, 0) != expected.get(key, 0)}
    assert not differing, (
        f"{len(differing)} of {len(expected)} product-days differ from what was sold, the first: "
        + ", ".join(
            f"{product} on day {day - FIRST_DAY}: {found.get((product, day), 0)} for {expected.get((product, day), 0)}"
            for product, day in sorted(differing, key=lambda key: (key[1], key[0]))[:3]
        )
    )
    assert run.counters["windows"]["late"] == 0
    assert run.counters["windows"]["cancelled_after_outcome"] == 0


def _scores(run: Finished) -> None:
    ids = Counter(
        (s.score_id, s.revision) for s in (decode_json(m.value or b"", Score) for m in run.messages("trend.scores"))
    )
    twice = [key for key, count in ids.items() if count > 1]
    assert not twice, f"{len(twice)} scores came twice: {twice[0]}"
    assert sum(ids.values()) == run.counters["inference"]["scores"]
    heads = [m.key for m in run.messages("model.heads")]
    assert len(heads) == len(set(heads)), "a head came twice"


def _vectors(run: Finished) -> None:
    texts, vectors = run.origins("trend.reviews", TEXTS), run.origins("trend.events", VECTORS)
    assert not [o for o, count in texts.items() if count > 1], "a text came twice"
    missing = texts.keys() - vectors.keys()
    assert not missing, f"{len(missing)} of {len(texts)} texts have no vector: {min(missing)}"
    assert texts.keys() == vectors.keys()
    counts = run.counters["windows"]
    assert counts["vectors"] == sum(vectors.values())
    used = counts["vectors"] - counts["vectors_repeated"]
    assert used == len(texts), f"{len(texts)} texts, {used} vectors used"


def _read_model(run: Finished) -> None:
    newest: dict[str, int] = {}
    for score in (decode_json(m.value or b"", Score) for m in run.messages("trend.scores")):
        newest[score.product_id] = max(newest.get(score.product_id, 0), score.window_end)
    read_model = ReadModel(run.settings.database_url)
    try:
        for product, end in newest.items():
            view = read_model.product("shop", product)
            assert view is not None, f"{product} has scores and is not in the read model"
            assert view.score is not None, f"{product} has no score in the read model"
            assert view.score.window_end == end, f"{product}: the read model holds {view.score.window_end}, not {end}"
    finally:
        read_model.close()


CHECKS: dict[str, Callable[[Finished], None]] = {
    "workers end only with a reason that they tell": _endings,
    "produced = accepted + repeated + dead": _counted,
    "ingest: rows and dead letters are the fold of each source": _ingest,
    "every later stage: bytes are the fold of its input": _folds,
    "units per product and day are what was sold": _units,
    "no score and no head twice": _scores,
    "every text has its vector, used once": _vectors,
    "the read model holds every product's newest score": _read_model,
}
