"""What is wrong with an installation and what to do about it, in the order in which it should be done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from deploy.inspection import INPUTS, STATEFUL, Held, Installation, TaskState
from deploy.rendering import iso
from streams.topics import DAY_MS, PLATFORM_TOPICS, topics

_WAITS_LONG_MS = 60_000
_DEAD_SHARE = 0.01  # of what was read, above which something is wrong with the platform's events
_HEAD_AGE_DAYS = 2.5  # of event time: an epoch comes a day, one day after its boundary


Level = Literal["problem", "note"]


@dataclass(frozen=True)
class Finding:
    level: Level
    what: str
    do: str


def diagnose(installation: Installation) -> list[Finding]:
    """Nothing at all where all is well. What other things rest on comes first."""
    checks = (_cautions, _topics, _settings, _offsets, _snapshots, _workers, _event_time, _heads, _read_model, _dead)
    return [finding for check in checks for finding in check(installation)]


def _cautions(at: Installation) -> Iterator[Finding]:
    for line in at.cautions:
        yield Finding("note", line, "set the environment of every worker and command right")
    if not at.bundle:
        yield Finding("note", "no network was trained yet: scores are the baseline's", "trendstream train files DIR")


def _topics(at: Installation) -> Iterator[Finding]:
    wanted = {topic.name: topic.partitions for topic in topics(at.partitions)}
    missing = [name for name in wanted if name not in at.topics]
    if missing:
        yield Finding("problem", f"topics are missing: {', '.join(missing)}", "trendstream topics create")
    for name, count in at.topics.items():
        if count != wanted[name] and name not in PLATFORM_TOPICS:
            yield Finding(
                "problem",
                f"{name} has {count} partitions, and {wanted[name]} are configured: a product's records go to the "
                "wrong task",
                f"set TRENDSTREAM_PARTITIONS={count} for every worker, or make the topics anew and replay into them",
            )


def _settings(at: Installation) -> Iterator[Finding]:
    for topic in topics(at.partitions):
        found = at.settings.get(topic.name)
        if found is None:
            continue
        wanted = topic.configuration()
        wrong = {
            name: value
            for name, value in wanted.items()
            if found[name] != value and not (name != "cleanup.policy" and _more(found[name], value))
        }
        if wrong:
            was = ", ".join(f"{name} is {found[name]}" for name in wrong)
            put = ",".join(f"{name}={value}" for name, value in wrong.items())
            yield Finding(
                "problem",
                f"{topic.name}: {was}; a restore or a reader may miss what it needs",
                f"kafka-configs --alter --entity-type topics --entity-name {topic.name} --add-config {put}",
            )


def _more(found: str, wanted: str) -> bool:
    """Whether a limit is wider than it must be; -1 is none."""
    return int(found) == -1 or (int(wanted) != -1 and int(found) > int(wanted))


def _offsets(at: Installation) -> Iterator[Finding]:
    for task in at.tasks:
        told = task.progress
        if told is None or task.place not in at.by_hand:
            continue
        do = (
            f"stop the workers of {task.stage}, then trendstream offsets reset {task.stage} --to-progress, "
            "then start them"
        )
        place, moved = f"{task.stage} for {task.name}", f"from {told.offset} to {task.committed}"
        if task.committed < 0:
            what = f"the offset of {place} was deleted (its progress says {told.offset}): all would be published again"
        elif task.committed < told.offset:
            again = told.offset - task.committed
            what = f"the offset of {place} was set back by hand {moved}: {again:,} offsets would be published again"
        else:
            lost = task.committed - told.offset
            what = f"the offset of {place} was set on by hand {moved}: what {lost:,} offsets cause is never published"
        yield Finding("problem", what, do)


def _snapshots(at: Installation) -> Iterator[Finding]:
    for stage in STATEFUL:
        for task in at.of(stage):
            if task.committed > 0 and "trend.snapshots" in at.topics:
                yield from _restorable(at, task, at.snapshots.get((stage, task.topic, task.partition), Held()))


def _restorable(at: Installation, task: TaskState, held: Held) -> Iterator[Finding]:
    usable = [(offset, taken) for offset, taken in held.whole if offset <= task.committed]
    told = task.progress.snapshot_offset if task.progress else -1
    place = f"{task.stage} {task.name}"
    wait = "let its worker run: it writes another within TRENDSTREAM_SNAPSHOT_INTERVAL_S; then call doctor again"
    if told >= 0 and told not in [offset for offset, _ in held.whole]:
        kept = f"the newest that is there ends at {usable[-1][0]}" if usable else "none is there"
        yield Finding("problem", f"the snapshot of {place} at offset {told} is gone from trend.snapshots; {kept}", wait)
    elif held.broken and not usable:
        yield Finding("problem", f"no snapshot of {place} is whole: {held.broken} lack chunks", wait)
    if not usable:
        if task.first > 0:
            yield Finding(
                "problem",
                f"{place} cannot be restored: no snapshot, and {task.topic} is kept only from offset {task.first}",
                f"do not stop its worker; {wait}",
            )
        return
    offset, taken = usable[-1]
    retention = int(at.settings.get(task.topic, {}).get("retention.ms", "-1"))
    if offset < task.first:
        yield Finding(
            "problem",
            f"{place} cannot be restored: its newest snapshot ends at {offset}, {task.topic} is kept from {task.first}",
            f"do not stop its worker; {wait}; lengthen the retention of {task.topic}",
        )
    elif retention > 0 and at.now - taken > retention / 2 and task.committed > offset:
        yield Finding(
            "problem",
            f"the newest snapshot of {place} is {long(at.now - taken)} old, and {task.topic} is kept for "
            f"{long(retention)}: soon it cannot be restored",
            f"see in the log of its worker why it takes none; {wait}",
        )


def _workers(at: Installation) -> Iterator[Finding]:
    for stage in INPUTS:
        own = at.of(stage)
        left = sum(task.left for task in own)
        since = min((task.waiting_since for task in own if task.waiting_since is not None), default=at.now)
        waits = f"{left:,} offsets wait, the oldest for {long(at.now - since)}" if left else "nothing waits yet"
        name = f"features --encoder {stage}" if stage in ("text", "image") else stage
        if not at.workers[stage]:
            yield Finding(
                "problem" if left else "note", f"no worker of {stage} runs: {waits}", f"trendstream worker {name}"
            )
        elif at.now - since > _WAITS_LONG_MS:
            yield Finding(
                "problem",
                f"{stage} is behind: {waits}",
                f"trendstream lag --stage {stage} twice: where it shrinks, wait; where it does not, see the worker's "
                f"log; where all partitions are busy, start one more: trendstream worker {name} --slot N",
            )


def _event_time(at: Installation) -> Iterator[Finding]:
    newest = at.event_time
    for task in at.of("windows"):
        report = task.progress.report if task.progress else {}
        if newest is None or "held_by" not in report or task.left:
            continue
        holder = str(report["held_by"])
        if task.event_time is None:
            what = f"windows of {task.name} have no event time: they wait for the first events of {holder}"
        elif newest - task.event_time > DAY_MS:
            what = (
                f"event time of {task.name} is {long(newest - task.event_time)} behind the newest event, "
                f"held back by {holder}"
            )
        else:
            continue
        topic, _, partition = holder.partition(",")[0].partition("/")
        yield Finding(
            "problem",
            what,
            f"trendstream topics cat {topic} --partition {partition} --latest: does the platform still send there? A "
            "source that is silent for TRENDSTREAM_IDLE_MS holds nothing back; one that sends old events does",
        )


def _heads(at: Installation) -> Iterator[Finding]:
    passed = [task.event_time for task in at.of("windows") if task.event_time is not None]
    if at.head is None or not passed:
        return
    behind = min(passed) - at.head.epoch
    if behind > _HEAD_AGE_DAYS * DAY_MS:
        yield Finding(
            "problem",
            f"the newest head is of {iso(at.head.epoch)}, {long(behind)} before the windows: scores say head_late",
            "trendstream lag --stage learner, then --stage labels: the learner waits for every partition of both",
        )
    reports = [task.progress.report for task in at.of("inference") if task.progress]
    known = {str(report["head"]) for report in reports if "head" in report}
    if len(known) > 1:
        yield Finding(
            "note",
            f"workers of inference know different newest heads: {', '.join(sorted(known))}",
            "none, if a head has just come; else see why a worker does not read model.heads",
        )
    models = {str(report["model"]) for report in reports if "model" in report}
    if len(models) > 1:
        yield Finding(
            "problem",
            f"workers of inference use different networks: {', '.join(sorted(models))}",
            "give all of them the same TRENDSTREAM_MODEL_DIR, and start them anew",
        )


def _read_model(at: Installation) -> Iterator[Finding]:
    if at.read_model:
        yield Finding(
            "problem", at.read_model, "mend TRENDSTREAM_DATABASE_URL or the database; the signals worker fills it"
        )


def _dead(at: Installation) -> Iterator[Finding]:
    left = sum(at.dead.values())
    if not left:
        return
    read = sum(task.progress.counters.get("read", 0) for task in at.of("ingest") if task.progress)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(at.dead.items(), key=lambda x: -x[1]))
    yield Finding(
        "problem" if left > _DEAD_SHARE * read else "note",
        f"{left:,} dead letters are open ({reasons}), of {read:,} events",
        "trendstream dlq list; then tell the platform, and trendstream dlq redrive with a transform that mends them",
    )


def long(ms: float) -> str:
    """A duration for people."""
    for unit, size in (("d", DAY_MS), ("h", 3_600_000), ("min", 60_000)):
        if ms >= size:
            return f"{ms / size:.1f} {unit}"
    return f"{max(ms, 0) / 1000:.0f} s"
