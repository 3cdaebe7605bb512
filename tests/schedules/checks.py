"""What must hold once everything has come to rest, whatever the schedule was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streams.codecs import Rows, decode, decode_json
from streams.embedded import fold
from streams.ingest import IngestStage
from streams.records import CHANNELS, DAYS, WindowKind
from streams.records.inside import CLOSES, CONTROL, EVENTS, OUTCOMES
from streams.records.inside import WINDOWS as WINDOW_RECORDS
from streams.records.outside import DeadLetter, Progress
from streams.restore import PROGRESS
from streams.snapshots import TOPIC as SNAPSHOTS
from streams.snapshots import SnapshotReader
from streams.stage import Message, Output, Stage, StageSpec, TaskKey
from tests.schedules import acceptance, oracle, stand_ins
from tests.schedules.broker import Cluster
from tests.schedules.simulation import INGEST, PLATFORMS, ScheduleError, Simulation
from tests.schedules.world import PARTITIONS

_COMPARED = ("kind", "at", "ordered_at", "quantity", "amount", "rating")


def check(simulation: Simulation) -> None:
    """Raises ScheduleError that names the first thing that is wrong."""
    cluster, specs = simulation.cluster, simulation.specs
    written = _Written(cluster)
    if simulation.schedule.flow == "chain":
        _entering(cluster, specs["ingest"](), written)
    else:
        _ingest(cluster, specs["ingest"](), written)
    _windows(cluster, specs["windows"](), written)
    if simulation.schedule.flow == "windows":
        for partition in range(cluster.counts["trend.events"]):
            _against_oracle(cluster, partition)
        return
    _inference(cluster, written)
    _into_one(cluster, stand_ins.labels_spec(), "trend.predictions", "trend.matured", written)
    learner = stand_ins.learner_spec()
    task = ("trend.matured", 0)
    stage = learner.make(task)
    outputs = fold(stage, cluster.log[task].messages())
    for topic in ("model.events", "model.heads"):
        _compare(cluster.log[topic, 0].messages(), [o for o in outputs if o.topic == topic], topic)
    _state(cluster, learner, task, stage, written)


def _entering(cluster: Cluster, spec: StageSpec, written: _Written) -> None:
    """The stand-in of ingest: each source's own records, in order, are those of its fold."""
    for partition, messages in enumerate(cluster.messages("trend.events")):
        by_source: dict[bytes, list[Message]] = {}
        for message in messages:
            by_source.setdefault((message.value or b"").rpartition(b"/")[0], []).append(message)
        for task in _tasks():
            stage = spec.make(task)
            outputs = [o for o in stage.fold(cluster.log[task].messages()) if o.partition == partition]
            _compare(by_source.get(b"%s/%d" % (task[0].encode(), task[1]), []), outputs, f"trend.events of {task}")
            _state(cluster, spec, task, stage, written)


def _tasks() -> list[TaskKey]:
    return [(topic, partition) for topic, count in PARTITIONS.items() for partition in range(count)]


