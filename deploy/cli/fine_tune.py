"""`trendstream fine-tune`: an encoder of your own, from labelled texts or pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from deploy.samples import Kind

fine_tune = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Tune an encoder on your own labels, and tell what it gave on products and weeks that it has not seen, beside "
    "a control with permuted labels. The folder it writes is a new encoder version: name it in TRENDSTREAM_TEXT_MODEL "
    "or TRENDSTREAM_IMAGE_MODEL and train again, since a model bundle names the encoders it was trained with.",
)

SampleFile = Annotated[
    Path,
    typer.Argument(exists=True, metavar="SAMPLE", help="JSON lines as the topics take them, or folders of pictures."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the new encoder goes.")]
Base = Annotated[
    str, typer.Option("--model", help="What to start from: a folder or a name. Default: the packaged one.")
]
MethodName = Annotated[str, typer.Option("--method", help="full, lora, adalora or adapter.")]
Epochs = Annotated[int, typer.Option(min=1)]
Rate = Annotated[float, typer.Option("--learning-rate", min=0.0, help="0: what is usual for the method.")]
LABEL = (
    "Field that holds the label (texts are classes, numbers a regression, lists a sequence), or trend, trend-class or "
    "trend-week: what the category sold in the week after, from orders.ndjson and products.ndjson beside the sample."
)


@fine_tune.command("text")
def fine_tune_text(
    sample: SampleFile,
    out: Out,
    label: Annotated[str, typer.Option(help=LABEL)] = "rating",
    method: MethodName = "lora",
    model: Base = "",
    epochs: Epochs = 3,
    learning_rate: Rate = 0.0,
) -> None:
    """Reviews and other texts."""
    _run("text", sample, out, label, method, model, epochs, learning_rate)


@fine_tune.command("image")
def fine_tune_image(
    sample: SampleFile,
    out: Out,
    label: Annotated[str, typer.Option(help=LABEL)] = "category",
    method: MethodName = "lora",
    model: Base = "",
    epochs: Epochs = 3,
    learning_rate: Rate = 0.0,
) -> None:
    """Pictures."""
    _run("image", sample, out, label, method, model, epochs, learning_rate)


def _run(
    kind: Kind, sample: Path, out: Path, label: str, method: str, model: str, epochs: int, learning_rate: float
) -> None:
    from deploy.fine_tuning import fine_tune as tune
    from deploy.samples import read_sample
    from featurizers.finetuning import METHODS, TuningConfig

    if method not in METHODS:
        raise typer.BadParameter(f"{method!r} is no method; choose one of {', '.join(METHODS)}", param_hint="--method")
    config = TuningConfig(method=method, epochs=epochs, learning_rate=learning_rate)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("reading the sample", total=None)
        outcome = tune(
            kind, read_sample(kind, sample, label), out, config, model,
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
