"""The local broker and the topics on it, for real."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from deploy.cli import run
from deploy.errors import ConfigurationError, LocalKafkaError, TopicError
from deploy.local_kafka import ESSENTIAL, LocalKafka, _command_line, fetch_jars, find_java, obstacle, require_java
from deploy.topics import create_topics, describe_topics, read_topic
from streams.codecs import encode
from streams.errors import BrokerError
from streams.kafka import producer
from streams.records.inside import CLOSES
from streams.topics import MIB, TOPICS
from tests.conftest import JARS, ROOT, TestBroker

needs_kafka = pytest.mark.kafka


def _config(bootstrap: str, kind: ResourceType, name: str) -> dict[str, str]:
    resource = ConfigResource(kind, name)
    admin = AdminClient({"bootstrap.servers": bootstrap})  # kept until the answer is there
    found = admin.describe_configs([resource])[resource].result()
    return {entry.name: entry.value for entry in found.values()}


def _send(to: Producer, topic: str, values: list[bytes], partition: int = 0) -> None:
    failed: list[object] = []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    for value in values:
        to.produce(topic, value=value, key=b"key", partition=partition, on_delivery=delivered)
    assert to.flush(20) == 0
    assert failed == []


def test_the_broker_runs_with_the_settings_that_the_stages_rest_on(kafka: TestBroker) -> None:
    config = _config(kafka.bootstrap, ResourceType.BROKER, "1")
    assert {name: config[name] for name in ESSENTIAL} == ESSENTIAL
    assert kafka.bootstrap.startswith("127.0.0.1:")
    assert all("127.0.0.1" in each for each in config["listeners"].split(","))


def test_topics_are_made_once_as_the_table_says(kafka: TestBroker) -> None:
    kafka.create_topics(4)
    assert kafka.create_topics(4) == []
    states = {state.topic.name: state for state in describe_topics(kafka.bootstrap)}
    assert {name: state.partitions for name, state in states.items()} == {
        name: topic.partitions or 4 for name, topic in TOPICS.items()
    }
    for name in ("trend.dlq", "model.heads"):
        config = _config(kafka.bootstrap, ResourceType.TOPIC, name)
        assert {key: config[key] for key in TOPICS[name].configuration()} == TOPICS[name].configuration()


def test_another_number_of_partitions_is_refused_by_name(kafka: TestBroker) -> None:
    kafka.create_topics(4)
    with pytest.raises(TopicError, match=r"topic orders has 4 partitions .* should have 3"):
        create_topics(kafka.bootstrap, 3)


def test_a_record_of_the_largest_size_passes(kafka: TestBroker) -> None:
    kafka.create_topics(4)
    value = os.urandom(8 * MIB - 64 * 1024)  # does not compress
    _send(producer(kafka.bootstrap), "trend.snapshots", [value], 3)
    assert value in [m.value for m in read_topic(kafka.bootstrap, "trend.snapshots", partition=3)]


def test_reading_shows_committed_records_in_order_and_the_newest_on_demand(fresh_kafka: TestBroker) -> None:
    fresh_kafka.create_topics(2)
    writer = producer(fresh_kafka.bootstrap, "test.reading")
    writer.init_transactions(10)
    for number in range(6):
        writer.begin_transaction()
        _send(writer, "trend.scores", [b"%d" % number], number % 2)
        if number == 4:
            writer.abort_transaction(10)
        else:
            writer.commit_transaction(10)
    assert [m.value for m in read_topic(fresh_kafka.bootstrap, "trend.scores")] == [b"0", b"2", b"1", b"3", b"5"]
    assert [m.value for m in read_topic(fresh_kafka.bootstrap, "trend.scores", partition=1)] == [b"1", b"3", b"5"]
    assert [m.value for m in read_topic(fresh_kafka.bootstrap, "trend.scores", latest=2)] == [b"3", b"5"]
    with pytest.raises(ConfigurationError, match="no partition 2; it has 0 to 1"):
        read_topic(fresh_kafka.bootstrap, "trend.scores", partition=2)


def test_the_commands_create_list_and_print_topics(fresh_kafka: TestBroker, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--bootstrap", fresh_kafka.bootstrap]
    assert run(["topics", "cat", "trend.windows", *at]) == 1
    assert "trend.windows is not on" in capsys.readouterr().err
    assert run(["topics", "create", "--partitions", "2", *at]) == 0
    assert run(["topics", "create", "--partitions", "2", *at]) == 0
    assert "every topic is there already" in capsys.readouterr().out
    closes = encode(CLOSES, {"partition": [0], "platform": ["shop"], "end": [0], "windows": [7], "outcomes": [9]})
    _send(producer(fresh_kafka.bootstrap), "trend.windows", [closes] * 4, 1)
    assert run(["topics", "list", *at]) == 0
    assert "trend.windows" in capsys.readouterr().out
    assert run(["topics", "cat", "trend.windows", "--limit", "3", *at]) == 0
    assert capsys.readouterr().out.count("closes: 1 row") == 3
    assert run(["topics", "cat", "trend.windows", "--latest", "--limit", "1", "--json", *at]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["offset"], line["value"]["windows"]) == (3, 7)
    assert run(["topics", "cat", "trend.windows", "--product", "shop:a", *at]) == 0
    assert "no such record" in capsys.readouterr().out


@needs_kafka
def test_records_outlive_a_restart_and_a_crash(tmp_path: Path) -> None:
    local = LocalKafka(tmp_path, jars=JARS)
    with local:
        create_topics(local.bootstrap, 1)
        _send(producer(local.bootstrap), "orders", [b"{}"])
        local.kill()
        assert local.running() is None
        local.start()
        assert [m.value for m in read_topic(local.bootstrap, "orders")] == [b"{}"]
    with pytest.raises(LocalKafkaError, match="no broker runs"):
        _ = local.bootstrap
    with pytest.raises(BrokerError):
        create_topics("127.0.0.1:9", 1, timeout_s=1.0)


@needs_kafka
def test_a_broker_started_by_one_process_is_found_and_stopped_by_another(tmp_path: Path) -> None:
    environment = os.environ | {"TRENDSTREAM_KAFKA_FOLDER": str(tmp_path), "TRENDSTREAM_KAFKA_JARS": str(JARS)}

    def broker(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "broker", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    try:
        assert broker("start", "--port", "0")[0] == 0
        running = LocalKafka(tmp_path).running()
        assert running is not None
        assert f"runs already at {running.bootstrap}" in broker("start")[1]
        assert broker("status") == (
            0,
            f"kafka 4.1.0 runs at {running.bootstrap} (process {running.pid}), data in {tmp_path}\n",
        )
    finally:
        assert broker("stop") == (0, "stopped\n")
    assert broker("status")[0] == 1
    # An orphan that has ended stays in the process table, without a command line, until its new parent asks.
    assert _command_line(running.pid) == ""


@needs_kafka
def test_a_broker_ends_with_the_process_that_started_it_even_when_that_is_killed(tmp_path: Path) -> None:
    starts = f"""
