"""docs/contracts/ is what `streams/records/` says, and says what ingest takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from streams import contracts
from streams.ingest.reasons import Reason
from streams.records.outside import JSON_RECORDS
from streams.records.platform import PLATFORM_RECORDS

EXAMPLES: dict[str, dict[str, Any]] = {
    "orders": {
        "event_id": "e1",
        "platform": "shop",
        "order_id": "o1",
        "buyer_id": "b1",
        "ordered_at": "2017-11-24T10:00:00-03:00",
        "currency": "BRL",
        "status": "cancelled",
        "status_at": 1511600000000,
        "region": "SP",
        "lines": [{"product_id": "p1", "quantity": 2, "unit_price": "19.90"}],
        "gift": True,
    },
    "behaviors": {
        "platform": "shop",
        "product_id": "p1",
        "user_id": "u1",
        "kind": "cart",
        "occurred_at": 1511600000000,
    },
    "reviews": {
        "platform": "shop",
        "product_id": "p1",
        "review_id": "r1",
        "buyer_id": "b1",
        "rating": 5,
        "text": "bom",
        "language": "pt",
        "written_at": "2017-11-24T10:00:00Z",
    },
    "images": {
        "platform": "shop",
        "product_id": "p1",
        "image_id": "i1",
        "kind": "image",
        "captured_at": 1511600000000,
        "content_type": "image/png",
        "uri": "photos/i1.png",
    },
    "products": {
        "platform": "shop",
        "product_id": "p1",
        "title": "Lamp",
        "category": ["home", "light"],
        "price": 19.9,
        "currency": "BRL",
        "attributes": {"watt": 5, "dimmable": False},
        "updated_at": 1511600000000,
    },
    "inventory.levels": {
        "platform": "shop",
        "product_id": "p1",
        "on_hand": 5,
        "on_order": 0,
        "lead_time_days": 2.5,
        "unit_cost": "7",
        "updated_at": 1511600000000,
    },
    "promotions": {
        "platform": "shop",
        "product_id": "p1",
        "kind": "price",
        "depth": 0.2,
        "starts_at": "2017-11-24T00:00:00-03:00",
        "ends_at": "2017-11-27T00:00:00-03:00",
        "announced_at": 1511300000000,
    },
}


def validator(topic: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((contracts.FOLDER / f"{topic}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schemas_are_what_the_records_say() -> None:
    assert contracts.drifted(contracts.FOLDER) == [], "run: python -m streams.contracts --write"


def test_a_drift_would_be_noticed_and_mended(tmp_path: Path) -> None:
    contracts.write(tmp_path)
    assert contracts.drifted(tmp_path) == []
    (tmp_path / "orders.schema.json").write_text("{}")
    (tmp_path / "gone.schema.json").write_text("{}")
    (tmp_path / "reviews.schema.json").unlink()
    assert contracts.drifted(tmp_path) == ["gone.schema.json", "orders.schema.json", "reviews.schema.json"]
    contracts.write(tmp_path)
    assert contracts.drifted(tmp_path) == []


@pytest.mark.parametrize("topic", PLATFORM_RECORDS)
def test_an_event_by_the_schema_is_one_that_the_code_takes(topic: str) -> None:
    validator(topic).validate(EXAMPLES[topic])
    msgspec.json.decode(msgspec.json.encode(EXAMPLES[topic]), type=PLATFORM_RECORDS[topic])


@pytest.mark.parametrize("topic", PLATFORM_RECORDS)
def test_an_event_without_a_required_field_breaks_the_schema(topic: str) -> None:
    record = PLATFORM_RECORDS[topic]
    for field in msgspec.structs.fields(record):
        if field.required:
            event = {k: v for k, v in EXAMPLES[topic].items() if k != field.name}
            assert not validator(topic).is_valid(event), field.name


@pytest.mark.parametrize(
    ("topic", "field", "value"),
    [
        ("orders", "status", "lost"),
        ("orders", "currency", "real"),
        ("orders", "lines", []),
        ("behaviors", "kind", "stare"),
        ("reviews", "rating", 6),
        ("images", "kind", "sound"),
        ("inventory.levels", "on_hand", "5"),
        ("promotions", "kind", "rumour"),
    ],
)
def test_a_wrong_value_breaks_the_schema(topic: str, field: str, value: object) -> None:
    assert not validator(topic).is_valid({**EXAMPLES[topic], field: value})


@pytest.mark.parametrize("topic", JSON_RECORDS)
def test_every_record_that_leaves_has_a_valid_schema(topic: str) -> None:
    assert not validator(topic).is_valid({})


def test_every_reason_code_is_explained_in_the_table() -> None:
    readme = (contracts.FOLDER / "README.md").read_text(encoding="utf-8")
    assert [r.code for r in Reason if f"| `{r.code}` | {r.help} |" not in readme] == []
