"""`trendstream load`: replay data into the platform topics, in event-time order, as if it happened now."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.brokers import find_bootstrap
from deploy.cli.progress import show_parts
from deploy.errors import ConfigurationError
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.sources import Source, Span

load = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Replay data into the platform topics in event-time order. Records get the time at which they are sent; what "
    "happened when is in their payload.",
)

Rate = Annotated[
    float | None, typer.Option("--rate", help="Events a second. Default: as fast as the broker takes them.")
]
Speed = Annotated[
    float | None, typer.Option("--speed", help="Event time against real time: 86400 plays a day a second.")
]
Bootstrap = Annotated[
    str | None, typer.Option(help="host:port of Kafka; default: the settings, else the local broker.")
]
From = Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day to play, such as 2017-04-01.")]
Until = Annotated[str | None, typer.Option("--until", metavar="DATE", help="Day before which to stop.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR")]


@load.command("files")
def load_files(folder: Folder, rate: Rate = None, speed: Speed = None, bootstrap: Bootstrap = None) -> None:
    """Your own events: DIR holds orders.ndjson, reviews.ndjson, images.ndjson, behaviors.ndjson, products.ndjson and
    levels.ndjson, each optional and each with .gz allowed, one record a line as the topics take it.

    A picture's uri is relative to DIR; name DIR in TRENDSTREAM_PICTURE_ROOTS so that the image encoder may read it.
    """
    from deploy.sources.files import FilesSource

    source = FilesSource(folder)
    for warning in source.warnings:
        sys.stderr.write(f"trendstream: {warning}\n")
    replay(source, rate, speed, bootstrap)


@load.command("complete-journey")
def load_complete_journey(
    products: Annotated[int, typer.Option(min=1, help="How many of the best-selling products by the piece.")] = 300,
    first: From = None,
    last: Until = None,
    rate: Rate = None,
    speed: Speed = None,
    bootstrap: Bootstrap = None,
) -> None:
    """A year of grocery sales (2017) that comes with trendstream, simulated by its authors.

    Reviews, pictures and stock levels are not in it: they are simulated from past sales alone, and labelled so.
    """
    from deploy.sources.complete_journey import CompleteJourney

    replay(CompleteJourney(products, _span(first, last)), rate, speed, bootstrap)


@load.command("olist")
def load_olist(
    folder: Folder,
    first: From = None,
    last: Until = None,
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder of photos to hand out to the products in turn, as simulated pictures."),
    ] = None,
    rate: Rate = None,
    speed: Speed = None,
    bootstrap: Bootstrap = None,
) -> None:
    """The Olist marketplace: DIR holds the published files olist_orders_dataset.csv, olist_order_items_dataset.csv,
    olist_order_reviews_dataset.csv and olist_products_dataset.csv."""
    from deploy.sources.olist import Olist

    replay(Olist(folder, _span(first, last), photos), rate, speed, bootstrap)


def replay(source: Source, rate: float | None, speed: float | None, bootstrap: str | None) -> None:
    """Play a source into Kafka and say what became of it; exits with 1 when a record was not delivered."""
    from deploy.sources.replayer import KafkaSink, Pace, Replayer
    from streams import kafka

    pace = Pace(rate, speed)
    address = find_bootstrap(load_settings(bootstrap=bootstrap))
    partitions = kafka.partition_counts(address)
    console = Console(stderr=True)
    description = source.description
    for part in _listed(description.get("simulated")):
        console.print(f"  simulated: {part}", highlight=False)
    with show_parts(console) as watch:
        watch.part(f"{description['name']} to {address}", source.estimate)
        played = Replayer(source, KafkaSink(address), partitions, pace).run(
            lambda count, at: watch.done(count, f"{_day(at)}  ")
        )
    for topic, count in played.produced.items():
        sys.stdout.write(f"{topic}\t{count}\n")
    console.print(
        f"{played.total:,} events in {played.seconds:.1f} s ({played.total / max(played.seconds, 1e-9):,.0f} a second)",
        highlight=False,
    )
    if played.failed:
        for error in played.errors:
            sys.stderr.write(f"trendstream: not delivered: {error}\n")
        sys.stderr.write(f"trendstream: {sum(played.failed.values()):,} events were not delivered\n")
        raise SystemExit(1)


def _day(at: int) -> str:
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).date().isoformat()


def _listed(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else []


def _span(first: str | None, last: str | None) -> Span:
    from deploy.sources import Span

    begin, end = read_date("--from", first), read_date("--until", last)
    if begin and end and begin >= end:
        raise ConfigurationError(f"--from {begin} is not before --until {end}")
    return Span(begin, end)


def read_date(option: str, text: str | None) -> dt.date | None:
    """A date as typed; raises ConfigurationError, which names the option."""
    if text is None:
        return None
    try:
        date = dt.date.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text!r} is no date; write it as 2017-04-01") from None
    if not 1971 <= date.year < 2099:
        raise ConfigurationError(f"{option} {text} is outside of the calendar, 1971 to 2098")
    return date
