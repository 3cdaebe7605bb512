"""Comparing encoders: the figures of the table, and advice that follows from it and from nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.cli import run
from deploy.comparison import UNTRAINED, Candidate, advice, measure
from deploy.samples import Kind, Sample, read_sample
from featurizers.errors import EncoderError
from featurizers.probing import Targets, chance, cross_validated, quality, read_off
from tests.unit.test_fine_tuning import reviews

GOOD = Candidate("good", items_per_second=10.0, quality=0.9, error=0.01)
AS_GOOD = Candidate("as good", items_per_second=100.0, quality=0.89, error=0.01)
WORSE = Candidate("worse", items_per_second=1_000.0, quality=0.7, error=0.01)


def test_advice_is_the_fastest_of_those_that_are_as_good_as_the_best() -> None:
    sample = reviews()
    assert advice([GOOD, AS_GOOD, WORSE], sample).startswith("take as good: as good as good within the error, and 10.0")
    assert advice([GOOD, WORSE], sample).startswith("take good: the best")
    lucky = Candidate("untrained:bert", items_per_second=1e6, quality=0.99)
    assert advice([GOOD, lucky], sample).startswith("take good")
    assert "frequencies" in advice([replace(GOOD, quality=0.51)], sample)
    assert "none" in advice([Candidate("gone", note="not here")], sample)


def test_word_pieces_alone_tell_praise_from_blame_and_a_missing_model_is_a_row_of_the_table() -> None:
    found = measure("text", "static", reviews(200))
    assert found.quality is not None
    assert found.quality > 0.95
    assert found.items_per_second > 0
    gone = measure("text", "./nowhere", reviews(60))
    assert gone.quality is None
    assert "no such folder" in gone.note


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Red and blue ones, in folders of these names."""
    for i in range(60):
        label = ("red", "blue")[i % 2]
        (tmp_path / label).mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (150 + i, i, 20) if label == "red" else (20, i, 150 + i)).save(
            tmp_path / label / f"{i}.png"
        )
    return tmp_path


@pytest.mark.parametrize(("kind", "architecture"), [("text", "electra"), ("image", "test_resnet")])
def test_an_untrained_architecture_would_not_be_measured_or_would_pass_for_a_trained_one(
    kind: Kind, architecture: str, pictures: Path
) -> None:
    sample = read_sample("image", pictures, "category") if kind == "image" else reviews(60)
    found = measure(kind, f"{UNTRAINED}{architecture}", sample)
    assert found.quality is not None
    assert found.dimensions > 0
    assert found.parameters > 100_000
    assert found.items_per_second > 0
    assert "random weights" in found.note
    assert advice([found], sample).startswith("none of them")
    gone = measure(kind, f"{UNTRAINED}nothing", sample)
    assert gone.quality is None
    assert "no architecture 'nothing'" in gone.note


def test_products_that_a_probe_is_judged_on_are_none_that_it_has_learnt_from() -> None:
    # Vectors that only name the product: its label can be remembered, and not be told for others.
    rng = np.random.default_rng(0)
    products = [f"p{i % 40}" for i in range(400)]
    vectors = np.eye(40, dtype=np.float32)[[i % 40 for i in range(400)]]
    labels = [("a", "b")[int(v)] for v in rng.random(40) < 0.5]
    targets = Targets.of([labels[i % 40] for i in range(400)])
    assert quality(read_off(vectors, targets, vectors), targets) == 1.0
    assert cross_validated(vectors, targets, products)[0] < 0.75
    assert chance(targets) >= 0.5
    with pytest.raises(EncoderError, match="mixture"):
        Targets.of(["a", 1.0])


def test_the_command_prints_a_table_and_what_follows_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample: Sample = reviews(120)
    lines = [{"text": text, "rating": label, "product_id": product}
             for text, label, product in zip(sample.items, sample.labels, sample.products, strict=True)]  # fmt: skip
    (tmp_path / "reviews.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["encoders", "compare", "text", str(tmp_path / "reviews.ndjson"), "--encoder", "static"]
    assert run(arguments) == 0
    assert "take static" in capsys.readouterr().out
    assert run(["encoders", "compare", "sound", str(tmp_path / "reviews.ndjson")]) == 2


def test_the_command_would_advise_random_weights_that_tell_pictures_apart(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encoders", "compare", "image", str(pictures), "--encoder", "untrained:test_resnet"]) == 0
    said = capsys.readouterr().out
    assert "untrained:test_resnet" in said
    assert "right ± error" in said
    assert "none of them could be judged" in said