def _ingest(cluster: Cluster, spec: StageSpec, written: _Written) -> None:
    """Rows of each source in order, dead letters, counters: those of one undisturbed fold, and of the oracle."""
    published: dict[tuple[str, int, int], list[tuple[Any, ...]]] = {}
    for partition, messages in enumerate(cluster.messages("trend.events")):
        for message in messages:
            rows = decode(message.value or b"")
            if rows.record is EVENTS:
                _gather(published, partition, rows)
    letters = [m for messages in cluster.messages("trend.dlq") for m in messages]
    for task in _tasks():
        log = cluster.log[task].messages()
        stage = IngestStage(task, INGEST)
        outputs = stage.fold(log)
        expected: dict[tuple[str, int, int], list[tuple[Any, ...]]] = {}
        for output in outputs:
            if output.topic == "trend.events" and (rows := decode(output.value or b"")).record is EVENTS:
                _gather(expected, output.partition, rows)
        reference = acceptance.Ingest()
        for message in log:
            reference.take(message)
        simple: list[oracle.Row] = []
        for partition in range(INGEST.partitions):
            key = (*task, partition)
            if published.get(key, []) != expected.get(key, []):
                raise ScheduleError(f"rows of {task} in trend.events/{partition} are not those of its fold")
            simple += [oracle.Row(row[1], row[0], *row[2:7]) for row in published.get(key, [])]
        if sorted(simple) != sorted(reference.rows):
            raise ScheduleError(f"{task}: ingest accepted other rows than the oracle:\n{simple}\n{reference.rows}")
        dead = [
            (m.key, m.value)
            for m in letters
            if decode_json(m.value or b"", DeadLetter).source.topic == task[0]
            and decode_json(m.value or b"", DeadLetter).source.partition == task[1]
        ]
        if dead != [(o.key, o.value) for o in outputs if o.topic == "trend.dlq"]:
            raise ScheduleError(f"{task}: the dead letters are not those of its fold")
        counters = {name: stage.counters()[name] for name in reference.counts}
        if counters != reference.counts:
            raise ScheduleError(f"{task}: ingest counted {counters}, the oracle {reference.counts}")
        if counters["read"] != len(log) or counters["read"] != sum(counters.values()) - counters["read"]:
            raise ScheduleError(f"{task}: {len(log)} produced, counted {counters}")
        _state(cluster, spec, task, stage, written)


def _gather(into: dict[tuple[str, int, int], list[tuple[Any, ...]]], partition: int, rows: Rows) -> None:
    columns = [rows["product"], *(rows[name] for name in _COMPARED), rows["source_offset"]]
    source, source_partition = rows["source"][0], int(rows["source_partition"][0])
    into.setdefault((source, source_partition, partition), []).extend(zip(*(c.tolist() for c in columns), strict=True))


def _windows(cluster: Cluster, spec: StageSpec, written: _Written) -> None:
    for partition, messages in enumerate(cluster.messages("trend.events")):
        task = ("trend.events", partition)
        stage = spec.make(task)
        outputs = fold(stage, messages)
        _compare(cluster.log["trend.windows", partition].messages(), outputs, f"trend.windows/{partition}")
        _state(cluster, spec, task, stage, written)


def _inference(cluster: Cluster, written: _Written) -> None:
    for partition, messages in enumerate(cluster.messages("trend.windows")):
        published = cluster.log["trend.predictions", partition].messages()
        spec = stand_ins.inference_spec(stand_ins.recorded_heads(published))
        stage = spec.make(("trend.windows", partition))
        try:
            outputs = fold(stage, messages)
        except KeyError as missing:
            raise ScheduleError(f"trend.windows/{partition}@{missing} has no prediction") from None
        _compare(published, outputs, f"trend.predictions/{partition}")
        _state(cluster, spec, ("trend.windows", partition), stage, written)


def _into_one(cluster: Cluster, spec: StageSpec, source: str, topic: str, written: _Written) -> None:
    """All partitions write to one: each one's own records, in order, are a subsequence of it."""
    published = cluster.log[topic, 0].messages()
    for partition, messages in enumerate(cluster.messages(source)):
        stage = spec.make((source, partition))
        own = [m for m in published if (m.value or b"").startswith(b"%d/" % partition)]
        _compare(own, fold(stage, messages), f"{topic} of {partition}")
        _state(cluster, spec, (source, partition), stage, written)


def _compare(published: Sequence[Message], folded: Sequence[Output], where: str) -> None:
    for message, output in zip(published, folded, strict=False):
        if (message.key, message.value) != (output.key, output.value):
            raise ScheduleError(f"{where}@{message.offset} is not what the fold of its input gives")
    if len(published) != len(folded):
        raise ScheduleError(f"{where} has {len(published)} records, the fold of its input gives {len(folded)}")


