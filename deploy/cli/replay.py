"""`trendstream replay`: fold a part of the topics again, see what that changes, and put it right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.brokers import find_bootstrap
from deploy.cli.changing import DryRun, Export, Reason, Yes, changing, only_planned, show_facts
from deploy.cli.consoles import report_console
from deploy.cli.instants import HELP, instant
from deploy.errors import ConfigurationError
from deploy.settings import Settings, load_settings

if TYPE_CHECKING:
    from streams.records.outside import AdsSignal, Facts, InventorySignal, Score
    from streams.replay.corrections import Correction
    from streams.replay.log import KafkaLog
    from streams.replay.plan import Plan
    from streams.replay.running import Result

replay = typer.Typer(
    help="Fold a part of the topics again beside the running system: plan, run, diff, and apply what it puts right. "
    "Settings (platforms, live windows, model folder) must be those of the workers.",
    no_args_is_help=True,
)

Bootstrap = Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")]
Id = Annotated[str, typer.Argument(metavar="REPLAY", help="Id of the replay, or its plan.json.")]
Rate = Annotated[int | None, typer.Option(min=1, max=100, help="Per cent of one core that it may take.")]


@replay.command()
def plan(
    since: Annotated[str, typer.Option("--from", help=f"Windows that end from here on, {HELP}.")],
    to: Annotated[str, typer.Option("--to", help="Windows that end up to here; default: the newest.")] = "",
    stage: Annotated[
        list[str] | None, typer.Option(help="Only these: windows, inference, labels, learner, signals.")
    ] = None,
    head: Annotated[
        str, typer.Option(help="Score with this head; `learnt`: as if none had been installed by hand.")
    ] = "",
    instead_of: Annotated[str, typer.Option(help="With --head: only what this head has scored.")] = "",
    model: Annotated[str, typer.Option(help="Score with this network of the model folder.")] = "",
    code: Annotated[
        str,
        typer.Option(help="`same`: compare with what was published, byte for byte; `this`: the code here."),
    ] = "",
    products: Annotated[str, typer.Option(help="Look at these alone: platform:product_id, with commas.")] = "",
    late: Annotated[str, typer.Option(help="`in-place`: late and redriven rows stand where they belong in time.")] = "",
    transform: Annotated[
        str, typer.Option(help="Rows of trend.events pass through it: module:function, or a jq expression.")
    ] = "",
    into: Annotated[str, typer.Option(help="Where the outcome goes: parquet, or topics.")] = "parquet",
    bootstrap: Bootstrap = None,
) -> None:
    """Say what a replay would read, do and write. Nothing is done; the plan is a file that `run` takes.

    A range is whole days: it begins with the day boundary at or before --from.
    """
    from deploy import replaying
    from deploy.correcting import described
    from streams.replay.plan import Change

    start = instant(since, "--from")
    if start is None:
        raise ConfigurationError(f"--from: from when on? give it {HELP}")
    for option, value, allowed in (
        ("--code", code, ("", "same", "this")),
        ("--late", late, ("", "in-place")),
        ("--into", into, ("parquet", "topics")),
    ):
        if value not in allowed:
            raise ConfigurationError(f"{option} {value!r}: it is {' or '.join(filter(None, allowed))}")
    change = Change(
        head=head, instead_of=instead_of, model=model, late=bool(late), transform=transform, code=code == "this"
    )
    if code == "same" and change:
        raise ConfigurationError(f"--code same changes nothing, and this would change {change.described()}")
    if (head and (model or late or transform)) or (instead_of and not head):
        raise ConfigurationError("--head goes with --instead-of alone; make another replay for the rest")
    end = instant(to, "--to")
    settings = load_settings(bootstrap=bootstrap)
    request = replaying.Request(
        start, None if end is None else end + 1, change, tuple(stage or ()), _listed(products), into
    )
    with _log(settings) as log:
        made = replaying.make_plan(settings, log, request)
    path = replaying.save_plan(made, settings)
    show_facts(described(made))
    typer.echo(f"plan in {path}; run it with\n  trendstream replay run {made.replay}")


@replay.command()
def run(replay_id: Id, rate: Rate = None, bootstrap: Bootstrap = None) -> None:
    """Run a plan. It writes only to its own shadow, and moves no group's offsets.

    SIGTERM or Ctrl-C stops it; called again, it goes on where it was. `replay rate` changes the rate while it runs.
    """
    os.setpriority(os.PRIO_PROCESS, 0, 10)  # what is live goes first, also while this one starts
    from deploy import replaying
    from deploy.cli.progress import show_parts
    from deploy.lifecycle import Stopper
    from streams.replay.running import Pace

    settings = load_settings(bootstrap=bootstrap)
    made = replaying.load_plan(settings, replay_id)
    if rate:
        replaying.write_rate(settings, made.replay, rate)
    stop = Stopper().listen()
    with _log(settings) as log, show_parts(report_console()) as watch:
        shadow = replaying.shadow_of(made, settings, find_bootstrap(settings))
        work = replaying.run_of(made, settings, log, shadow)
        watch.part(f"replay {made.replay}, offsets", work.total)
        pace = Pace(lambda: replaying.read_rate(settings, made.replay), stop)
        result = work.run(pace, lambda done, note: watch.done(done, note))
    _tell(made, result)
    if not result.done:
        typer.echo(f"stopped; it goes on with\n  trendstream replay run {made.replay}")
    elif result.difference() is not None:
        raise typer.Exit(1)


@replay.command()
def rate(replay_id: Id, per_cent: Annotated[int, typer.Argument(min=1, max=100, metavar="PER_CENT")]) -> None:
    """Change the rate of a replay, while it runs or before."""
    from deploy import replaying

    settings = load_settings()
    made = replaying.load_plan(settings, replay_id)
    replaying.write_rate(settings, made.replay, per_cent)
    typer.echo(f"replay {made.replay} is held to {per_cent} %")


@replay.command("list")
def list_() -> None:
    """Show the replays that were planned, and how far each has come."""
    from rich.table import Table

    from deploy import replaying
    from deploy.rendering import iso

    settings = load_settings()
    table = Table("replay", "made (UTC)", "from", "changed", "state")
    for path in sorted(settings.replay_dir.glob("*/plan.json")):
        made = replaying.load_plan(settings, path.parent.name)
        result = replaying.result_of(made, settings)
        state = "planned" if result is None else "done" if result.done else "stopped"
        table.add_row(made.replay, iso(made.made_at), iso(made.start), made.change.described(), state)
    report_console().print(table)


@replay.command()
def diff(
    replay_id: Id,
    limit: Annotated[int, typer.Option(min=1, help="Products to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write it as a page.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write each window that changed as a row.")] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Show what a replay changes, by horizon and by product, and why."""
    import msgspec

    from deploy import correcting, replaying

    settings = load_settings(bootstrap=bootstrap)
    made = replaying.load_plan(settings, replay_id)
    with _log(settings) as log:
        found, differ = replaying.compared(made, settings, log, find_bootstrap(settings))
        total = differ.diff(found)
        if parquet is not None:
            correcting.write_rows(
                differ.rows(replaying.compared(made, settings, log, find_bootstrap(settings))[0]), parquet
            )
    if page is not None:
        correcting.write_page(total, page)
    if as_json:
        typer.echo(msgspec.json.encode(total))
        return
    show_facts(correcting.summary(total))
    for table in correcting.tables(total, limit):
        report_console().print(table)


