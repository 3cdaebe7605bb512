"""Ingest beside bare decoding: a ratio that noise on the machine does not move much."""

from __future__ import annotations

from tests.bench.ingest import measure


def test_ingest_costs_no_more_than_some_decodings_of_its_orders() -> None:
    found = measure(20_000)["ingest"]
    assert found["of_decoding"] > 0.1, f"one by one it was 0.07: {found}"
