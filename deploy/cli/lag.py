"""`trendstream lag`: what is left to read, partition by partition."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from deploy.brokers import find_bootstrap
from deploy.errors import ConfigurationError
from deploy.settings import load_settings


def lag(
    stage: Annotated[str, typer.Option(help="Only this stage.")] = "",
    behind: Annotated[bool, typer.Option("--behind", help="Only partitions with something left.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
) -> None:
    """Show committed and end offset of each partition, how long its oldest record waits, and its event time.

    What is left counts offsets; the marks of transactions after the last record do not count.
    """
    from rich.table import Table

    from deploy.cli.consoles import report_console
    from deploy.diagnosis import long
    from deploy.inspection import INPUTS, inspect
    from deploy.rendering import iso

    if stage and stage not in INPUTS:
        raise ConfigurationError(f"no stage {stage!r}; choose one of {', '.join(INPUTS)}")
    settings = load_settings(bootstrap=bootstrap)
    at = inspect(find_bootstrap(settings), settings.partitions, int(time.time() * 1000))
    tasks = [task for task in at.tasks if stage in ("", task.stage) and (task.left or not behind)]
    if as_json:
        for task in tasks:
            waits = None if task.waiting_since is None else at.now - task.waiting_since
            typer.echo(
                json.dumps(
                    {
                        "stage": task.stage,
                        "topic": task.topic,
                        "partition": task.partition,
                        "first": task.first,
                        "committed": task.committed,
                        "end": task.end,
                        "left": task.left,
                        "waits_ms": waits,
                        "event_time": task.event_time,
                    }
                )
            )
        return
    table = Table("stage", "partition", "committed", "end", "left", "oldest waits", "event time", "behind newest")
    for task in tasks:
        reached = task.event_time
        table.add_row(
            task.stage,
            task.name,
            f"{task.committed:,}" if task.committed >= 0 else "none",
            f"{task.end:,}",
            f"{task.left:,}",
            "–" if task.waiting_since is None else long(at.now - task.waiting_since),
            "–" if reached is None else iso(reached),
            long(max(at.event_time - reached, 0)) if reached and at.event_time and task.holds_time else "–",
        )
    report_console().print(table)
