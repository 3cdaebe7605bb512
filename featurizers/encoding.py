"""The encoder stages: batches of texts or pictures in, vectors of the same rows out.

They keep no state, only vectors by the hash of their content, so that what comes again is not computed again. What
they write is an input of the windows from then on: a redo may differ in the last bits, when other rows shared its
micro-batch.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from featurizers.errors import EncodingError
from featurizers.pictures import MAX_BYTES, MAX_PIXELS, PictureError, PictureReader, decode_picture
from featurizers.projection import Floats, Projection
from streams.codecs import Coded, Column, Rows, decode, encode_json, split
from streams.errors import CodecError
from streams.records import VECTOR, Modality
from streams.records.inside import PICTURES, TEXTS, VECTORS, ArrowRecord
from streams.records.outside import DeadLetter, SourcePosition
from streams.stage import Message, Output

T = TypeVar("T")
Seal = Callable[[str, bytes], str]  # dead letter id and original to the sealed original, base64

_EVENTS, _DEAD = "trend.events", "trend.dlq"
_COPIED = ("product", "at", "source", "source_partition", "source_offset")


@dataclass(frozen=True)
class TextConfig:
    """The text encoder and its stage."""

    model: str = ""  # folder or Hugging Face name; empty: the packaged one
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 32
    max_tokens: int = 256
    projection: str = ""  # folder; empty: the random one
    cache_size: int = 50_000  # vectors
    max_bytes: int = 900_000  # of one internal record


@dataclass(frozen=True)
class ImageConfig:
    """The picture encoder and its stage."""

    model: str = ""  # timm name or folder; empty: the packaged one
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 8
    projection: str = ""
    cache_size: int = 50_000
    max_bytes: int = 900_000
    max_pixels: int = MAX_PIXELS
    max_picture_bytes: int = MAX_BYTES  # of what a uri points at
    base: str = ""  # where relative uris start
    roots: tuple[str, ...] = ()  # allowed places beside it
    allow_http: bool = False


class Encoder(Protocol):
    """A model: `name` says which, down to its weights. Shared by the stages of all partitions."""

    name: str
    dimensions: int


class TextModel(Encoder, Protocol):
    def encode(self, texts: Sequence[str], /) -> Floats:
        """[texts, dimensions] float32."""


class ImageModel(Encoder, Protocol):
    def prepare(self, picture: Image.Image, /) -> Floats:
        """[channels, height, width] float32."""

    def encode(self, pictures: Sequence[Floats], /) -> Floats:
        """[pictures, dimensions] float32."""


class VectorCache:
    """The newest vectors by content hash, bounded; shared by stages that share an encoder and a projection."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._vectors: OrderedDict[bytes, Floats] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, key: bytes) -> Floats | None:
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Floats) -> None:
        if self._size:
            self._vectors[key] = vector.copy()  # a view would keep its whole batch alive
            self._vectors.move_to_end(key)
            if len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


class _EncodingStage:
    """What both stages share: no state, and counters since the task began."""

    def __init__(self, encoder: Encoder, projection: Projection, cache: VectorCache, max_bytes: int) -> None:
        self._projection = projection
        self._version = f"{encoder.name}/{projection.version}"
        self._cache = cache
        self._max_bytes = max_bytes
        self._rows = self._cached = 0
        self._dead: Counter[str] = Counter()  # by reason

    def ready(self, message: Message) -> bool:
        return True

    def snapshot(self) -> dict[str, bytes]:
        return {}

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        if blobs:
            raise EncodingError(
                f"encoders keep no state, and were given {sorted(blobs)}: the blobs are another stage's"
            )

    def counters(self) -> dict[str, int]:
        reasons = {f"dead.{reason}": count for reason, count in sorted(self._dead.items())}
        return {"rows": self._rows, "cached": self._cached, "dead": self._dead.total(), **reasons}

    def _vectors(
        self, keys: Sequence[bytes], waiting: Mapping[bytes, T], encode: Callable[[Sequence[T]], Floats]
    ) -> dict[bytes, Floats]:
        """The projected vector of every key: `waiting` is encoded, the rest is in the cache."""
        found: dict[bytes, Floats] = {}
        for key in keys:
            if key not in waiting and key not in found:
                vector = self._cache.get(key)
                if vector is not None:
                    found[key] = vector
        if waiting:
            made = self._projection.apply(encode(list(waiting.values())))
            for key, vector in zip(waiting, made, strict=True):
                found[key] = vector
                self._cache.put(key, vector)
        return found

    def _publish(
        self, message: Message, rows: Rows, kept: npt.NDArray[np.int64], vectors: list[Floats]
    ) -> list[Output]:
        """The VECTORS records of the kept rows, to the partition that they came from."""
        if not len(kept):
            return []
        columns: dict[str, Column | Coded] = {name: rows[name][kept] for name in _COPIED}
        columns["modality"] = (
            rows["modality"][kept] if rows.record is TEXTS else np.full(len(kept), Modality.IMAGE, dtype=np.int8)
        )
        columns["vector"] = np.stack(vectors).reshape(len(kept), VECTOR)
        columns["encoder"] = Coded(np.zeros(len(kept), dtype=np.int32), [self._version])
        values = split(VECTORS, columns, self._max_bytes)
        return [Output(_EVENTS, message.partition, value) for value in values]


