"""`python -m tests.bench`: run the benchmark suite, print its tables, write build/bench/engine.json."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from streams.errors import BrokerError
from tests.bench import engine, ingest, latency, windows
from tests.bench.suite import ROOT, BenchError, Part, Settings, say

PARTS: dict[str, Part] = {p.name: p for p in (engine.PART, ingest.PART, windows.PART, latency.PART)}
# Every key of engine.json; what was not run, or did not come to an end, stays null.
LAYOUT: dict[str, Any] = {
    "equal_job": {
        **{name: dict.fromkeys(("events_per_s", "peak_mib", "right")) for name in engine.ENGINES},
        **dict.fromkeys(("ratio_to_best_peer", "ratio_to_limit")),
    },
    "ingest": {"lines_per_s": None},
    "windows": dict.fromkeys(("events_per_s", "growth_1m", "hot_key", "bytes_per_product")),
    "snapshot": dict.fromkeys(("pause_s", "restore_s")),
    "latency_ms": {"order_to_score": {"p50": None, "p99": None}, "outcome_to_head": {"p99": None}},
    "state_bytes_ratio_to_quix": None,
}
FOLDER = ROOT / "build" / "bench"
LEAST = 10_000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bench: {message}; see python -m tests.bench --help\n")


def parse(arguments: list[str]) -> tuple[list[Part], Settings]:
    """Parts and settings; exits with one line and code 2 where an argument is wrong."""
    parser = _Parser(
        prog="python -m tests.bench",
        description="Measure trendstream beside other stream processors: on a real Kafka that it starts on this "
        "machine, each worker held to one core, each result checked. The tables go to standard output, the figures to "
        "build/bench/engine.json. The peers are installed under build/bench/envs the first time.",
        epilog="parts: " + "; ".join(f"{p.name}: {p.about}" for p in PARTS.values()),
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts to run; all of them by default")
    parser.add_argument(
        "--engines",
        default=",".join(engine.ENGINES),
        metavar="A,B",
        help="engines of the equal job, by commas (default: %(default)s)",
    )
    parser.add_argument(
        "--events",
        type=int,
        default=1_000_000,
        metavar="N",
        help="orders of the equal job (default: %(default)s); "
        "slow peers get the first part of them, which the table says",
    )
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="runs of each engine, the fastest counts (default: 1)"
    )
    given = parser.parse_args(arguments)
    for name in given.parts:
        if name not in PARTS:
            parser.error(f"no part {name!r}; there are {', '.join(PARTS)}")
    engines = tuple(name.strip() for name in given.engines.split(","))
    for name in engines:
        if name not in engine.ENGINES:
            parser.error(f"no engine {name!r}; there are {', '.join(engine.ENGINES)}")
    if given.events < LEAST:
        parser.error(f"--events {given.events} is too few; at least {LEAST}")
    if given.repeat < 1:
        parser.error(f"--repeat {given.repeat} is too few; at least 1")
    return [PARTS[name] for name in given.parts or PARTS], Settings(FOLDER, engines, given.events, given.repeat)


def filled(layout: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The layout with what was found in its places, and after it what only was found."""
    both = dict(layout)
    for name, value in found.items():
        both[name] = filled(both.get(name) or {}, value) if isinstance(value, Mapping) else value
    return both


def main(arguments: list[str]) -> int:
    parts, settings = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the broker and the worker are ended
    logging.basicConfig(level=logging.ERROR)  # librdkafka warns while a young broker loads
    settings.folder.mkdir(parents=True, exist_ok=True)
    keys, failed = LAYOUT, False
    for number, part in enumerate(parts, 1):
        minutes = part.estimate_s(settings) / 60
        say(f"{part.name} ({number} of {len(parts)}), {minutes:.1f} min or so: {part.about}")
        try:
            piece = part.run(settings)
        except (BenchError, BrokerError) as error:
            say(f"bench: {part.name}: {error}")
            failed = True  # the others are worth knowing all the same
            continue
        keys = filled(keys, piece.keys)
        for table in piece.tables:
            print(f"\n{table}\n", flush=True)
    file = settings.folder / "engine.json"
    file.write_text(json.dumps(keys, indent=2) + "\n")
    say(f"figures: {file.relative_to(ROOT)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
