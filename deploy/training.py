"""From a source's history to a model bundle: the same ingest, encoders and windows as live, then `model/train.py`."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from deploy import pipeline
from deploy.errors import SourceError
from deploy.loop import Loop
from deploy.settings import Settings
from deploy.sources import PlatformEvent, Source
from deploy.training_log import TrainingLog
from featurizers.encoding import ImageConfig
from featurizers.image import ImageEncoder
from featurizers.pictures import PictureError, PictureReader, decode_picture
from featurizers.projection import Projection, fit, random_projection, save_projection
from featurizers.text import TextEncoder
from model.dataset import Dataset, collect
from model.network import Network
from model.parallel import Alone
from model.registry import Bundle, save_bundle
from model.train import Progress as TrainProgress
from model.train import TrainConfig, train_on
from streams.stage import Message, StageSpec

CHECKPOINT, LOGS = "training/checkpoint.safetensors", "training/logs"  # in the model folder
SAMPLE_TEXTS, SAMPLE_PICTURES = 400, 160
LEAST_SAMPLE = 64  # vectors, below which the random projection is as good


@dataclass(frozen=True)
class Encoders:
    """Both models with their projections, shared by all partitions."""

    text: TextEncoder
    image: ImageEncoder
    text_projection: Projection
    image_projection: Projection

    def specs(self, settings: Settings) -> list[StageSpec]:
        return [
            pipeline.text_spec(settings, self.text, self.text_projection),
            pipeline.image_spec(settings, self.image, self.image_projection),
        ]


def with_pictures(settings: Settings, source: Source) -> Settings:
    """Settings under which relative picture `uri`s of the source are read from its folder."""
    if source.pictures is None:
        return settings
    return settings.model_copy(update={"picture_roots": (str(source.pictures), *settings.picture_roots)})


def load_encoders(settings: Settings, history: Iterable[PlatformEvent]) -> Encoders:
    """The encoders of the settings, with projections fitted on a sample of the history's texts and pictures."""
    text, image = TextEncoder(pipeline.text_config(settings)), ImageEncoder(pipeline.image_config(settings))
    texts, pictures = _sample(history, pipeline.image_config(settings))
    prepared = [image.prepare(decode_picture(content)) for content in pictures]
    return Encoders(
        text,
        image,
        fit(text.encode(texts)) if len(texts) >= LEAST_SAMPLE else random_projection(text.dimensions),
        fit(_in_batches(image, prepared)) if len(prepared) >= LEAST_SAMPLE else random_projection(image.dimensions),
    )


def _in_batches(
    image: ImageEncoder, prepared: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    size = ImageConfig.batch_size
    return np.concatenate([image.encode(prepared[i : i + size]) for i in range(0, len(prepared), size)])


def _sample(history: Iterable[PlatformEvent], config: ImageConfig) -> tuple[list[str], list[bytes]]:
    """Distinct texts and whole pictures, from the start of the history; what cannot be read is passed over here,
    since ingest and the encoder name it later."""
    reader = PictureReader(config.base, config.roots, config.allow_http)
    texts: dict[str, None] = {}
    pictures: list[bytes] = []
    for event in history:
        if len(texts) >= SAMPLE_TEXTS and len(pictures) >= SAMPLE_PICTURES:
            break
        if event.topic not in ("reviews", "products", "images"):
            continue
        try:
            record = msgspec.json.decode(event.value)
        except msgspec.DecodeError:
            continue
        if not isinstance(record, dict):
            continue
        if event.topic == "images" and len(pictures) < SAMPLE_PICTURES:
            try:
                content = base64.b64decode(record.get("content") or "") or reader.read(str(record.get("uri") or ""))
                decode_picture(content)
                pictures.append(content)
            except (PictureError, ValueError):
                continue
        elif len(texts) < SAMPLE_TEXTS:
            text = " ".join(str(record[name]) for name in ("title", "text", "description") if record.get(name))
            if text:
                texts[text] = None
    return list(texts), pictures


def before(source: Iterable[PlatformEvent], instant: int) -> Iterator[PlatformEvent]:
    """The events of a source until one happens at `instant` (UTC ms) or later."""
    return itertools.takewhile(lambda event: event.at < instant, source)


@dataclass
class History:
    """Ingest, encoders and windows over the first part of a source; the loop can go on from where it stands."""

    loop: Loop
    windows: list[Message]
    encoders: Encoders

    def feed(self, events: Iterable[PlatformEvent], progress: Callable[[int], None] | None = None) -> int:
        return self.loop.feed(events, progress)


def start_history(source: Source, settings: Settings, until: int) -> History:
    """A loop of ingest, encoders and windows, ready to be fed; `until` bounds what the projections may see."""
    encoders = load_encoders(settings, before(source, until))
    windows: list[Message] = []
    specs = [
        pipeline.ingest_spec(settings),
        *encoders.specs(settings),
        pipeline.windows_spec(settings, live=False),
    ]
    platforms = set(source.platform.split(", "))
    calendars = [p.calendar for name, p in settings.calendars().items() if name in platforms]
    loop = Loop(specs, settings.partitions, calendars=calendars)
    loop.on_output = lambda message: windows.append(message) if message.topic == "trend.windows" else None
    loop.runner.on_output = loop.on_output
    return History(loop, windows, encoders)


def train_bundle(
    history: History,
    settings: Settings,
    config: TrainConfig | None = None,
    progress: TrainProgress | None = None,
    workers: Alone | None = None,
    teacher: Network | None = None,
) -> tuple[Bundle, Path]:
    """Train on the history's windows, and save network, starting heads and projections in the model folder.

    An interrupted training leaves its checkpoint there, and the same training goes on from it. `workers`: the processes
    that share it; the others call `help_training`.
    """
    if not history.windows:
        raise SourceError("the history closed no day: give it more days, or check that it has orders")
    chosen, workers = config or TrainConfig(device=pipeline.device(settings)), workers or Alone()
    dataset = workers.from_first(collect(history.windows, chosen.dataset))
    logs = settings.model_dir / LOGS / f"{chosen.network.network}-{chosen.network.task}-{chosen.seed}"
    with TrainingLog(logs, progress) as log:
        bundle = train_on(dataset, chosen, log, settings.model_dir / CHECKPOINT, workers, teacher)
    encoders = history.encoders
    bundle = replace(
        bundle,
        encoders={
            "text": f"{encoders.text.name}/{encoders.text_projection.version}",
            "image": f"{encoders.image.name}/{encoders.image_projection.version}",
        },
    )
    path = save_bundle(bundle, settings.model_dir)
    save_projection(encoders.text_projection, path / "projection-text")
    save_projection(encoders.image_projection, path / "projection-image")
    for file in (settings.model_dir / CHECKPOINT).parent.glob("checkpoint*"):  # one of each of its two trainings
        file.unlink()
    return bundle, path


def help_training(settings: Settings, config: TrainConfig, workers: Alone, teacher: Network | None) -> None:
    """Train with the process that folds the history, and leave the rest to it."""
    dataset: Dataset | None = workers.from_first(None)
    assert dataset is not None, "the first process sends it"
    train_on(dataset, config, None, settings.model_dir / CHECKPOINT, workers, teacher)
