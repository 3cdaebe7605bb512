"""Runs schedules by the thousand, and cuts a failing one down to what makes it fail."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from typing import Any

from streams.runner import Runner
from tests.schedules.checks import check
from tests.schedules.schedule import Schedule, Step, make
from tests.schedules.simulation import ScheduleError, Simulation

CHUNK = 25  # schedules that a process takes at a time
ATTEMPTS = 600  # schedules that shrinking may try


def failure(schedule: Schedule, runner: type[Runner] = Runner) -> str | None:
    """What a schedule shows to be wrong, or None. An error that no worker may raise counts too."""
    simulation = Simulation(schedule, runner)
    try:
        simulation.run()
        check(simulation)
    except ScheduleError as error:
        return str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {os.path.basename(where.filename)}:{where.lineno}: {error}"
    return None


def explore(first: int, count: int, processes: int | None = None) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Run the schedules of these seeds; how many are done since the last time, and (seed, failure) where one fails."""
    chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
    if processes == 1:
        for seeds in chunks:
            yield len(seeds), failures(seeds)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes or os.cpu_count(), mp_context=context) as pool:
        sizes = {pool.submit(failures, seeds): len(seeds) for seeds in chunks}
        try:
            for done in as_completed(sizes):
                yield sizes[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def failures(seeds: Sequence[int]) -> list[tuple[int, str]]:
    found = ((seed, failure(make(seed))) for seed in seeds)
    return [(seed, wrong) for seed, wrong in found if wrong is not None]


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """Drop steps and events, larger parts first, as long as it still fails."""
    left = ATTEMPTS

    def cut(items: list[Any], use: Callable[[list[Any]], Schedule]) -> list[Any]:
        def still(fewer: list[Any]) -> bool:
            nonlocal left
            left -= 1
            return left >= 0 and fails(use(fewer))

        return _fewer(items, still)

    size = -1
    while size != (size := len(schedule.to_json())):
        schedule = schedule.with_steps(cut(schedule.steps, schedule.with_steps))
        for i, step in enumerate(schedule.steps):
            if step[0] == "freeze":
                within = partial(_frozen, schedule, i)
                schedule = within(cut(step[-1], within))
        schedule = schedule.with_events(cut(schedule.events, schedule.with_events))
    return schedule


def _frozen(schedule: Schedule, place: int, inside: list[Step]) -> Schedule:
    """The schedule with other steps inside a freeze."""
    step = [*schedule.steps[place][:-1], inside]
    return schedule.with_steps([*schedule.steps[:place], step, *schedule.steps[place + 1 :]])


def _fewer(items: list[Any], fails: Callable[[list[Any]], bool]) -> list[Any]:
    size = max(len(items) // 2, 1)
    while items:
        start = 0
        while start < len(items):
            fewer = items[:start] + items[start + size :]
            if fails(fewer):
                items = fewer
            else:
                start += size
        if size == 1:
            break
        size //= 2
    return items
