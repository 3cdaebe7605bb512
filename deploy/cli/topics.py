"""`trendstream topics`: create the topics, list them, and print what is in them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.brokers import find_bootstrap
from deploy.cli.changing import DryRun, Export, Reason, Yes, changing, only_planned
from deploy.cli.instants import HELP, instant
from deploy.errors import ConfigurationError
from deploy.settings import load_settings
from streams.stage import Message

topics = typer.Typer(help="Create the topics, list them, and print what is in them.", no_args_is_help=True)

Bootstrap = Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")]


@topics.command()
def create(
    bootstrap: Bootstrap = None,
    partitions: Annotated[int | None, typer.Option(min=1, help="Of the topics keyed by product; default: 4.")] = None,
) -> None:
    """Make every topic that is missing. Topics that are there stay as they are."""
    from deploy.topics import create_topics

    settings = load_settings(bootstrap=bootstrap, partitions=partitions)
    made = create_topics(find_bootstrap(settings), settings.partitions)
    typer.echo(f"made {len(made)} topics: {', '.join(made)}" if made else "every topic is there already")


@topics.command("list")
def list_(bootstrap: Bootstrap = None) -> None:
    """Show every topic: partitions, records, cleanup, and what it is for."""
    from deploy.topics import describe_topics

    address = find_bootstrap(load_settings(bootstrap=bootstrap))
    table = Table(title=f"topics on {address}", title_justify="left")
    for heading in ("topic", "partitions", "end offsets", "cleanup", "key", "what it holds"):
        table.add_column(heading, no_wrap=heading == "topic", justify="right" if heading == "partitions" else "left")
    for state in describe_topics(address):
        topic = state.topic
        kept = "compacted" if topic.compacted else f"{topic.retention_days} days"
        ends = " ".join(map(str, state.ends)) if state.partitions else "not there"
        table.add_row(topic.name, str(state.partitions or "-"), ends, kept, topic.key, topic.about)
    _console().print(table)


Product = Annotated[str, typer.Option(help="Only this product, platform:product_id.")]
Since = Annotated[str, typer.Option(help=f"Only records written at or after this, {HELP}.")]
Until = Annotated[str, typer.Option(help="Only records written before this.")]


@topics.command()
def cat(
    topic: Annotated[str, typer.Argument(help="Name of the topic.")],
    limit: Annotated[int, typer.Option("--limit", "-c", min=1, help="Kafka records to print.")] = 10,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each record to print, where a record is a batch.")] = 5,
    partition: Annotated[int | None, typer.Option("--partition", "-p", min=0, help="Only this partition.")] = None,
    offset: Annotated[int, typer.Option("--offset", "-o", min=0, help="Begin with this offset of each partition.")] = 0,
    latest: Annotated[
        bool, typer.Option("--latest/--from-beginning", help="The newest records, or the oldest.")
    ] = False,
    since: Since = "",
    until: Until = "",
    key: Annotated[str, typer.Option(help="Only records of this key.")] = "",
    text: Annotated[str, typer.Option(help="Only records with this text in them, batches too.")] = "",
    product: Product = "",
    as_json: Annotated[bool, typer.Option("--json", "-J", help="One JSON document a line, nothing shortened.")] = False,
    parquet: Annotated[
        Path | None, typer.Option(help="Write all that is found to Parquet files in this folder.")
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Print committed records so that a person can read them; with --json, so that a program can; or write Parquet.

    The short options are those of kcat.
    """
    from deploy import rendering, searching
    from deploy.topics import read_topic
    from streams.topics import TOPICS

    if topic not in TOPICS and not topic.startswith("replay."):
        raise ConfigurationError(f"no topic {topic!r}; choose one of {', '.join(TOPICS)}, or a replay's own")
    if bool(offset) + latest + bool(since) > 1:
        raise ConfigurationError("--offset, --since and --latest exclude each other; give one of them")
    address = find_bootstrap(load_settings(bootstrap=bootstrap))
    wanted = searching.Wanted(product, key, text, instant(until, "--until"))
    # Where something is looked for, the newest records are not known before they are read: look at all of them.
    recent = limit if latest and not wanted else None
    start = instant(since, "--since")
    messages: Iterable[Message] = read_topic(
        address, topic, partition=partition, offset=offset, since=start, latest=recent
    )
    messages = filter(wanted.holds, messages)
    if parquet is not None:
        for name, count in searching.write_parquet(messages, parquet, product).items():
            typer.echo(f"{parquet / f'{name}.parquet'}: {count:,} rows")
        return
    if latest and wanted:
        messages = searching.newest(messages, limit)
    console = _console()
    printed = 0
    for message in islice(messages, limit):
        printed += 1
        if as_json:
            for line in rendering.json_lines(message, product):
                typer.echo(line)
        else:
            console.print(rendering.render(message, max_rows=rows, product=product))
    if not printed and not as_json:
        console.print(f"{topic} holds no {'such ' if wanted or partition is not None or since else ''}record")


