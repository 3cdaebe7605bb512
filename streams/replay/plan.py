"""What a replay will do: from where, over what, into what. A plan is a file, and `run` does what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal

import msgspec

from streams.calendars import DAY
from streams.codecs import decode, decode_json
from streams.errors import ReplayError
from streams.partitioning import partition_of
from streams.records import WindowKind
from streams.records.inside import CLOSES, WINDOWS
from streams.records.outside import Progress
from streams.replay.cut import NEVER, boundary, cut
from streams.replay.forks import Fork, Snapshots
from streams.replay.log import Log
from streams.stage import StageSpec, TaskKey

ORDER = ("windows", "inference", "labels", "learner", "signals")
INPUTS = {
    "windows": "trend.events",
    "inference": "trend.windows",
    "labels": "trend.predictions",
    "learner": "trend.matured",
    "signals": "trend.predictions",
}
OUTPUTS = {
    "windows": ("trend.windows",),
    "inference": ("trend.predictions", "trend.scores"),
    "labels": ("trend.matured",),
    "learner": ("model.heads", "model.events"),
    "signals": ("signals.inventory", "signals.ads"),
}
LEARNT = "learnt"
_SAMPLE = 200  # records


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is different in the replay. With nothing different it checks what was published, byte for byte."""

    head: str = ""  # version that scores instead …; LEARNT: as if none had been installed by hand
    instead_of: str = ""  # … of this one; "": of all
    model: str = ""  # version of the network
    late: bool = False  # rows that came late stand where they would have stood
    transform: str = ""  # of rows of trend.events
    code: bool = False  # the code that is installed, whatever it gives

    def __bool__(self) -> bool:
        return self != Change()

    def first(self) -> str:
        """The first stage whose output may change."""
        return "windows" if self.late or self.transform or self.code else "inference"

    def stages(self) -> tuple[str, ...]:
        """Stages to replay, unless others are asked for."""
        if self.head and self.head != LEARNT:
            return ("inference", "signals")  # what would have been learnt under that head is another question
        if self.transform and not self.late:
            return ("windows", "inference", "signals")  # heads as they were: else every product moves a little
        return ORDER[ORDER.index(self.first()) :] if self else ORDER

    def described(self) -> str:
        if not self:
            return "nothing: the same versions, compared byte for byte"
        head = "the heads that the learner makes by itself" if self.head == LEARNT else f"head {self.head}"
        parts = {
            head + (f" instead of {self.instead_of}" if self.instead_of else ""): self.head,
            f"model {self.model}": self.model,
            "late rows in place": self.late,
            f"rows of trend.events through {self.transform}": self.transform,
            "the code that is installed": self.code,
        }
        return ", ".join(text for text, there in parts.items() if there)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A replay of the windows that end in [start, to), UTC ms."""

    replay: str  # id
    made_at: int
    made_by: str
    version: str  # of trendstream
    partitions: int
    start: int
    to: int  # NEVER: as far as the stages had come
    stages: tuple[str, ...]
    change: Change
    model: str  # network that scored the range
    products: tuple[str, ...] = ()  # what diff and apply look at; () is all
    into: Literal["parquet", "topics"] = "parquet"
    forks: tuple[Fork, ...] = ()
    records: int = 0  # of input
    rows: int = 0  # in them, about
    read_bytes: int = 0  # about
    written_bytes: int = 0  # about
    seconds: float = 0.0  # about, on one core at a rate of 100 %

    @property
    def chained(self) -> bool:
        """Whether stages feed each other; else each folds its own published input."""
        return bool(self.change)

    def forgets(self, stage: str) -> bool:
        """Whether a stage begins without its state: nothing was learnt under another network."""
        return stage == "learner" and bool(self.change.model)

    def of(self, stage: str) -> list[Fork]:
        return [fork for fork in self.forks if fork.stage == stage]

    def writes(self) -> list[str]:
        """Names of the topics whose shadow is written."""
        return [topic for stage in self.stages for topic in OUTPUTS[stage]] if self.chained else []


def stages_of(change: Change, asked: Sequence[str]) -> tuple[str, ...]:
    """The stages of a replay, in order. Raises ReplayError where they cannot be run by themselves."""
    if not asked:
        return change.stages()
    wrong = [name for name in asked if name not in ORDER]
    if wrong:
        raise ReplayError(f"no stage {wrong[0]!r} can be replayed; choose from {', '.join(ORDER)}")
    stages = tuple(name for name in ORDER if name in asked)
    if change and stages[0] != change.first():
        raise ReplayError(f"a replay with {change.described()} begins with {change.first()}; name that stage as well")
    if change and "signals" in stages and "inference" not in stages:
        raise ReplayError("signals are made of predictions: name the stage inference as well")
    if change and "learner" in stages and not {"inference", "labels"} <= set(stages):
        raise ReplayError("the learner needs predictions and labels: name inference and labels as well")
    return stages


def progress_of(log: Log) -> dict[tuple[str, str, int], int]:
    """Next input offset of each stage, topic and partition, as committed."""
    task = ("trend.progress", 0)
    found = {}
    for message in log.read(task, *log.range(task)):
        if message.value is not None:
            progress = decode_json(message.value, Progress)
            found[progress.stage, progress.topic, progress.partition] = progress.offset
    return found


def boundary_before(log: Log, at: int) -> int:
    """The newest boundary at or before an instant that some partition has closed."""
    for back in (2, 16, 128, 1024):  # days; there may be none that near
        found = 0
        for partition in range(log.partitions("trend.windows")):
            task = ("trend.windows", partition)
            for message in log.read(task, cut(log, task, at - back * DAY), log.range(task)[1]):
                closed = boundary(message)
                if closed > at:
                    break
                found = max(found, closed)
        if found:
            return found
    raise ReplayError(
        "no day was closed before the begin of the range; give a later --from, or see what there is with "
        "`trendstream topics cat trend.windows`"
    )


def forks_of(
    log: Log,
    specs: Mapping[str, StageSpec],
    stages: Sequence[str],
    start: int,
    to: int,
    partitions: int,
    chosen: Sequence[int],
    relearnt: bool = False,
) -> tuple[Fork, ...]:
    """Every task's fork; `chosen` partitions of those keyed by product. `relearnt`: without heads installed by hand."""
    done = progress_of(log)
    forks = []
    for name in stages:
        topic = INPUTS[name]
        snapshots = Snapshots(log, specs[name], partitions)
        for task in [(topic, p) for p in (chosen if log.partitions(topic) > 1 else [0])]:
            first, end = log.range(task)
            if name == "windows":
                begin, limit = _events_of(log, task[1], start), _closed_before(log, task[1], start)
                until = end if to == NEVER else _events_of(log, task[1], to)
            else:
                # A head installed after the newest epoch before the range is one that the range was scored by.
                begin = limit = cut(log, task, start - DAY if name == "learner" and relearnt else start)
                until = end if to == NEVER else cut(log, task, to)
            until = min(until, done.get((name, *task), end))
            forks.append(snapshots.choose(task, max(limit, first), min(begin, until), until))
    return tuple(forks)


