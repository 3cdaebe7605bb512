"""Dead letters: the error is marked where it is, and no transform makes another event of one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import ConfigurationError
from deploy.redriving import load_transform
from streams.calendars import Platform
from streams.ingest.config import IngestConfig
from streams.ingest.letters import Checker, TransformError, span, transformed

ORDER = {
    "platform": "shop",
    "order_id": "o1",
    "buyer_id": "b",
    "ordered_at": 1_760_000_000_000,
    "currency": "EUR",
    "status": "placed",
    "lines": [{"product_id": "p", "quantity": 1, "unit_price": "1"}],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), inner),
    max_leaves=20,
)


def _paths(value: Any, path: str = "") -> list[tuple[str, Any]]:
    found = [(path, value)] if path else []
    if isinstance(value, dict):
        for name, each in value.items():
            found += _paths(each, f"{path}.{name}" if path else name)
    if isinstance(value, list):
        for index, each in enumerate(value):
            found += _paths(each, f"{path}[{index}]")
    return found


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_the_span_of_a_path_holds_the_value_that_lies_there(document: Any, indent: int | None, ascii_: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_)
    for path, value in _paths(document):
        found = span(text.encode(errors="surrogatepass"), f"{path}: expected another type")
        assert found is not None
        assert json.loads(text[slice(*found)]) == value


def test_a_missing_field_marks_its_object_and_broken_json_the_byte() -> None:
    text = '{"lines": [{"a": 1}, {"ä": 2}], "x": 3}'
    assert text[slice(*(span(text.encode(), "lines[1].quantity: missing; it is required") or ()))] == '{"ä": 2}'
    broken = '{"ä": tru, "b": 1}'
    message = "JSON is malformed: invalid character (byte 10); send one JSON object in UTF-8"
    assert broken[slice(*(span(broken.encode(), message) or ()))] == ","
    assert span(b"", "JSON is malformed (byte 0)") == (0, 0)
    assert span(text.encode(), "3 days before its source's watermark") is None
    assert span(text.encode(), "other.path: x") == (0, len(text))


def test_a_transform_must_leave_the_event_the_same_event() -> None:
    original = json.dumps(ORDER | {"event_id": "e"}).encode()
    assert transformed(original, None) == original
    assert transformed(original, lambda _: None) is None
    for field in ("event_id", "order_id", "platform"):
        with pytest.raises(TransformError, match=field):
            transformed(original, load_transform(f'.{field} = "other"'))
    with pytest.raises(TransformError, match="ZeroDivisionError"):
        transformed(original, lambda _: 1 / 0)
    with pytest.raises(TransformError, match="no JSON"):
        transformed(b"{", load_transform("."))
    assert transformed(b"{", lambda original: original + b"}") == b"{}"


def test_a_transform_is_a_function_or_a_jq_expression_and_anything_else_is_said() -> None:
    assert load_transform("json:loads") is json.loads
    assert load_transform(".a += 1")({"a": 1}) == {"a": 2}
    assert load_transform("empty")({"a": 1}) is None
    for wrong, part in (("no_such_module:f", "no_such_module"), ("json:nothing", "nothing"), (".[", "jq")):
        with pytest.raises(ConfigurationError, match=part):
            load_transform(wrong)


def test_the_check_is_that_of_ingest_and_knows_how_far_its_source_is() -> None:
    checker = Checker(IngestConfig(partitions=1, platforms={"shop": Platform("shop")}, secret=b"x" * 16))
    at = ORDER["ordered_at"]
    good = json.dumps(ORDER).encode()
    assert checker.check("orders", good, at, None) is None
    bad = json.dumps(ORDER | {"lines": []}).encode()
    assert (rejected := checker.check("orders", bad, at, None)) is not None
    assert rejected.reason.code == "missing-field"
    day = 86_400_000
    assert (late := checker.check("orders", good, at + 60 * day, at + 60 * day)) is not None
    assert late.reason.code == "too-late"
    assert checker.check("orders", good, at + 55 * day, at + 55 * day) is None