class _Written:
    """What the stages wrote down about themselves, newest last."""

    def __init__(self, cluster: Cluster) -> None:
        self.progress = {m.key: decode_json(m.value or b"", Progress) for m in cluster.log[PROGRESS, 0].messages()}
        self._snapshots = [m for messages in cluster.messages(SNAPSHOTS) for m in messages]
        self._readers: dict[str, SnapshotReader] = {}

    def snapshots(self, stage: str) -> SnapshotReader:
        if stage not in self._readers:
            self._readers[stage] = SnapshotReader(stage)
            self._readers[stage].put(self._snapshots)
        return self._readers[stage]


def _state(cluster: Cluster, spec: StageSpec, task: TaskKey, stage: Stage, written: _Written) -> None:
    """Counters and state as they were last written down belong to all of the input."""
    messages = cluster.log[task].messages()
    if not messages:
        return
    name, (topic, partition) = spec.name, task
    progress = written.progress.get(f"{name}/{topic}/{partition}".encode())
    end = messages[-1].offset + 1
    if progress is None or progress.offset != end or progress.counters != stage.counters():
        raise ScheduleError(f"progress of {name} {task} is {progress}; the fold counts {stage.counters()} up to {end}")
    if not spec.stateful:
        if progress.state != stage.snapshot():
            raise ScheduleError(f"state of {name} {task} in its progress is not that of its fold")
        return
    found = next(written.snapshots(name).before(task, end), None)
    if found is None or found[0].offset != end or found[1] != stage.snapshot():
        raise ScheduleError(f"the snapshot of {name} {task} is not the state of its fold at {end}")


def _against_oracle(cluster: Cluster, partition: int) -> None:
    reference = oracle.Windows(PLATFORMS["shop"].timezone)
    for message in cluster.log["trend.events", partition].messages():
        tell(reference, message)
    compare_windows(reference, cluster.log["trend.windows", partition].messages())


def tell(reference: oracle.Windows, message: Message, platform: str = "shop:") -> None:
    """Give the oracle one record of trend.events, less the rows of platforms that it does not know."""
    rows = decode(message.value or b"")
    if rows.record is CONTROL:
        names = ("source", "source_partition", "state", "watermark")
        reference.control(zip(*(rows[name].tolist() for name in names), strict=True))
    elif rows.record is EVENTS:
        columns = [rows[name].tolist() for name in oracle.Row._fields]
        rows_of = [oracle.Row(*row) for row in zip(*columns, strict=True)]
        reference.take(row for row in rows_of if row.product.startswith(platform))


def compare_windows(reference: oracle.Windows, published: Iterable[Message | Output]) -> None:
    """Close windows and outcomes: those of the oracle, each once."""
    closes: dict[tuple[str, int], dict[str, dict[int, int]]] = {}
    outcomes: dict[tuple[str, int, int], int] = {}
    count = 0
    for message in published:
        rows = decode(message.value or b"")
        if rows.record is OUTCOMES:
            names = ("product", "end", "delay")
            keys = zip(*(rows[name].tolist() for name in names), strict=True)
            outcomes.update(zip(keys, rows["units"].tolist(), strict=True))
            count += len(rows)
        elif rows.record is WINDOW_RECORDS:
            days = rows["day"].reshape(len(rows), len(CHANNELS), DAYS)
            for i in (rows["kind"] == WindowKind.CLOSE).nonzero()[0].tolist():
                sums = {c: _by_days_ago(days[i, n].tolist()) for n, c in enumerate(CHANNELS)}
                closes[rows["product"][i], int(rows["end"][i])] = sums
                count += 1
        elif rows.record is not CLOSES:
            raise ScheduleError(f"trend.windows holds {rows.record.name}")
    _same("close windows", closes, reference.closes)
    _same("outcomes", outcomes, reference.outcomes)
    if count != len(closes) + len(outcomes):
        raise ScheduleError("a close window or an outcome came twice")


def _by_days_ago(days: list[int]) -> dict[int, int]:
    return {DAYS - i: n for i, n in enumerate(days) if n}


def _same(what: str, found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise ScheduleError(f"{what} of {key}: {found.get(key)}; the oracle says {expected.get(key)}")
