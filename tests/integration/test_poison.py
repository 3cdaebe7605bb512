"""Records in `trend.events` that the windows worker cannot fold: where it stops, and the way past them."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import pipeline
from deploy.cli import run
from deploy.local_kafka import LocalKafka
from deploy.settings import Settings
from deploy.topics import create_topics
from streams import kafka
from streams.calendars import DAY
from streams.embedded import fold
from streams.stage import Output
from tests.conftest import JARS
from tests.e2e.running import Workers, running
from tests.unit.event_builder import Log, order

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
T = 20_000 * DAY
TORN, FOREIGN = 2, 4  # offsets


def _log() -> list[bytes]:
    """Two days of orders, with a record that was cut short and one that belongs to another topic among them."""
    log = Log().watermark(T).events(*(order(f"shop:p{i}", T + i) for i in range(5)))
    log = log.events(order("shop:p0", T + 10)).events(order("shop:p1", T + 20))
    log = log.watermark(T + DAY).events(order("shop:p2", T + DAY + 1)).watermark(T + 2 * DAY)
    values = [m.value or b"" for m in log.messages]
    settings = Settings(partitions=1, platforms={"shop": {}})
    (foreign, *_) = fold(pipeline.windows_spec(settings).make(("trend.events", 0)), log.messages)
    return [*values[:TORN], values[TORN][:-40], values[TORN + 1], foreign.value or b"", *values[TORN + 2 :]]


def _fails(workers: Workers) -> str:
    """The windows worker, until it ends by itself; the last line that it says."""
    workers.log("windows").unlink(missing_ok=True)
    workers.start("windows")
    process = workers.processes["windows"]
    process.join(60)
    assert process.exitcode == 1
    return workers.log("windows").read_text().splitlines()[-1]


def _skip(bootstrap: str, offset: int) -> None:
    place = ["windows", "trend.events", "0", str(offset)]
    assert run(["topics", "skip", *place, "--bootstrap", bootstrap, "--yes", "--reason", "cannot be read"]) == 0


def test_the_windows_worker_would_go_past_a_record_that_it_cannot_fold_or_never_get_past_it(tmp_path: Path) -> None:
    variables = {"TRENDSTREAM_PARTITIONS": "1", "TRENDSTREAM_PLATFORMS": '{"shop": {}}'}
    with (
        LocalKafka(tmp_path / "kafka", jars=JARS) as local,
        running(local.bootstrap, tmp_path / "workers", **variables) as workers,
    ):
        create_topics(local.bootstrap, 1)
        kafka.append(local.bootstrap, [Output("trend.events", 0, value) for value in _log()])
        first_offset = workers.topic("trend.events")[0][0].offset
        for offset, why in ((TORN, "not an Arrow record batch"), (FOREIGN, "is a record of ")):
            said = _fails(workers)
            assert f"windows cannot fold trend.events/0 offset {first_offset + offset}: " in said
            assert why in said
            assert f"topics skip windows trend.events 0 {first_offset + offset}" in said
            _skip(local.bootstrap, first_offset + offset)
        workers.start("windows")
        workers.wait_until(lambda: workers.is_drained({"windows": "trend.events"}), "all that is left is folded", 60)
        log = workers.topic("trend.events")[0]
        good = [m for m in log if m.offset - first_offset not in (TORN, FOREIGN)]
        settings = Settings(partitions=1, platforms={"shop": {}})
        expected = fold(pipeline.windows_spec(settings).make(("trend.events", 0)), good)
        assert len(expected) > 4
        assert [m.value for m in workers.topic("trend.windows")[0]] == [o.value for o in expected]
