"""`trendstream demo`: the main job on a year of sales, on a real broker where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.cli.consoles import report_console
from deploy.settings import load_settings

_LOGS = {
    "settings": "on the broker that TRENDSTREAM_BOOTSTRAP names",
    "local": "on a local Apache Kafka that the demo starts and stops",
    "in-process": "on the in-process log: no Java is on the PATH, so there is no Kafka here",
}


def demo(
    products: Annotated[int, typer.Option(min=20, help="How many of the best-selling products by the piece.")] = 200,
    folder: Annotated[Path, typer.Option(help="Where the report, the model and the broker's data go.")] = Path(
        "build/demo"
    ),
) -> None:
    """Train on the first part of a year of grocery sales, stream the rest through every stage, and report.

    Writes report.html (for people), report.json and predictions.parquet into --folder. The sales are Complete Journey,
    simulated by its authors; reviews, pictures and stock levels are simulated from past sales, and labelled so.
    """
    settings = load_settings()
    console = Console(stderr=True)
    from deploy.demo import DemoConfig, choose_broker

    console.print(f"trendstream demo, {_LOGS[choose_broker(settings)]}", highlight=False)
    console.print(
        "Sales: Complete Journey, simulated by its authors. Reviews, pictures, stock: simulated from past sales."
    )
    from deploy.cli.progress import show_parts
    from deploy.demo import run_demo
    from deploy.report import print_tables

    with show_parts(console) as watch:
        report = run_demo(settings, folder, watch, DemoConfig(products=products))
    print_tables(report, report_console())
    for name in ("report.html", "report.json", "predictions.parquet"):
        console.print(f"wrote {folder / name}", highlight=False)
    if report.contradictions():
        raise SystemExit(1)
