"""Explanations: that the parts of a score add up to it, and that each is due to what its name says."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.errors import ModelError
from model.explain import BASELINE, HEAD, INPUTS, PRODUCT, TODAY, effects, explain, shapley
from model.features import extract
from model.heads import HeadStore, frozen_head
from model.registry import Bundle
from model.scoring import InferenceConfig, InferenceStage
from streams.codecs import Rows, decode, decode_json, encode, encode_json
from streams.records import VECTOR, Modality
from streams.records.inside import WINDOWS
from streams.records.outside import Head, Score
from streams.stage import Message
from tests.unit.synthetic_windows import ALL, lively_bundle, made_live, message, small_windows


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return lively_bundle()


@pytest.fixture(scope="module")
def head(bundle: Bundle) -> Head:
    rng = np.random.default_rng(2)
    frozen = frozen_head(bundle.version, bundle.dispersion, bundle.categories)
    theta = rng.normal(size=np.shape(frozen.theta)) * 0.1
    covariance = np.array(frozen.covariance) + np.eye(theta.shape[1]) * 1e-3
    version = f"{bundle.version}-e1000"
    return msgspec.structs.replace(
        frozen, version=version, epoch=1000, theta=theta.tolist(), covariance=covariance.tolist()
    )


def window(columns: dict[str, Any], row: int = 0) -> Rows:
    rows = decode(encode(WINDOWS, columns))
    return Rows(rows.record, rows.batch.take([row]))


def published(bundle: Bundle, head: Head, columns: dict[str, Any]) -> list[Score]:
    store = HeadStore(bundle.version)
    store.put(Message("model.heads", 0, 0, 0, None, encode_json(head)))
    columns = {**columns, "epoch": np.full(len(columns["product"]), head.epoch)}
    stage = InferenceStage(("trend.windows", 1), InferenceConfig(), bundle, store)
    outputs = stage.fold([message(encode(WINDOWS, columns))])
    return [decode_json(o.value or b"", Score) for o in outputs if o.topic == "trend.scores"]


@pytest.mark.parametrize("live", [False, True])
def test_the_parts_of_a_score_add_up_to_what_was_published(bundle: Bundle, head: Head, live: bool) -> None:
    columns = small_windows(3, seed=4)
    columns = made_live(columns, hours=15, open_units=9) if live else columns
    for row, score in enumerate(published(bundle, head, columns)):
        explanation = explain(window(columns, row), bundle, head)
        total = sum(explanation.parts.values())
        np.testing.assert_allclose(total, explanation.log_mean, rtol=0, atol=1e-12)
        expected = [horizon.expected for horizon in score.horizons]
        np.testing.assert_allclose(np.exp(explanation.log_mean), expected, rtol=5e-6)  # six digits are published
        assert (TODAY in explanation.parts) == live


def test_what_a_window_does_not_have_has_no_part_in_its_score(bundle: Bundle, head: Head) -> None:
    mask = ALL & ~(1 << Modality.TEXT) & ~(1 << Modality.BEHAVIOR)
    parts = explain(window(small_windows(1, mask=mask)), bundle, head).parts
    assert {BASELINE, PRODUCT, HEAD, "sales", "calendar", "promotions", "image", "title", "catalogue", "level"} == set(
        parts
    )


def test_without_a_learnt_correction_the_heads_part_is_zero(bundle: Bundle, head: Head) -> None:
    frozen = frozen_head(bundle.version, bundle.dispersion, bundle.categories)
    assert not explain(window(small_windows(1)), bundle, frozen).parts[HEAD].any()
    assert explain(window(small_windows(1)), bundle, head).parts[HEAD].all()


@pytest.mark.parametrize("modality", [Modality.TEXT, Modality.IMAGE, Modality.TITLE])
def test_a_part_is_due_to_its_own_modality_alone(head: Head, modality: Modality) -> None:
    bundle = lively_bundle()
    place = {Modality.TEXT: 0, Modality.IMAGE: 1, Modality.TITLE: 2}[modality]
    with torch.no_grad():  # a network that reads this modality and nothing else
        for member in bundle.network.members:
            for i, layer in enumerate(member.vectors):
                if i != place:
                    layer[1].weight.zero_()
                    layer[1].bias.zero_()
            for name in ("age", "missing", "there"):
                getattr(member, name).zero_()
            for layer in (member.catalogue, member.level):
                layer.weight.zero_()
                layer.bias.zero_()
            member.trunk.weight.zero_()
        bundle.network.components_matrix.zero_()
    frozen = frozen_head(bundle.version, bundle.dispersion, bundle.categories)
    parts = explain(window(small_windows(1)), bundle, frozen).parts
    shares = {name: float(np.abs(parts[name]).max()) for name in INPUTS if name in parts}
    assert shares.pop(modality.name.lower()) > 1e-3
    assert max(shares.values()) < 1e-6


def test_a_review_that_moves_the_score_is_named_before_one_that_does_not(bundle: Bundle, head: Head) -> None:
    columns = small_windows(1)
    row = window(columns)
    part = explain(row, bundle, head).parts["text"]
    pooled = extract(row).vectors[0, 0]
    found = effects(row, bundle, head, Modality.TEXT, np.stack([pooled, np.zeros(VECTOR, np.float32), -pooled]))
    assert found.shape == (3, 3)
    alone = explain(window(small_windows(1, mask=ALL & ~(1 << Modality.TEXT))), bundle, head).log_mean
    whole = explain(row, bundle, head).log_mean
    np.testing.assert_allclose(found[0], whole - alone, atol=1e-6)
    assert np.sign(found[0, 2]) == np.sign(part[2])
    assert len(np.unique(found[:, 2])) == 3


def test_two_windows_or_a_foreign_head_are_refused(bundle: Bundle, head: Head) -> None:
    with pytest.raises(ModelError, match="one window at a time, not 2"):
        explain(decode(encode(WINDOWS, small_windows(2))), bundle, head)
    with pytest.raises(ModelError, match="belongs to network other"):
        explain(window(small_windows(1)), bundle, msgspec.structs.replace(head, model="other"))


@given(st.integers(1, 4), st.integers(0, 10_000))
def test_shapley_values_are_the_mean_gain_over_all_orders(players: int, seed: int) -> None:
    value = np.random.default_rng(seed).normal(size=(1 << players, 2))
    orders = list(permutations(range(players)))
    expected = np.zeros((players, 2))
    for order in orders:
        seen = 0
        for player in order:
            expected[player] += (value[seen | 1 << player] - value[seen]) / len(orders)
            seen |= 1 << player
    np.testing.assert_allclose(shapley(value), expected, atol=1e-12)
    np.testing.assert_allclose(shapley(value).sum(axis=0), value[-1] - value[0], atol=1e-12)
