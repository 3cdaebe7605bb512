"""Pictures as they come from outside: read from allowed places alone, decoded within bounds.

Whatever is wrong with one is a `PictureError` with a reason code, which becomes a dead letter.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from PIL import Image, ImageOps

from featurizers.errors import FeaturizersError

Reason = Literal[
    "broken-picture",
    "empty-picture",
    "truncated-picture",
    "picture-too-large",
    "unsupported-picture",
    "uri-not-allowed",
    "uri-not-found",
]

MAX_BYTES = 8 * 1024 * 1024
MAX_PIXELS = 40_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_SUPPORTED = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_KNOWN = (
    b"II*\0",
    b"MM\0*",
    b"8BPS",
    b"\0\0\1\0",
    b"%PDF",
    b"%!PS",
    b"\0\0\0\x0cjP  ",
    b"<svg",
    b"<?xml",
    b"\x1aE\xdf\xa3",
)
_SHOWN = 120  # characters of a uri in a message


class PictureError(FeaturizersError):
    """A picture that cannot be used, and why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


def decode_picture(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame, upright, in RGB, over white where it is transparent. Raises PictureError."""
    if not content:
        raise PictureError("empty-picture", "the picture has no bytes; send its content or a uri")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = picture.size
        if width * height > max_pixels:
            raise PictureError(
                "picture-too-large",
                f"the picture has {width} x {height} pixels; at most {max_pixels} are decoded",
            )
        picture.load()
        return _upright_rgb(picture)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(
            "picture-too-large", f"the picture has too many pixels; at most {max_pixels} are decoded"
        ) from error
    except MemoryError as error:
        raise PictureError("picture-too-large", "the picture does not fit into memory; send a smaller one") from error
    except Exception as error:  # Pillow's decoders raise whatever their format's code does
        raise _undecodable(content, error) from error


def _upright_rgb(picture: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception:  # a wrong orientation tag does not spoil the pixels
        upright = picture
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        ground = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(ground, upright).convert("RGB")
    return upright.convert("RGB")


def _undecodable(content: bytes, error: Exception) -> PictureError:
    supported = content.startswith(_SUPPORTED) or (content[:4] == b"RIFF" and content[8:12] in (b"WEBP", b""))
    if not supported:
        head = content[:256].lstrip()
        if head.startswith(_KNOWN) or content[4:8] == b"ftyp":
            return PictureError("unsupported-picture", f"the picture's format is not one of {', '.join(FORMATS)}")
        return PictureError("broken-picture", f"the content is no picture; send one of {', '.join(FORMATS)}")
    if _is_whole(content):
        return PictureError("broken-picture", f"the picture cannot be decoded ({type(error).__name__}); save it anew")
    return PictureError(
        "truncated-picture", f"the picture ends after {len(content)} bytes, before its end; send it whole"
    )


def _is_whole(content: bytes) -> bool:
    """Whether the mark is there that the format ends with, or the length that it says it has."""
    if content.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" in content[-64:]
    if content.startswith(b"\x89PNG"):
        return b"IEND" in content[-64:]
    if content.startswith(b"GIF8"):
        return content.rstrip(b"\0").endswith(b";")
    if content.startswith(b"BM"):
        return len(content) >= max(int.from_bytes(content[2:6], "little"), 26)
    return len(content) >= int.from_bytes(content[4:8], "little") + 8


class PictureReader:
    """Reads what a uri points at, if it lies in an allowed place.

    `base` is where relative uris start; it and `roots` are the allowed places: local folders, or fsspec addresses
    such as `s3://bucket/pictures`. Over http(s) nothing is read unless `allow_http` is set and a root begins so.
    """

    def __init__(
        self,
        base: str = "",
        roots: tuple[str, ...] = (),
        allow_http: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        places = [place for place in (base, *roots) if place]
        self._base = base
        self._folders = tuple(Path(_local(p)).resolve() for p in places if not _is_remote(p))
        self._remote = tuple(p.rstrip("/") + "/" for p in places if _is_remote(p))
        self._allow_http = allow_http
        self._max_bytes = max_bytes

    def read(self, uri: str) -> bytes:
        """The bytes at `uri`. Raises PictureError."""
        if not uri.isprintable() or "\\" in uri:
            raise self._refused(uri)
        if _is_remote(uri):
            return self._read_remote(uri)
        if "://" in uri or uri.startswith("file:"):
            if not uri.startswith("file:///"):
                raise self._refused(uri)
            return self._read_local(Path(_local(uri)), uri)
        if uri.startswith("/"):
            return self._read_local(Path(uri), uri)
        if not self._base or not uri:
            raise self._refused(uri)
        if _is_remote(self._base):
            return self._read_remote(self._base.rstrip("/") + "/" + uri)
        return self._read_local(Path(_local(self._base)) / uri, uri)

    def _read_local(self, path: Path, uri: str) -> bytes:
        try:
            real = path.resolve()  # links followed: what counts is where the bytes lie
        except (OSError, RuntimeError, ValueError):
            raise self._refused(uri) from None
        if not any(real.is_relative_to(folder) for folder in self._folders):
            raise self._refused(uri)
        try:
            # A pipe must not block the worker, nor a link put in place since lead elsewhere.
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise PictureError("uri-not-found", f"{_shown(uri)}: {error.strerror or type(error).__name__}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PictureError("uri-not-found", f"{_shown(uri)} is no file")
        with os.fdopen(descriptor, "rb") as file:
            return self._bounded(file, uri)

    def _read_remote(self, uri: str) -> bytes:
        scheme = urlsplit(uri).scheme.lower()
        http = scheme in ("http", "https")
        outside = not any(uri.startswith(root) for root in self._remote)
        climbs = any(part in ("..", ".") for part in unquote(unquote(uri)).split("/"))
        if outside or climbs or (http and not self._allow_http):
            raise self._refused(uri)
        # Imported here: its http part takes a second, and most pictures are local or in the record.
        import fsspec

        # A redirect could lead out of the allowed places; a stream stops at the limit.
        options: dict[str, Any] = {"block_size": 0, "allow_redirects": False} if http else {}
        try:
            with fsspec.open(uri, "rb", **options) as file:
                return self._bounded(file, uri)
        except PictureError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise PictureError("uri-not-found", f"{_shown(uri)} cannot be read: {type(error).__name__}") from error

    def _bounded(self, file: Any, uri: str) -> bytes:
        content: bytes = file.read(self._max_bytes + 1)
        if len(content) > self._max_bytes:
            raise PictureError(
                "picture-too-large", f"{_shown(uri)} has more than the {self._max_bytes} bytes that are read"
            )
        return content

    def _refused(self, uri: str) -> PictureError:
        return PictureError(
            "uri-not-allowed", f"{_shown(uri)} lies outside the allowed places; add its folder to the picture roots"
        )


def _is_remote(place: str) -> bool:
    return "://" in place and not place.lower().startswith("file://")


def _local(place: str) -> str:
    return unquote(urlsplit(place).path) if place.startswith("file://") else place


def _shown(uri: str) -> str:
    """A uri for messages: without a query, which may hold a signature, and short."""
    plain = repr(uri.split("?", 1)[0].rpartition("@")[2])
    return plain if len(plain) <= _SHOWN else plain[:_SHOWN] + "…"
