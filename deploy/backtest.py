"""A backtest: train on the first part of a source, then run the whole loop in-process over the rest, and report."""

from __future__ import annotations

from pathlib import Path

from deploy import pipeline
from deploy.report import RunReport, write_report
from deploy.results import TOPICS, Results
from deploy.settings import Settings
from deploy.sources import Source
from deploy.summary import Observation, Run, summarise
from deploy.training import before, start_history, train_bundle, with_pictures
from deploy.watch import Watch, timed
from model.registry import Bundle
from model.train import TrainConfig
from streams.signals.read_model import READ_TOPICS, ReadModel
from streams.stage import Message

BROKER = "in-process"


def backtest(
    source: Source,
    settings: Settings,
    until: int,
    folder: Path,
    watch: Watch,
    config: TrainConfig | None = None,
    bundle: Bundle | None = None,
) -> RunReport:
    """Train on what happens before `until` (UTC ms) unless a `bundle` is given, then stream the rest; writes
    report.json, report.html and predictions.parquet into `folder`."""
    settings = with_pictures(settings, source)
    observed = Observation(Results(since=until))
    seconds: dict[str, float] = {}

    watch.part("reading the data and the encoders", 0)
    with timed(seconds, "set_up"):
        total = source.estimate
        history = start_history(source, settings, until)
    watch.part("folding the history into windows", total)
    with timed(seconds, "history"):
        fed = history.feed(observed.watch(before(source, until)), watch.done)
    if bundle is None:
        watch.part("training the network", 0)
        with timed(seconds, "training"):
            bundle, _ = train_bundle(history, settings, config, watch.trained)

    watch.part("streaming the rest through the whole loop", max(total - fed, 1))
    runner = history.loop.runner
    for spec in (
        pipeline.inference_spec(settings, bundle, heads_since=until),
        pipeline.labels_spec(settings),
        pipeline.learner_spec(settings, bundle),
        pipeline.signals_spec(settings),
    ):
        runner.add(spec)
    history.windows.clear()
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "read-model.db"
    for part in folder.glob("read-model.db*"):
        part.unlink()
    read_model = ReadModel(f"sqlite:///{database}")
    read_model.migrate()
    waiting: list[Message] = []

    def take(message: Message) -> None:
        if message.topic in READ_TOPICS:
            waiting.append(message)
            if len(waiting) >= 5_000:
                read_model.apply(waiting)
                waiting.clear()
        elif message.topic in (*TOPICS, "model.heads", "model.events"):
            observed.take([message])

    runner.on_output = take
    streamed = (event for event in observed.watch(source) if event.at >= until)
    with timed(seconds, "stream"):
        history.feed(streamed, watch.done)
        history.loop.settle(settings.idle_ms)
        read_model.apply(waiting)

    run = Run(
        broker=BROKER,
        description=source.description,
        produced=history.loop.produced,
        counters=runner.counters(),
        seconds=seconds,
        stage_rates={"whole loop": (sum(history.loop.produced.values()) - fed) / max(seconds["stream"], 1e-9)},
    )
    report = summarise(run, observed, read_model)
    read_model.close()
    write_report(report, folder)
    observed.results.write_predictions(folder / "predictions.parquet")
    return report