@topics.command()
def find(
    text: Annotated[str, typer.Argument(help="A product, a key, an id, or any other text.")],
    topic: Annotated[list[str] | None, typer.Option(help="Only in this topic; may be given again.")] = None,
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(min=1, help="Places that are shown of each topic, the newest.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Look for a text in every topic, external and internal: how many records hold it, and where the newest lie.

    A product, platform:product_id, is looked for as such, in orders too, where its two parts lie apart. Sealed
    originals of dead letters and snapshots cannot be searched.
    """
    import json

    from rich.table import Table

    from deploy.rendering import iso
    from deploy.searching import Wanted
    from deploy.topics import read_topic
    from streams.topics import TOPICS

    for name in topic or ():
        if name not in TOPICS:
            raise ConfigurationError(f"no topic {name!r}; choose one of {', '.join(TOPICS)}")
    settings = load_settings(bootstrap=bootstrap)
    address = find_bootstrap(settings)
    before, start = instant(until, "--until"), instant(since, "--since")
    is_product = "@" not in text and text.partition(":")[0] in settings.platforms  # with an @ it is a window or a score
    wanted = Wanted(product=text, until=before) if is_product else Wanted(text=text, until=before)
    table = Table("topic", "records", "first (UTC)", "last (UTC)", "the newest lie at")
    for name in topic or [name for name in TOPICS if name != "trend.snapshots"]:
        found = [
            (m.timestamp, m.partition, m.offset) for m in read_topic(address, name, since=start) if wanted.holds(m)
        ]
        if not found:
            continue
        found.sort()
        places = [f"{name}/{partition}@{offset}" for _, partition, offset in found[-limit:]]
        if as_json:
            typer.echo(json.dumps({"topic": name, "records": len(found), "newest": places}))
        table.add_row(name, f"{len(found):,}", iso(found[0][0]), iso(found[-1][0]), " ".join(places))
    if as_json:
        return
    _console().print(table if table.row_count else f"no record holds {text!r}")


@topics.command()
def skip(
    stage: Annotated[str, typer.Argument(help="The stage that stopped, such as windows.")],
    topic: Annotated[str, typer.Argument(help="Its input topic.")],
    partition: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int, typer.Argument(min=0, help="Of the record that the stage cannot fold.")],
    dry_run: DryRun = False,
    export: Export = False,
    reason: Reason = "",
    yes: Yes = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Let a stage pass over one record of its input that it cannot fold. The record stays where it lies.

    It holds from the worker's next start on, for replays too; what is passed over is kept in trend.skips.
    """
    from deploy.inspection import INPUTS, RUNNERS
    from deploy.topics import check_offset, skip_record
    from streams.records.outside import Facts, Skip

    if stage not in RUNNERS:
        raise ConfigurationError(f"no stage {stage!r}; choose one of {', '.join(RUNNERS)}")
    if topic not in INPUTS[stage]:
        raise ConfigurationError(f"{stage} does not read {topic!r}; it reads {', '.join(INPUTS[stage])}")
    address = find_bootstrap(load_settings(bootstrap=bootstrap))
    check_offset(address, (topic, partition), offset)
    plan: Facts = {"stage": stage, "passes over": f"{topic}/{partition} offset {offset}", "from": "its next start on"}
    if only_planned(plan, dry_run, export):
        return
    with changing(address, "topics skip", plan, reason, yes) as change:
        of = change.begun
        skip_record(
            address,
            Skip(stage=stage, topic=topic, partition=partition, offset=offset, reason=of.reason, by=of.by, at=of.at),
        )


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)  # a file or a pipe has no width of its own
