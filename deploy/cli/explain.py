"""`trendstream explain`: where a score comes from, and whether it comes out again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from deploy.brokers import find_bootstrap
from deploy.cli.changing import show_facts
from deploy.cli.consoles import report_console
from deploy.settings import load_settings

if TYPE_CHECKING:
    from deploy.evidence import Piece
    from deploy.lineage import Lineage
    from streams.records import Facts


def explain(
    score_id: Annotated[str, typer.Argument(metavar="SCORE_ID", help="As trend.scores and the signals have it.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; default: TRENDSTREAM_BOOTSTRAP.")] = None,
) -> None:
    """Show a score's window, the events and platform records behind it, its network, head and the outcomes of that.

    The window is made again from trend.events and the score from the window; both must give the same bits. The shares
    add up to the log of the expected units. Of the product's reviews, titles and pictures in the window's days, those
    are named that by themselves would move the score most in the direction in which all of them together did.
    """
    from deploy.cli.progress import show_parts
    from deploy.lineage import lineage
    from streams.replay.log import KafkaLog

    settings = load_settings(bootstrap=bootstrap)
    log = KafkaLog(find_bootstrap(settings))
    console = report_console()
    try:
        with show_parts(console) as watch:

            def told(name: str, total: int) -> Callable[[int], None]:
                if not as_json:
                    watch.part(name, total)
                return (lambda done: None) if as_json else watch.done

            found = lineage(log, settings, score_id, told)
    finally:
        log.close()
    if as_json:
        typer.echo(msgspec.json.encode(_plain(found)))
        return
    show_facts(_facts(found))


def _facts(found: Lineage) -> Facts:
    from deploy.rendering import iso

    score, window, place = found.revisions[-1], found.window, found.window_place
    week = score.horizons[1]
    log_means = found.explanation.log_mean
    facts: Facts = {
        "score": score.score_id,
        "says": [
            f"{h.days} d: {h.expected:g} units, baseline {h.baseline:g}, {h.trend_class} "
            f"({h.probabilities[h.trend_class]:.0%})"
            for h in score.horizons
        ],
        "window": f"{score.window_id}, {place[0]}/{place[1]} offset {found.window_offset}; days before "
        f"{iso(window['end'])}, seen up to {iso(window['as_of'])}",
        "units a day": " ".join(map(str, _units(window)[-14:])) + " (the last 14)",
        "late": _late(window),
        "events": f"trend.events/{place[1]} offsets {found.events[0]} to {found.events[1]}: "
        + ", ".join(f"{count:,} {kind}" for kind, count in found.kinds.items()),
        "platform": [f"{s.topic}/{s.partition} offsets {s.first} to {s.last}: {s.rows:,} rows" for s in found.sources],
        "newest rows": [" ".join(f"{k} {iso(v) if k == 'at' else v}" for k, v in row.items()) for row in found.newest],
        "network": score.model,
        "encoders": ", ".join(f"{name} {version}" for name, version in score.encoders.items()) or "none",
        "head": f"{found.head.version}, learnt from {found.outcomes:,} outcomes of its epoch {iso(found.head.epoch)}"
        if found.head.epoch
        else f"{found.head.version}, as it was trained",
        "its own outcomes": [
            f"window {iso(o['end'])}, delay {o['delay']}: sold {o['units']}, expected {o['mean']:.3g} by {o['head']}"
            for o in found.own_outcomes
        ],
        "shares": [
            f"{name:<10} " + "  ".join(f"× {math.exp(share):.3f}" for share in shares.tolist())
            for name, shares in found.explanation.parts.items()
            if name != "baseline"
        ],
        "moved by": [_piece(piece, week.days) for piece in found.pieces],
        "add up to": "  ".join(f"{math.exp(m):.6g} units" for m in log_means.tolist()),
        "made again": [f"{name}: {_ANSWERS[same]}" for name, same in found.same.items()],
    }
    if len(found.revisions) > 1:
        facts["revisions"] = [
            f"{r.revision}: {r.horizons[1].expected:g} units in {week.days} d by {r.head}"
            + (f", replay {r.replay}" if isinstance(r.replay, str) else "")
            for r in found.revisions
        ]
    return facts


def _piece(piece: Piece, days: int) -> str:
    from deploy.rendering import iso

    says = piece.says or f"not kept any more ({piece.topic}/{piece.partition} offset {piece.offset})"
    return f"{piece.modality} of {iso(piece.at)}, by itself × {math.exp(piece.effect[1]):.3f} in {days} d: {says}"


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
    return {
        "score": msgspec.to_builtins(found.revisions[-1]),
        "revisions": [msgspec.to_builtins(r) for r in found.revisions],
        "window": {name: value for name, value in found.window.items() if name not in ("text", "image", "title")},
        "window_place": [*found.window_place, found.window_offset],
        "events": list(found.events),
        "kinds": found.kinds,
        "sources": [vars(s) for s in found.sources],
        "newest": found.newest,
        "head": found.head.version,
        "outcomes": found.outcomes,
        "own_outcomes": found.own_outcomes,
        "shares": {name: shares.tolist() for name, shares in found.explanation.parts.items()},
        "pieces": [vars(piece) for piece in found.pieces],
        "log_mean": found.explanation.log_mean.tolist(),
        "same": found.same,
    }
