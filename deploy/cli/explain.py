"""`trendstream explain`: where a score comes from, and whether it comes out again."""

from __future__ import annotations

import calendar
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from deploy.brokers import find_bootstrap
from deploy.cli.changing import show_facts
from deploy.cli.consoles import report_console
from deploy.errors import ConfigurationError
from deploy.settings import Settings, load_settings

if TYPE_CHECKING:
    from deploy.evidence import Piece
    from deploy.lineage import Lineage
    from deploy.origins import Sources
    from streams.records.outside import Facts
    from streams.replay.log import Log


def explain(
    what: Annotated[
        str,
        typer.Argument(metavar="SCORE_ID", help="As trend.scores and the signals have it; or a product, with --on."),
    ],
    on: Annotated[
        str, typer.Option(metavar="DATE", help="What was said of this product, such as shop:123, on that day.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document; with --on each score.")] = False,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
) -> None:
    """Show where a score comes from: what moved, its window, events and platform records, network, head and outcomes.

    The window is made again from trend.events and the score from the window; both must give the same bits. The shares
    add up to the log of the expected units. Why did a product surge on a day? `explain PRODUCT --on DATE` lists what
    was said of it, `explain SCORE_ID` says why. Of the product's reviews, titles and pictures those are named that
    moved it most in the direction of all of them together: what each would do by itself, times what it weighs among
    them, which halves every few days.
    """
    from streams.replay.log import KafkaLog

    settings = load_settings(bootstrap=bootstrap)
    product = ":" in what and "@" not in what
    if product != bool(on):
        raise ConfigurationError(
            f"{what} is a product: say of which day, with --on DATE"
            if product
            else f"--on goes with a product, not {what}"
        )
    log = KafkaLog(find_bootstrap(settings))
    try:
        if product:
            _list(log, settings, what, on, as_json)
        else:
            _explain(log, settings, what, as_json)
    finally:
        log.close()


def _list(log: Log, settings: Settings, product: str, on: str, as_json: bool) -> None:
    """The scores of a day; for people, those at which the class of the week became another one."""
    from deploy.cli.backtest import date
    from deploy.lineage import calendar_of, scores_on, turns

    days = calendar_of(settings, product)
    day = days.index(date("--on", on))
    scores = scores_on(log, product, (days.start(day), days.start(day + 1)))
    if as_json:
        for score in scores:
            typer.echo(msgspec.json.encode(score))
        return
    from rich.table import Table

    from deploy.rendering import iso

    table = Table("as of (UTC)", "window", "score id", "7 days", "baseline", "class", "head")
    shown = turns(scores)
    for score in shown:
        week = score.horizons[1]
        sure = f"{week.trend_class} ({week.probabilities[week.trend_class]:.0%})"
        units = (f"{week.expected:.3g}", f"{week.baseline:.3g}")
        table.add_row(iso(score.as_of), score.window_kind, score.score_id, *units, sure, score.head)
    report_console().print(table)
    if len(scores) > len(shown):
        typer.echo(f"{len(scores) - len(shown)} scores between them say the same class; --json shows them")
    typer.echo(f"why, for the last one:\n  trendstream explain {scores[-1].score_id}")


def _explain(log: Log, settings: Settings, score_id: str, as_json: bool) -> None:
    from deploy.cli.progress import show_parts
    from deploy.lineage import lineage

    with show_parts(report_console()) as watch:

        def told(name: str, total: int) -> Callable[[int], None]:
            if not as_json:
                watch.part(name, total)
            return (lambda done: None) if as_json else watch.done

        found = lineage(log, settings, score_id, told)
    if as_json:
        typer.echo(msgspec.json.encode(_plain(found)))
        return
    currency = settings.platforms[found.score.platform].currency
    show_facts(_facts(found, currency))


