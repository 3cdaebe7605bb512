"""Where a score comes from: prediction, window, rows of trend.events, platform records, head and outcomes.

Each step is found by what the step after it records, and checked by being made again: the window from the events behind
it, the score from the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy import pipeline
from deploy.errors import ConfigurationError, DeployError
from deploy.evidence import Piece, pieces
from deploy.origins import Origins, Told, origins
from deploy.settings import Settings
from model.explain import Explanation, explain
from model.heads import frozen_head
from streams.calendars import DAY, Calendar
from streams.codecs import Rows, decode, decode_json
from streams.errors import ReplayError
from streams.partitioning import partition_of
from streams.records import DAYS, WindowKind
from streams.records.inside import MATURED, PREDICTIONS, WINDOWS
from streams.records.outside import Head, Score
from streams.replay.cut import cut
from streams.replay.forks import Snapshots
from streams.replay.log import Log
from streams.stage import Message, TaskKey

_LISTED = 8  # newest outcomes that are named one by one


class LineageError(DeployError):
    """A score, or something that it was made of, is not there any more."""


@dataclass(frozen=True)
class ScoreId:
    """`<platform>:<product>@<end>[.<revision>]/<model>`, taken apart."""

    product: str
    end: int
    kind: WindowKind
    revision: int
    model: str

    @staticmethod
    def parse(text: str) -> ScoreId:
        """Raises ConfigurationError."""
        window, slash, model = text.rpartition("/")
        product, at, number = window.rpartition("@")
        end, dot, revision = number.partition(".")
        if not (slash and model and at and ":" in product and end.isdigit() and (revision.isdigit() or not dot)):
            raise ConfigurationError(
                f"{text!r} is no score id; one looks like shop:p1@1760054400000/n0123456789, see "
                "`trendstream topics cat trend.scores`"
            )
        return ScoreId(product, int(end), WindowKind.LIVE if dot else WindowKind.CLOSE, int(revision or 0), model)


@dataclass
class Lineage:
    """What a score was made of. `same` are the checks: True where making it again gave the same bytes."""

    score: Score  # as it was first published
    revisions: list[Score]  # all of them, the one that holds last
    prediction: dict[str, Any]
    window: dict[str, Any]
    window_place: TaskKey
    window_offset: int
    day: tuple[int, int]  # that it tells of: the one just closed, or the open one; UTC ms, half open
    origins: Origins
    head: Head
    outcomes: int  # that went into the head's epoch
    own_outcomes: list[dict[str, Any]]  # of these, the product's own
    explanation: Explanation
    pieces: list[Piece]  # reviews, titles and pictures of the window's days
    same: dict[str, bool | None] = field(default_factory=dict)  # None: it could not be made again


def lineage(
    log: Log,
    settings: Settings,
    score_id: str,
    told: Told = lambda name, total: lambda done: None,
) -> Lineage:
    """Raises LineageError where a part of it is gone. `told` hears of each long part, with its offsets."""
    wanted = ScoreId.parse(score_id)
    partitions = log.partitions("trend.events")
    partition = partition_of(wanted.product, partitions)
    revisions = _revisions(log, wanted, score_id, partition)
    prediction = _prediction(log, wanted, partition)
    place = ("trend.windows", partition)
    message = log.first(place, prediction["window_offset"])
    if message is None or message.offset != prediction["window_offset"]:
        raise LineageError(f"trend.windows/{partition} offset {prediction['window_offset']} is not kept any more")
    rows = decode(message.value or b"")
    row = Rows(WINDOWS, rows.batch.take(np.array([_row(rows, wanted)])))
    window = row.batch.to_pylist()[0]
    bundle = pipeline.bundle_of(settings, wanted.model)
    heads = _heads(log, wanted.model)
    frozen = frozen_head(bundle.version, bundle.dispersion, bundle.categories)
    head = frozen if prediction["head"] == frozen.version else heads.get(prediction["head"])
    if head is None:
        raise LineageError(f"head {prediction['head']} is not in model.heads any more")
    day = (window["end"], window["as_of"] + 1)
    if wanted.kind == WindowKind.CLOSE:
        calendar = calendar_of(settings, wanted.product)
        day = (calendar.start(int(calendar.day(window["end"] - 1))), window["end"])
    behind = origins(log, wanted.product, window, day, told)
    explanation = explain(row, bundle, head)
    outcomes, own = _outcomes(log, head, wanted.product) if head.epoch else (0, [])
    found = Lineage(
        score=revisions[0],
        revisions=revisions,
        prediction=prediction,
        window=window,
        window_place=place,
        window_offset=message.offset,
        day=day,
        origins=behind,
        head=head,
        outcomes=outcomes,
        own_outcomes=own[-_LISTED:],
        explanation=explanation,
        pieces=pieces(log, row, behind.vectors, bundle, head, explanation),
    )
    found.same["score from the window"] = _same_score(log, settings, found, message, wanted)
    found.same["window from trend.events"] = _same_window(log, settings, found, message, wanted, told)
    return found


def calendar_of(settings: Settings, product: str) -> Calendar:
    """Of the product's platform. Raises ConfigurationError where the settings do not name it."""
    platform = product.partition(":")[0]
    if platform not in settings.platforms:
        raise ConfigurationError(
            f"{product} is of no platform that TRENDSTREAM_PLATFORMS names: {', '.join(settings.platforms)}"
        )
    return settings.calendars()[platform].calendar


