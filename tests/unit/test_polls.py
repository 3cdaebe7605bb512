"""What is read of a poll in one go is what its records say one by one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import confluent_kafka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import kafka
from streams.ingest import IngestStage
from streams.stage import offsets, timestamps, values
from tests.unit.test_ingest_plain import CONFIG, log, published


@dataclass(frozen=True)
class Record:
    of: str
    number: int
    failed: bool

    def topic(self) -> str:
        return self.of

    def partition(self) -> int:
        return self.number

    def error(self) -> Exception | None:
        return ValueError() if self.failed else None


@given(st.lists(st.builds(Record, st.sampled_from(["a", "b"]), st.integers(0, 2), st.booleans()), min_size=1))
def test_a_run_holds_neighbours_of_one_partition_and_no_error_among_records(records: list[Record]) -> None:
    cut = groupby(records, lambda r: ((r.of, r.number), r.failed))
    assert [*kafka.runs(records, ("a", "b"))] == [(key, failed, [*run]) for (key, failed), run in cut]


@pytest.mark.parametrize("inputs", [("a",), ("a", "b")])
@given(records=st.lists(st.builds(Record, st.just("a"), st.integers(0, 2), st.just(False)), min_size=1))
def test_records_of_one_topic_without_errors_are_cut_alike(records: list[Record], inputs: tuple[str, ...]) -> None:
    cut = groupby(records, lambda r: r.number)
    assert [*kafka.runs(records, inputs)] == [(("a", number), False, [*run]) for number, run in cut]


def test_ingest_reads_the_same_from_librdkafkas_records_as_from_messages() -> None:
    messages = log(5, 600, 0.1, 60_000)
    polled = kafka.Polled([_record(message) for message in messages])
    assert [*polled] == messages
    assert (values(polled), offsets(polled), timestamps(polled)) == (
        [m.value for m in messages],
        [m.offset for m in messages],
        [m.timestamp for m in messages],
    )
    one, other = IngestStage(("orders", 0), CONFIG), IngestStage(("orders", 0), CONFIG)
    assert published(one.fold(polled)) == published(other.fold(messages))
    assert one.snapshot() == other.snapshot()


def _record(message: Any) -> Any:
    return confluent_kafka.Message(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        timestamp=(confluent_kafka.TIMESTAMP_CREATE_TIME, message.timestamp),
    )
