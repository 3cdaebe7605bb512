"""The encoder stages: rows in order, nothing computed twice, what is bad buried with its reason."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featurizers.encoding import ImageConfig, ImageStage, TextConfig, TextStage, VectorCache
from featurizers.errors import EncodingError
from featurizers.projection import Floats, random_projection
from streams.codecs import decode, decode_json, encode
from streams.errors import CodecError
from streams.records import Modality
from streams.records.inside import PICTURES, TEXTS
from streams.records.outside import DeadLetter
from streams.stage import Message, Output


class LetterEncoder:
    """A text model whose vector counts letters; remembers what it was asked."""

    name = "letters@1"
    dimensions = 26

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Floats:
        self.asked += texts
        return np.array([[1 + t.count(chr(97 + i)) for i in range(26)] for t in texts], np.float32).reshape(-1, 26)


class ColourEncoder:
    """A picture model whose vector is the mean colour."""

    name = "colour@1"
    dimensions = 3

    def __init__(self) -> None:
        self.asked = 0
        self.largest = 0

    def prepare(self, picture: Image.Image) -> Floats:
        return np.asarray(picture.resize((2, 2)), np.float32).transpose(2, 0, 1)

    def encode(self, pictures: Sequence[Floats]) -> Floats:
        self.asked += len(pictures)
        self.largest = max(self.largest, len(pictures))
        return np.stack(pictures).mean((2, 3))


def _texts(texts: Sequence[str], offset: int = 0, modality: int = Modality.TEXT, partition: int = 3) -> Message:
    count = len(texts)
    value = encode(
        TEXTS,
        {
            "product": [f"shop:{i % 3}" for i in range(count)],
            "modality": np.full(count, modality),
            "at": np.arange(count) + 100,
            "source": ["reviews"] * count,
            "source_partition": np.full(count, 1),
            "source_offset": np.arange(count) + 1_000,
            "text": list(texts),
        },
    )
    return Message("trend.reviews", partition, offset, 7, None, value)


def _pictures(rows: Sequence[tuple[bytes, str, str]]) -> Message:
    count = len(rows)
    value = encode(
        PICTURES,
        {
            "product": [f"shop:{i}" for i in range(count)],
            "at": np.arange(count),
            "source": ["images"] * count,
            "source_partition": np.full(count, 2),
            "source_offset": np.arange(count),
            "image_id": [str(i) for i in range(count)],
            "content_type": [kind for _, _, kind in rows],
            "content": [content for content, _, _ in rows],
            "uri": [uri for _, uri, _ in rows],
        },
    )
    return Message("trend.images", 3, 0, 7, None, value)


def _text_stage(encoder: LetterEncoder, cache: int = 100, **config: Any) -> TextStage:
    return TextStage(encoder, random_projection(26), VectorCache(cache), TextConfig(**config))


def _image_stage(encoder: ColourEncoder, **config: Any) -> ImageStage:
    def seal(identifier: str, original: bytes) -> str:
        return f"{identifier}={original.decode(errors='replace')}"

    return ImageStage(encoder, random_projection(3), VectorCache(100), seal, ImageConfig(**config))


def _png(shade: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 10, 200)).save(sink, "PNG")
    return sink.getvalue()


def _events(outputs: Sequence[Output]) -> list[Any]:
    return [decode(o.value or b"") for o in outputs if o.topic == "trend.events"]


def _letters(outputs: Sequence[Output]) -> list[DeadLetter]:
    return [decode_json(o.value or b"", DeadLetter) for o in outputs if o.topic == "trend.dlq"]


WORDS = st.lists(st.text(alphabet="abcxyz", max_size=3), min_size=1, max_size=12)


@settings(max_examples=40)
@given(first=WORDS, second=WORDS, cache=st.integers(0, 4))
def test_company_or_cache_changes_a_rows_vector_or_its_place(first: list[str], second: list[str], cache: int) -> None:
    together = _text_stage(LetterEncoder(), cache).fold([_texts(first, 0), _texts(second, 1)])
    stage = _text_stage(LetterEncoder(), cache)
    apart = stage.fold([_texts(first, 0)]) + stage.fold([_texts(second, 1)])
    for texts, whole, part in zip((first, second), _events(together), _events(apart), strict=True):
        expected = random_projection(26).apply(LetterEncoder().encode(texts))
        for rows in (whole, part):
            assert np.allclose(rows["vector"], expected, atol=1e-6)
            assert rows["source_offset"].tolist() == [1_000 + i for i in range(len(texts))]
    assert stage.counters()["rows"] == len(first) + len(second)


def test_a_row_loses_where_it_comes_from_or_what_it_is() -> None:
    outputs = _text_stage(LetterEncoder()).fold([_texts(["a", "b"], modality=Modality.TITLE)])
    assert [(o.topic, o.partition) for o in outputs] == [("trend.events", 3)]
    rows = _events(outputs)[0]
    assert rows["modality"].tolist() == [Modality.TITLE] * 2
    assert rows["product"].tolist() == ["shop:0", "shop:1"]
    assert rows["at"].tolist() == [100, 101]
    assert (rows["source"][0], rows["source_partition"][0]) == ("reviews", 1)
    assert set(rows["encoder"]) == {"letters@1/random-64-1"}


def test_a_text_is_encoded_twice() -> None:
    encoder = LetterEncoder()
    stage = _text_stage(encoder)
    stage.fold([_texts(["same", "same", "other"])])
    stage.fold([_texts(["other", "new"])])
    assert encoder.asked == ["same", "other", "new"]
    assert stage.counters() == {"rows": 5, "cached": 2, "dead": 0}


def test_the_cache_grows_without_bound_or_forgets_the_newest() -> None:
    cache = VectorCache(2)
    for key in (b"a", b"b"):
        cache.put(key, np.zeros(64, np.float32))
    assert cache.get(b"a") is not None
    cache.put(b"c", np.zeros(64, np.float32))
    assert len(cache) == 2
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_a_record_is_larger_than_allowed() -> None:
    texts = [word[i % 7 :] + word[: i % 23] for i, word in enumerate(["abcdefghijklmnopqrstuvwxyz"] * 300)]
    outputs = _text_stage(LetterEncoder(), max_bytes=20_000).fold([_texts(texts)])
    assert len(outputs) > 2
    assert all(len(o.value or b"") <= 20_000 for o in outputs)
    assert [x for rows in _events(outputs) for x in rows["source_offset"]] == list(range(1_000, 1_300))


def test_a_foreign_record_is_encoded() -> None:
    with pytest.raises(CodecError, match="texts are expected"):
        _text_stage(LetterEncoder()).fold([_pictures([(b"", "", "image/png")])])
    with pytest.raises(CodecError):
        _text_stage(LetterEncoder()).fold([Message("trend.reviews", 0, 0, 0, None, b"{}")])


def test_an_encoder_keeps_state() -> None:
    stage = _text_stage(LetterEncoder())
    stage.fold([_texts(["a"])])
    assert stage.snapshot() == {}
    stage.restore({})
    with pytest.raises(EncodingError, match="another stage's"):
        stage.restore({"x": b""})


def test_bad_pictures_harm_good_ones_or_are_buried_without_their_reason(tmp_path: Path) -> None:
    (tmp_path / "on-disk.png").write_bytes(_png(9))
    encoder = ColourEncoder()
    stage = _image_stage(encoder, base=str(tmp_path), batch_size=2)
    outputs = stage.fold(
        [
            _pictures(
                [
                    (_png(1), "", "image/png"),
                    (b"nonsense", "", "image/jpeg"),
                    (b"", "on-disk.png", "image/png"),
                    (b"", "../outside.png", "image/png"),
                    (_png(1), "", "image/png"),
                    (b"", "clip.mp4", "video/mp4"),
                    (b"", "", "image/png"),
                    (_png(3), "", "image/png"),
                ]
            )
        ]
    )
    rows = _events(outputs)[0]
    assert rows["source_offset"].tolist() == [0, 2, 4, 7]
    assert rows["modality"].tolist() == [Modality.IMAGE] * 4
    assert np.array_equal(rows["vector"][0], rows["vector"][2])
    letters = _letters(outputs)
    assert [(x.source.offset, x.reason) for x in letters] == [
        (1, "broken-picture"),
        (3, "uri-not-allowed"),
        (6, "empty-picture"),
    ]
    assert letters[0].dead_letter_id == "images/2/1"
    assert letters[0].sealed == "images/2/1=nonsense"
    assert letters[1].sealed == "images/2/3=../outside.png"
    assert letters[0].record_time == 7
    assert {(o.partition, o.key) for o in outputs if o.topic == "trend.dlq"} == {
        (3, f"images/2/{i}".encode()) for i in (1, 3, 6)
    }
    dead = {"dead.broken-picture": 1, "dead.uri-not-allowed": 1, "dead.empty-picture": 1}
    assert stage.counters() == {"rows": 8, "cached": 1, "dead": 3, **dead, "videos": 1}
    assert encoder.largest <= 2, "more pictures than a micro-batch are held at a time"


def test_a_batch_of_bad_pictures_alone_leaves_an_empty_record() -> None:
    outputs = _image_stage(ColourEncoder()).fold([_pictures([(b"x", "", "image/png")])])
    assert [o.topic for o in outputs] == ["trend.dlq"]


def test_a_picture_is_encoded_twice() -> None:
    encoder = ColourEncoder()
    stage = _image_stage(encoder)
    for _ in range(2):
        stage.fold([_pictures([(_png(1), "", "image/png"), (_png(2), "", "image/png")])])
    assert encoder.asked == 2
