from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.cli import run
from deploy.errors import ConfigurationError, SourceError
from deploy.sources.files import FilesSource, read_instant


def order(number: int, at: Any, **more: Any) -> bytes:
    return json.dumps({"platform": "shop", "order_id": f"o{number}", "ordered_at": at, **more}).encode()


def write(folder: Path, name: str, lines: list[bytes], end: bytes = b"\n") -> None:
    data = b"".join(line + end for line in lines)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def test_lines_reach_the_topic_byte_for_byte_in_the_order_of_their_time(tmp_path: Path) -> None:
    orders = [order(1, 1000), order(2, "1970-01-01T00:00:03Z"), order(3, 5000)]
    review = b'{"platform": "shop",  "product_id": "p1", "written_at": 3500}'
    write(tmp_path, "orders.ndjson", orders)
    write(tmp_path, "reviews.ndjson.gz", [review])
    write(tmp_path, "levels.ndjson", [b'{"platform":"other","product_id":"p1","updated_at":1000}'])
    source = FilesSource(tmp_path)
    events = list(source)
    assert [(e.topic, e.key, e.at) for e in events] == [
        ("inventory.levels", "p1", 1000),
        ("orders", "o1", 1000),
        ("orders", "o2", 3000),
        ("reviews", "p1", 3500),
        ("orders", "o3", 5000),
    ]
    assert [e.value for e in events if e.topic == "orders"] == orders
    assert events[3].value == review
    assert source.estimate == 5
    assert source.platform == "other, shop"
    assert source.pictures == tmp_path.resolve()
    assert list(source) == events


@pytest.mark.parametrize("name", ["orders.ndjson", "orders.ndjson.gz"])
def test_a_file_out_of_order_is_sorted_and_says_so(tmp_path: Path, name: str) -> None:
    lines = [order(1, 3000), order(2, 1000), order(3, 2000), order(4, 3000)]
    write(tmp_path, name, lines, end=b"\r\n")
    source = FilesSource(tmp_path)
    assert [e.key for e in source] == ["o2", "o3", "o1", "o4"]
    assert [e.value for e in source] == [lines[1], lines[2], lines[0], lines[3]]
    assert source.warnings == [f"{name}: 2 of 4 lines come after a later one; they are sorted by their time"]


def test_what_cannot_be_read_is_handed_on_after_the_line_before_it(tmp_path: Path) -> None:
    bad = [b"{broken", b"[1, 2]", b'{"ordered_at": true}', b'{"order_id": 7, "ordered_at": "yesterday"}', b"\xff\xfe"]
    write(tmp_path, "orders.ndjson", [order(1, 1000), *bad, order(2, 2000)])
    events = list(FilesSource(tmp_path))
    assert [e.value for e in events[1:-1]] == bad
    assert [e.at for e in events] == [1000] * 6 + [2000]
    assert {e.key for e in events[1:-1]} == {""}


def test_a_cancellation_is_played_when_it_happened_and_not_when_it_was_ordered(tmp_path: Path) -> None:
    cancelled = order(1, 1000, status="cancelled", status_at=9000)
    write(tmp_path, "orders.ndjson", [order(1, 1000), order(2, 2000), cancelled])
    assert [e.at for e in FilesSource(tmp_path)] == [1000, 2000, 9000]


def test_a_folder_without_events_is_a_wrong_argument(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError, match=r"holds no events; it needs at least one of products\.ndjson"):
        FilesSource(tmp_path)
    with pytest.raises(ConfigurationError, match="is not a folder"):
        FilesSource(tmp_path / "missing")
    assert run(["load", "files", str(tmp_path / "missing")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "orders.ndjson.gz").write_bytes(gzip.compress(order(1, 1000) * 500)[:-20])
    with pytest.raises(SourceError, match=r"orders\.ndjson\.gz cannot be read"):
        FilesSource(tmp_path)


def test_the_same_file_packed_and_unpacked_is_not_played_twice(tmp_path: Path) -> None:
    for name in ("orders.ndjson", "orders.ndjson.gz"):
        write(tmp_path, name, [order(1, 1000)])
    with pytest.raises(SourceError, match="both"):
        FilesSource(tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_500_000_000_000, 1_500_000_000_000),
        ("2017-07-14T02:40:00Z", 1_500_000_000_000),
        ("2017-07-14T04:40:00.250+02:00", 1_500_000_000_250),
        ("2017-07-14T02:40:00", None),  # no offset
        ("14/07/2017", None),
        (True, None),
        (1.5e12, None),
        (-1, None),
        (10**18, None),
        (None, None),
    ],
)
def test_only_an_instant_is_read_as_an_instant(value: object, expected: int | None) -> None:
    assert read_instant(value) == expected


@settings(max_examples=40)
@given(times=st.lists(st.integers(0, 10**12), max_size=30))
def test_every_line_comes_once_and_time_never_runs_back(
    tmp_path_factory: pytest.TempPathFactory, times: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("files")
    lines = [order(i, at) for i, at in enumerate(times)]
    write(folder, "orders.ndjson", lines)
    events = list(FilesSource(folder))
    assert sorted(e.value for e in events) == sorted(lines)
    assert [e.at for e in events] == sorted(times)
