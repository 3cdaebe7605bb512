"""`trendstream export`: a trained network made smaller or faster, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.cli.consoles import report_console
from deploy.settings import load_settings

if TYPE_CHECKING:
    from model.registry import Bundle

Trained = Annotated[
    Path | None, typer.Argument(metavar="BUNDLE", help="A trained network's folder; default: the newest.")
]
Kinds = Annotated[
    list[str] | None, typer.Option("--to", metavar="KIND", help="bf16, int8 or compiled; again for more. Default: all.")
]
Tolerance = Annotated[float, typer.Option(min=0.0, help="Largest difference that an export may show, in log units.")]
Out = Annotated[Path | None, typer.Option("--folder", help="Where exports go; default: exports/ in the model folder.")]


def export(bundle: Trained = None, to: Kinds = None, tolerance: Tolerance = 0.02, folder: Out = None) -> None:
    """Export a network as bf16, int8 and compiled, and compare size, speed and error.

    Set TRENDSTREAM_MODEL_DIR to an export's folder to run it. Workers compare it with the network that it was made from
    when they start, and refuse it beyond its tolerance. A small network taught by a large one: `train --teacher`.
    """
    from deploy.errors import ConfigurationError
    from deploy.exporting import export_bundle, measure
    from model.export import KINDS
    from model.registry import load_bundle, newest

    settings = load_settings()
    wrong = [kind for kind in to or () if kind not in KINDS]
    if wrong:
        raise ConfigurationError(f"--to {wrong[0]}: there is no such export; take one of {', '.join(KINDS)}")
    path = bundle or newest(settings.model_dir)
    if path is None:
        raise ConfigurationError(f"{settings.model_dir} holds no trained network; train one, or name a bundle")
    console = Console(stderr=True)
    network = load_bundle(path)
    table = Table("network", "folder", "bytes", "windows/s", "largest error", title=f"exports of {network.version}")

    def add(kind: str, made: Bundle, where: Path) -> None:
        found = measure(made, where)
        table.add_row(kind, str(where), f"{found.size:,}", f"{found.rate:,.0f}", f"{found.difference:.2g}")

    add("as it is", network, path)
    for kind in to or KINDS:
        console.print(f"exporting {kind} …{' (a minute)' if kind == 'compiled' else ''}", highlight=False)
        add(kind, *export_bundle(path, kind, tolerance, folder or settings.model_dir / "exports" / kind))
    report_console().print(table)
