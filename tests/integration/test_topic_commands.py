"""Commands on a real broker: `topics cat` and `find` by time, offset, key, text and product, in every form, in JSON and
in batches alike; and what they say of a wrong argument."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deploy.cli import run
from streams.codecs import encode
from streams.kafka import append, end_offsets
from streams.records.inside import TEXTS
from streams.stage import Output
from tests.conftest import TestBroker

OUTSIDE, INSIDE = "reviews", "trend.reviews"  # a JSON topic, and one of batches
PARTITION = "3"
EACH = [
    (OUTSIDE, "--offset"),
    (OUTSIDE, "--since"),
    (OUTSIDE, "--key"),
    (OUTSIDE, "--text"),
    (OUTSIDE, "--product"),
    (INSIDE, "--offset"),
    (INSIDE, "--since"),
    (INSIDE, "--text"),
    (INSIDE, "--product"),
]


@pytest.fixture(scope="module")
def lying(kafka: TestBroker) -> dict[str, dict[str, str]]:
    """Of either topic, how the second of two new records is asked for; its offset is `--offset`."""
    kafka.create_topics()
    return {topic: _lay(kafka.bootstrap, topic) for topic in (OUTSIDE, INSIDE)}


def _lay(bootstrap: str, topic: str) -> dict[str, str]:
    asked = {"--product": "shop:lamp", "--text": "a bright lamp", "--key": "lamp-2"}
    for product, words, key in (("shop:desk", "a small desk", "desk-1"), tuple(asked.values())):
        asked["--since"] = str(int(time.time() * 1000))
        append(bootstrap, [Output(topic, int(PARTITION), _value(topic, product, words), key.encode())])
        time.sleep(0.01)
    return asked | {"--offset": str(end_offsets(bootstrap, topic)[int(PARTITION)][1] - 1)}


def _value(topic: str, product: str, words: str) -> bytes:
    if topic == OUTSIDE:
        platform, _, name = product.partition(":")
        return json.dumps({"platform": platform, "product_id": name, "text": words}).encode()
    columns = {"product": [product], "modality": [0], "at": [1], "source": ["reviews"], "text": [words]}
    return encode(TEXTS, {**columns, "source_partition": [0], "source_offset": [0]})


@pytest.mark.parametrize(("topic", "by"), EACH)
def test_a_record_is_not_found_or_another_one_is(
    topic: str,
    by: str,
    lying: dict[str, dict[str, str]],
    kafka: TestBroker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["topics", "cat", topic, "-p", PARTITION, by, lying[topic][by], "--bootstrap", kafka.bootstrap]
    offset = int(lying[topic]["--offset"])
    assert run(asked) == 0
    assert re.findall(rf"^{topic}/{PARTITION} @ (\d+)", capsys.readouterr().out, re.M) == [str(offset)]
    assert run([*asked, "--json"]) == 0
    assert [json.loads(line)["offset"] for line in capsys.readouterr().out.splitlines()] == [offset]
    assert run([*asked, "--parquet", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.parquet")
    column = "offset" if topic == OUTSIDE else "record_offset"
    assert pq.read_table(file)[column].to_pylist() == [offset]


def test_a_product_is_not_found_where_its_parts_lie_apart_or_one_with_a_longer_name_is(
    lying: dict[str, dict[str, str]], kafka: TestBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    append(kafka.bootstrap, [Output(OUTSIDE, int(PARTITION), _value(OUTSIDE, "shop:lampshade", "beside the lamp"))])
    looked_in = ["--topic", OUTSIDE, "--topic", INSIDE]
    assert run(["topics", "find", "shop:lamp", *looked_in, "--json", "--bootstrap", kafka.bootstrap]) == 0
    found = {line["topic"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    for topic in (OUTSIDE, INSIDE):
        assert found[topic]["newest"] == [f"{topic}/{PARTITION}@{lying[topic]['--offset']}"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("topics cat orders -p 9", "topic orders has no partition 9; it has 0 to 3"),
        ("topics skip windows orders 0 0", "windows does not read 'orders'; it reads trend.events"),
        ("topics skip windows trend.events 0 999999", "trend.events/0 holds offsets 0 to"),
        ("offsets reset labels --to-offset 999999 --topic trend.predictions", "trend.predictions/0 holds offsets 0 to"),
        ("offsets reset labels --to-offset 0 --topic trend.predictions --partition 9", "none with number 9"),
        ("dlq list --topic order", "--topic 'order': letters come from orders, behaviors"),
        ("dlq redrive orders/9/9", "no dead letter 'orders/9/9' like that; `trendstream dlq list --each` lists them"),
        ("dlq show orders/9/9", "no dead letter 'orders/9/9'; `trendstream dlq list --each` lists them"),
        ("heads show e1", "no head 'e1'; `trendstream heads list` shows them"),
        ("heads list --model n0", "--model 'n0': model.heads holds no head of it"),
        ("heads promote --file pyproject.toml", "--file pyproject.toml is no head: "),
        ("explain p1", "'p1' is no score id; one looks like shop:p1@"),
        ("explain shop:p1", "shop:p1 is a product: say of which day, with --on DATE"),
        ("explain shop:p1 --on tuesday", "--on 'tuesday' is no date; write it as 2017-04-01"),
        ("explain other:p1 --on 2026-01-01", "TRENDSTREAM_PLATFORMS names: shop"),
    ],
)
def test_a_wrong_argument_is_taken_or_not_named_with_a_way_out(
    arguments: str, part: str, kafka: TestBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    kafka.create_topics()
    assert run([*arguments.split(), "--bootstrap", kafka.bootstrap]) == 2
    said = capsys.readouterr().err
    assert said.startswith("trendstream: ")
    assert part in said
    assert said.count("\n") == 1
