"""Bundles: what is loaded is what was saved, or an error that says what to do."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.errors import ConfigurationError
from deploy.pipeline import inference_spec
from deploy.settings import load_settings
from model.errors import RegistryError
from model.network import NetworkConfig
from model.registry import load_bundle, newest, save_bundle, untrained_bundle
from tests.unit.synthetic_windows import lively_bundle

SMALL = NetworkConfig(width=16, hidden=32)


def test_a_loaded_bundle_would_differ_from_the_saved_one(tmp_path: Path) -> None:
    bundle = replace(lively_bundle(config=SMALL), encoders={"text": "t1"}, trained_until=77, report={"rows": 3})
    path = save_bundle(bundle, tmp_path)
    loaded = load_bundle(path)
    assert path.name == loaded.version == bundle.version
    assert bundle.version[0] == "n"
    assert len(bundle.version) == 11
    pairs = zip(bundle.network.state_dict().values(), loaded.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert np.array_equal(bundle.dispersion, loaded.dispersion)
    assert np.array_equal(bundle.hour_profile, loaded.hour_profile)
    assert (loaded.categories, loaded.encoders, loaded.report) == (bundle.categories, {"text": "t1"}, {"rows": 3})
    assert loaded.trained_until == 77
    assert not loaded.network.training
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    assert save_bundle(loaded, tmp_path) == path
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


def test_a_prediction_could_change_without_the_version() -> None:
    bundle = lively_bundle(config=SMALL)
    others = [
        lively_bundle(6, SMALL),
        replace(bundle, dispersion=bundle.dispersion + 1e-9),
        replace(bundle, hour_profile=np.full(24, 1 / 24)),
        replace(bundle, categories=("food > fruit", "food > bread")),
    ]
    assert len({b.version for b in [bundle, *others]}) == 5
    assert replace(bundle, report={"rows": 9}).version == bundle.version


def test_a_changed_or_broken_bundle_would_score(tmp_path: Path) -> None:
    path = save_bundle(untrained_bundle(config=SMALL), tmp_path)
    weights, manifest = path / "weights.safetensors", path / "manifest.json"
    good, text = weights.read_bytes(), manifest.read_text()

    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(RegistryError, match="changed after training"):
        load_bundle(path)
    weights.write_bytes(good[:100])
    with pytest.raises(RegistryError, match="no usable network"):
        load_bundle(path)
    weights.write_bytes(good)

    for change, reason in (
        ({"format": 3}, "format 3"),
        ({"config": {"width": 16, "breadth": 3}}, "no usable network"),
        ({"config": {"width": 32}}, "no usable network"),
        ({"dispersion": [[1.0]]}, "no usable network"),
        ({"hour_profile": "even"}, "no model bundle"),
    ):
        manifest.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(RegistryError, match=reason):
            load_bundle(path)
    manifest.unlink()
    with pytest.raises(RegistryError, match="trendstream train"):
        load_bundle(path)


def test_an_older_training_would_be_taken_for_the_newest(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None
    untrained = save_bundle(untrained_bundle(config=SMALL), tmp_path)
    assert newest(tmp_path) == untrained
    trained = [save_bundle(replace(lively_bundle(s, SMALL), trained_until=u), tmp_path) for s, u in ((1, 9), (2, 5))]
    assert newest(tmp_path) == trained[0], "saved later does not count against having seen more"
    again = save_bundle(replace(lively_bundle(3, SMALL), trained_until=9), tmp_path)
    os.utime(again / "manifest.json", ns=(2**61, 2**61))
    assert newest(tmp_path) == again
    (tmp_path / "n-unfinished").mkdir()
    assert newest(tmp_path) == again, "a save that did not end has no manifest"


def test_a_network_that_gives_no_units_would_be_deployed() -> None:
    bundle = untrained_bundle(config=NetworkConfig(task="classification"))
    with pytest.raises(ConfigurationError, match="gives no units"):
        inference_spec(load_settings(), bundle)
