"""`trendstream evaluate`: does the forecast earn its place beside what an analyst would use?"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.cli.consoles import report_console
from deploy.cli.data_sets import Data, DataPath, open_source
from deploy.cli.train import Kind
from deploy.errors import ConfigurationError
from deploy.settings import load_settings

_OUT = Path("build/evaluate")
_JOURNEY = {"products": 1000, "others": 3000, "ranked_before": dt.date(2017, 4, 1), "bare": True}


def evaluate(
    data: Data,
    path: DataPath = None,
    products: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of complete-journey so many that sell best in its first quarter, by the piece; default: 1000. Of uci "
            "at most so many, drawn evenly; default: all.",
        ),
    ] = None,
    others: Annotated[
        int | None,
        typer.Option(min=0, help="More of complete-journey, drawn evenly from all others; default: 3000."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help=f"Where the report goes; its cache lies in it. Default: {_OUT} and the data's name."),
    ] = None,
    test_days: Annotated[int, typer.Option(min=7, help="Days that are judged, at the end of what can mature.")] = 84,
    spacing: Annotated[int, typer.Option(min=1, help="Days between two judged boundaries; no multiple of 7.")] = 3,
    series: Annotated[int, typer.Option(min=0, max=1000, help="Products of AutoETS and TSB, drawn by sales class.")] = (
        400
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Passes of training over the history at most.")] = 6,
    network: Annotated[
        list[Kind] | None,
        typer.Option(help="What reads the series: the first is trendstream. May be repeated. Default: cnn."),
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A trained network to judge too: its folder. May be repeated.")
    ] = None,
    check_leaks: Annotated[
        bool,
        typer.Option(
            "--check-leaks",
            help="Fold again without the events at or after two judged days, and compare events, windows, predictions.",
        ),
    ] = False,
) -> None:
    """Judge trendstream beside moving average, seasonal naive, AutoETS, TSB and LightGBM on the same product-windows.

    Writes evaluation.html, evaluation.json, and predictions.parquet with a row per method, window and horizon. Nothing
    is learnt from a window before its outcome has matured. What was computed before is taken from the cache in
    --folder. Of complete-journey sales and catalogue alone are read.
    """
    try:
        import lightgbm  # noqa: F401
        import statsforecast  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is not installed; install trendstream[evaluate]") from None
    source = open_source(data, path, {"products": products, "others": others}, _JOURNEY)
    settings = load_settings()
    folder = folder or _OUT / source.platform
    import torch

    from deploy.cli.progress import show_parts
    from deploy.evaluation import Options, run
    from deploy.evaluation_report import print_tables
    from model.network import NetworkConfig
    from model.train import TrainConfig

    torch.set_num_threads(1)  # the same sums in the same order wherever it runs
    trained = {
        kind.value if i else "": TrainConfig(network=NetworkConfig(network=kind.value), epochs=epochs)
        for i, kind in enumerate(dict.fromkeys(network or [Kind.CNN]))
    }
    bundles = {found.name: found for found in bundle or ()}
    options = Options(test_days, spacing, series, trained, bundles)
    console = Console(stderr=True)
    with show_parts(console) as watch:
        report = run(source, settings, options, folder, watch, check_leaks)
    print_tables(report, report_console())
    for name in ("evaluation.html", "evaluation.json", "predictions.parquet"):
        console.print(f"wrote {folder / name}", highlight=False)
    if report.leaks:
        raise SystemExit(1)
