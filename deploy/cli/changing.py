"""What every changing command does first: show its plan, hear why, and be told to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from deploy.audit import Change, audited
from deploy.errors import ConfigurationError
from streams.records.outside import Facts

Reason = Annotated[str, typer.Option(help="Why; it is kept in trend.audit. Asked for where it is not given.")]
# kafka-consumer-groups says --execute; so may whoever is used to that.
Yes = Annotated[bool, typer.Option("--yes", "--execute", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan, and do nothing.")]
Export = Annotated[bool, typer.Option("--export", help="The plan as one JSON document, and nothing done.")]


def only_planned(plan: Facts, dry_run: bool, export: bool) -> bool:
    """Whether the plan is all that was wanted; then it is shown."""
    if export:
        typer.echo(json.dumps(plan))
    elif dry_run:
        show_facts(plan)
        typer.echo("nothing was done")
    return export or dry_run


@contextmanager
def changing(bootstrap: str, command: str, plan: Facts, reason: str, yes: bool) -> Iterator[Change]:
    """Show the plan, ask, and run the block with an audit record around it. Raises typer.Abort where the answer is no.

    Put what came of it into the `result` of what this gives: it is recorded, also when the block fails.
    """
    show_facts(plan)
    if yes and not reason.strip():
        raise ConfigurationError(f"{command} with --yes needs a --reason as well: it is kept in trend.audit")
    why = reason.strip() or str(typer.prompt("why")).strip()
    if not yes:
        typer.confirm(f"{command}: do it?", abort=True)
    with audited(bootstrap, command, plan, why) as change:
        yield change
    show_facts(change.result)
    typer.echo(f"recorded as {change.begun.audit_id} in trend.audit")


def show_facts(facts: Facts) -> None:
    """A line for each, names in one column."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [f"{value:,}" if isinstance(value, int) else str(value)]
        for number, line in enumerate(lines or ["none"]):
            typer.echo(f"  {name if number == 0 else '':<{width}}  {line}")
