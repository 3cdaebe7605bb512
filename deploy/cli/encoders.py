"""`trendstream encoders`: which encoder suits one's own texts or pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.cli.consoles import report_console

SampleKind = Annotated[Literal["text", "image"], typer.Argument(metavar="text|image")]
SampleFile = Annotated[
    Path,
    typer.Argument(exists=True, metavar="SAMPLE", help="JSON lines as topics take them, or folders of pictures."),
]

encoders = typer.Typer(no_args_is_help=True, add_completion=False, help="Compare encoders on your own sample.")
DEFAULT = {"text": ("", "static"), "image": ("",)}


@encoders.callback()
def _group() -> None:
    """Keeps `compare` a subcommand of its own."""


@encoders.command("compare")
def compare_encoders(
    kind: SampleKind,
    sample: SampleFile,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="Again for each: a folder, a name on the hub or of timm, packaged, static (texts: word pieces alone), "
            "or untrained:NAME, an architecture with random weights (untrained:bert), for its speed.",
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="Field to be read off the vectors.")] = "",
    items: Annotated[int, typer.Option(min=50, help="Items of the sample to use at most.")] = 1_000,
) -> None:
    """Items per second, memory, and how well a linear probe reads your labels off the vectors, with what follows."""
    from deploy.comparison import advice, compare
    from deploy.samples import LABELS, read_sample
    from featurizers.probing import Targets, chance

    found = read_sample(kind, sample, label or LABELS[kind]).first(items)
    chosen = [name.replace("packaged", "") for name in names or DEFAULT[kind]]
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(chosen))
        rows = compare(
            kind, chosen, found,
            lambda done, name: bar.update(task, completed=done, description=name or "packaged"),
        )  # fmt: skip
    targets = Targets.of(found.labels)
    what = "right" if targets.classes else "R²"
    table = Table("encoder", "dimensions", "M parameters", "items/s", "peak MiB", f"{what} ± error", "note")
    for row in rows:
        numbers = ["", "", "", "", ""]
        if row.quality is not None:
            numbers = [str(row.dimensions), f"{row.parameters / 1e6:.1f}", f"{row.items_per_second:.0f}",
                       f"{row.peak_mib:.0f}", f"{row.quality:.3f} ± {row.error:.3f}"]  # fmt: skip
        table.add_row(row.name or "packaged", *numbers, row.note)
    report_console().print(table)
    sys.stdout.write(f"{len(found)} items; without any vector {chance(targets):.3f}\n{advice(rows, found)}\n")
