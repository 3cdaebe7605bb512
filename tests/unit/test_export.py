"""Exports: smaller, near to their network, the same after loading, and refused where they are not near."""

from __future__ import annotations

import enum
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from deploy.exporting import export_bundle
from featurizers.device import quiet_torchao
from model.errors import ExportError
from model.export import Export, difference, lowered, probe_of
from model.features import extract
from model.network import Batch, NetworkConfig
from model.registry import WEIGHTS, Bundle, load_bundle, save_bundle
from streams.codecs import decode, encode
from streams.records.inside import WINDOWS
from tests.unit.synthetic_windows import lively_bundle, small_windows

FEATURES = extract(decode(encode(WINDOWS, small_windows(64))))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = lively_bundle(config=NetworkConfig("transformer"))
    return replace(made, probe=probe_of(made.network, FEATURES), trained_until=5)


# `compiled` takes a compiler and a minute; docs/benchmarks.md says how far it was off.
@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_an_export_would_be_large_or_far_from_its_network(bundle: Bundle, tmp_path: Path, kind: str) -> None:
    path = save_bundle(bundle, tmp_path)
    made, where = export_bundle(path, kind, 0.05, tmp_path / "exports")
    assert 0 < difference(made.network, bundle.probe) < 0.05  # type: ignore[arg-type]
    assert (where / WEIGHTS).stat().st_size < 0.6 * (path / WEIGHTS).stat().st_size
    assert made.version != bundle.version
    assert made.export == Export(kind, bundle.version, 0.05)
    assert load_bundle(where).version == made.version
    with torch.inference_mode():
        rows = np.random.default_rng(0).permutation(64)
        one = made.network(Batch.of(FEATURES, torch.device("cpu"))).f[torch.from_numpy(rows)]
        other = made.network(Batch.of(FEATURES.take(rows), torch.device("cpu"))).f
    assert torch.equal(one, other), "a row does not depend on its place"


def test_inference_would_run_an_export_that_does_not_say_what_its_network_says(bundle: Bundle, tmp_path: Path) -> None:
    path = save_bundle(bundle, tmp_path)
    with pytest.raises(ExportError, match="export with a higher tolerance"):
        export_bundle(path, "bf16", 1e-6, tmp_path / "exports")
    assert not (tmp_path / "exports").exists()
    other = lively_bundle(99, NetworkConfig("transformer"))  # an export of something else than it says
    foreign = replace(bundle, network=lowered(other.network, "bf16"), export=Export("bf16", bundle.version, 0.05))
    where = save_bundle(foreign, tmp_path / "exports")
    with pytest.raises(ExportError, match=f"the bf16 export of {bundle.version}, differs from it"):
        load_bundle(where)
    (where / "probe.safetensors").unlink()
    with pytest.raises(ExportError, match=r"export .* again"):
        load_bundle(where)


def test_compiled_code_would_have_the_version_of_its_network(bundle: Bundle) -> None:
    export = Export("compiled", bundle.version, 0.05)
    assert replace(bundle, network=lowered(bundle.network, "compiled"), export=export).version != bundle.version


def test_an_export_could_be_exported_or_made_of_nothing(bundle: Bundle, tmp_path: Path) -> None:
    _, where = export_bundle(save_bundle(bundle, tmp_path), "bf16", 0.05, tmp_path / "exports")
    with pytest.raises(ExportError, match="is an export itself"):
        export_bundle(where, "bf16", 0.05, tmp_path / "exports")
    with pytest.raises(ExportError, match="no windows to compare"):
        export_bundle(save_bundle(replace(bundle, probe=None), tmp_path / "other"), "bf16", 0.05, tmp_path)
    with pytest.raises(ExportError, match="take one of bf16, int8, compiled"):
        lowered(bundle.network, "int3")


def test_int8_without_torchao_would_not_say_what_to_install(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ExportError, match=r"install trendstream\[export\]"):
        lowered(bundle.network, "int8")


def test_torchaos_enums_would_fill_the_log_or_torch_could_say_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    quiet_torchao()
    with caplog.at_level(logging.WARNING):
        pytree.register_constant(Colour)
        logging.getLogger(pytree.__name__).warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]
