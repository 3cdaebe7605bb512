"""Event-time progress of one source partition, and of all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.records import NO_WATERMARK, SourceState
from streams.watermarks import CombinedWatermark, SourceWatermark

DAY = 86_400_000
T = 1_700_000_000_000
ACTIVE, IDLE = int(SourceState.ACTIVE), int(SourceState.IDLE)


def observed(*times: int, out_of_order: int = 0) -> SourceWatermark:
    mark = SourceWatermark(out_of_order)
    for at in times:
        mark.observe(at)
    return mark


def test_disorder_within_the_allowance_is_not_behind_the_watermark() -> None:
    assert observed(T, T + 10, out_of_order=60_000).value == T + 10 - 60_000


def test_one_wrong_date_ahead_does_not_move_the_watermark() -> None:
    assert observed(T, T + 1, T + 400 * DAY, T + 2).value == T + 2


def test_a_jump_that_the_next_record_confirms_counts_up_to_the_smaller_of_both() -> None:
    assert observed(T, T, T + 3 * DAY, T + 9 * DAY).value == T + 3 * DAY
    assert observed(T, T, T + 3 * DAY, T + 3 * DAY + 5).value == T + 3 * DAY + 5


def test_two_wrong_dates_with_good_ones_between_do_not_confirm_each_other() -> None:
    assert observed(T, T, T + 400 * DAY, T + 1, T + 400 * DAY, T + 2).value == T + 2


def test_a_wrong_date_at_the_head_of_a_log_does_not_become_the_watermark() -> None:
    assert observed(T + 400 * DAY).value is None
    assert observed(T + 400 * DAY, T, T + 1).value == T + 1


def test_a_record_in_the_past_does_not_pull_the_watermark_back() -> None:
    assert observed(T, T, T - 30 * DAY).value == T


@given(st.lists(st.integers(T - 5 * DAY, T + 5 * DAY), max_size=30))
def test_a_source_watermark_never_goes_back(times: list[int]) -> None:
    mark, last = SourceWatermark(1000), None
    for at in times:
        mark.observe(at)
        assert last is None or (mark.value is not None and mark.value >= last)
        last = mark.value


@given(st.lists(st.integers(T - 5 * DAY, T + 5 * DAY), max_size=20), st.integers(0, 20))
def test_a_source_watermark_forgets_nothing_in_a_snapshot(times: list[int], cut: int) -> None:
    whole, first, second = observed(*times), observed(*times[:cut]), SourceWatermark(0)
    second.load(first.dump())
    for at in times[cut:]:
        second.observe(at)
    assert second.dump() == whole.dump()


def test_nothing_is_known_before_a_source_has_registered() -> None:
    assert CombinedWatermark().value() is None


def test_the_slowest_active_source_holds_the_others() -> None:
    combined = CombinedWatermark()
    combined.update("orders", 0, ACTIVE, 50)
    combined.update("orders", 1, ACTIVE, 30)
    combined.update("behaviors", 0, IDLE, 10)
    assert combined.value() == 30


def test_an_active_source_without_a_time_holds_the_first_value_back() -> None:
    combined = CombinedWatermark()
    combined.update("orders", 0, ACTIVE, 50)
    combined.update("orders", 1, ACTIVE, NO_WATERMARK)
    assert combined.value() is None
    combined.update("orders", 1, IDLE, NO_WATERMARK)
    assert combined.value() == 50


def test_when_all_are_idle_the_newest_counts() -> None:
    combined = CombinedWatermark()
    combined.update("orders", 0, IDLE, 50)
    combined.update("orders", 1, IDLE, 70)
    combined.update("behaviors", 0, IDLE, NO_WATERMARK)
    assert combined.value() == 70


def test_a_source_that_wakes_up_behind_does_not_take_time_back() -> None:
    combined = CombinedWatermark()
    combined.update("orders", 0, ACTIVE, 50)
    assert combined.value() == 50
    combined.update("orders", 1, ACTIVE, NO_WATERMARK)
    assert combined.value() == 50
    combined.update("orders", 1, ACTIVE, 20)
    assert combined.value() == 50


_row = st.tuples(
    st.sampled_from(["orders", "behaviors"]), st.integers(0, 2), st.sampled_from([ACTIVE, IDLE]), st.integers(0, 99)
)


@given(st.lists(_row, max_size=20), st.integers(0, 20))
def test_a_combined_watermark_forgets_nothing_in_a_snapshot(rows: list[tuple[str, int, int, int]], cut: int) -> None:
    whole, first, second = CombinedWatermark(), CombinedWatermark(), CombinedWatermark()
    values = []
    for row in rows:
        whole.update(*row)
        values.append(whole.value())
    for row in rows[:cut]:
        first.update(*row)
        first.value()
    second.load(first.dump())
    for row, expected in zip(rows[cut:], values[cut:], strict=True):
        second.update(*row)
        assert second.value() == expected
    assert second.dump() == whole.dump()
