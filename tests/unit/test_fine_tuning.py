"""Fine-tuning: that each method learns what labels say, that chance teaches nothing, and what becomes of its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deploy.cli import run
from deploy.errors import SourceError
from deploy.fine_tuning import Encoder, fine_tune, split
from deploy.samples import Sample, read_sample
from featurizers.augmentation import Augmentation
from featurizers.encoding import ImageConfig, TextConfig
from featurizers.finetuning import Method, TuningConfig
from featurizers.image import ImageEncoder
from featurizers.text import TextEncoder, packaged_model
from streams.calendars import DAY

GOOD, BAD = ("lovely", "superb", "great"), ("broken", "awful", "poor")
THINGS = ("lamp", "chair", "kettle", "clock", "jacket")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small transformer without any training, with the packaged tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(packaged_model()), local_files_only=True).save_pretrained(folder)
    return str(folder)


def reviews(n: int = 500, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    good = rng.random(n) < 0.5
    words = [rng.choice(GOOD if g else BAD) for g in good]
    texts = [f"this {rng.choice(THINGS)} is {word} number {rng.integers(99)}" for word in words]
    products = [f"p{i}" for i in rng.integers(0, 100, n)]
    return Sample(texts, ["praise" if g else "blame" for g in good], products, rng.integers(1, 100, n) * DAY)


@pytest.mark.parametrize("method", get_args(Method))
def test_each_method_tells_what_its_labels_say_and_lies_in_a_folder_that_loads(
    method: Method, tiny: str, tmp_path: Path
) -> None:
    sample = reviews()
    config = TuningConfig(method=method, epochs=3, learning_rate=3e-3 if method == "full" else 1e-2)
    outcome = fine_tune("text", sample, tmp_path / "tuned", config, model=tiny)
    assert outcome.after > 0.9
    assert outcome.permuted <= outcome.after + 0.03
    checks = [losses["check"] for losses in outcome.losses]
    assert min(checks) < checks[0] - 0.03
    loaded = TextEncoder(TextConfig(model=str(tmp_path / "tuned")))
    assert loaded.name == outcome.encoder
    assert loaded.name.rpartition("@")[2] != outcome.base.rpartition("@")[2]  # another version: never pooled with it
    vectors = loaded.encode(sample.items[:4])
    again = TextEncoder(TextConfig(model=str(tmp_path / "tuned"))).encode(sample.items[:4])
    np.testing.assert_array_equal(vectors, again)
    assert json.loads((tmp_path / "tuned" / "report.json").read_text())["after"] == outcome.after


def test_parts_of_a_sample_share_no_product_and_no_time() -> None:
    sample = reviews()
    rows = split(sample)
    products = [{sample.products[i] for i in part} for part in rows]
    assert not products[0] & products[1]
    assert not products[0] & products[2]
    assert not products[1] & products[2]
    assert sample.at[rows[0]].max() <= sample.at[rows[1]].min()
    assert sample.at[rows[1]].max() <= sample.at[rows[2]].min()
    with pytest.raises(SourceError, match="leave"):
        split(reviews(60))


@pytest.mark.parametrize("method", ["lora", "adapter"])
def test_a_convnet_learns_a_colour_and_keeps_what_it_learnt(method: Method, tmp_path: Path) -> None:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    base = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    save_for_hf(base, str(tmp_path / "base"), model_args={"num_classes": 0}, safe_serialization=True)
    rng = np.random.default_rng(0)
    for i in range(200):
        label = ("red", "blue")[i % 2]
        colour = rng.integers(0, 80, (12, 12, 3)).astype(np.uint8)
        colour[:, :, 0 if label == "red" else 2] += 60
        (tmp_path / "pictures" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(colour).save(tmp_path / "pictures" / label / f"{i}.png")
    sample = read_sample("image", tmp_path / "pictures", "category")
    config = TuningConfig(method=method, epochs=2)
    outcome = fine_tune("image", sample, tmp_path / "tuned", config, model=str(tmp_path / "base"))
    assert outcome.losses[-1]["check"] < outcome.losses[0]["check"]
    loaded = ImageEncoder(ImageConfig(model=str(tmp_path / "tuned")))
    assert loaded.name == outcome.encoder
    assert loaded.name.rpartition("@")[2] != outcome.base.rpartition("@")[2]


@given(st.text(), st.integers(0, 9))
def test_a_text_would_lose_all_of_its_words_or_win_some(text: str, seed: int) -> None:
    words = Augmentation(dropped_words=0.5).text(text, np.random.default_rng(seed)).split()
    left = iter(text.split())
    assert all(word in left for word in words), "in their order"
    assert bool(words) == bool(text.split())


def test_a_picture_would_be_scrambled_or_stay_where_it_is() -> None:
    picture = np.arange(3 * 20 * 30, dtype=np.float32).reshape(3, 20, 30)
    changed = [Augmentation(moved=0.2).picture(picture, np.random.default_rng(seed)) for seed in range(20)]
    assert len({each.tobytes() for each in changed}) > 15
    for each in changed:
        rows, columns = np.unravel_index(each[0].astype(int), (20, 30))
        assert (np.diff(rows, axis=0) >= 0).all()
        assert np.abs(np.diff(columns, axis=1)).max() <= 1
        assert set(np.unique(each[1] - each[0])) == {600.0}, "colours come apart"
    assert sum(each[0, 10, 20] < each[0, 10, 10] for each in changed) in range(4, 17), "some are mirrored"


def test_what_is_judged_would_be_changed_as_what_is_learnt_from(tiny: str) -> None:
    sample = reviews(40)
    encoder = Encoder("text", tiny, sample, how=Augmentation(dropped_words=0.5))
    rows = np.arange(8)
    with torch.no_grad():
        plain, changed = encoder.forward(rows), encoder.forward(rows, np.random.default_rng(0))
    np.testing.assert_allclose(plain.numpy(), encoder.vectors(rows), atol=1e-6)
    assert not np.allclose(plain, changed, atol=1e-3)


def test_a_trend_is_what_the_category_sold_in_the_week_after_against_the_week_before(tmp_path: Path) -> None:
    start = 1_704_067_200_000  # 2024-01-01
    write = {
        "products.ndjson": [{"product_id": "a", "category": ["fruit", "apples"]}],
        "orders.ndjson": [
            {"ordered_at": start + day * DAY, "status": "placed", "lines": [{"product_id": "a", "quantity": quantity}]}
            for day, quantity in enumerate([1] * 10 + [4] * 10)
        ],
        "reviews.ndjson": [
            {"product_id": "a", "text": "one", "rating": 5, "written_at": start + 9 * DAY},
            {"product_id": "a", "text": "too early", "rating": 5, "written_at": start},
            {"product_id": "a", "text": "too late", "rating": 5, "written_at": start + 19 * DAY},
        ],
    }
    for name, lines in write.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (trend,) = read_sample("text", tmp_path / "reviews.ndjson", "trend").labels
    assert trend == pytest.approx(np.log2(28.5 / 7.5))
    assert read_sample("text", tmp_path / "reviews.ndjson", "trend-class").labels == ["rising"]
    (week,) = read_sample("text", tmp_path / "reviews.ndjson", "trend-week").labels
    assert week == pytest.approx([np.log2(4.5 / 1.5)] * 7)
    with pytest.raises(SourceError, match="no text with a 'mood'"):
        read_sample("text", tmp_path / "reviews.ndjson", "mood")


def test_a_wrong_method_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.ndjson").write_text("{}\n")
    arguments = ["fine-tune", "text", str(tmp_path / "s.ndjson"), "--out", str(tmp_path / "out"), "--method", "magic"]
    assert run(arguments) == 2
    assert "is not one of 'full', 'lora', 'adalora', 'adapter'" in capsys.readouterr().err