def scores_on(log: Log, product: str, day: tuple[int, int]) -> list[Score]:
    """What was said of a product on a day (UTC ms, half open), from its first live window to its close; of a score, the
    revision that holds. Raises LineageError where nothing was."""
    task = ("trend.scores", partition_of(product, log.partitions("trend.scores")))
    found: dict[str, Score] = {}
    for message in log.read(task, cut(log, task, day[0]), log.range(task)[1]):
        if message.value is not None and message.key == product.encode():
            score = decode_json(message.value, Score)
            on_day = score.window_end == day[0 if score.window_kind == "live" else 1]
            if on_day and score.revision >= found.get(score.score_id, score).revision:
                found[score.score_id] = score
    if not found:
        raise LineageError(
            f"{task[0]}/{task[1]} holds no score of {product} of that day; see `trendstream topics find {product}`"
        )
    return sorted(found.values(), key=lambda s: (s.window_end, s.window_revision))


def turns(scores: Sequence[Score]) -> list[Score]:
    """Of a day's scores, those at which the class of the week becomes another one, and the last one."""
    weeks = [score.horizons[1].trend_class for score in scores]
    return [s for i, s in enumerate(scores) if i in (0, len(scores) - 1) or weeks[i] != weeks[i - 1]]


def _revisions(log: Log, wanted: ScoreId, score_id: str, partition: int) -> list[Score]:
    task = ("trend.scores", partition)
    named = score_id.encode()
    found = []
    for message in log.read(task, cut(log, task, wanted.end), log.range(task)[1]):
        if message.value is not None and named in message.value:
            score = decode_json(message.value, Score)
            if score.score_id == score_id:
                found.append(score)
    if not found:
        raise LineageError(f"score {score_id} is not in trend.scores/{partition}, or not any more")
    return sorted(found, key=lambda s: s.revision)


def _prediction(log: Log, wanted: ScoreId, partition: int) -> dict[str, Any]:
    task = ("trend.predictions", partition)
    for message in log.read(task, cut(log, task, wanted.end), log.range(task)[1]):
        rows = decode(message.value or b"")
        if rows.record is PREDICTIONS:
            at = _row(rows, wanted)
            if at >= 0 and rows["model"][at] == wanted.model:
                return rows.batch.slice(at, 1).to_pylist()[0]  # type: ignore[no-any-return]
    raise LineageError(f"trend.predictions/{partition} does not hold the prediction any more")


