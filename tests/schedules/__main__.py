"""`python -m tests.schedules`: run schedules of a simulated cluster; see docs/architecture.md.

A schedule that fails is cut down, printed, and written to a file that --replay reads.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from tests.schedules.running import explore, failure, shrink
from tests.schedules.schedule import Schedule, make

FOLDER = Path("build/schedules")
SHOWN = 3  # failing schedules that are shrunk


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schedules", description=__doc__)
    parser.add_argument("--schedules", type=_positive, default=10_000, metavar="N", help="how many (default 10000)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first (default 0)")
    parser.add_argument("--processes", type=_positive, default=None, metavar="N", help="default: one a core")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--seed", type=int, metavar="N", help="run the schedule of one seed")
    one.add_argument("--replay", type=Path, metavar="FILE", help="run a schedule as it was written to a file")
    try:
        arguments = parser.parse_args()
    except SystemExit as wrong:
        return int(wrong.code or 0)
    if arguments.replay is not None:
        try:
            schedule = Schedule.from_json(arguments.replay.read_bytes())
        except (OSError, msgspec.DecodeError) as error:
            print(f"{arguments.replay} is not a schedule: {error}", file=sys.stderr)
            return 2
        return _one(schedule, cut=False)
    if arguments.seed is not None:
        return _one(make(arguments.seed), cut=True)
    return _many(arguments.first, arguments.schedules, arguments.processes)


def _one(schedule: Schedule, cut: bool) -> int:
    wrong = failure(schedule)
    if wrong is None:
        print(f"{schedule}\nholds")
        return 0
    report(schedule, cut)
    return 1


def _many(first: int, count: int, processes: int | None) -> int:
    started, done, failed, shown = time.monotonic(), 0, [], 0.0
    on_terminal = sys.stderr.isatty()
    for finished, found in explore(first, count, processes):
        done += finished
        failed += found
        seconds = time.monotonic() - started
        if not on_terminal and seconds - shown < 20 and done < count:
            continue
        shown = seconds
        rest = seconds / done * (count - done)
        print(
            f"{done}/{count} schedules, {done / seconds:.0f}/s, {rest:.0f} s left, {len(failed)} fail ",
            end="\r" if on_terminal and done < count else "\n",
            file=sys.stderr,
        )
    for seed, _ in sorted(failed)[:SHOWN]:
        report(make(seed), cut=True)
    print(f"{count} schedules in {time.monotonic() - started:.0f} s, {len(failed)} fail")
    return 1 if failed else 0


def report(schedule: Schedule, cut: bool) -> str:
    """Cut a failing schedule down, print it and write it to a file; what is wrong with it."""
    if cut:
        schedule = shrink(schedule, lambda candidate: failure(candidate) is not None)
    wrong = failure(schedule) or "holds when it is run again"
    print(f"{schedule}\nfails: {wrong}")
    if cut:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{schedule.seed}.json"
        path.write_bytes(schedule.to_json())
        print(f"again: python -m tests.schedules --replay {path}")
    return wrong


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


if __name__ == "__main__":
    sys.exit(main())
