"""`trendstream heads`: the online heads, what each was worth, and how to go back to one."""

from __future__ import annotations

import json
import time
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.brokers import find_bootstrap
from deploy.cli.changing import DryRun, Export, Reason, Yes, changing, only_planned, show_facts
from deploy.cli.consoles import report_console
from deploy.errors import ConfigurationError
from deploy.settings import Settings, load_settings

if TYPE_CHECKING:
    from deploy.heads import Published, Touched
    from streams.records.outside import Facts, Head

heads = typer.Typer(help="List heads, compare them, install one, or roll back to one.", no_args_is_help=True)

Bootstrap = Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Of a head, or its end: e1760000000000, frozen.")]
_ANSWER_S = 30.0
_EPOCHS_BEFORE = 3


@heads.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="Of the newest heads.")] = 20,
    model: Annotated[str, typer.Option(help="Of this network; default: the newest.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """List heads with what matured at their epochs, their error beside the frozen network's, and what was decided."""
    from rich.table import Table

    from deploy.heads import published
    from deploy.rendering import iso

    found = published(find_bootstrap(load_settings(bootstrap=bootstrap)), model)[-limit:]
    if model and not found:
        raise ConfigurationError(f"--model {model!r}: model.heads holds no head of it")
    if as_json:
        for each in found:
            typer.echo(json.dumps(_plain(each)))
        return
    if not found:
        typer.echo("no heads yet: the learner publishes the first one when every partition has passed a day boundary")
        return
    names = (
        "version",
        "epoch",
        "published (UTC)",
        "rows",
        "says",
        "error 1 d",
        "frozen",
        "error 7 d",
        "frozen",
        "events",
    )
    table = Table()
    for name in names:
        table.add_column(name, min_width=max(len(each.head.version) for each in found) if name == "version" else None)
    for each in found:
        shown = [_percent(each.error(days, of)) for days in (1, 7) for of in ("error", "frozen_error")]
        table.add_row(
            each.head.version,
            iso(each.head.epoch),
            iso(each.at),
            f"{each.head.rows:,}",
            each.champion,
            *shown,
            _events(each),
        )
    report_console().print(table)


@heads.command()
def show(version: Version, bootstrap: Bootstrap = None) -> None:
    """Show one head: its factors on the mean by category, its dispersion, and what the learner said at its epoch."""
    from deploy.heads import effects, find, published
    from deploy.rendering import iso

    each = find(published(find_bootstrap(load_settings(bootstrap=bootstrap))), version)
    head = each.head
    factors = sorted(effects(head).items(), key=lambda pair: -abs(pair[1] - 1))
    show_facts(
        {
            "version": head.version,
            "network": head.model,
            "epoch": iso(head.epoch) if head.epoch else "frozen",
            "published": f"{iso(each.at)} UTC",
            "says": each.champion,
            "rows": head.rows,
            "factors": [f"× {factor:.3f}  {name}" for name, factor in factors[:12]],
            "dispersion": [" ".join(f"{r:.3g}" for r in row) for row in head.dispersion],
            "events": [f"{e.kind} {e.subject}: {json.dumps(e.evidence)}" for e in each.events],
        }
    )


@heads.command()
def diff(
    before: Version, after: Version, limit: Annotated[int, typer.Option(min=1)] = 20, bootstrap: Bootstrap = None
) -> None:
    """Compare two heads: the factors on the mean that moved most."""
    from deploy.heads import effects, find, published

    found = published(find_bootstrap(load_settings(bootstrap=bootstrap)))
    one, other = find(found, before).head, find(found, after).head
    old, new = effects(one), effects(other)
    moved = sorted(new, key=lambda name: -abs(new[name] / old.get(name, 1.0) - 1))[:limit]
    typer.echo(f"{one.version} to {other.version}: factors on the mean")
    show_facts({name: f"× {old.get(name, 1.0):.3f} to × {new[name]:.3f}" for name in moved})


@heads.command()
def promote(
    version: Version = "",
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A head as JSON, as `topics cat model.heads --json` has it."),
    ] = None,
    dry_run: DryRun = False,
    export: Export = False,
    reason: Reason = "",
    yes: Yes = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Install a head, one of before or one of a file: the learner publishes it as a new version and goes on from it."""
    from deploy.heads import published

    if bool(version) == (file is not None):
        raise ConfigurationError("which head? give a VERSION, or --file")
    settings = load_settings(bootstrap=bootstrap)
    address = find_bootstrap(settings)
    head = _of_file(file) if file else _target(settings, published(address), version).head
    plan: Facts = {"head": head.version, "network": head.model, "from": str(file) if file else "model.heads"}
    _install(address, "heads promote", head, plan, (dry_run, export), reason, yes)


@heads.command()
def rollback(
    version: Version,
    dry_run: DryRun = False,
    export: Export = False,
    reason: Reason = "",
    yes: Yes = False,
    worst: Annotated[int, typer.Option(min=0, help="Largest changes that are listed.")] = 10,
    bootstrap: Bootstrap = None,
) -> None:
    """Go back to a head: what came after it is withdrawn, and it is published again as a new version.

    Lists the scores and signals that the withdrawn heads have made, and says how a replay corrects them. The learner's
    own state goes back with it, as far as it is kept (36 days), and learns on from there.
    """
    from deploy.heads import later_than, published, touched

    settings = load_settings(bootstrap=bootstrap)
    address = find_bootstrap(settings)
    found = published(address)
    target = _target(settings, found, version)
    # Every head is later than the network as it was trained; only the newest is meant then.
    withdrawn = later_than(found, target.head)[0 if target.head.epoch else -1 :]
    if not withdrawn:
        raise ConfigurationError(f"{target.head.version} is the newest head; there is nothing to go back from")
    # From some epochs before, so that every product has a score to compare with.
    since = found[max(found.index(withdrawn[0]) - _EPOCHS_BEFORE, 0)].at
    versions = {each.head.version for each in withdrawn}
    impact = touched(address, versions, since)
    plan: Facts = {
        "back to": target.head.version,
        "withdrawn": [f"{each.head.version} (error 1 d {_percent(each.error(1))})" for each in withdrawn],
        **_impact(impact, worst),
    }
    new = _install(address, "heads rollback", target.head, plan, (dry_run, export), reason, yes)
    if impact.counts and not export:
        from deploy.rendering import iso
        from model.heads import is_frozen

        if new:  # while the plan was read they went on, and were learnt from
            later = [each.head.version for each in later_than(published(address), withdrawn[-1].head)]
            impact = touched(address, versions.union(takewhile(lambda v: v != new, later)), since)
        first, last = (iso(at or 0).replace(" ", "T") for at in (impact.first, impact.last))
        typer.echo("what they have made is corrected by a replay; see what it would do with")
        by_hand = any(each.head.revision for each in withdrawn) and not is_frozen(target.head)
        head = "learnt" if by_hand else new or target.head.version
        typer.echo(f"  trendstream replay plan --from {first} --to {last} --head {head}")


def _of_file(file: Path) -> Head:
    from streams.codecs import decode_json
    from streams.errors import CodecError
    from streams.records.outside import Head

    try:
        return decode_json(file.read_bytes(), Head)
    except CodecError as error:
        raise ConfigurationError(f"--file {file} is no head: {error}") from error


def _target(settings: Settings, found: list[Published], version: str) -> Published:
    """The head of that version; `frozen` is the network's own, which lies in no topic."""
    from deploy.heads import Published, find

    if version != "frozen" and not version.endswith("-frozen"):
        return find(found, version)
    from deploy.pipeline import current_bundle
    from model.heads import frozen_head

    bundle = current_bundle(settings)
    return Published(frozen_head(bundle.version, bundle.dispersion, bundle.categories), 0)


def _install(
    address: str, command: str, head: Head, plan: Facts, shown: tuple[bool, bool], reason: str, yes: bool
) -> str:
    """The version that the learner has published it as; "" where it has not answered yet, or nothing was done."""
    from deploy.errors import DeployError
    from deploy.heads import answer, install

    if only_planned(plan, *shown):
        return ""
    with changing(address, command, plan, reason, yes) as change:
        install(address, head, change.begun.audit_id)
        deadline = time.monotonic() + _ANSWER_S
        while (said := answer(address, change.begun.audit_id)) is None and time.monotonic() < deadline:
            time.sleep(0.3)
        if said is None:
            change.result["published"] = "not yet: the learner has not met it; is it running?"
            return ""
        if said.kind == "refused":
            raise DeployError(f"the learner refused {head.version}: it is of another network or form than {head.model}")
        change.result["published"] = str(said.evidence["published"])
    return str(said.evidence["published"])


def _impact(impact: Touched, worst: int) -> Facts:
    from deploy.rendering import iso

    facts: Facts = {f"made in {topic}": count for topic, count in sorted(impact.counts.items())}
    facts["products"] = len(impact.products)
    if impact.first is not None and impact.last is not None:
        facts["windows"] = f"{iso(impact.first)} to {iso(impact.last)}"
    changes = sorted(impact.worst.values(), key=lambda change: -change.size)[:worst]
    facts["worst changes"] = [f"{c.product}  {c.what} {c.before:.4g} to {c.after:.4g}" for c in changes]
    return facts


def _events(each: Published) -> str:
    told = [f"{e.kind} {e.subject}" for e in each.events if e.kind != "epoch"]
    return ", ".join(told[:2]) + (f" and {len(told) - 2} more" if len(told) > 2 else "")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _plain(each: Published) -> dict[str, object]:
    return {
        "version": each.head.version,
        "model": each.head.model,
        "epoch": each.head.epoch,
        "revision": each.head.revision,
        "published": each.at,
        "rows": each.head.rows,
        "says": each.champion,
        **{f"{of}_{days}": each.error(days, of) for days in (1, 7, 28) for of in ("error", "frozen_error")},
        "events": [f"{e.kind} {e.subject}" for e in each.events],
    }
