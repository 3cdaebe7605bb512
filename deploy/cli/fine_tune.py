"""`trendstream fine-tune`: an encoder of your own, from labelled texts or pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.cli.encoders import SampleFile, SampleKind


def fine_tune(
    kind: SampleKind,
    sample: SampleFile,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the new encoder goes.")],
    label: Annotated[
        str,
        typer.Option(
            help="Field that holds the label (texts are classes, numbers a regression, lists a sequence), or trend, "
            "trend-class or trend-week: what the category sold in the week after, from orders.ndjson and "
            "products.ndjson beside the sample. Default: rating of texts, category of pictures."
        ),
    ] = "",
    method: Annotated[
        Literal["full", "lora", "adalora", "adapter"], typer.Option(help="All weights, or few beside them.")
    ] = "lora",
    model: Annotated[str, typer.Option(help="What to start from: a folder or a name. Default: the packaged one.")] = "",
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="0: what is usual for the method.")] = 0.0,
) -> None:
    """Tune an encoder of texts or pictures on your own labels.

    Tells what it gave on products and weeks that it has not seen, beside a control with permuted labels. The folder
    that it writes is a new encoder version: name it in TRENDSTREAM_TEXT_MODEL or TRENDSTREAM_IMAGE_MODEL and train
    again, since a model bundle names the encoders it was trained with.
    """
    from deploy.fine_tuning import fine_tune as tune
    from deploy.samples import LABELS, read_sample
    from featurizers.finetuning import TuningConfig

    config = TuningConfig(method=method, epochs=epochs, learning_rate=learning_rate)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading the sample", total=None)
        outcome = tune(
            kind, read_sample(kind, sample, label or LABELS[kind]), out, config, model,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )  # fmt: skip
    train, check, test = outcome.items
    sys.stdout.write(
        f"{outcome.encoder}\t{out}\n"
        f"{train} items for training, {check} for validation, {test} for the test; a linear probe on the test items:\n"
        f"  chance {outcome.chance:.3f}   before {outcome.before:.3f}   after {outcome.after:.3f}   "
        f"with permuted labels {outcome.permuted:.3f}\n"
    )
    if outcome.after <= outcome.before:
        sys.stdout.write("no gain: stay with the encoder that you have\n")
