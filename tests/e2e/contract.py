"""The determinism contract as a check: fold every input log as it lies in Kafka, and compare with what is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from deploy import pipeline
from deploy.settings import Settings
from model.registry import Bundle
from streams.calendars import Calendar
from streams.codecs import decode
from streams.embedded import fold
from streams.records import CHANNELS, DAYS, WindowKind
from streams.records.inside import EVENTS, INSTALLS, PREDICTIONS, TEXTS, WINDOWS, ArrowRecord
from streams.replay.cut import is_correction
from streams.stage import Message, Output, StageSpec
from streams.topics import PLATFORM_TOPICS

Log = Mapping[int, list[Message]]  # a topic's records by partition
Topics = Mapping[str, Log]
CHECKED = (
    "trend.events",
    "trend.windows",
    "trend.predictions",
    "trend.matured",
    "trend.scores",
    "trend.dlq",
    "model.heads",
    "model.events",
    "signals.inventory",
    "signals.ads",
)


def check_contract(topics: Topics, settings: Settings, bundle: Bundle) -> None:
    """Raises AssertionError that names the first stage, partition and record that differs."""
    partitions = sorted(topics["trend.events"])
    _check(topics, pipeline.windows_spec(settings), partitions, ["trend.windows"])
    for partition in partitions:
        recorded = _recorded_heads(topics["trend.predictions"][partition])
        inference = pipeline.inference_spec(settings, bundle, {partition: recorded})
        for message in topics["model.heads"][0]:
            inference.versioned["model.heads"].put(message)
        _check(topics, inference, [partition], ["trend.predictions", "trend.scores"])
    _check(topics, pipeline.signals_spec(settings), partitions, ["signals.inventory", "signals.ads"])
    _check_labels(topics, pipeline.labels_spec(settings), partitions)
    learner = pipeline.learner_spec(settings, bundle)
    outputs = fold(learner.make(("trend.matured", 0)), topics["trend.matured"][0])
    for topic in ("model.heads", "model.events"):
        _compare(topic, 0, [o for o in outputs if o.topic == topic], topics[topic][0])


def check_ingest(topics: Topics, settings: Settings) -> None:
    """Raises AssertionError unless each source partition's rows, in their order, and dead letters are its fold.

    Where its batches begin and end is not promised.
    """
    spec = pipeline.ingest_spec(settings)
    tasks = [(topic, p) for topic in PLATFORM_TOPICS for p in sorted(topics[topic])]
    folded = [o for task in tasks for o in fold(spec.make(task), topics[task[0]][task[1]])]
    for topic, record in (("trend.events", EVENTS), ("trend.reviews", TEXTS)):
        lies = [m for log in topics[topic].values() for m in log]
        expected, found = _rows_by_source(folded, topic, record), _rows_by_source(lies, topic, record)
        for source in expected.keys() | found.keys():
            there, wanted = found[source], expected[source]
            assert there == wanted, f"{topic}: {len(there)} rows of {source} are not the {len(wanted)} of its fold"
    letters = {m.key: m.value for log in topics["trend.dlq"].values() for m in log}
    of_ingest = {o.key: o.value for o in folded if o.topic == "trend.dlq"}
    assert of_ingest.items() <= letters.items(), "trend.dlq is not what the fold gives"


def _rows_by_source(
    records: Iterable[Output] | Iterable[Message], topic: str, record: ArrowRecord
) -> Mapping[tuple[str, int, int], list[str]]:
    """Rows as text by source, its partition, and the partition that they lie in."""
    found: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    for each in records:
        if each.topic == topic and (rows := decode(each.value or b"")).record is record:
            for row in rows.batch.to_pylist():
                found[row["source"], row["source_partition"], each.partition].append(repr(row))
    return found


def units_of_days(windows: Log, calendar: Calendar) -> dict[tuple[str, int], int]:
    """Units per product and local day, as the newest window that holds the day says."""
    found: dict[tuple[str, int], int] = {}
    held: dict[str, int] = {}  # by product, from which day on newer windows hold all
    channel = CHANNELS.index("units")
    for message in (m for log in windows.values() for m in reversed(log)):
        rows = decode(message.value or b"")
        if rows.record is not WINDOWS:
            continue
        grids = rows["day"].reshape(-1, len(CHANNELS), DAYS)[:, channel]
        following = calendar.day(rows["end"]).tolist()
        live = (rows["kind"] == WindowKind.LIVE).tolist()
        products, now = rows["product"].tolist(), rows["open"][:, channel].tolist()
        for i in reversed(range(len(products))):
            product, day = products[i], following[i]
            if live[i]:
                found.setdefault((product, day), int(now[i]))
            new = min(held.get(product, day), day) - (day - DAYS)
            for back in range(min(new, DAYS)):
                found.setdefault((product, day - DAYS + back), int(grids[i, back]))
            held[product] = min(held.get(product, day), day - DAYS)
    return {key: units for key, units in found.items() if units}


def _check(topics: Topics, spec: StageSpec, partitions: Iterable[int], written: list[str]) -> None:
    for partition in partitions:
        source = spec.inputs[0]
        outputs = fold(spec.make((source, partition)), topics[source][partition])
        for topic in written:
            _compare(topic, partition, [o for o in outputs if o.topic == topic], topics[topic][partition])


def _check_labels(topics: Topics, spec: StageSpec, partitions: Iterable[int]) -> None:
    """All partitions of labels write to one: each one's own records, in order, are a subsequence of it. Heads that were
    installed by hand lie between them."""
    found: dict[int, list[Message]] = {p: [] for p in partitions}
    for message in topics["trend.matured"][0]:
        rows = decode(message.value or b"")
        if rows.record is not INSTALLS:
            found[int(rows["partition"][0])].append(message)
    for partition in partitions:
        outputs = fold(spec.make(("trend.predictions", partition)), topics["trend.predictions"][partition])
        _compare("trend.matured", partition, outputs, found[partition])


def _compare(topic: str, partition: int, folded: list[Output], published: list[Message]) -> None:
    published = [m for m in published if not is_correction(m.value)]  # which stages did not write
    for index, (expected, lies) in enumerate(zip(folded, published, strict=False)):
        assert (expected.key, expected.value) == (lies.key, lies.value), (
            f"{topic}/{partition}: record {index} at offset {lies.offset} is not what the fold gives"
        )
    assert len(folded) == len(published), f"{topic}/{partition}: {len(published)} records, the fold gives {len(folded)}"


def _recorded_heads(predictions: list[Message]) -> dict[tuple[int, int], tuple[str, int]]:
    """(offset of trend.windows, kind) to (head, late) of one partition: the head versions are an input of inference."""
    recorded: dict[tuple[int, int], tuple[str, int]] = {}
    for message in predictions:
        rows = decode(message.value or b"")
        if rows.record is PREDICTIONS:
            for offset, kind, head, late in zip(
                rows["window_offset"].tolist(),
                rows["kind"].tolist(),
                rows["head"],
                rows["head_late"].tolist(),
                strict=True,
            ):
                recorded[(offset, kind)] = (str(head), late)
    return recorded
