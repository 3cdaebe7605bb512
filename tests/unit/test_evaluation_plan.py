from __future__ import annotations

import pytest

from deploy.cli import run
from deploy.errors import EvaluationError
from deploy.evaluation_fold import LONGEST, Plan
from streams.calendars import Platform

SHOP = Platform("shop")
FIRST = 17_000


def test_no_outcome_of_one_part_reaches_into_the_next() -> None:
    plan = Plan.of(SHOP, FIRST, FIRST + 365, 84, 3)
    assert plan.tuned + LONGEST <= plan.loop
    assert plan.loop + LONGEST <= plan.test
    assert plan.last + LONGEST <= FIRST + 365
    assert plan.test - plan.validation > 2 * LONGEST


def test_judged_boundaries_fall_on_every_weekday_alike() -> None:
    plan = Plan.of(SHOP, FIRST, FIRST + 365, 84, 3)
    days = plan.spaced(plan.test, plan.last)
    assert days[0] == plan.test
    weekdays = SHOP.calendar.weekday(days).tolist()
    assert {weekdays.count(w) for w in range(7)} == {4}


def test_what_cannot_be_judged_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(EvaluationError, match="falls on one weekday"):
        Plan.of(SHOP, FIRST, FIRST + 365, 84, 14)
    with pytest.raises(EvaluationError, match=r"200 days of data are too few.*it takes 294"):
        Plan.of(SHOP, FIRST, FIRST + 200, 84, 3)
    Plan.of(SHOP, FIRST, FIRST + 294, 84, 3)


def test_a_wrong_argument_ends_with_one_line_and_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "uci", "absent.csv"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("trendstream: absent.csv is not a file")
    assert "\n" not in said
