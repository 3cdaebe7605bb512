"""`trendstream evaluate`: does the forecast earn its place beside what an analyst would use?"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.consoles import report_console
from deploy.errors import ConfigurationError
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.sources import Source

evaluate = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Judge trendstream beside moving average, seasonal naive, AutoETS, TSB and LightGBM on the same "
    "product-windows: evaluation.html, evaluation.json, and predictions.parquet with a row per method, window and "
    "horizon. Nothing is learnt from a window before its outcome has matured. What was computed before is taken from "
    "the cache in --folder.",
)

Out = Annotated[Path, typer.Option("--folder", help="Where the report goes; its cache lies in it.")]
TestDays = Annotated[int, typer.Option(min=7, help="Days whose windows are judged, at the end of what can mature.")]
Spacing = Annotated[int, typer.Option(min=1, help="Days between two judged boundaries; not a multiple of 7.")]
Series = Annotated[int, typer.Option(min=0, max=1000, help="Products of AutoETS and TSB, drawn by sales class.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes of training over the history at most.")]
Networks = Annotated[
    list[Path] | None, typer.Option("--bundle", help="A trained network to judge too: its folder. May be repeated.")
]
Leaks = Annotated[
    bool,
    typer.Option(
        "--check-leaks",
        help="Fold again without the events at or after two judged days, and compare events, windows and predictions.",
    ),
]
_OUT = Path("build/evaluate")


@evaluate.command("complete-journey")
def evaluate_complete_journey(
    products: Annotated[
        int, typer.Option(min=1, help="Best-selling products by the piece, of the first quarter.")
    ] = 1000,
    others: Annotated[
        int, typer.Option(min=0, help="More products by the piece, drawn evenly from all others.")
    ] = 3000,
    folder: Out = _OUT / "complete-journey",
    test_days: TestDays = 84,
    spacing: Spacing = 3,
    series: Series = 400,
    epochs: Epochs = 6,
    bundle: Networks = None,
    check_leaks: Leaks = False,
) -> None:
    """The year of grocery sales that comes with trendstream, simulated by its authors; sales and catalogue alone."""
    from deploy.sources.complete_journey import CompleteJourney

    ranked = dt.date(2017, 4, 1)
    source = CompleteJourney(products, ranked_before=ranked, others=others, bare=True)
    _run(source, folder, test_days, spacing, series, epochs, bundle, check_leaks)


@evaluate.command("uci")
def evaluate_uci(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    products: Annotated[int | None, typer.Option(min=1, help="At most so many, drawn evenly; default: all.")] = None,
    folder: Out = _OUT / "uci",
    test_days: TestDays = 84,
    spacing: Spacing = 3,
    series: Series = 400,
    epochs: Epochs = 6,
    bundle: Networks = None,
    check_leaks: Leaks = False,
) -> None:
    """UCI Online Retail, or data in its layout: FILE is .parquet, .csv or .xlsx."""
    from deploy.sources.uci import UciRetail

    _run(UciRetail(file, products), folder, test_days, spacing, series, epochs, bundle, check_leaks)


@evaluate.command("olist")
def evaluate_olist(
    data: Annotated[Path, typer.Argument(metavar="DIR")],
    folder: Out = _OUT / "olist",
    test_days: TestDays = 84,
    spacing: Spacing = 3,
    series: Series = 400,
    epochs: Epochs = 6,
    bundle: Networks = None,
    check_leaks: Leaks = False,
) -> None:
    """The Olist marketplace, from the published files in DIR."""
    from deploy.sources.olist import Olist

    _run(Olist(data), folder, test_days, spacing, series, epochs, bundle, check_leaks)


@evaluate.command("files")
def evaluate_files(
    data: Annotated[Path, typer.Argument(metavar="DIR")],
    folder: Out = _OUT / "files",
    test_days: TestDays = 84,
    spacing: Spacing = 3,
    series: Series = 400,
    epochs: Epochs = 6,
    bundle: Networks = None,
    check_leaks: Leaks = False,
) -> None:
    """Your own events: DIR holds orders.ndjson and the like, as `trendstream load files` takes them."""
    from deploy.sources.files import FilesSource

    _run(FilesSource(data), folder, test_days, spacing, series, epochs, bundle, check_leaks)


def _run(
    source: Source,
    folder: Path,
    test_days: int,
    spacing: int,
    series: int,
    epochs: int,
    bundles: list[Path] | None,
    check_leaks: bool,
) -> None:
    try:
        import lightgbm  # noqa: F401
        import statsforecast  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; install trendstream[evaluate]") from None
    settings = load_settings()
    import torch

    from deploy.cli.progress import show_parts
    from deploy.evaluation import Options, run
    from deploy.evaluation_report import print_tables
    from model.train import TrainConfig

    torch.set_num_threads(1)  # the same sums in the same order wherever it runs
    named = {path.name: path for path in bundles or []}
    options = Options(test_days, spacing, series, {"": TrainConfig(epochs=epochs)}, named)
    console = Console(stderr=True)
    with show_parts(console) as watch:
        report = run(source, settings, options, folder, watch, check_leaks)
    print_tables(report, report_console())
    for name in ("evaluation.html", "evaluation.json", "predictions.parquet"):
        console.print(f"wrote {folder / name}", highlight=False)
    if report.leaks:
        raise SystemExit(1)
