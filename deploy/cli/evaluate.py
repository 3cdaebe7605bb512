"""`trendstream evaluate`: does the forecast earn its place beside what an analyst would use?"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.backtest import Folder
from deploy.cli.consoles import report_console
from deploy.cli.shared_options import taking
from deploy.cli.train import Kind
from deploy.errors import ConfigurationError
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.evaluation import Options
    from deploy.sources import Source

evaluate = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Judge trendstream beside moving average, seasonal naive, AutoETS, TSB and LightGBM on the same "
    "product-windows: evaluation.html, evaluation.json, and predictions.parquet with a row per method, window and "
    "horizon. Nothing is learnt from a window before its outcome has matured. What was computed before is taken from "
    "the cache in --folder.",
)

_OUT = Path("build/evaluate")


@dataclass(frozen=True)
class Judging:
    """What can be asked of every source."""

    folder: Annotated[
        Path | None,
        typer.Option(help=f"Where the report goes; its cache lies in it. Default: {_OUT} and the source's name."),
    ] = None
    test_days: Annotated[int, typer.Option(min=7, help="Days that are judged, at the end of what can mature.")] = 84
    spacing: Annotated[int, typer.Option(min=1, help="Days between two judged boundaries; no multiple of 7.")] = 3
    series: Annotated[int, typer.Option(min=0, max=1000, help="Products of AutoETS and TSB, drawn by sales class.")] = (
        400
    )
    epochs: Annotated[int, typer.Option(min=1, help="Passes of training over the history at most.")] = 6
    network: Annotated[
        list[Kind] | None,
        typer.Option(help="What reads the series: the first is trendstream. May be repeated. Default: cnn."),
    ] = None
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A trained network to judge too: its folder. May be repeated.")
    ] = None
    check_leaks: Annotated[
        bool,
        typer.Option(
            "--check-leaks",
            help="Fold again without the events at or after two judged days, and compare events, windows, predictions.",
        ),
    ] = False

    def options(self) -> Options:
        from deploy.evaluation import Options
        from model.network import NetworkConfig
        from model.train import TrainConfig

        trained = {
            kind.value if i else "": TrainConfig(network=NetworkConfig(network=kind.value), epochs=self.epochs)
            for i, kind in enumerate(dict.fromkeys(self.network or [Kind.CNN]))
        }
        bundles = {path.name: path for path in self.bundle or ()}
        return Options(self.test_days, self.spacing, self.series, trained, bundles)


@evaluate.command("complete-journey")
@taking(Judging)
def evaluate_complete_journey(
    judging: Judging,
    products: Annotated[
        int, typer.Option(min=1, help="Best-selling products by the piece, of the first quarter.")
    ] = 1000,
    others: Annotated[
        int, typer.Option(min=0, help="More products by the piece, drawn evenly from all others.")
    ] = 3000,
) -> None:
    """The year of grocery sales that comes with trendstream, simulated by its authors; sales and catalogue alone."""
    from deploy.sources.complete_journey import CompleteJourney

    ranked = dt.date(2017, 4, 1)
    _run(CompleteJourney(products, ranked_before=ranked, others=others, bare=True), judging)


@evaluate.command("uci")
@taking(Judging)
def evaluate_uci(
    judging: Judging,
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    products: Annotated[int | None, typer.Option(min=1, help="At most so many, drawn evenly; default: all.")] = None,
) -> None:
    """UCI Online Retail, or data in its layout: FILE is .parquet, .csv or .xlsx."""
    from deploy.sources.uci import UciRetail

    _run(UciRetail(file, products), judging)


@evaluate.command("olist")
@taking(Judging)
def evaluate_olist(judging: Judging, data: Folder) -> None:
    """The Olist marketplace, from the published files in DIR."""
    from deploy.sources.olist import Olist

    _run(Olist(data), judging)


@evaluate.command("files")
@taking(Judging)
def evaluate_files(judging: Judging, data: Folder) -> None:
    """Your own events: DIR holds orders.ndjson and the like, as `trendstream load files` takes them."""
    from deploy.sources.files import FilesSource

    _run(FilesSource(data), judging)


def _run(source: Source, judging: Judging) -> None:
    try:
        import lightgbm  # noqa: F401
        import statsforecast  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; install trendstream[evaluate]") from None
    settings = load_settings()
    folder = judging.folder or _OUT / source.platform
    import torch

    from deploy.cli.progress import show_parts
    from deploy.evaluation import run
    from deploy.evaluation_report import print_tables

    torch.set_num_threads(1)  # the same sums in the same order wherever it runs
    console = Console(stderr=True)
    with show_parts(console) as watch:
        report = run(source, settings, judging.options(), folder, watch, judging.check_leaks)
    print_tables(report, report_console())
    for name in ("evaluation.html", "evaluation.json", "predictions.parquet"):
        console.print(f"wrote {folder / name}", highlight=False)
    if report.leaks:
        raise SystemExit(1)
