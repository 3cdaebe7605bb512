"""`python -m tests.chaos`: see --help."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"chaos: {message}; see --help\n")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    from tests.chaos.schedule import ABOUT

    kinds = "\n".join(f"  {kind:16s} {about}" for kind, about in ABOUT.items())
    parser = _Parser(
        prog="python -m tests.chaos",
        description=(
            "Runs all stages on a Kafka of three brokers under load, kills, stops and cuts off parts of it at random,\n"
            "and then checks that nothing was lost and nothing counted twice. Needs Java 17 and the jars of\n"
            "`make kafka`."
        ),
        epilog=f"disturbances:\n{kinds}\n\nexit code: 0 all checks passed, 1 one failed, 2 a wrong argument",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=_number(0), help="of the schedule and the load; default: a random one")
    parser.add_argument("--disturbances", type=_number(1), default=50, help="how many; default 50")
    parser.add_argument("--workers", type=_number(1, 3), default=2, help="a stage, 1 to 3; default 2")
    parser.add_argument("--partitions", type=_number(1, 16), default=4, help="of each topic, 1 to 16; default 4")
    return parser.parse_args(given)


def _number(least: int, most: int = 2**31) -> type[int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{number} is not between {least} and {most}")
        return number

    return parse  # type: ignore[return-value]


def main(given: Sequence[str] | None = None) -> int:
    arguments = _arguments(given)
    for name in [n for n in os.environ if n.startswith("TRENDSTREAM_")]:
        del os.environ[name]  # the run has settings of its own
    from deploy.local_kafka import obstacle
    from deploy.supervisor import OF_ALL, import_for_workers

    jars = ROOT / "build" / "kafka" / "jars"
    reason = obstacle(jars)
    if reason is not None:
        sys.stderr.write(f"chaos: {reason}\n")
        return 1
    import_for_workers(OF_ALL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that workers and brokers are ended
    from tests.chaos.driver import Plan, Run
    from tests.chaos.telling import table

    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    plan = Plan(seed, arguments.disturbances, arguments.workers, arguments.partitions)
    print(f"seed {seed}", flush=True)
    folder = ROOT / "build" / "chaos" / str(seed)
    report = Run(plan, folder, jars, lambda line: print(line, flush=True)).execute()
    print(table(report))
    if not report.passed:
        print(f"the workers' logs are in {folder.relative_to(ROOT)}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
