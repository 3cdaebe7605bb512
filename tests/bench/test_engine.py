"""The short form of the equal job: right by pandas, and not far from the limit that is measured beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.embedded import fold
from streams.stage import Message, Output
from tests.bench import orders
from tests.bench.__main__ import LAYOUT, filled, parse
from tests.bench.engine import ENGINES, EqualJob, Result, piece
from tests.bench.hourly import Hourly
from tests.conftest import TestBroker

EVENTS = 50_000


@pytest.mark.kafka
def test_windows_equal_pandas_and_the_runner_costs_no_multiple_of_the_limit(
    fresh_kafka: TestBroker, tmp_path: Path
) -> None:
    job = EqualJob(fresh_kafka.local, tmp_path, EVENTS)
    limit, own = job.run(ENGINES["limit"]), job.run(ENGINES["trendstream"])
    assert own.right
    assert (own.state_share or 0) > 0  # there were snapshots
    # A run of a tenth of a second on a busy machine: only a cost of another order of magnitude may fail here.
    assert own.events_per_s > limit.events_per_s / 10


def _messages(count: int) -> list[Message]:
    drawn = orders.draw(10_000)
    values = [
        orders.encode(i, orders.name(product), at, quantity, price, fault)
        for i, (product, at, quantity, price, fault) in enumerate(
            zip(*(c[:count].tolist() for c in vars(drawn).values()), strict=True)
        )
    ]
    return [Message("orders", 0, i, 0, None, value) for i, value in enumerate(values)]


@pytest.mark.parametrize("poll", [7, 1_000, 10_000])
def test_windows_do_not_depend_on_how_the_log_was_polled(poll: int) -> None:
    messages = _messages(10_000)
    stage = Hourly("out", ("orders", 0))
    outputs: list[Output] = []
    for start in range(0, len(messages), poll):
        outputs += stage.fold(messages[start : start + poll])
    whole = Hourly("out", ("orders", 0))
    assert [o.value for o in outputs] == [o.value for o in fold(whole, messages)]
    assert stage.counters() == whole.counters()
    assert stage.counters()["bad"] > 0


def test_a_restored_stage_goes_on_to_the_same_bytes() -> None:
    messages = _messages(10_000)
    undisturbed, before, after = (Hourly("out", ("orders", 0)) for _ in range(3))
    expected = [undisturbed.fold(messages[:5_000]), undisturbed.fold(messages[5_000:])]
    before.fold(messages[:5_000])
    after.restore(before.snapshot())
    assert after.fold(messages[5_000:]) == expected[1]
    assert after.snapshot() == undisturbed.snapshot()


def test_ratios_are_left_out_where_one_side_did_not_run() -> None:
    own = Result("trendstream", 10, 600.0, 600.0, 1.0, True, 0.01)
    quix = Result("quix", 10, 100.0, 100.0, 1.0, True, 0.2)
    assert piece([own]).keys["equal_job"]["ratio_to_best_peer"] is None
    both = piece([own, quix]).keys
    assert both["equal_job"]["ratio_to_best_peer"] == 6.0
    assert both["state_bytes_ratio_to_quix"] == 0.05


def test_a_part_that_was_not_run_leaves_its_keys_out() -> None:
    keys = filled(LAYOUT, piece([Result("limit", 10, 600.0, 600.0, 1.0, True, None)]).keys)
    assert keys["equal_job"]["limit"]["events_per_s"] == 600
    assert keys["equal_job"]["faust"] == {"events_per_s": None, "peak_mib": None, "right": None}
    assert keys["latency_ms"] == {"order_to_score": {"p50": None, "p99": None}, "outcome_to_head": {"p99": None}}
    assert LAYOUT["equal_job"]["limit"]["events_per_s"] is None


@pytest.mark.parametrize("wrong", [["--engines", "flink"], ["--events", "3"], ["--repeat", "0"], ["no-part"]])
def test_a_wrong_argument_is_one_line_and_exit_code_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert wrong[-1] in line
