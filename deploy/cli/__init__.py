"""The console script `trendstream`: one file a command, loaded when the command is called.

`deploy/cli/<name>.py` holds an attribute of the command's own name (`_` for `-`): a function, or a Typer app for one
with subcommands. So `--help` loads no stage, and no torch.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

COMMANDS = {
    "broker": "Start, stop and look at a local Apache Kafka.",
    "topics": "Create the topics, list them, and print what is in them.",
    "worker": "Run a stage on Kafka until SIGTERM.",
    "load": "Replay data into the platform topics in event-time order.",
    "train": "Train the network and the starting heads from history.",
    "export": "Make a trained network smaller or faster.",
    "fine-tune": "Tune a text or picture encoder on your own labels.",
    "encoders": "Compare encoders on your own sample.",
    "backtest": "Train on the first part, run the loop over the rest, report.",
    "status": "Show how every stage stands: lag, watermarks, heads, snapshots.",
    "lag": "Show what is left to read, partition by partition.",
    "doctor": "Check the whole installation, and say what to do, in order.",
    "dlq": "List dead letters, show one, and send their events again.",
    "heads": "List heads, compare them, install one, or roll back to one.",
    "offsets": "Set the offsets from which a stage goes on.",
    "audit": "Show who changed what by command, and why.",
    "replay": "Fold a range again, see what changes, and correct it.",
    "explain": "Show where a score comes from, and make it again.",
    "evaluate": "Judge the forecast beside LightGBM and others.",
    "demo": "Show the main job on real sales, from events to scores.",
}
_LAYERS = ("deploy", "model", "featurizers", "streams")


class _Lazy(TyperGroup):
    """Lists commands by the table above, and loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name in COMMANDS else command, rest


def _load(name: str) -> Any:
    module = name.replace("-", "_")
    found = getattr(importlib.import_module(f"deploy.cli.{module}"), module)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False)
    single.command(name)(found)
    return typer.main.get_command(single)


def _application() -> typer.Typer:
    app = typer.Typer(
        name="trendstream",
        cls=_Lazy,
        no_args_is_help=True,
        add_completion=False,
        help="Predicts which products are about to sell more or less, from the events of an e-commerce platform.",
        epilog="Settings are environment variables TRENDSTREAM_…; TRENDSTREAM_DEBUG=1 shows where an error comes from.",
    )
    for name, about in COMMANDS.items():
        app.command(name, help=about)(lambda: None)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code: 0, 1 for a failure, 2 for a wrong argument or setting, 130 for Ctrl-C."""
    # The library's own warnings ("coordinator load in progress: retrying") say nothing that a person could act on.
    logging.getLogger("streams.librdkafka").setLevel(logging.ERROR)
    try:
        code = typer.main.get_command(_application()).main(
            None if arguments is None else list(arguments), prog_name="trendstream", standalone_mode=False
        )
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _fail(error)
    return code if isinstance(code, int) else 0


def main() -> None:
    sys.exit(run())


def _fail(error: Exception) -> int:
    """One line to standard error for a failure, and its exit code."""
    from deploy.errors import ConfigurationError
    from deploy.settings import wants_traceback

    if isinstance(error, typer.Abort):
        return 130
    if wants_traceback():
        raise error
    if isinstance(error, typer.TyperException):  # a wrong argument
        text, code = error.format_message(), error.exit_code
        if not text.strip():  # nothing was given at all, and the help has been printed
            return code
    elif any(kind.__module__.partition(".")[0] in _LAYERS for kind in type(error).__mro__):  # ours, on purpose
        text, code = str(error), 2 if isinstance(error, ConfigurationError) else 1
    else:
        text, code = f"unexpected {type(error).__name__}: {error} (TRENDSTREAM_DEBUG=1 shows where)", 1
    sys.stderr.write(f"trendstream: {' '.join(text.split())}\n")
    return code
