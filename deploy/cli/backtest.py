"""`trendstream backtest`: how good would the forecasts have been on this data?"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.consoles import report_console
from deploy.cli.data_sets import Data, DataPath, open_source
from deploy.cli.load import read_date
from deploy.errors import ConfigurationError
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.sources import Source

Epochs = Annotated[int, typer.Option(min=1, help="Passes of training over the history at most.")]
BEST = 200
Best = Annotated[
    int | None,
    typer.Option(
        "--products",
        min=1,
        help=f"Of complete-journey so many that sell best before --until, by the piece; default: {BEST}. Of uci at "
        "most so many, drawn evenly; default: all.",
    ),
]


def backtest(
    data: Data,
    until: Annotated[str, typer.Option(metavar="DATE", help="First day that is forecast, not trained on.")],
    path: DataPath = None,
    products: Best = None,
    folder: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("build/backtest"),
    epochs: Epochs = 6,
) -> None:
    """Train on the part of the data before --until, and run the whole loop in-process over the rest.

    Writes report.html, report.json, and predictions.parquet with a row per close window and horizon.
    """
    day = date("--until", until)
    source = open_source(data, path, {"products": products}, {"products": BEST, "ranked_before": day})
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
