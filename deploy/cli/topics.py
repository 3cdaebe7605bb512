"""`trendstream topics`: create the topics, list them, and print what is in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.brokers import find_bootstrap
from deploy.cli.changing import Reason, Yes, changing
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


@topics.command()
def cat(
    topic: Annotated[str, typer.Argument(help="Name of the topic.")],
    limit: Annotated[int, typer.Option(min=1, help="Kafka records to print.")] = 10,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each record to print, where a record is a batch.")] = 5,
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    offset: Annotated[int, typer.Option(min=0, help="Begin with this offset of each partition.")] = 0,
    latest: Annotated[
        bool, typer.Option("--latest/--from-beginning", help="The newest records, or the oldest.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, nothing shortened.")] = False,
    product: Annotated[str, typer.Option(help="Only this product, platform:product_id.")] = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Print committed records so that a person can read them; with --json, so that a program can."""
    from deploy import rendering
    from deploy.topics import read_topic
    from streams.topics import TOPICS

    if topic not in TOPICS:
        raise ConfigurationError(f"no topic {topic!r}; choose one of {', '.join(TOPICS)}")
    if offset and latest:
        raise ConfigurationError("--offset and --latest exclude each other; give one of them")
    address = find_bootstrap(load_settings(bootstrap=bootstrap))
    console = _console()
    printed = 0
    # With --product the newest records are not known before they are read: look at all of them.
    newest = limit if latest and not product else None
    messages: Iterable[Message] = read_topic(address, topic, partition=partition, offset=offset, latest=newest)
    if product:
        messages = rendering.of_product(messages, product, limit if latest else None)
    for message in messages:
        if as_json:
            for line in rendering.json_lines(message, product):
                typer.echo(line)
        else:
            console.print(rendering.render(message, max_rows=rows, product=product))
        printed += 1
        if printed == limit:
            break
    if not printed and not as_json:
        console.print(f"{topic} holds no {'such ' if product or partition is not None else ''}record")


@topics.command()
def skip(
    stage: Annotated[str, typer.Argument(help="The stage that stopped, such as windows.")],
    topic: Annotated[str, typer.Argument(help="Its input topic.")],
    partition: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int, typer.Argument(min=0, help="Of the record that the stage cannot fold.")],
    reason: Reason = "",
    yes: Yes = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Let a stage pass over one record of its input that it cannot fold. The record stays where it lies.

    It holds from the worker's next start on, for replays too; what is passed over is kept in trend.skips.
    """
    from deploy.supervisor import WORKERS
    from deploy.topics import skip_record
    from streams.records import Facts, Skip

    if stage not in WORKERS or stage == "features":
        raise ConfigurationError(
            f"no stage {stage!r}; choose one of {', '.join(w for w in WORKERS if w != 'features')}"
        )
    address = find_bootstrap(load_settings(bootstrap=bootstrap))
    plan: Facts = {"stage": stage, "passes over": f"{topic}/{partition} offset {offset}", "from": "its next start on"}
    with changing(address, "topics skip", plan, reason, yes) as change:
        of = change.begun
        skip_record(
            address,
            Skip(stage=stage, topic=topic, partition=partition, offset=offset, reason=of.reason, by=of.by, at=of.at),
        )


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)  # a file or a pipe has no width of its own
