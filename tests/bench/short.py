"""`python -m tests.bench.short`: the equal job without peers, for the build machine. It fails when a window is wrong or
when trendstream has become far slower beside the limit, which runs beside it, than it was when `FLOOR` was chosen.
"""

from __future__ import annotations

import logging
import sys

from streams.errors import BrokerError
from tests.bench import engine
from tests.bench.suite import ROOT, BenchError, say

EVENTS, TURNS = 300_000, 3
# Of the limit's events per second of the worker's own processor time: what else runs on the machine is hardly in it.
FLOOR = 0.40
FOLDER = ROOT / "build" / "bench" / "short"


def main() -> int:
    logging.basicConfig(level=logging.ERROR)  # librdkafka warns while a young broker loads
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = ("limit", "trendstream")
    say(f"{EVENTS:,} orders on {' and '.join(names)}, {TURNS} times: a minute or so")
    try:
        with engine.broker(FOLDER / "broker") as local:
            job = engine.EqualJob(local, FOLDER, EVENTS)
            results = [job.run(engine.ENGINES[name]) for _ in range(TURNS) for name in names]
    except (BenchError, BrokerError) as error:
        say(f"bench-short: {error}")
        return 1
    print(engine.piece(results).tables[0])
    limit, own = (max(r.per_cpu_s for r in results if r.engine == name) for name in names)
    right = all(r.right for r in results)
    found = "right" if right else "WRONG"
    print(f"\nper CPU second {own / limit:.2f} of the limit (at least {FLOOR:.2f}); windows are {found}")
    return 0 if right and own / limit >= FLOOR else 1


if __name__ == "__main__":
    sys.exit(main())
