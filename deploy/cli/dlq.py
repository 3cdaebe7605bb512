"""`trendstream dlq`: dead letters by reason, source and time; one of them with its error placed; and their way back."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.brokers import find_bootstrap
from deploy.cli.changing import DryRun, Export, Reason, Yes, changing, only_planned, show_facts
from deploy.cli.consoles import report_console
from deploy.cli.instants import HELP, instant
from deploy.errors import ConfigurationError, RedriveError
from deploy.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.text import Text

    from deploy.dead_letters import Letter, Selection
    from deploy.redriving import Mended, Mender
    from streams.ingest.letters import Transform
    from streams.records.outside import Facts

dlq = typer.Typer(help="List dead letters, show one with its error, and send their events again.", no_args_is_help=True)

Bootstrap = Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")]
Because = Annotated[str, typer.Option("--because", help="Only letters of this reason, such as wrong-type.")]
Topic = Annotated[str, typer.Option(help="Only letters whose event came from this topic.")]
Since = Annotated[str, typer.Option(help=f"Only those that died at or after this, {HELP}.")]
Until = Annotated[str, typer.Option(help="Only those that died before this.")]
_CONTEXT = 300  # characters of an original that are shown before and after the error


@dlq.command("list")
def list_(
    because: Because = "",
    topic: Topic = "",
    since: Since = "",
    until: Until = "",
    each: Annotated[bool, typer.Option("--each", help="Every letter, not sums by reason and source.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Letters at most, with --each.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Sum dead letters up by reason, source topic and hour, or list them one by one."""
    from rich.table import Table

    from deploy.dead_letters import letters
    from deploy.rendering import iso

    found = letters(find_bootstrap(load_settings(bootstrap=bootstrap)), _selection((), because, topic, since, until))
    if each:
        shown = found[:limit]
        if as_json:
            for letter in shown:
                typer.echo(json.dumps(_plain(letter)))
            return
        table = Table("id", "died", "reason", "message", "attempts", "sent again")
        for letter in shown:
            again = iso(letter.redrive.at) if letter.redrive else ("" if letter.open else "cannot be")
            table.add_row(
                letter.id, iso(letter.at), letter.dead.reason, letter.dead.message, str(letter.attempts), again
            )
        report_console().print(table)
        if len(found) > limit:
            typer.echo(f"… {len(found) - limit} more; --limit shows them")
        return
    sums: dict[tuple[str, str, int], list[Letter]] = defaultdict(list)
    for letter in found:
        sums[letter.dead.reason, letter.dead.source.topic, letter.at // 3_600_000 * 3_600_000].append(letter)
    rows = [
        {
            "reason": reason,
            "topic": source,
            "hour": hour,
            "letters": len(group),
            "open": sum(letter.open for letter in group),
            "failed_again": sum(letter.attempts > 1 for letter in group),
            "example": group[0].id,
            "message": group[0].dead.message,
        }
        for (reason, source, hour), group in sorted(sums.items(), key=lambda pair: (pair[0][2], -len(pair[1])))
    ]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    if not rows:
        typer.echo("no dead letters" + (" like that" if because or topic or since or until else ""))
        return
    table = Table("hour (UTC)", "reason", "from", "letters", "open", "failed again", "for example", "message")
    for row in rows:
        numbers = (f"{row['letters']:,}", f"{row['open']:,}", f"{row['failed_again']:,}")
        hour = iso(int(str(row["hour"])))
        table.add_row(hour, str(row["reason"]), str(row["topic"]), *numbers, str(row["example"]), str(row["message"]))
    report_console().print(table)


@dlq.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Of a dead letter, such as orders/0/1234.")],
    raw: Annotated[bool, typer.Option("--raw", help="The bytes of the original alone.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show a dead letter with its original opened and the error placed in it. The original may hold personal data."""
    import sys

    from deploy.dead_letters import Selection, letters
    from deploy.rendering import iso
    from streams.ingest.letters import opened, span

    settings = load_settings(bootstrap=bootstrap)
    found = letters(find_bootstrap(settings), Selection(ids=(letter_id,)), originals=True)
    if not found:
        raise ConfigurationError(f"no dead letter {letter_id!r}; `trendstream dlq list --each` lists them")
    (letter,) = found
    original = opened(letter.dead, settings.secret_bytes())
    if raw:
        sys.stdout.buffer.write(original.value)
        return
    facts: Facts = {
        "letter": letter.id,
        "reason": letter.dead.reason,
        "message": letter.dead.message,
        "died": iso(letter.at),
        "attempts": letter.attempts,
    }
    if letter.attempts > 1:
        facts["first"] = f"{iso(letter.first.at)} {letter.first.reason}: {letter.first.message}"
    if letter.redrive is not None:
        sent = letter.redrive.sent
        facts["sent again"] = f"{iso(letter.redrive.at)} as {sent.topic}/{sent.partition}/{sent.offset}"
    if original.key is not None:
        facts["key"] = original.key.decode(errors="replace")
    show_facts(facts)
    report_console().print(_placed(original.value, span(original.value, letter.dead.message)), soft_wrap=True)


@dlq.command()
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Letters, such as orders/0/1234.")] = None,
    because: Because = "",
    topic: Topic = "",
    since: Since = "",
    until: Until = "",
    everything: Annotated[bool, typer.Option("--all", help="Every open letter.")] = False,
    transform: Annotated[
        str, typer.Option(help="What mends them: a Python function as module:function, or a jq expression.")
    ] = "",
    rate: Annotated[float, typer.Option(min=0.1, help="Events a second at most.")] = 500.0,
    batch: Annotated[int, typer.Option(min=1, max=1_000, help="Events of a transaction.")] = 100,
    max_errors: Annotated[int, typer.Option(min=0, help="Stop when more than so many fail again.")] = 10,
    show_first: Annotated[int, typer.Option("--show", min=0, help="Letters shown before and after.")] = 2,
    dry_run: DryRun = False,
    export: Export = False,
    reason: Reason = "",
    yes: Yes = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Send the events of dead letters again, as they are or mended, to the partition that they came from.

    The plan tries the transform and ingest's own rules on every letter and shows some before and after. Event ids stay,
    so ingest drops what it has had by another way. What was sent once is not sent again: call it again after a stop,
    and it goes on with the rest. What fails again goes back to trend.dlq with one attempt more and its first failure.
    """
    from deploy.cli.progress import show_parts
    from deploy.dead_letters import letters
    from deploy.redriving import Pace, Redriver, load_transform

    settings = load_settings(bootstrap=bootstrap)
    chosen = tuple(ids or ())
    if not (chosen or because or topic or since or until or everything):
        raise ConfigurationError("which letters? name ids, --because, --topic, --since, --until, or --all")
    selection = _selection(chosen, because, topic, since, until)
    mending = load_transform(transform) if transform else None
    address = find_bootstrap(settings)
    found = letters(address, selection, originals=True)
    unknown = sorted(set(chosen) - {letter.id for letter in found})
    if unknown:
        raise ConfigurationError(f"no dead letter {unknown[0]!r} like that; `trendstream dlq list --each` lists them")
    mender = _mender(settings, address, mending)
    ready = [letter for letter in found if letter.open]
    plan = _plan(found, [mender.mend(letter, int(time.time() * 1000)) for letter in ready], transform, show_first)
    if only_planned(plan, dry_run, export):
        return
    if not ready:
        typer.echo("there is nothing to send")
        return
    console = report_console()
    with changing(address, "dlq redrive", plan, reason, yes) as change:
        work = Redriver(address, mender, Pace(batch, rate, max_errors), change.begun.audit_id)
        try:
            with show_parts(console) as watch:
                watch.part("sending", len(ready))
                work.run(ready, watch.done)
            taken = work.wait(15.0)
        finally:
            change.result.update(work.counts.facts())
        change.result["ingest"] = "has read them all" if taken else "has not read all of them yet: is it running?"
        if work.counts.failures > max_errors:
            raise RedriveError(f"{work.counts.failures} letters failed again; `trendstream dlq list` says why")


def _mender(settings: Settings, address: str, transform: Transform | None) -> Mender:
    from deploy.inspection import progress
    from deploy.pipeline import ingest_config
    from deploy.redriving import Mender
    from streams.ingest.letters import Checker

    config = ingest_config(settings)
    marks = {
        (told.topic, told.partition): int(told.report["event_time"]) - config.out_of_order_ms
        for told in progress(address)
        if told.stage == "ingest" and "event_time" in told.report
    }
    return Mender(Checker(config), settings.secret_bytes(), transform, marks)


def _plan(found: list[Letter], mended: list[Mended], transform: str, shown: int) -> Facts:
    refused = [each for each in mended if each.refusal]
    lost = sum(letter.redrive is None and not letter.open for letter in found)
    plan: Facts = {
        "letters": len(found),
        "sent before": sum(letter.redrive is not None for letter in found),
        "cannot be sent": f"{lost:,}: ingest has taken the event, and its picture alone is dead" if lost else 0,
        "transform": transform or "none, as they are",
        "would be sent": sum(each.sendable for each in mended),
        "left out": sum(each.after is None and not each.refusal for each in mended),
        "would fail again": len(refused),
    }
    if refused:
        why: dict[str, int] = defaultdict(int)
        for each in refused:
            why[": ".join(each.refusal or ())] += 1
        plan["because"] = [f"{count:,} × {text}" for text, count in sorted(why.items(), key=lambda x: -x[1])[:5]]
    for number, each in enumerate(mended[:shown], 1):
        lines = [each.letter.id, f"- {_short(each.before)}"]
        if each.after is not None and each.after != each.before:
            lines.append(f"+ {_short(each.after)}")
        plan[f"example {number}"] = [*lines, f"= {': '.join(each.refusal)}" if each.refusal else "= would be taken"]
    return plan


def _selection(ids: tuple[str, ...], because: str, topic: str, since: str, until: str) -> Selection:
    from deploy.dead_letters import Selection
    from streams.ingest.reasons import Reason as Why
    from streams.topics import PLATFORM_TOPICS

    if topic not in ("", *PLATFORM_TOPICS):
        raise ConfigurationError(f"--topic {topic!r}: letters come from {', '.join(PLATFORM_TOPICS)}")
    codes = [each.code for each in Why]
    if because and because not in codes:
        raise ConfigurationError(f"--because {because!r} is no reason; choose one of {', '.join(codes)}")
    return Selection(ids, because, topic, instant(since, "--since"), instant(until, "--until"))


def _placed(original: bytes, where: tuple[int, int] | None) -> Text:
    """An original, cut around its error, with that marked."""
    from rich.text import Text

    text = original.decode(errors="replace")
    if where is None:
        return Text(text[: 4 * _CONTEXT] + ("…" if len(text) > 4 * _CONTEXT else ""))
    start, end = where
    first, last = max(start - _CONTEXT, 0), min(end + _CONTEXT, len(text))
    shown = Text("…" if first else "")
    shown.append(text[first:start])
    shown.append("»").append(text[start:end], style="bold red").append("«")
    shown.append(text[end:last])
    return shown.append("…" if last < len(text) else "")


def _short(value: bytes) -> str:
    text = " ".join(value.decode(errors="replace").split())
    return text if len(text) <= 300 else f"{text[:299]}…"


def _plain(letter: Letter) -> dict[str, object]:
    sent = letter.redrive.sent if letter.redrive else None
    return {
        "id": letter.id,
        "died": letter.at,
        "reason": letter.dead.reason,
        "message": letter.dead.message,
        "attempts": letter.attempts,
        "first": {"at": letter.first.at, "reason": letter.first.reason, "message": letter.first.message},
        "open": letter.open,
        "sent": f"{sent.topic}/{sent.partition}/{sent.offset}" if sent else None,
    }