def _facts(found: Lineage, currency: str) -> Facts:
    from deploy.rendering import iso
    from streams.records import HORIZONS

    score, window, place, rows = found.revisions[-1], found.window, found.window_place, found.origins
    facts: Facts = {
        "score": score.score_id,
        "says": [
            f"{h.days} d: {h.expected:g} units, baseline {h.baseline:g}, {h.trend_class} "
            f"({h.probabilities[h.trend_class]:.0%})"
            for h in score.horizons
        ],
        **_day(found, currency),
        "share of": f"{'':<10} " + "  ".join(f"{f'{days} d':>7}" for days in HORIZONS),
        "": [
            f"{name:<10} " + "  ".join(f"× {math.exp(share):.3f}" for share in shares.tolist())
            for name, shares in found.explanation.parts.items()
            if name != "baseline"
        ],
        "add up to": "  ".join(f"{math.exp(m):.6g} units" for m in found.explanation.log_mean.tolist()),
        "moved by": [_piece(piece) for piece in found.pieces],
        "window": f"{score.window_id}, {place[0]}/{place[1]} offset {found.window_offset}; days before "
        f"{iso(window['end'])}, seen up to {iso(window['as_of'])}",
        "units a day": " ".join(map(str, _units(window)[-14:])) + " (the last 14)",
        "late": _late(window),
        "events": f"trend.events/{place[1]} offsets {rows.first} to {rows.last}: {_kinds(rows.all)}",
        "platform": [source.place for source in rows.all.ordered()],
        "newest rows": list(map(_row, rows.newest)),
        "network": score.model,
        "encoders": ", ".join(f"{name} {version}" for name, version in score.encoders.items()) or "none",
        "head": f"{found.head.version}, learnt from {found.outcomes:,} outcomes of its epoch {iso(found.head.epoch)}"
        if found.head.epoch
        else f"{found.head.version}, as it was trained",
        "its own outcomes": [
            f"window {iso(o['end'])}, delay {o['delay']}: sold {o['units']}, expected {o['mean']:.3g} by {o['head']}"
            for o in found.own_outcomes
        ],
        "made again": [f"{name}: {_ANSWERS[same]}" for name, same in found.same.items()],
    }
    if len(found.revisions) > 1:
        facts["revisions"] = [
            f"{r.revision}: {r.horizons[1].expected:g} units in {r.horizons[1].days} d by {r.head}"
            + (f", replay {r.replay}" if isinstance(r.replay, str) else "")
            for r in found.revisions
        ]
    return facts


def _day(found: Lineage, currency: str) -> Facts:
    """What moved on the day that the score tells of, and the events of that day."""
    from deploy.movements import announced, movements
    from deploy.rendering import iso
    from streams.ingest.values import digits_of

    moved = [
        f"{each.name:<10} {each.value:>8.4g}, usually {each.usual:.3g}"
        + (f": × {each.ratio:.2g}" if each.usual else "")
        for each in movements(found.window, digits_of(currency))
    ]
    start, end = found.day
    closed = found.score.window_kind == "close"
    named = calendar.day_name[(found.window["weekday"] - closed) % 7]  # it is that of the first day ahead
    return {
        "day": f"{named}, {iso(start)} to {iso(end)} UTC, beside the four weeks before",
        "moved": moved,
        "announced": ", ".join(f"{name} {percent} %" for name, percent in announced(found.window).items()) or "nothing",
        "its events": [_kinds(found.origins.on_day), *(source.place for source in found.origins.on_day.ordered())],
    }


def _kinds(sources: Sources) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sources.kinds.most_common()) or "none"


def _row(row: dict[str, Any]) -> str:
    """A row of trend.events, with what it holds beside its kind."""
    from deploy.rendering import iso

    held = "".join(
        f", {name} {row[name]}" for name in ("quantity", "price", "rating", "percent") if row.get(name, 0) > 0
    )
    place = f"{row['source']}/{row['source_partition']}@{row['source_offset']}"
    return f"{iso(row['at'])}  {row['kind']}{held}, from {place} at trend.events offset {row['events_offset']}"


def _piece(piece: Piece) -> str:
    """A review, title or picture."""
    from deploy.rendering import iso

    says = piece.says or f"not kept any more ({piece.topic}/{piece.partition} offset {piece.offset})"
    effect = f"by itself × {math.exp(piece.effect[1]):.3f} in 7 d"
    return f"{piece.modality} of {iso(piece.at)}, weighs {piece.share:.0%}, {effect}: {says}"


_ANSWERS = {
    True: "the same, bit for bit",
    False: "NOT the same; see `trendstream replay plan --code same`",
    None: "not possible: neither a snapshot nor the log reaches back so far",
}


def _units(window: dict[str, Any]) -> list[int]:
    from streams.records import CHANNELS, DAYS

    channel = CHANNELS.index("units")
    return list(window["day"][channel * DAYS : (channel + 1) * DAYS])


def _late(window: dict[str, Any]) -> str:
    if not window["late"]:
        return "no row"
    origin = f"{window['late_source']}/{window['late_partition']} offset {window['late_offset']}"
    return f"{window['late']:,} rows came late, the last of them {origin}"


def _plain(found: Lineage) -> dict[str, Any]:
    rows = found.origins
    return {
        "score": msgspec.to_builtins(found.revisions[-1]),
        "revisions": [msgspec.to_builtins(r) for r in found.revisions],
        "window": {name: value for name, value in found.window.items() if name not in ("text", "image", "title")},
        "window_place": [*found.window_place, found.window_offset],
        "day": found.day,
        "events": [rows.first, rows.last],
        "kinds": rows.all.kinds,
        "sources": [vars(source) for source in rows.all.ordered()],
        "kinds_on_day": rows.on_day.kinds,
        "sources_on_day": [vars(source) for source in rows.on_day.ordered()],
        "newest": rows.newest,
        "head": found.head.version,
        "outcomes": found.outcomes,
        "own_outcomes": found.own_outcomes,
        "pieces": [vars(piece) for piece in found.pieces],
        "shares": {name: shares.tolist() for name, shares in found.explanation.parts.items()},
        "log_mean": found.explanation.log_mean.tolist(),
        "same": found.same,
    }
