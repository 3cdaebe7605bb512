"""`trendstream worker`: run a stage of the pipeline until SIGTERM."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import structlog
import typer

from deploy import supervisor
from deploy.brokers import find_bootstrap
from deploy.errors import ConfigurationError
from deploy.lifecycle import Stopper
from deploy.settings import load_settings


def worker(
    name: Annotated[
        str,
        typer.Argument(
            help="ingest, features (text and image encoders), windows, inference, labels, learner, signals, or all."
        ),
    ],
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
    slot: Annotated[int | None, typer.Option(help="Static number of this worker among those of its stage.")] = None,
    encoder: Annotated[str, typer.Option(help="With features: only text, or only image.")] = "",
) -> None:
    """Run a worker until SIGTERM: it ends cleanly, with what it holds committed.

    One worker takes all partitions of its stage; start more, each with its own --slot, and they share them.
    """
    if name not in (*supervisor.WORKERS, "all"):
        raise ConfigurationError(f"no worker {name!r}; choose one of {', '.join(supervisor.WORKERS)}, or all")
    if encoder and (name != "features" or encoder not in supervisor.ENCODERS):
        raise ConfigurationError(f"--encoder {encoder} goes with `worker features` alone, and is text or image")
    settings = load_settings(bootstrap=bootstrap, slot=slot)
    stop = Stopper().listen()
    log_to_stderr()
    found = find_bootstrap(settings)
    os.environ["TRENDSTREAM_BOOTSTRAP"] = found  # for the processes that this one starts
    os.environ["TRENDSTREAM_SLOT"] = str(settings.slot)
    if name == "all":
        raise SystemExit(supervisor.run_all(stop))
    if name == "features" and not encoder:
        raise SystemExit(supervisor.run_features(stop))
    from deploy import workers  # brings the stages

    if encoder:
        raise SystemExit(workers.run_encoder(encoder, settings, found, stop))
    raise SystemExit(workers.run_worker(name, settings, found, stop))


def log_to_stderr() -> None:
    """Structured lines on standard error, for people on a terminal and as JSON otherwise."""
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
