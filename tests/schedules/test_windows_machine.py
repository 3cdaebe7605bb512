"""The windows stage against the oracle, by hypothesis: any rows, watermarks, cuts of the log and restores."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from featurizers.window_config import WindowConfig
from featurizers.windows import WindowStage
from streams.calendars import HOUR, Platform
from streams.codecs import decode
from streams.records import CHANNELS, DAYS, EventKind, SourceState, WindowKind
from streams.records.inside import WINDOWS
from streams.stage import Output
from tests.schedules import oracle
from tests.schedules.checks import compare_windows, tell
from tests.unit.event_builder import TASK, Log, Row, cancelled, event, instant, order

PLATFORMS = {"shop": Platform("shop", "Europe/Rome")}
CONFIG = WindowConfig(PLATFORMS, live_interval_ms=10)  # a live window after every record
START = instant("2024-03-29 12:00")  # two days later the clocks change

# Hours from now: around the open day most of the time; its very ends; beyond the ring and far ahead too.
hours = st.one_of(st.integers(-30, 30), st.sampled_from([-13, -12, 11, 12]), st.integers(-24 * 60, 24 * 40))
products = st.sampled_from(["shop:a", "shop:b", "shop:c", "elsewhere:a"])
held = st.sampled_from([False, False, True])  # whether a record waits, to be folded together with others
drawn_rows = st.tuples(st.sampled_from([*EventKind][:8]), products, hours, st.integers(1, 5))


class WindowsMachine(RuleBasedStateMachine):
    """Rows gather in a record, records in a log; the stage folds the log in any pieces, the oracle row by row."""

    @initialize(known=st.booleans())
    def begin(self, known: bool) -> None:
        self.log = Log(step_ms=10)
        self.orders: list[Row] = []
        self.now = START
        self.marks: dict[tuple[str, int], tuple[SourceState, int]] = {}
        self.folded = 0
        self.stage = WindowStage(TASK, CONFIG)
        self.reference = oracle.Windows("Europe/Rome")
        self.outputs: list[Output] = []
        if known:
            self.watermark(0, 0, False, False)

    @rule(rows=st.lists(drawn_rows, min_size=1, max_size=8), seed=st.integers(0, 100), held=held)
    def record(self, rows: list[tuple[EventKind, str, int, int]], seed: int, held: bool) -> None:
        """A cancellation is of an order before it, wherever that is; a few are of more units than were ordered."""
        made = []
        for kind, product, hour, number in rows:
            at = self.now + hour * HOUR
            if kind == EventKind.ORDER:
                made.append(order(product, at, number, price=100 * number))
                self.orders.append(made[-1])
            elif kind == EventKind.CANCELLED and self.orders:
                what = self.orders[(seed + hour) % len(self.orders)]
                made.append(cancelled(what["product"], what["at"] + max(hour, 0) * HOUR, what["at"], number))
            elif kind == EventKind.RETURNED:
                made.append(event(kind, product, at, quantity=number))
            elif kind == EventKind.REVIEW:
                made.append(event(kind, product, at, rating=number))
            elif kind != EventKind.CANCELLED:
                made.append(event(kind, product, at))
        if made:
            self.log.events(*made)
        if not held:
            self.fold(len(self.log.messages))

    @rule(
        ahead=st.one_of(st.integers(1, 30), st.integers(0, 24 * 9), st.integers(0, 24 * 70)),
        source=st.integers(0, 1),
        idle=st.booleans(),
        held=held,
    )
    def watermark(self, ahead: int, source: int, idle: bool, held: bool) -> None:
        """A source says how far it is, or falls silent; a source that comes late holds nothing back."""
        state = SourceState.IDLE if idle else SourceState.ACTIVE
        self.marks["orders", source] = (state, self.now + ahead * HOUR)
        self.now += ahead * HOUR
        self.log.control(*((*key, *mark) for key, mark in sorted(self.marks.items())))
        if not held:
            self.fold(len(self.log.messages))

    @precondition(lambda self: len(self.log.messages) > self.folded)
    @rule(count=st.integers(1, 8))
    def fold(self, count: int) -> None:
        messages = self.log.messages[self.folded : self.folded + count]
        self.folded += len(messages)
        outputs = self.stage.fold(messages)
        self.outputs += outputs
        live = _live_windows(outputs)
        for message in messages:
            tell(self.reference, message)
            for window in live.pop(message.offset, []):
                self._compare_live(*window)
        assert not live

    @rule()
    def restore(self) -> None:
        blobs = self.stage.snapshot()
        self.stage = WindowStage(TASK, CONFIG)
        self.stage.restore(blobs)
        assert self.stage.snapshot() == blobs

    @invariant()
    def counts(self) -> None:
        counters = self.stage.counters()
        assert counters["outcomes"] == len(self.reference.outcomes)
        assert counters["close"] == len(self.reference.closes)
        assert counters["parked"] == self.reference.parked

    def teardown(self) -> None:
        compare_windows(self.reference, self.outputs)

    def _compare_live(self, product: str, opened: list[int], days: list[list[int]]) -> None:
        assert dict(zip(CHANNELS, opened, strict=True)) == {c: self.reference.sum(product, c, 0) for c in CHANNELS}
        closed = {
            c: {DAYS - i: n for i, n in enumerate(of_channel) if n}
            for c, of_channel in zip(CHANNELS, days, strict=True)
        }
        assert closed == self.reference.closed_days(product)


def _live_windows(outputs: list[Output]) -> dict[int, list[tuple[Any, ...]]]:
    """(product, sums of the open day, sums of the closed days) by the offset after which they were made."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for output in outputs:
        rows = decode(output.value or b"")
        if rows.record is WINDOWS:
            days = rows["day"].reshape(len(rows), len(CHANNELS), DAYS)
            for i in (rows["kind"] == WindowKind.LIVE).nonzero()[0].tolist():
                window = (rows["product"][i], rows["open"][i].tolist(), days[i].tolist())
                found.setdefault(int(rows["offset"][i]), []).append(window)
    return found


TestWindowsMachine = WindowsMachine.TestCase
TestWindowsMachine.settings = settings(max_examples=80, stateful_step_count=20, suppress_health_check=list(HealthCheck))
