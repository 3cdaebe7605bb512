"""The replay commands on a real broker, over the topics of a shop whose orders of some hours came two days late."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from deploy.cli import run
from deploy.settings import Settings
from streams import kafka
from streams.replay.plan import INPUTS
from tests.drills.on_call import replay_of
from tests.unit.replay_world import OUTSIDE, START, World, held_back, run_world

pytestmark = [pytest.mark.kafka, pytest.mark.drill]
Command = Callable[..., str]


@pytest.fixture
def world(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """What the stages have left, on the broker, with their groups where they stood."""
    made, bootstrap = run_world(tmp_path, spoilt=held_back), settings.bootstrap
    _copy(made, bootstrap)
    for stage, topic in INPUTS.items():
        group = kafka.consumer(bootstrap, f"trendstream.{stage}")
        counts = kafka.partition_counts(bootstrap)
        group.commit(offsets=[TopicPartition(topic, p, 7) for p in range(counts[topic])], asynchronous=False)
        group.close()
    monkeypatch.setenv("TRENDSTREAM_LIVE_INTERVAL_MS", str(made.settings.live_interval_ms))
    return made


def _copy(world: World, bootstrap: str) -> None:
    """The same offsets, and the same record times, which are long past: live windows follow them."""
    keep = [ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)]
    topics = {topic for topic, _ in world.log.tasks()}
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=keep) for topic in topics]
    for done in admin.incremental_alter_configs(resources).values():
        done.result()
    to = kafka.producer(bootstrap)
    for task in world.log.tasks():
        for m in world.log.records(*task):
            to.produce(m.topic, m.value, m.key, m.partition, timestamp=m.timestamp)
            to.poll(0)
    assert to.flush(60) == 0


@pytest.fixture
def trendstream(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        found = run(arguments)
        said = capsys.readouterr()
        assert found == code, said.out + said.err
        return said.out

    return call


def _groups(bootstrap: str) -> dict[tuple[str, str, int], int]:
    found = {}
    for stage, topic in INPUTS.items():
        group = kafka.consumer(bootstrap, f"trendstream.{stage}")
        wanted = [TopicPartition(topic, p) for p in range(kafka.partition_counts(bootstrap)[topic])]
        found.update({(stage, p.topic, p.partition): p.offset for p in group.committed(wanted, timeout=10)})
        group.close()
    return found


def _records(bootstrap: str) -> dict[str, int]:
    """Of every topic that is not a replay's own, nor tells of commands."""
    counts = {name: n for name, n in kafka.partition_counts(bootstrap).items() if not name.startswith("replay.")}
    ends = kafka.ranges(bootstrap, counts)
    return {name: sum(ends[name, p][1] for p in range(n)) for name, n in counts.items() if name != "trend.audit"}


def test_a_replay_would_touch_what_is_live_or_not_end_where_it_should(
    world: World, trendstream: Command, settings: Settings
) -> None:
    bootstrap = settings.bootstrap
    before, groups = _records(bootstrap), _groups(bootstrap)
    assert set(groups.values()) == {7}
    since = ("--from", str(START + 9 * 86_400_000 + 5))

    same = trendstream("replay", "plan", *since, "--code", "same")
    assert "snapshot at" in same
    assert "nothing: what was published is compared" in same
    assert "what was published is reproduced byte for byte" in trendstream("replay", "run", replay_of(same))

    late = replay_of(trendstream("replay", "plan", *since, "--late", "in-place"))
    trendstream("replay", "run", late, "--rate", "100")
    again = replay_of(trendstream("replay", "plan", *since, "--late", "in-place", "--into", "topics"))
    trendstream("replay", "run", again)
    one, other = (json.loads(trendstream("replay", "diff", replay, "--json")) for replay in (late, again))
    assert one | {"replay": again} == other, "Parquet and topics hold something else"
    assert one["changed"] > 10
    assert any("late events" in cause for cause in one["causes"])
    assert f"replay.{again}.trend.scores" in kafka.partition_counts(bootstrap)
    assert late in trendstream("replay", "list")

    shown = trendstream("replay", "apply", late, "--dry-run")
    assert "signals.inventory" in shown
    assert _records(bootstrap) == before, "something was written before apply"
    trendstream("replay", "apply", late, "--yes", "--reason", "orders came late")
    assert "nothing is left to correct" in trendstream("replay", "apply", late, "--yes", "--reason", "orders came late")
    assert "nothing is left to correct" in trendstream("replay", "apply", again, "--dry-run")
    told = [json.loads(m.value or b"") for topic in OUTSIDE for m in kafka.read(bootstrap, topic)]
    corrections = [fields for fields in told if fields.get("replay") == late]
    ids = [fields.get("signal_id") or fields["score_id"] for fields in corrections]
    assert len(ids) == len(set(ids)) > 20
    assert {name for name, count in _records(bootstrap).items() if count != before[name]} <= set(OUTSIDE)
    assert _groups(bootstrap) == groups, "a live group was moved"

    score = next(f["score_id"] for f in corrections if "signal_id" not in f and f["window_kind"] == "close")
    why: dict[str, Any] = json.loads(trendstream("explain", score, "--json"))
    assert why["same"] == {"score from the window": True, "window from trend.events": True}
    assert [r.get("replay") for r in why["revisions"]] == [None, late]
    assert "revisions" in trendstream("explain", score)
