"""`trendstream broker`: a local Apache Kafka for development."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.local_kafka import VERSION, LocalKafka
from deploy.settings import Settings, load_settings

broker = typer.Typer(help="Start, stop and look at a local Apache Kafka.", no_args_is_help=True)


@broker.command()
def start(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: a free one. Default: 9092.")] = None,
) -> None:
    """Start the broker in the background; the first time, Maven fetches its jars.

    Its records stay in build/kafka/broker from one start to the next.
    """
    settings = load_settings(kafka_port=port)
    local = _local(settings)
    before = local.running()
    running = local.start(stay=True)
    typer.echo(
        f"kafka {VERSION} {'runs already' if before else 'is up'} at {running.bootstrap} (process {running.pid})"
    )


@broker.command()
def stop() -> None:
    """Stop the broker; its records stay."""
    local = _local(load_settings())
    typer.echo("stopped" if local.stop() else f"no broker runs in {local.folder}")


@broker.command()
def status() -> None:
    """Say whether the broker runs, and where. Exit code 1 when it does not."""
    local = _local(load_settings())
    running = local.running()
    if running is None:
        typer.echo(f"no broker runs in {local.folder}")
        raise typer.Exit(1)
    typer.echo(f"kafka {VERSION} runs at {running.bootstrap} (process {running.pid}), data in {local.folder}")


def _local(settings: Settings) -> LocalKafka:
    return LocalKafka(settings.kafka_folder, settings.kafka_port, jars=settings.kafka_jars, long_lived=True)