import time
from deploy.local_kafka import LocalKafka
local = LocalKafka({str(tmp_path)!r}, jars={str(JARS)!r})
print(local.start().pid, flush=True)
time.sleep(600)
"""
    program = subprocess.Popen([sys.executable, "-c", starts], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    assert LocalKafka(tmp_path).running() is not None
    os.killpg(program.pid, signal.SIGKILL)  # as the end of a test run that took too long
    program.communicate()
    deadline = time.monotonic() + 20
    while _command_line(pid):
        assert time.monotonic() < deadline, f"the broker (process {pid}) goes on"
        time.sleep(0.05)


def test_a_process_that_got_the_brokers_old_id_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "state.json").write_text(json.dumps({"pid": other.pid, "port": 1}))
        local = LocalKafka(tmp_path)
        assert local.running() is None
        assert local.stop() is False
        assert other.poll() is None
    finally:
        other.communicate(b"\n")


@needs_kafka
def test_a_taken_port_and_a_broken_setting_say_so(tmp_path: Path, kafka: TestBroker) -> None:
    port = int(kafka.bootstrap.rpartition(":")[2])
    with pytest.raises(LocalKafkaError, match=f"port {port} is taken"):
        LocalKafka(tmp_path / "taken", port, jars=JARS).start()
    broken = LocalKafka(tmp_path / "broken", jars=JARS, overrides={"num.io.threads": "none"})
    with pytest.raises(LocalKafkaError, match=r"num\.io\.threads|io\.threads"):
        broken.start()
    assert broken.running() is None


@needs_kafka
def test_jars_that_are_there_are_not_fetched_again(kafka: TestBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert fetch_jars(JARS) is False


def _java(folder: Path, says: str) -> None:
    script = folder / "java"
    script.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def test_a_missing_or_old_java_and_a_missing_maven_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalKafkaError, match="no Java on the PATH; the local Kafka needs Java 17"):
        require_java()
    _java(tmp_path, 'openjdk version "1.8.0_292"')
    assert find_java() is None
    with pytest.raises(LocalKafkaError, match="is Java 8; the local Kafka needs Java 17"):
        require_java()
    _java(tmp_path, 'openjdk version "21.0.2" 2024-01-16')
    assert find_java() == str(tmp_path / "java")
    assert "no Maven" in (obstacle(tmp_path / "jars") or "")
    with pytest.raises(LocalKafkaError, match="no Maven"):
        fetch_jars(tmp_path / "jars")
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho '[ERROR] no network here'\nexit 1\n")
    maven.chmod(0o755)
    assert obstacle(tmp_path / "jars") is None
    with pytest.raises(LocalKafkaError, match="no network here"):
        fetch_jars(tmp_path / "jars")
    assert not (tmp_path / "jars").exists()
