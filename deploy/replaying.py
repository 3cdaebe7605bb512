"""Replays of this installation: which stages, networks and heads fold a range again, and where plans lie."""

from __future__ import annotations

import bisect
import importlib
import importlib.metadata
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from deploy import pipeline
from deploy.audit import operator
from deploy.errors import ConfigurationError
from deploy.redriving import load_transform
from deploy.settings import Settings
from deploy.topics import create_shadow_topics
from streams.codecs import decode, decode_json
from streams.errors import ReplayError
from streams.records import WindowKind
from streams.records.inside import PREDICTIONS
from streams.records.outside import Head, Redrive
from streams.replay import plan as planning
from streams.replay.cut import NEVER, cut
from streams.replay.diff import Differ
from streams.replay.forks import Fork, Snapshots
from streams.replay.log import Log
from streams.replay.pairs import Pair, pairs
from streams.replay.plan import LEARNT, Change, Plan
from streams.replay.rewriting import Rewriter
from streams.replay.running import Result, Run
from streams.replay.shadow import ParquetShadow, Shadow, TopicShadow
from streams.stage import Message, Output, StageSpec

_PROBE_S = 0.7  # of folding by each stage, for the estimate


@dataclass(frozen=True)
class Request:
    """What a person asks of a replay; instants in UTC ms."""

    start: int
    to: int | None
    change: Change
    stages: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    into: str = "parquet"


@dataclass
class Used:
    """What the published predictions of a range say about how they were made, by partition."""

    models: set[str] = field(default_factory=set)
    heads: dict[int, dict[tuple[int, int], tuple[str, int]]] = field(default_factory=dict)
    live: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)  # offsets of trend.events, and epochs


def used(log: Log, partitions: int, start: int, to: int) -> Used:
    """Networks and heads of the windows that end in [start, to)."""
    found = Used()
    for partition in range(partitions):
        task = ("trend.predictions", partition)
        heads, offsets, live = found.heads.setdefault(partition, {}), list[int](), list[int]()
        end = log.range(task)[1] if to == NEVER else cut(log, task, to)
        for message in log.read(task, cut(log, task, start), end):
            rows = decode(message.value or b"")
            if rows.record is not PREDICTIONS:
                continue
            found.models.update(rows.coded("model")[1])
            columns = [
                rows[name].tolist() for name in ("window_offset", "kind", "head", "head_late", "offset", "head_epoch")
            ]
            for window, kind, head, late, offset, epoch in zip(*columns, strict=True):
                heads[window, kind] = (head, late)
                if kind == WindowKind.LIVE and (not offsets or offsets[-1] != offset):
                    offsets.append(offset)
                    live.append(epoch)
        found.live[partition] = (offsets, live)
    return found


def make_plan(settings: Settings, log: Log, request: Request, now: int | None = None) -> Plan:
    """What the replay will do; nothing is done."""
    made_at = int(time.time() * 1000) if now is None else now
    change = request.change
    stages = planning.stages_of(change, request.stages)
    partitions = log.partitions("trend.events")
    start = planning.boundary_before(log, request.start)
    to = NEVER if request.to is None else request.to
    if to <= start:
        raise ConfigurationError("--to lies before the day that --from is in; give a later one")
    chosen = planning.partitions_of(request.products, stages, change, partitions)
    then = used(log, partitions, start, to)
    if len(then.models) > 1:
        raise ReplayError(
            f"the range was scored by {len(then.models)} networks ({', '.join(sorted(then.models))}): plan a replay "
            "for each"
        )
    model = next(iter(then.models), "")
    if change.head not in ("", LEARNT):
        _require_head(log, change.head, model)
    if change.transform:
        load_transform(change.transform)
    plan = Plan(
        replay=time.strftime("r%Y%m%d-%H%M%S", time.gmtime(made_at / 1000)) + f"-{made_at % 1000:03d}",
        made_at=made_at,
        made_by=operator(),
        version=importlib.metadata.version("trendstream"),
        partitions=partitions,
        start=start,
        to=to,
        stages=stages,
        change=change,
        model=model,
        products=tuple(request.products),
        into=request.into,  # type: ignore[arg-type]
    )
    specs = specs_of(plan, settings, log, then)
    forks = planning.forks_of(log, specs, stages, start, to, partitions, chosen, change.head == LEARNT)
    plan = msgspec.structs.replace(plan, forks=forks)
    return _estimated(plan, specs, log)


