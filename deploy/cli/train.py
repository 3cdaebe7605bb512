"""`trendstream train`: a network and starting heads from history."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deploy.cli.backtest import BEST, Best, Epochs, date, instant
from deploy.cli.data_sets import Data, DataPath, open_source
from deploy.settings import load_settings


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


def train(
    data: Data,
    until: Annotated[str, typer.Option(metavar="DATE", help="Day before which the history ends.")],
    path: DataPath = None,
    products: Best = None,
    epochs: Epochs = 6,
    network: Annotated[Kind, typer.Option(help="What reads the series of days and hours.")] = Kind.CNN,
    task: Annotated[
        Task,
        typer.Option(
            help="count: a distribution of units; regression: log units; sequence: units of each day; "
            "classification: the trend class, which gives no units and cannot be deployed.",
        ),
    ] = Task.COUNT,
    seed: Annotated[int, typer.Option(help="The same seed on the same kind of device gives the same weights.")] = 0,
    width: Annotated[int, typer.Option(min=4, max=1024, help="Numbers that the series of a window become.")] = 64,
    teacher: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="A larger network to learn from too, for a small --width.")
    ] = None,
    model_dir: Annotated[Path | None, typer.Option(help="Where bundles go; default: TRENDSTREAM_MODEL_DIR.")] = None,
) -> None:
    """Fold history with the ingest, encoders and windows that run live, and train a network on it.

    History is split by time, with a gap of the longest horizon. The bundle goes to TRENDSTREAM_MODEL_DIR, where the
    workers find it.
    """
    from deploy import pipeline
    from deploy.cli.progress import show_parts
    from deploy.processes import processes
    from deploy.training import before, help_training, start_history, train_bundle, with_pictures
    from model.network import NetworkConfig
    from model.registry import load_bundle
    from model.train import TrainConfig

    day = date("--until", until)
    source = open_source(data, path, {"products": products}, {"products": BEST, "ranked_before": day})
    settings = with_pictures(load_settings(model_dir=model_dir), source)
    end = instant(source, day)
    larger = load_bundle(teacher).network if teacher else None
    wanted = NetworkConfig(network.value, task.value, width=width, hidden=2 * width)
    with processes(pipeline.device(settings)) as (workers, device), show_parts(Console(stderr=True)) as watch:
        config = TrainConfig(network=wanted, epochs=epochs, seed=seed, device=device)
        if workers.rank:
            help_training(settings, config, workers, larger)
            return
        watch.part("reading the data and the encoders", 0)
        history = start_history(source, settings, end)
        watch.part("folding the history into windows", source.estimate)
        history.feed(before(source, end), watch.done)
        watch.part("training the network", 0)
        bundle, where = train_bundle(history, settings, config, watch.trained, workers, larger)
    sys.stdout.write(f"{bundle.version}\t{where}\n")
