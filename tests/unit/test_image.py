"""The picture encoder with the packaged model, and what is let in to it."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featurizers.efficientnet import packaged_weights, read_weights, rename
from featurizers.encoding import ImageConfig
from featurizers.errors import EncoderError
from featurizers.image import ImageEncoder
from featurizers.pictures import FORMATS, PictureError, PictureReader, decode_picture


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return ImageEncoder(ImageConfig(batch_size=2))


def _picture(seed: int = 0, size: tuple[int, int] = (90, 60)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _bytes(picture: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


# The architecture written down a second time: kernel, stride and repeats of each stage.
STAGES = [(3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1)]


def _same(x: torch.Tensor, weight: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    """Convolution whose output is as large as its input over the stride, the odd pixel of padding right and below."""
    kernel, size = weight.shape[-1], x.shape[-1]
    pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    x = nn.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
    return nn.conv2d(x, weight, stride=stride, groups=groups)


def _reference_logits(x: torch.Tensor, weights: dict[str, torch.Tensor], used: set[str]) -> torch.Tensor:
    def get(name: str) -> torch.Tensor:
        used.add(name)
        return weights[name]

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        used.add(name + ".num_batches_tracked")
        scale = get(name + ".weight") / (get(name + ".running_var") + 1e-3).sqrt()
        shift = get(name + ".bias") - get(name + ".running_mean") * scale
        return y * scale[:, None, None] + shift[:, None, None]

    x = nn.relu6(norm(_same(x, get("_conv_stem.weight"), 2), "_bn0"))
    block = 0
    for kernel, first_stride, repeats in STAGES:
        for repeat in range(repeats):
            at, stride, before = f"_blocks.{block}.", first_stride if repeat == 0 else 1, x
            if block:
                x = nn.relu6(norm(_same(x, get(at + "_expand_conv.weight")), at + "_bn0"))
            depthwise = get(at + "_depthwise_conv.weight")
            assert depthwise.shape[-1] == kernel
            x = nn.relu6(norm(_same(x, depthwise, stride, groups=len(depthwise)), at + "_bn1"))
            x = norm(_same(x, get(at + "_project_conv.weight")), at + "_bn2")
            x = x + before if x.shape == before.shape else x
            block += 1
    x = nn.relu6(norm(_same(x, get("_conv_head.weight")), "_bn1")).mean((2, 3))
    return nn.linear(x, get("_fc.weight"), get("_fc.bias"))


def test_the_packaged_weights_land_in_the_wrong_places() -> None:
    import timm

    packaged = torch.load(packaged_weights(), weights_only=True)
    renamed = read_weights(packaged_weights())
    assert len(renamed) == len(packaged) == 296, "a name is used twice"
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(renamed, strict=True)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32))
    used: set[str] = set()
    with torch.inference_mode():
        expected, got = _reference_logits(x, packaged, used), model.eval()(x)
    assert used == set(packaged), "a weight has no part in the reference"
    assert torch.allclose(got, expected, atol=1e-3)
    assert got.std() > 0.1


def test_another_models_weights_are_taken() -> None:
    with pytest.raises(EncoderError, match="another model's"):
        rename({"layer1.0.conv1.weight": torch.zeros(1)})


def test_photos_of_clothes_are_not_seen_as_such(encoder: ImageEncoder, shared_data: Path) -> None:
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(read_weights(packaged_weights()), strict=True)
    # ImageNet's classes of what people put on feet and legs.
    plausible = {
        "shoes": {502, 514, 630, 770, 774, 788},  # clog, cowboy boot, loafer, running shoe, sandal, (other) shoe
        "pants": {608, 841, 697, 775, 610, 655, 842},  # jean, sweatshirt, pyjama, sarong, jersey, miniskirt, trunks
    }
    for category, classes in plausible.items():
        photos = sorted((shared_data / "photos" / category).glob("*.jpg"))[:8]
        x = np.stack([encoder.prepare(decode_picture(photo.read_bytes())) for photo in photos])
        with torch.inference_mode():
            best = model.eval()(torch.from_numpy(x)).topk(5).indices.tolist()
        hits = sum(bool(classes & set(row)) for row in best)
        assert hits > len(photos) / 2, (category, best)


def test_a_pictures_vector_depends_on_its_company(encoder: ImageEncoder) -> None:
    prepared = [encoder.prepare(_picture(seed)) for seed in range(5)]
    assert prepared[0].shape == (3, 224, 224)
    assert -1.001 <= prepared[0].min() < prepared[0].max() <= 1.001
    together = encoder.encode(prepared)
    assert together.shape == (5, 1280)
    assert np.allclose(together, np.concatenate([encoder.encode([p]) for p in prepared]), atol=1e-4)
    assert together.tobytes() == encoder.encode(prepared).tobytes()


def test_a_wrong_model_name_is_not_explained() -> None:
    with pytest.raises(EncoderError, match=r"did you mean .*tf_efficientnet_lite0"):
        ImageEncoder(ImageConfig(model="tf_eficientnet_lite0"))


@pytest.mark.parametrize("kind", FORMATS)
def test_an_accepted_format_is_refused(kind: str) -> None:
    assert decode_picture(_bytes(_picture(), kind)).size == (90, 60)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_a_colour_mode_does_not_become_rgb(mode: str) -> None:
    picture = Image.new("I;16", (9, 6)) if mode == "I;16" else _picture().convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_picture(_bytes(picture, kind)).mode == "RGB"


def test_what_is_transparent_becomes_black() -> None:
    assert decode_picture(_bytes(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")).getpixel((1, 1)) == (255, 255, 255)


def test_a_picture_taken_sideways_stays_so() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(_bytes(_picture(), "JPEG", exif=exif)).size == (60, 90)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", data) + _png_chunk(b"IEND", b"")


JPEG, PNG = _bytes(_picture(), "JPEG"), _bytes(_picture(), "PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty-picture"),
        (b"hello", "broken-picture"),
        (os.urandom(16) * 100, "broken-picture"),
        (PNG[:40] + b"\0" * 40 + PNG[80:], "broken-picture"),
        (JPEG[: len(JPEG) // 2], "truncated-picture"),
        (PNG[: len(PNG) // 2], "truncated-picture"),
        (PNG[:12], "truncated-picture"),
        (_bytes(_picture(), "WEBP")[:200], "truncated-picture"),
        (_bytes(_picture(), "BMP")[:200], "truncated-picture"),
        (_bomb(8_000, 8_000), "picture-too-large"),
        (_bomb(60_000, 60_000), "picture-too-large"),
        (_bytes(_picture(), "TIFF"), "unsupported-picture"),
        (b'<svg xmlns="urn:x"/>', "unsupported-picture"),
        (b"\0\0\0\x20ftypheic" + b"\0" * 40, "unsupported-picture"),
    ],
)
def test_a_bad_picture_gets_in_or_the_wrong_reason(content: bytes, reason: str) -> None:
    with pytest.raises(PictureError) as caught:
        decode_picture(content)
    assert caught.value.reason == reason


@settings(max_examples=150)
@given(st.binary(max_size=300), st.sampled_from([b"", JPEG[:60], PNG[:60], b"GIF89a", b"RIFF\0\0\0\0WEBP", b"BM"]))
def test_hostile_bytes_raise_something_else(tail: bytes, head: bytes) -> None:
    with contextlib.suppress(PictureError):
        assert decode_picture(head + tail, max_pixels=1_000_000).mode == "RGB"


def test_the_bound_on_pixels_is_not_kept() -> None:
    assert decode_picture(PNG, max_pixels=90 * 60)
    with pytest.raises(PictureError, match="90 x 60 pixels; at most 5399"):
        decode_picture(PNG, max_pixels=90 * 60 - 1)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "allowed" / "deep").mkdir(parents=True)
    (tmp_path / "allowed" / "a b.png").write_bytes(PNG)
    (tmp_path / "allowed" / "deep" / "c.png").write_bytes(PNG)
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "secret").write_bytes(b"secret")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "allowed" / "link.png").symlink_to(tmp_path / "secret")
    (tmp_path / "allowed" / "inner.png").symlink_to(tmp_path / "allowed" / "deep" / "c.png")
    os.mkfifo(tmp_path / "allowed" / "pipe.png")
    return tmp_path


def test_an_allowed_uri_is_refused(places: Path) -> None:
    allowed = places / "allowed"
    reader = PictureReader(base=str(allowed))
    for uri in (
        "a b.png",
        "deep/c.png",
        "deep/../a b.png",
        "inner.png",
        f"{allowed}/a b.png",
        f"file://{allowed}/a%20b.png",
    ):
        assert reader.read(uri) == PNG, uri
    assert PictureReader(roots=(f"file://{allowed}",)).read(f"{allowed}/deep/c.png") == PNG


@pytest.mark.parametrize(
    "uri",
    [
        "../secret",
        "deep/../../secret",
        "link.png",
        "../allowed-too/secret",
        "{folder}/secret",
        "file://{folder}/secret",
        "file://{folder}/allowed/%2e%2e/secret",
        "file://elsewhere{folder}/allowed/deep/c.png",
        "file:secret",
        "a\0.png",
        "..\\secret",
        "http://127.0.0.1/a.png",
        "https://cdn.example/a.png",
        "s3://bucket/a.png",
        "memory://outside/a.png",
        "local://{folder}/secret",
        "simplecache::file://{folder}/secret",
        "",
    ],
)
def test_a_uri_gets_out_of_the_allowed_places(places: Path, uri: str) -> None:
    reader = PictureReader(base=str(places / "allowed"), roots=("memory://inside", "https://cdn.example/shop"))
    with pytest.raises(PictureError) as caught:
        reader.read(uri.format(folder=places))
    assert caught.value.reason == "uri-not-allowed"


@pytest.mark.parametrize("uri", ["none.png", "deep", "pipe.png", "a b.png/x"])
def test_a_missing_file_blocks_or_is_called_forbidden(places: Path, uri: str) -> None:
    with pytest.raises(PictureError) as caught:
        PictureReader(base=str(places / "allowed")).read(uri)
    assert caught.value.reason == "uri-not-found"


def test_a_relative_uri_has_no_base() -> None:
    with pytest.raises(PictureError, match="outside the allowed places"):
        PictureReader().read("a.png")


def test_a_large_file_is_read_whole(places: Path) -> None:
    with pytest.raises(PictureError) as caught:
        PictureReader(base=str(places / "allowed"), max_bytes=10).read("a b.png")
    assert caught.value.reason == "picture-too-large"


def test_a_remote_place_is_not_read_or_not_bounded() -> None:
    import fsspec

    with fsspec.open("memory://inside/a.png", "wb") as file:
        file.write(PNG)
    reader = PictureReader(roots=("memory://inside",))
    assert reader.read("memory://inside/a.png") == PNG
    assert PictureReader(base="memory://inside").read("a.png") == PNG
    for uri, reason in (
        ("memory://inside/b.png", "uri-not-found"),
        ("memory://inside/../a.png", "uri-not-allowed"),
        ("memory://inside/%2e%2e/a.png", "uri-not-allowed"),
        ("memory://insider/a.png", "uri-not-allowed"),
    ):
        with pytest.raises(PictureError) as caught:
            reader.read(uri)
        assert caught.value.reason == reason, uri


def test_a_signature_in_a_uri_is_shown() -> None:
    with pytest.raises(PictureError) as caught:
        PictureReader().read("https://user:word@cdn.example/a.png?signature=abc")
    assert "abc" not in str(caught.value)
    assert "word" not in str(caught.value)
