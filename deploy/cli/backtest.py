"""`trendstream backtest`: how good would the forecasts have been on this data?"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.consoles import report_console
from deploy.cli.load import read_date
from deploy.errors import ConfigurationError
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.sources import Source

backtest = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Train on the part of the data before --until, run the whole loop in-process over the rest, and report: "
    "report.html, report.json, and predictions.parquet with a row per close window and horizon.",
)

UntilDate = Annotated[str, typer.Option("--until", metavar="DATE", help="First day that is forecast, not trained on.")]
Out = Annotated[Path, typer.Option("--folder", help="Where the report goes.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes of training over the history at most.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR")]
_OUT = Path("build/backtest")


@backtest.command("complete-journey")
def backtest_complete_journey(
    until: UntilDate,
    products: Annotated[int, typer.Option(min=1, help="How many of the best-selling products by the piece.")] = 200,
    folder: Out = _OUT,
    epochs: Epochs = 6,
) -> None:
    """The year of grocery sales that comes with trendstream, simulated by its authors."""
    from deploy.sources.complete_journey import CompleteJourney

    day = date("--until", until)
    _run(CompleteJourney(products, ranked_before=day), day, folder, epochs)


@backtest.command("olist")
def backtest_olist(data: Folder, until: UntilDate, folder: Out = _OUT, epochs: Epochs = 6) -> None:
    """The Olist marketplace, from the published files in DIR."""
    from deploy.sources.olist import Olist

    _run(Olist(data), date("--until", until), folder, epochs)


@backtest.command("files")
def backtest_files(data: Folder, until: UntilDate, folder: Out = _OUT, epochs: Epochs = 6) -> None:
    """Your own events: DIR holds orders.ndjson and the like, as `trendstream load files` takes them."""
    from deploy.sources.files import FilesSource

    _run(FilesSource(data), date("--until", until), folder, epochs)


def date(option: str, text: str) -> dt.date:
    """A day that must be given."""
    day = read_date(option, text)
    if day is None:
        raise ConfigurationError(f"{option} needs a day, such as 2017-08-01")
    return day


def instant(source: Source, day: dt.date) -> int:
    """UTC ms at which a day begins on the source's platform."""
    platforms = load_settings().calendars()
    platform = platforms.get(source.platform) or next(iter(platforms.values()))
    return platform.calendar.start(platform.calendar.index(day))


def _run(source: Source, day: dt.date, folder: Path, epochs: int) -> None:
    settings = load_settings(model_dir=folder / "models")
    from deploy.backtest import backtest as run
    from deploy.cli.progress import show_parts
    from deploy.report import print_tables
    from model.train import TrainConfig

    console = Console(stderr=True)
    with show_parts(console) as watch:
        report = run(source, settings, instant(source, day), folder, watch, TrainConfig(epochs=epochs))
    print_tables(report, report_console())
    for name in ("report.html", "report.json", "predictions.parquet"):
        console.print(f"wrote {folder / name}", highlight=False)
