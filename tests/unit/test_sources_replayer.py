from __future__ import annotations

import pytest

from deploy.errors import ReplayError
from deploy.sources import PlatformEvent
from deploy.sources.replayer import FunctionSink, Pace, Replayer
from streams.errors import ConfigurationError
from streams.partitioning import partition_of
from streams.topics import TOPICS

PARTITIONS = {"orders": 4, "products": 4, "reviews": 4}


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def take(self, *_: object) -> None:
        self.sent.append(round(self.now - 100.0, 6))


def events(count: int = 5, gap_ms: int = 2000) -> list[PlatformEvent]:
    return [PlatformEvent("orders", f"o{i}", b"{}", 1_000_000 + i * gap_ms) for i in range(count)]


def replay(pace: Pace) -> list[float]:
    clock = Clock()
    Replayer(events(), FunctionSink(clock.take), PARTITIONS, pace, clock, clock.sleep).run()
    return clock.sent


def test_a_record_goes_where_its_key_belongs_with_the_time_of_sending() -> None:
    taken: list[tuple[str, int, bytes, bytes, int]] = []
    given = [
        *events(),
        PlatformEvent("products", "p1", b'{"a":1}', 2_000_000),
        PlatformEvent("orders", "", b"?", 2_000_000),
    ]
    played = Replayer(given, FunctionSink(lambda *record: taken.append(record)), PARTITIONS).run()
    assert [t[:4] for t in taken] == [(e.topic, partition_of(e.key, 4), e.key.encode(), e.value) for e in given]
    assert all(t[4] > 1_700_000_000_000 for t in taken)  # not the event time, which lies in 1970
    assert played.produced == {"orders": 6, "products": 1}
    assert (played.total, played.failed, played.first, played.last) == (7, {}, 1_000_000, 2_000_000)


def test_a_rate_spaces_events_evenly() -> None:
    assert replay(Pace(rate=10)) == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_a_speed_keeps_the_gaps_of_event_time_in_proportion() -> None:
    assert replay(Pace(speed=4)) == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_without_a_pace_nothing_waits() -> None:
    assert replay(Pace()) == [0.0] * 5


@pytest.mark.parametrize(("rate", "speed"), [(1.0, 1.0), (0.0, None), (None, -1.0), (float("nan"), None)])
def test_a_pace_that_makes_no_sense_is_refused(rate: float | None, speed: float | None) -> None:
    with pytest.raises(ConfigurationError):
        Pace(rate, speed)


def test_a_record_above_the_limit_is_counted_and_the_others_go_on() -> None:
    large = PlatformEvent("orders", "big", b"x" * (TOPICS["orders"].max_bytes + 1), 1_000_000)
    taken: list[object] = []
    played = Replayer([*events(2), large, *events(2)], FunctionSink(lambda *r: taken.append(r)), PARTITIONS).run()
    assert len(taken) == 4
    assert (played.produced, played.failed) == ({"orders": 4}, {"orders": 1})
    assert "above the limit" in played.errors[0]


def test_a_missing_topic_is_named() -> None:
    with pytest.raises(ReplayError, match="topic orders does not exist"):
        Replayer(events(), FunctionSink(lambda *_: None), {}).run()


def test_progress_ends_with_the_last_event() -> None:
    heard: list[tuple[int, int]] = []
    Replayer(events(5), FunctionSink(lambda *_: None), PARTITIONS).run(lambda n, at: heard.append((n, at)), every=2)
    assert [n for n, _ in heard] == [2, 4, 5]
    assert heard[-1][1] == events(5)[-1].at