class TextStage(_EncodingStage):
    """`trend.reviews` (reviews, and titles of the catalogue) to vectors."""

    def __init__(self, encoder: TextModel, projection: Projection, cache: VectorCache, config: TextConfig) -> None:
        super().__init__(encoder, projection, cache, config.max_bytes)
        self._encoder = encoder

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        batches = [(message, _rows(message, TEXTS)) for message in messages]
        texts = [str(text) for _, rows in batches for text in rows["text"]]
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        waiting = {key: text for key, text in zip(keys, texts, strict=True) if self._cache.get(key) is None}
        vectors = self._vectors(keys, waiting, self._encoder.encode)
        outputs: list[Output] = []
        start = 0
        for message, rows in batches:
            mine = [vectors[key] for key in keys[start : start + len(rows)]]
            outputs += self._publish(message, rows, np.arange(len(rows)), mine)
            start += len(rows)
        self._rows += len(texts)
        self._cached += len(texts) - len(waiting)
        return outputs


class ImageStage(_EncodingStage):
    """`trend.images` to vectors, and to dead letters what is no picture; videos are passed over."""

    def __init__(
        self,
        encoder: ImageModel,
        projection: Projection,
        cache: VectorCache,
        seal: Seal,
        config: ImageConfig,
    ) -> None:
        super().__init__(encoder, projection, cache, config.max_bytes)
        self._encoder = encoder
        self._reader = PictureReader(config.base, config.roots, config.allow_http, config.max_picture_bytes)
        self._seal = seal
        self._max_pixels = config.max_pixels
        self._batch_size = config.batch_size
        self._videos = 0

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "videos": self._videos}

    def fold(self, messages: Sequence[Message]) -> list[Output]:
        outputs: list[Output] = []
        for message in messages:
            outputs += self._fold_one(message, _rows(message, PICTURES))
        return outputs

    def _fold_one(self, message: Message, rows: Rows) -> list[Output]:
        kept: list[int] = []
        vectors: list[Floats] = []
        dead: list[Output] = []
        contents, uris, types = rows["content"], rows["uri"], rows["content_type"]
        usable = [i for i in range(len(rows)) if not str(types[i]).lower().startswith("video/")]
        self._videos += len(rows) - len(usable)
        # Prepared pictures are large: a micro-batch of them at a time.
        for start in range(0, len(usable), self._batch_size):
            keys: dict[int, bytes] = {}
            waiting: dict[bytes, Floats] = {}
            for row in usable[start : start + self._batch_size]:
                content, uri = contents[row] or b"", uris[row] or ""
                try:
                    keys[row] = self._prepare(content or (self._reader.read(uri) if uri else b""), waiting)
                except PictureError as error:
                    dead.append(self._bury(message, rows, row, content or uri.encode(), error))
                    self._dead[error.reason] += 1
            found = self._vectors(list(keys.values()), waiting, self._encoder.encode)
            kept += keys
            vectors += [found[key] for key in keys.values()]
            self._cached += len(keys) - len(waiting)
        self._rows += len(rows)
        return self._publish(message, rows, np.array(kept, dtype=np.int64), vectors) + dead

    def _prepare(self, content: bytes, waiting: dict[bytes, Floats]) -> bytes:
        """The key of a picture, which is put among the waiting ones if its vector is not known."""
        key = hashlib.sha256(content).digest()
        if key not in waiting and self._cache.get(key) is None:
            waiting[key] = self._encoder.prepare(decode_picture(content, self._max_pixels))
        return key

    def _bury(self, message: Message, rows: Rows, row: int, original: bytes, error: PictureError) -> Output:
        source = SourcePosition(
            topic=str(rows["source"][row]),
            partition=int(rows["source_partition"][row]),
            offset=int(rows["source_offset"][row]),
        )
        identifier = f"{source.topic}/{source.partition}/{source.offset}"
        letter = DeadLetter(
            dead_letter_id=identifier,
            reason=error.reason,
            message=str(error),
            stage="image-encoder",
            source=source,
            record_time=message.timestamp,
            sealed=self._seal(identifier, original),
        )
        return Output(_DEAD, message.partition, encode_json(letter), identifier.encode())


def _rows(message: Message, expected: ArrowRecord) -> Rows:
    rows = decode(message.value or b"")
    if rows.record is not expected:
        raise CodecError(
            f"{message.topic}/{message.partition}/{message.offset} is a record of {rows.record.name}, "
            f"where {expected.name} are expected; see streams/topics.py"
        )
    return rows