def specs_of(plan: Plan, settings: Settings, log: Log, then: Used | None = None) -> dict[str, StageSpec]:
    """The stages of a plan, as the pipeline builds them, with the network and the heads that it says. `then` is what
    the range was scored by, where that has been read already."""
    change = plan.change
    # Live windows beside the close ones, as the workers make them.
    specs: dict[str, StageSpec] = {"windows": pipeline.windows_spec(settings)}
    specs |= {"labels": pipeline.labels_spec(settings), "signals": pipeline.signals_spec(settings)}
    if not {"inference", "learner"} & set(plan.stages):
        return specs
    bundle = pipeline.bundle_of(settings, change.model or plan.model)
    specs["learner"] = pipeline.learner_spec(settings.model_copy(update={"partitions": plan.partitions}), bundle)
    then = then or used(log, plan.partitions, plan.start, plan.to)
    if plan.chained and change.head in ("", LEARNT):
        live = None if change.model else {p: _at(*of) for p, of in then.live.items()}
        since = plan.start if change.model else 0  # nothing was learnt under it before
        inference = pipeline.inference_spec(settings, bundle, heads_since=since, live_epochs=live)
    else:
        recorded = {p: _instead(change, heads) for p, heads in then.heads.items()}
        inference = pipeline.inference_spec(settings, bundle, recorded)
    relearnt = plan.chained and "learner" in plan.stages
    for message in log.read(("model.heads", 0), *log.range(("model.heads", 0))):
        if message.value is None:
            continue
        head = decode_json(message.value, Head)
        # A learner that runs along makes its own from the range's begin on.
        if not relearnt or (head.epoch < plan.start and not (change.head == LEARNT and head.revision)):
            inference.versioned["model.heads"].put(message)
    specs["inference"] = inference
    return specs


def shadow_of(plan: Plan, settings: Settings, bootstrap: str) -> Shadow:
    if plan.into == "topics":
        create_shadow_topics(bootstrap, plan.replay, plan.writes(), plan.partitions)
        return TopicShadow(bootstrap, plan.replay)
    return ParquetShadow(folder_of(settings, plan.replay) / "shadow")


def run_of(plan: Plan, settings: Settings, log: Log, shadow: Shadow, checkpoint_s: float = 10.0) -> Run:
    specs = specs_of(plan, settings, log)
    if result_of(plan, settings) is None:
        # Between plan and run snapshots thin out; from the first checkpoint on it goes by what it has begun with.
        forks = tuple(Snapshots(log, specs[f.stage], plan.partitions).kept(f) for f in plan.forks)
        plan = msgspec.structs.replace(plan, forks=forks)
        save_plan(plan, settings)
    return Run(plan, specs, log, shadow, folder_of(settings, plan.replay), _rewriter(plan.change, log), checkpoint_s)


def _rewriter(change: Change, log: Log) -> Callable[[int], Rewriter | None]:
    """Makes one for a partition of trend.events, from an offset on, where rows are to be moved or changed."""
    if not (change.late or change.transform):
        return lambda since: None
    transform = load_transform(change.transform) if change.transform else None
    return partial(Rewriter, transform, redriven_of(log))


def compared(plan: Plan, settings: Settings, log: Log, bootstrap: str) -> tuple[Iterator[Pair], Differ]:
    """The windows of a replay that is done beside what was published, and what sums them up. Raises ReplayError."""
    if not plan.chained:
        raise ReplayError(f"replay {plan.replay} changes nothing: `replay run` has said what it found")
    shadow = shadow_of(plan, settings, bootstrap)
    result = result_of(plan, settings)
    if result is None or not result.done:
        raise ReplayError(f"replay {plan.replay} is not done; go on with `trendstream replay run {plan.replay}`")
    return pairs(plan, log, shadow, result.waiting > 0), Differ(plan, result.touched, _relearnt(plan, log, shadow))


def _relearnt(plan: Plan, log: Log, shadow: Shadow) -> frozenset[str]:
    """Versions of heads that the replay has learnt otherwise than they were published."""
    if "learner" not in plan.stages:
        return frozenset()
    task = ("model.heads", 0)
    published = {m.key: m.value for m in log.read(task, *log.range(task))}
    return frozenset((m.key or b"").decode() for m in shadow.records("model.heads") if published.get(m.key) != m.value)


def result_of(plan: Plan, settings: Settings) -> Result | None:
    """As far as it had come at its last checkpoint; None before the first."""
    path = folder_of(settings, plan.replay) / "result.json"
    return decode_json(path.read_bytes(), Result) if path.exists() else None


def folder_of(settings: Settings, replay: str) -> Path:
    return settings.replay_dir / replay


def save_plan(plan: Plan, settings: Settings) -> Path:
    folder = folder_of(settings, plan.replay)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
    return path


RATE = "rate"  # file of the per cent of one core that a run is held to