@replay.command()
def apply(
    replay_id: Id,
    limit: Annotated[int, typer.Option(min=0, help="Corrections that are listed before they are sent.")] = 10,
    dry_run: DryRun = False,
    export: Export = False,
    reason: Reason = "",
    yes: Yes = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Publish what a replay puts right: the same score and signal ids, with a higher revision.

    Called again it sends what is left, and in the end nothing.
    """
    from deploy import correcting, replaying
    from streams.replay.corrections import corrections

    settings = load_settings(bootstrap=bootstrap)
    made = replaying.load_plan(settings, replay_id)
    address = find_bootstrap(settings)
    with _log(settings) as log:
        found, _ = replaying.compared(made, settings, log, address)
        left = [c for pair in found for c in corrections(pair, made.replay)]
    if not left:
        typer.echo(f"nothing is left to correct: what holds is what replay {made.replay} says")
        return
    what: Facts = {"replay": made.replay, "changed": made.change.described()}
    what |= {**_counts(left), "for example": _examples(left, limit)}
    if only_planned(what, dry_run, export):
        return
    with changing(address, "replay apply", what, reason, yes) as change:
        change.result |= {f"sent to {topic}": count for topic, count in correcting.publish(address, left).items()}


def _counts(left: list[Correction]) -> dict[str, int]:
    topics = sorted({c.output.topic for c in left})
    counts = {f"to {topic}": sum(c.output.topic == topic for c in left) for topic in topics}
    return counts | {"products": len({c.output.key for c in left})}


def _examples(left: list[Correction], limit: int) -> list[str]:
    """Orders and bids that move; products where none does."""
    from streams.records.outside import Score

    lines = []
    for c in left:
        was, now = _decided(c.before), _decided(c.after)
        if not isinstance(c.after, Score) and was != now:
            lines.append(f"{c.after.signal_id}: {now} instead of {was}")
    return lines[:limit] or [str(c.output.key.decode()) for c in left[:limit] if c.output.key]


def _decided(record: Score | InventorySignal | AdsSignal | None) -> str:
    from streams.records.outside import AdsSignal, InventorySignal

    if isinstance(record, InventorySignal):
        return f"order {record.suggested_order:,}"
    return f"bid × {record.bid_multiplier:g}" if isinstance(record, AdsSignal) else "nothing"


def _tell(made: Plan, result: Result) -> None:
    facts: Facts = {"replay": result.replay, "worked": f"{result.seconds:,.1f} s"}
    if made.chained:
        facts |= {f"shadow of {topic}": f"{count:,} records" for topic, count in result.written.items()}
        if result.waiting:
            facts["left out"] = f"{result.waiting:,} records of windows whose heads had not come"
    for checked in result.checked:
        name = f"{checked.stage} {checked.topic}/{checked.partition}"
        facts[name] = f"{checked.records:,} records, {checked.bytes:,} bytes, equal byte for byte"
        if checked.difference is not None:
            facts[name] = f"{checked.records:,} equal records, and then one that differs"
    show_facts(facts)
    found = result.difference()
    if found is not None:
        typer.echo(f"first difference: {found.topic}/{found.partition} offset {found.offset}: {found.what}")
        typer.echo(f"  made of {found.made_of}")
    elif result.done and not made.chained:
        typer.echo("what was published is reproduced byte for byte")
    elif result.done:
        typer.echo(f"see what it changes with\n  trendstream replay diff {made.replay}")


def _listed(products: str) -> tuple[str, ...]:
    found = tuple(p.strip() for p in products.split(",") if p.strip())
    wrong = [p for p in found if ":" not in p]
    if wrong:
        raise ConfigurationError(f"--products {wrong[0]!r} names no platform; write platform:product_id")
    return found


@contextmanager
def _log(settings: Settings) -> Iterator[KafkaLog]:
    from streams.replay.log import KafkaLog

    log = KafkaLog(find_bootstrap(settings))
    try:
        yield log
    finally:
        log.close()
