"""`trendstream train`: a network and starting heads from history."""

from __future__ import annotations

import datetime as dt
import enum
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from deploy.cli.backtest import Epochs, Folder, date, instant
from deploy.cli.shared_options import taking
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.sources import Source
    from model.train import TrainConfig

train = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Fold history with the ingest, encoders and windows that run live, train the network on it (split by time, "
    "with a gap of the longest horizon), and save a bundle in TRENDSTREAM_MODEL_DIR, where the workers find it.",
)


class Kind(enum.StrEnum):
    """What may read the series."""

    TRANSFORMER = "transformer"
    LSTM = "lstm"
    CNN = "cnn"
    ENSEMBLE = "ensemble"


class Task(enum.StrEnum):
    COUNT = "count"
    REGRESSION = "regression"
    CLASSIFICATION = "classification"
    SEQUENCE = "sequence"


@dataclass(frozen=True)
class Training:
    """What can be asked of every source."""

    until: Annotated[str, typer.Option(metavar="DATE", help="Day before which the history ends.")]
    epochs: Epochs = 6
    network: Annotated[Kind, typer.Option(help="What reads the series of days and hours.")] = Kind.CNN
    task: Annotated[
        Task,
        typer.Option(
            help="count: a distribution of units; regression: log units; sequence: units of each day; "
            "classification: the trend class, which gives no units and cannot be deployed.",
        ),
    ] = Task.COUNT
    seed: Annotated[int, typer.Option(help="The same seed on the same kind of device gives the same weights.")] = 0
    width: Annotated[int, typer.Option(min=4, max=1024, help="Numbers that the series of a window become.")] = 64
    teacher: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="A larger network to learn from too, for a small --width.")
    ] = None
    model_dir: Annotated[Path | None, typer.Option(help="Where bundles go; default: TRENDSTREAM_MODEL_DIR.")] = None

    @property
    def day(self) -> dt.date:
        return date("--until", self.until)

    def on(self, device: str) -> TrainConfig:
        from model.network import NetworkConfig
        from model.train import TrainConfig

        network = NetworkConfig(self.network.value, self.task.value, width=self.width, hidden=2 * self.width)
        return TrainConfig(network=network, epochs=self.epochs, seed=self.seed, device=device)


@train.command("complete-journey")
@taking(Training)
def train_complete_journey(
    training: Training,
    products: Annotated[int, typer.Option(min=1, help="How many of the best-selling products by the piece.")] = 200,
) -> None:
    """The year of grocery sales that comes with trendstream, simulated by its authors."""
    from deploy.sources.complete_journey import CompleteJourney

    _run(CompleteJourney(products, ranked_before=training.day), training)


@train.command("olist")
@taking(Training)
def train_olist(training: Training, data: Folder) -> None:
    """The Olist marketplace, from the published files in DIR."""
    from deploy.sources.olist import Olist

    _run(Olist(data), training)


@train.command("files")
@taking(Training)
def train_files(training: Training, data: Folder) -> None:
    """Your own events: DIR holds orders.ndjson and the like, as `trendstream load files` takes them."""
    from deploy.sources.files import FilesSource

    _run(FilesSource(data), training)


def _run(source: Source, training: Training) -> None:
    from deploy import pipeline
    from deploy.cli.progress import show_parts
    from deploy.processes import processes
    from deploy.training import before, help_training, start_history, train_bundle, with_pictures
    from model.registry import load_bundle

    settings = with_pictures(load_settings(model_dir=training.model_dir), source)
    until = instant(source, training.day)
    teacher = load_bundle(training.teacher).network if training.teacher else None
    with processes(pipeline.device(settings)) as (workers, device), show_parts(Console(stderr=True)) as watch:
        if workers.rank:
            help_training(settings, training.on(device), workers, teacher)
            return
        watch.part("reading the data and the encoders", 0)
        history = start_history(source, settings, until)
        watch.part("folding the history into windows", source.estimate)
        history.feed(before(source, until), watch.done)
        watch.part("training the network", 0)
        bundle, path = train_bundle(history, settings, training.on(device), watch.trained, workers, teacher)
    sys.stdout.write(f"{bundle.version}\t{path}\n")
