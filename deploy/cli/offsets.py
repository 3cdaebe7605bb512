"""`trendstream offsets`: from where a stage goes on, set by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.brokers import find_bootstrap
from deploy.cli.changing import DryRun, Export, Reason, Yes, changing, only_planned
from deploy.errors import ConfigurationError
from deploy.settings import load_settings

offsets = typer.Typer(help="Set the offsets from which a stage goes on.", no_args_is_help=True)


@offsets.callback()
def _group() -> None:
    """Set the offsets from which a stage goes on."""


@offsets.command()
def reset(
    stage: Annotated[str, typer.Argument(help="The stage, such as windows; all of its workers must be stopped.")],
    to_progress: Annotated[
        bool, typer.Option("--to-progress", help="To what its newest commits say: undoes a reset by hand.")
    ] = False,
    to_offset: Annotated[int | None, typer.Option(min=0, help="To this offset, with --topic and --partition.")] = None,
    topic: Annotated[str, typer.Option(help="With --to-offset.")] = "",
    partition: Annotated[int, typer.Option(min=0, help="With --to-offset.")] = 0,
    dry_run: DryRun = False,
    export: Export = False,
    reason: Reason = "",
    yes: Yes = False,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
) -> None:
    """Set a stage's offsets, as kafka-consumer-groups --reset-offsets does, and keep who did it and why.

    An offset before the newest commit makes a stage publish again what it has published; one behind it leaves things
    out for good. To see what other code or another head would have given, use `trendstream replay` instead.
    """
    from deploy.inspection import INPUTS, RUNNERS, inspect
    from deploy.topics import check_offset, set_offsets
    from streams.records.outside import Facts

    if stage not in INPUTS:
        raise ConfigurationError(f"no stage {stage!r}; choose one of {', '.join(INPUTS)}")
    if to_progress == (to_offset is not None):
        raise ConfigurationError("say where to: --to-progress, or --to-offset with --topic and --partition")
    if to_progress and stage not in RUNNERS:
        raise ConfigurationError(f"{stage} keeps no progress beside its offsets; use --to-offset")
    if to_offset is not None and topic not in INPUTS[stage]:
        raise ConfigurationError(f"--topic {topic!r}: {stage} reads {', '.join(INPUTS[stage])}")
    settings = load_settings(bootstrap=bootstrap)
    address = find_bootstrap(settings)
    if to_offset is not None:
        check_offset(address, (topic, partition), to_offset, beyond=1)
    tasks = {(t.topic, t.partition): t for t in inspect(address, settings.partitions, 0).of(stage)}
    if to_offset is not None:
        wanted = {(topic, partition): to_offset}
    else:
        wanted = {key: t.progress.offset for key, t in tasks.items() if t.progress and t.progress.offset != t.committed}
    plan: Facts = {f"{t}/{p}": f"{tasks[t, p].committed} to {offset}" for (t, p), offset in wanted.items()}
    if only_planned(plan, dry_run, export):
        return
    if not wanted:
        typer.echo(f"every offset of {stage} is what its progress says")
        return
    with changing(address, "offsets reset", {"stage": stage, **plan}, reason, yes) as change:
        set_offsets(address, f"trendstream.{stage}", wanted)
        change.result["partitions"] = len(wanted)
