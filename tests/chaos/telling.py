"""A report as text."""

from __future__ import annotations

from tests.chaos.driver import Report


def table(report: Report) -> str:
    lines = [f"{'disturbance':18s}{'times':>6s}  longest without a commit of windows"]
    for kind, row in sorted(report.disturbances.items()):
        lines.append(f"{kind:18s}{row['count']:6d}  {row['longest_s_without_commit']:.1f} s")
    lines.append(
        "workers that ended and were not killed:" if report.endings else "no worker ended unless it was killed"
    )
    lines += [f"{count:6d}  {kind}" for kind, count in sorted(report.endings.items())]
    lines.append(", ".join(f"{name} {number}" for name, number in report.numbers.items()))
    for name, wrong in report.checks.items():
        lines.append(f"{'FAILED' if wrong else 'passed'}  {name}" + (f": {wrong}" if wrong else ""))
    plan = report.plan
    command = " ".join(f"--{name} {plan[name]}" for name in ("seed", "disturbances", "workers", "partitions"))
    lines.append(f"{report.seconds:.0f} s; the same schedule again: python -m tests.chaos {command}")
    return "\n".join(lines)