def partitions_of(products: Sequence[str], stages: Sequence[str], change: Change, partitions: int) -> list[int]:
    """The partitions to fold: those of the products, or all where the learner has to hear of every one."""
    if not products or ("learner" in stages and change):
        return list(range(partitions))
    return sorted({partition_of(product, partitions) for product in products})


def measure(log: Log, forks: Sequence[Fork]) -> tuple[int, int, int]:
    """Records, rows and bytes that these tasks read, the last two from a sample."""
    records = rows = read = 0
    for fork in forks:
        sample = list(islice(log.read(fork.task, fork.start, fork.end), _SAMPLE))
        if not sample:
            continue
        # Marks of transactions take offsets, too: the sample tells how many of them are records.
        spanned = sample[-1].offset + 1 - fork.start
        count = max(len(sample), round((fork.end - fork.start) * len(sample) / spanned))
        records += count
        rows += round(sum(len(decode(m.value)) for m in sample if m.value is not None) / len(sample) * count)
        read += round(sum(len(m.value or b"") for m in sample) / len(sample) * count)
    return records, rows, read


def _events_of(log: Log, partition: int, at: int) -> int:
    """Offset of trend.events from which a partition's windows of a boundary and later were made; its end if none."""
    task: TaskKey = ("trend.windows", partition)
    for message in log.read(task, cut(log, task, at), log.range(task)[1]):
        rows = decode(message.value or b"")
        if rows.record is WINDOWS and len(rows):
            return int(rows["offset"][0])
    return log.range(("trend.events", partition))[1]


def _closed_before(log: Log, partition: int, at: int) -> int:
    """An offset of trend.events at or before the record that closed a boundary: that of close windows, which not every
    boundary of a small partition has."""
    task: TaskKey = ("trend.windows", partition)
    end = log.range(task)[1]
    for days in range(_BACK):
        for message in log.read(task, cut(log, task, at - days * DAY), end):
            rows = decode(message.value or b"")
            if rows.record is WINDOWS and rows["kind"][0] == WindowKind.CLOSE:
                return int(rows["offset"][0])
            if rows.record is CLOSES:
                break
    return 0


_BACK = 8