def _row(rows: Rows, wanted: ScoreId) -> int:
    """Of the window in a batch; -1 where it is not there."""
    mine = (rows["end"] == wanted.end) & (rows["kind"] == wanted.kind) & (rows["product"] == wanted.product)
    mine &= (rows["revision"] == wanted.revision) | (wanted.kind == WindowKind.CLOSE)
    found = np.flatnonzero(mine)
    return int(found[0]) if len(found) else -1


def _heads(log: Log, model: str) -> dict[str, Head]:
    task = ("model.heads", 0)
    heads = (decode_json(m.value, Head) for m in log.read(task, *log.range(task)) if m.value is not None)
    return {head.version: head for head in heads if head.model == model}


def _outcomes(log: Log, head: Head, product: str) -> tuple[int, list[dict[str, Any]]]:
    """How many outcomes matured at the head's epoch, and the product's own of all that went into it or before."""
    task = ("trend.matured", 0)
    number = 0
    own: list[dict[str, Any]] = []
    # Partitions are a day or two apart in their one log.
    for message in log.read(task, cut(log, task, head.epoch - DAYS * DAY), cut(log, task, head.epoch + 2 * DAY)):
        rows = decode(message.value or b"")
        if rows.record is not MATURED:
            continue
        number += int((rows["at"] == head.epoch).sum())
        mine = np.flatnonzero((rows["product"] == product) & (rows["at"] <= head.epoch))
        names = ("end", "delay", "at", "units", "mean", "head")
        own += rows.batch.select(names).take(mine).to_pylist() if len(mine) else []
    return number, own


def _same_score(log: Log, settings: Settings, found: Lineage, message: Message, wanted: ScoreId) -> bool:
    """Fold the window's record by the network and the head that are recorded, and compare the score's bytes."""
    prediction, partition = found.prediction, found.window_place[1]
    recorded = {(message.offset, int(wanted.kind)): (prediction["head"], prediction["head_late"])}
    bundle = pipeline.bundle_of(settings, wanted.model)
    spec = pipeline.inference_spec(settings, bundle, {partition: recorded})
    task = ("model.heads", 0)
    for head in log.read(task, *log.range(task)):
        spec.versioned["model.heads"].put(head)
    scores = [decode_json(o.value or b"", Score) for o in spec.make(found.window_place).fold([message]) if o.key]
    return any(score == found.score for score in scores)


def _same_window(
    log: Log,
    settings: Settings,
    found: Lineage,
    message: Message,
    wanted: ScoreId,
    told: Told,
) -> bool | None:
    """Fold trend.events from the newest snapshot before it, and compare the window row by row."""
    spec = pipeline.windows_spec(settings)
    task, offset = ("trend.events", found.window_place[1]), int(found.window["offset"])
    snapshots = Snapshots(log, spec, log.partitions("trend.events"))
    try:
        fork = snapshots.choose(task, offset, offset, offset + 1)
        stage = snapshots.restore(fork)
    except ReplayError:
        return None
    done = told("the window again, from trend.events", offset + 1 - fork.start)
    for number, record in enumerate(log.read(task, fork.start, offset + 1)):
        outputs = stage.fold([record])
        if number % 100 == 0:
            done(record.offset - fork.start)
        if record.offset == offset:
            return any(_same_row(o.value, message.value, wanted) for o in outputs)
    return None


def _same_row(one: bytes | None, other: bytes | None, wanted: ScoreId) -> bool:
    mine, theirs = decode(one or b""), decode(other or b"")
    if mine.record is not WINDOWS:
        return False
    at, there = _row(mine, wanted), _row(theirs, wanted)
    # By text: NaN is what it is, and equal floats are the same ones.
    return at >= 0 and repr(mine.batch.slice(at, 1).to_pylist()) == repr(theirs.batch.slice(there, 1).to_pylist())