def load_plan(settings: Settings, name: str) -> Plan:
    """By the replay's id, or by the file."""
    path = Path(name) if name.endswith(".json") else folder_of(settings, name) / "plan.json"
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except OSError:
        known = sorted(p.parent.name for p in settings.replay_dir.glob("*/plan.json"))
        raise ConfigurationError(
            f"no replay {name!r} in {settings.replay_dir}; there are {', '.join(known) or 'none'}"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is no plan of a replay: {error}; make one with `replay plan`") from error
    folder_of(settings, plan.replay).mkdir(parents=True, exist_ok=True)
    return plan


def read_rate(settings: Settings, replay: str) -> int:
    """Per cent; 100 where the file cannot be read."""
    try:
        return min(100, max(1, int((folder_of(settings, replay) / RATE).read_text())))
    except (OSError, ValueError):
        return 100


def write_rate(settings: Settings, replay: str, rate: int) -> None:
    path = folder_of(settings, replay) / RATE
    part = path.with_suffix(".part")
    part.write_text(f"{rate}\n")
    part.replace(path)


def redriven_of(log: Log) -> frozenset[tuple[str, int, int]]:
    """Platform records that are dead letters sent again."""
    found = set()
    for partition in range(log.partitions("trend.redrives")):
        task = ("trend.redrives", partition)
        for message in log.read(task, *log.range(task)):
            if message.value is not None:
                sent = decode_json(message.value, Redrive).sent
                found.add((sent.topic, sent.partition, sent.offset))
    return frozenset(found)


def _estimated(plan: Plan, specs: Mapping[str, StageSpec], log: Log) -> Plan:
    read = [f for f in plan.forks if not plan.chained or f.stage == plan.stages[0]]
    records, rows, size = planning.measure(log, read)
    passes = 2 if plan.change.late else 1
    seconds, written = 0.0, 0.0
    for name in plan.stages:
        forks = plan.of(name)
        spent, kept = _probed(plan, specs[name], log, max(forks, key=lambda f: f.end - f.start))
        seconds += spent * sum(f.end - f.start for f in forks)
        written += kept * sum(f.end - f.begin for f in forks)
    return msgspec.structs.replace(
        plan,
        records=records * passes,
        rows=rows,
        read_bytes=size * passes,
        written_bytes=round(written) if plan.chained else 0,
        seconds=seconds,
    )


def _probed(plan: Plan, spec: StageSpec, log: Log, fork: Fork) -> tuple[float, float]:
    """Seconds, and bytes on disk, an offset: from folding a task's input for a moment, to throw it away."""
    forgets = plan.forgets(spec.name)
    stage = spec.make(fork.task) if forgets else Snapshots(log, spec, plan.partitions).restore(fork)
    rewriter = _rewriter(plan.change, log)(0) if plan.chained and spec.name == plan.stages[0] else None
    outputs: list[Output] = []
    offset, begun, worked, spent = fork.start, 0.0, 0.0, 0.0
    for message in log.read(fork.task, fork.start, fork.end):
        begun = begun or time.monotonic()  # to connect takes as long for a few records as for many
        worked = worked or time.thread_time()
        for given in [message] if rewriter is None else rewriter.rewrite(message):
            outputs += stage.fold([given])
        offset, spent = message.offset + 1, time.monotonic() - begun
        if time.thread_time() - worked >= _PROBE_S:  # on a busy machine, too, it sees enough of them
            break
    with tempfile.TemporaryDirectory() as folder:
        shadow = ParquetShadow(Path(folder))
        for output in outputs:
            shadow.write(Message(output.topic, output.partition, 0, 0, output.key, output.value))
        shadow.commit(1)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    offsets = max(offset - fork.start, 1)
    return spent / offsets, size / offsets


def _at(offsets: list[int], epochs: list[int]) -> Callable[[int], int]:
    def of(offset: int) -> int:
        return epochs[max(bisect.bisect_right(offsets, offset) - 1, 0)] if epochs else 0

    return of


def _instead(
    change: Change, heads: Mapping[tuple[int, int], tuple[str, int]]
) -> dict[tuple[int, int], tuple[str, int]]:
    if not change.head:
        return dict(heads)
    return {
        place: (change.head, 0) if change.instead_of in ("", head) else (head, late)
        for place, (head, late) in heads.items()
    }


def _require_head(log: Log, version: str, model: str) -> None:
    known = [(m.key or b"").decode() for m in log.read(("model.heads", 0), *log.range(("model.heads", 0))) if m.value]
    if version in known and not version.startswith(f"{model}-"):
        raise ConfigurationError(f"head {version} is not one of network {model}, which scored the range")
    if version not in known:
        raise ConfigurationError(
            f"no head {version!r} in model.heads; the newest are {', '.join(known[-3:]) or 'none'}, and {LEARNT!r} "
            "stands for those that the learner makes by itself"
        )
