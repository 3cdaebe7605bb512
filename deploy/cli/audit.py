"""`trendstream audit`: who changed what by command, when, why, and what came of it."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.brokers import find_bootstrap
from deploy.settings import load_settings


def audit(
    limit: Annotated[int, typer.Option(min=1, help="Of the newest changes.")] = 20,
    command: Annotated[str, typer.Option(help="Only those of this command, such as `dlq redrive`.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line, nothing shortened.")] = False,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
) -> None:
    """Show who changed what by command, when, why, and what came of it: trend.audit, oldest first."""
    from rich.table import Table

    from deploy.audit import audits
    from deploy.cli.consoles import report_console
    from deploy.rendering import iso
    from streams.codecs import encode_json

    found = [a for a in audits(find_bootstrap(load_settings(bootstrap=bootstrap))) if command in ("", a.command)]
    if as_json:
        for each in found[-limit:]:
            typer.echo(encode_json(each).decode())
        return
    if not found:
        typer.echo("nothing was changed by command yet")
        return
    table = Table("when", "who", "command", "why", "outcome", "result")
    for each in found[-limit:]:
        result = ", ".join(f"{name} {value}" for name, value in each.result.items())
        table.add_row(iso(each.at), each.by, each.command, each.reason, each.outcome, result)
    report_console().print(table)
