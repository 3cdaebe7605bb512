"""`trendstream doctor`: check the whole installation, and say what to do, in order."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Annotated

import typer

from deploy.brokers import find_bootstrap
from deploy.settings import Settings, cautions, load_settings


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
) -> None:
    """Check topics, offsets, snapshots, workers, event time, heads, SQL, dead letters. Exit code 1: there are problems.

    Nothing is changed. Reads trend.snapshots from its start to its end, as a restart does.
    """
    from deploy.diagnosis import diagnose
    from deploy.inspection import held_snapshots, inspect_offsets

    settings = load_settings(bootstrap=bootstrap)
    address = find_bootstrap(settings)
    at = inspect_offsets(address, settings.partitions, lambda: int(time.time() * 1000))
    at = dataclasses.replace(
        at,
        snapshots=held_snapshots(address) if "trend.snapshots" in at.topics else {},
        cautions=tuple(cautions(settings)),
        read_model=_read_model(settings),
        bundle=_bundle(settings),
    )
    found = diagnose(at)
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        for finding in found:
            typer.echo(json.dumps(dataclasses.asdict(finding)))
    else:
        for number, finding in enumerate(found, 1):
            typer.echo(f"{number}. {finding.level}: {finding.what}")
            typer.echo(f"   do: {finding.do}")
        typer.echo(f"{problems} problems, {len(found) - problems} notes" if found else f"all is well on {address}")
    raise typer.Exit(1 if problems else 0)


def _read_model(settings: Settings) -> str:
    """What is wrong with the SQL read model; "" where nothing is."""
    from streams.errors import ReadModelError
    from streams.signals.read_model import ReadModel

    try:
        model = ReadModel(settings.database_url)
        try:
            model.audits(1)
        finally:
            model.close()
    except ReadModelError as error:
        return str(error)
    return ""


def _bundle(settings: Settings) -> str:
    """Folder of the newest network; "" before the first training."""
    found = sorted(settings.model_dir.glob("*/manifest.json"))
    return found[-1].parent.name if found else ""
