"""`trendstream evaluate`: does the forecast earn its place beside what an analyst would use?"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.consoles import report_console
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

Out = Annotated[Path, typer.Option("--folder", help="Where the report goes; its cache lies in it.")]
TestDays = Annotated[int, typer.Option(min=7, help="Days whose windows are judged, at the end of what can mature.")]
Spacing = Annotated[int, typer.Option(min=1, help="Days between two judged boundaries; not a multiple of 7.")]
Series = Annotated[int, typer.Option(min=0, max=1000, help="Products of AutoETS and TSB, drawn by sales class.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes of training over the history at most.")]
Networks = Annotated[
    list[Kind], typer.Option("--network", help="What reads the series. The first is trendstream; more may be given.")
]
Bundles = Annotated[
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
_NETWORKS = [Kind.TRANSFORMER]


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
    network: Networks = _NETWORKS,
    bundle: Bundles = None,
    check_leaks: Leaks = False,
) -> None:
    """The year of grocery sales that comes with trendstream, simulated by its authors; sales and catalogue alone."""
    from deploy.sources.complete_journey import CompleteJourney

    ranked = dt.date(2017, 4, 1)
    source = CompleteJourney(products, ranked_before=ranked, others=others, bare=True)
    _run(source, folder, _Asked(test_days, spacing, series, epochs, network, bundle or [], check_leaks))


@evaluate.command("uci")
def evaluate_uci(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    products: Annotated[int | None, typer.Option(min=1, help="At most so many, drawn evenly; default: all.")] = None,
    folder: Out = _OUT / "uci",
    test_days: TestDays = 84,
    spacing: Spacing = 3,
    series: Series = 400,
    epochs: Epochs = 6,
    network: Networks = _NETWORKS,
    bundle: Bundles = None,
    check_leaks: Leaks = False,
) -> None:
    """UCI Online Retail, or data in its layout: FILE is .parquet, .csv or .xlsx."""
    from deploy.sources.uci import UciRetail

    _run(
        UciRetail(file, products),
        folder,
        _Asked(test_days, spacing, series, epochs, network, bundle or [], check_leaks),
    )


@evaluate.command("olist")
def evaluate_olist(
    data: Annotated[Path, typer.Argument(metavar="DIR")],
    folder: Out = _OUT / "olist",
    test_days: TestDays = 84,
    spacing: Spacing = 3,
    series: Series = 400,
    epochs: Epochs = 6,
    network: Networks = _NETWORKS,
    bundle: Bundles = None,
    check_leaks: Leaks = False,
) -> None:
    """The Olist marketplace, from the published files in DIR."""
    from deploy.sources.olist import Olist

    _run(Olist(data), folder, _Asked(test_days, spacing, series, epochs, network, bundle or [], check_leaks))


@evaluate.command("files")
def evaluate_files(
    data: Annotated[Path, typer.Argument(metavar="DIR")],
    folder: Out = _OUT / "files",
    test_days: TestDays = 84,
    spacing: Spacing = 3,
    series: Series = 400,
    epochs: Epochs = 6,
    network: Networks = _NETWORKS,
    bundle: Bundles = None,
    check_leaks: Leaks = False,
) -> None:
    """Your own events: DIR holds orders.ndjson and the like, as `trendstream load files` takes them."""
    from deploy.sources.files import FilesSource

    _run(FilesSource(data), folder, _Asked(test_days, spacing, series, epochs, network, bundle or [], check_leaks))


@dataclass(frozen=True)
class _Asked:
    test_days: int
    spacing: int
    series: int
    epochs: int
    networks: list[Kind]
    bundles: list[Path]
    check_leaks: bool

    def options(self) -> Options:
        from deploy.evaluation import Options
        from model.network import NetworkConfig
        from model.train import TrainConfig

        trained = {
            kind.value if i else "": TrainConfig(network=NetworkConfig(network=kind.value), epochs=self.epochs)
            for i, kind in enumerate(dict.fromkeys(self.networks))
        }
        return Options(self.test_days, self.spacing, self.series, trained, {path.name: path for path in self.bundles})


def _run(source: Source, folder: Path, asked: _Asked) -> None:
    try:
        import lightgbm  # noqa: F401
        import statsforecast  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; install trendstream[evaluate]") from None
    settings = load_settings()
    import torch

    from deploy.cli.progress import show_parts
    from deploy.evaluation import run
    from deploy.evaluation_report import print_tables

    torch.set_num_threads(1)  # the same sums in the same order wherever it runs
    console = Console(stderr=True)
    with show_parts(console) as watch:
        report = run(source, settings, asked.options(), folder, watch, asked.check_leaks)
    print_tables(report, report_console())
    for name in ("evaluation.html", "evaluation.json", "predictions.parquet"):
        console.print(f"wrote {folder / name}", highlight=False)
    if report.leaks:
        raise SystemExit(1)
