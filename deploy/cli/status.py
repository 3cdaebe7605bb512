"""`trendstream status`: one table a question, from what the topics say."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.brokers import find_bootstrap
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.inspection import Installation, TaskState


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
) -> None:
    """Show how every stage stands: workers, what is left to read, event time, snapshots, heads in use, dead letters."""
    from deploy.inspection import INPUTS, inspect

    settings = load_settings(bootstrap=bootstrap)
    at = inspect(find_bootstrap(settings), settings.partitions, int(time.time() * 1000))
    stages = [_stage(at, stage) for stage in INPUTS]
    heads = _heads(at)
    newest = at.head.version if at.head else None
    if as_json:
        watermarks = [_watermark(task) for task in at.of("windows")]
        facts = {"stages": stages, "watermarks": watermarks, "snapshots": _snapshots(at), "heads": heads}
        typer.echo(json.dumps({**facts, "newest_head": newest, "dead": dict(at.dead)}))
        return
    _print(at, stages, heads, newest)


def _stage(at: Installation, stage: str) -> dict[str, Any]:
    """What is known of a stage, times in ms. A restart folds `refolds` offsets again, and its input is kept so long."""
    from deploy.inspection import STATEFUL

    own = at.of(stage)
    since = min((task.waiting_since for task in own if task.waiting_since is not None), default=None)
    reached = min((t.event_time for t in own if t.event_time is not None and t.holds_time), default=None)
    snapshots = [task.progress.snapshot_at for task in own if task.progress and task.progress.snapshot_at]
    restored = [(task, task.progress) for task in own if task.progress is not None and stage in STATEFUL]
    committed_at = max((task.progress_at for task in own), default=0)
    return {
        "stage": stage,
        "workers": at.workers[stage],
        "tasks": len(own),
        "left": sum(task.left for task in own),
        "waits_ms": None if since is None else at.now - since,
        "event_time": reached,
        "event_time_lag_ms": None if reached is None or at.event_time is None else max(at.event_time - reached, 0),
        "snapshot_age_ms": at.now - min(snapshots) if snapshots else None,
        "refolds": sum(max(task.committed - max(told.snapshot_offset, task.first), 0) for task, told in restored),
        "kept_ms": min(int(at.settings[task.topic]["retention.ms"]) for task in own) if own else None,
        "last_commit_ms": at.now - committed_at if committed_at else None,
    }


def _watermark(task: TaskState) -> dict[str, Any]:
    """Of one partition of the windows, and what holds it back."""
    report, counters = (task.progress.report, task.progress.counters) if task.progress else ({}, {})
    about = {"held_by": report.get("held_by"), "idle": report.get("idle", 0), "parked": counters.get("parked", 0)}
    return {"partition": task.name, "event_time": task.event_time, **about}


def _snapshots(at: Installation) -> str:
    """The snapshot topic and how long inputs are kept, against what a restore needs."""
    from deploy.diagnosis import long
    from deploy.inspection import STATEFUL

    if "trend.snapshots" not in at.topics:
        return "trend.snapshots is not there: trendstream topics create"
    own = [task for stage in STATEFUL for task in at.of(stage)]
    lost = [f"{task.stage} {task.name}" for task in own if not task.restorable]
    if lost:
        return f"cannot be restored: {', '.join(lost)}; see trendstream doctor"
    taken = [at.now - task.progress.snapshot_at for task in own if task.progress and task.progress.snapshot_at]
    kept = min(int(at.settings[task.topic]["retention.ms"]) for task in own)
    oldest = f"the oldest of {len(taken)} is of {long(max(taken))} ago" if taken else "there are none yet"
    policy = at.settings["trend.snapshots"]["cleanup.policy"]
    return f"{oldest}, its input is kept for {long(kept)}; trend.snapshots: {policy}"


def _heads(at: Installation) -> list[dict[str, Any]]:
    """Networks and heads in use, by worker of inference."""
    told_last = sorted(at.of("inference"), key=lambda task: task.progress_at)
    by_slot = {task.progress.slot: task for task in told_last if task.progress}
    return [
        {"slot": slot, "model": told.report.get("model"), "head": told.report.get("head"), "said": task.progress_at}
        for slot, task in sorted(by_slot.items())
        if (told := task.progress)
    ]


def _print(at: Installation, stages: list[dict[str, Any]], heads: list[dict[str, Any]], newest: str | None) -> None:
    from rich.table import Table

    from deploy.cli.consoles import report_console
    from deploy.diagnosis import long
    from deploy.rendering import iso

    def lasting(ms: int | None) -> str:
        return "–" if ms is None else long(ms)

    console = report_console()
    table = Table(title="stages", title_justify="left")
    names = "stage, workers, tasks, left, oldest waits, event time, behind, snapshot, refolds, kept, committed"
    for heading in names.split(", "):
        table.add_column(heading, justify="left" if heading in ("stage", "event time") else "right", no_wrap=True)
    for each in stages:
        table.add_row(
            each["stage"],
            str(each["workers"]),
            str(each["tasks"]),
            f"{each['left']:,}",
            lasting(each["waits_ms"]),
            iso(each["event_time"]) if each["event_time"] is not None else "–",
            lasting(each["event_time_lag_ms"]),
            f"{lasting(each['snapshot_age_ms'])} ago" if each["snapshot_age_ms"] is not None else "–",
            f"{each['refolds']:,}" if each["snapshot_age_ms"] is not None else "–",
            lasting(each["kept_ms"]),
            f"{lasting(each['last_commit_ms'])} ago" if each["last_commit_ms"] is not None else "–",
        )
    console.print(table)
    table = Table(
        "partition", "watermark", "held back by", "idle sources", "rows parked", title="event time of the windows"
    )
    for each in map(_watermark, at.of("windows")):
        mark = iso(each["event_time"]) if each["event_time"] is not None else "none yet"
        table.add_row(each["partition"], mark, each["held_by"] or "–", str(each["idle"]), f"{each['parked']:,}")
    console.print(table)
    typer.echo(f"snapshots: {_snapshots(at)}")
    for each in heads:
        typer.echo(f"inference {each['slot']}: at its last commit head {each['head']} of network {each['model']}")
    typer.echo(f"newest head: {newest or 'none yet: the frozen one is in use'}")
    dead = ", ".join(f"{count:,} {reason}" for reason, count in sorted(at.dead.items(), key=lambda x: -x[1]))
    typer.echo(f"open dead letters: {dead or 'none'}")
