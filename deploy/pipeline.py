"""Where stages get their settings: one `StageSpec` a stage, for Kafka and for the in-process log alike.

Stages are imported when they are asked for: a worker brings its own stage, not every other one's torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from deploy.errors import ConfigurationError
from deploy.settings import Settings
from streams.stage import StageSpec, TaskKey
from streams.topics import PLATFORM_TOPICS

if TYPE_CHECKING:
    from featurizers.encoding import ImageConfig, TextConfig
    from featurizers.image import ImageEncoder
    from featurizers.projection import Projection
    from featurizers.text import TextEncoder
    from model.registry import Bundle
    from model.scoring import Recorded
    from streams.ingest import IngestConfig

NO_LIVE_MS = 2**60  # a live interval that never passes: close windows alone


def ingest_config(settings: Settings) -> IngestConfig:
    from streams.ingest import IngestConfig

    return IngestConfig(partitions=settings.partitions, platforms=settings.calendars(), secret=settings.secret_bytes())


def ingest_spec(settings: Settings) -> StageSpec:
    from streams.ingest import ClockConfig, IngestClock, IngestStage

    config = ingest_config(settings)
    return StageSpec(
        "ingest",
        PLATFORM_TOPICS,
        lambda task: IngestStage(task, config),
        batched=True,
        clock=lambda: IngestClock(ClockConfig(settings.partitions, idle_ms=settings.idle_ms)),
    )


def windows_spec(settings: Settings, live: bool = True) -> StageSpec:
    from featurizers.window_config import WindowConfig
    from featurizers.windows import WindowStage

    config = WindowConfig(
        platforms=settings.calendars(),
        live_interval_ms=settings.live_interval_ms if live else NO_LIVE_MS,
        live_rows=settings.live_rows,
    )
    return StageSpec("windows", ("trend.events",), lambda task: WindowStage(task, config))


def text_config(settings: Settings) -> TextConfig:
    from featurizers.encoding import TextConfig

    return TextConfig(model=settings.text_model, device=device(settings), dtype=settings.dtype)


def image_config(settings: Settings) -> ImageConfig:
    from featurizers.encoding import ImageConfig

    base, *roots = settings.picture_roots or ("",)
    return ImageConfig(
        model=settings.image_model,
        device=device(settings),
        dtype=settings.dtype,
        base=base,
        roots=tuple(roots),
    )


def text_spec(settings: Settings, encoder: TextEncoder, projection: Projection) -> StageSpec:
    from featurizers.encoding import TextStage, VectorCache

    config = text_config(settings)
    cache = VectorCache(config.cache_size)
    return StageSpec(
        "text", ("trend.reviews",), lambda _: TextStage(encoder, projection, cache, config), stateful=False
    )


def image_spec(settings: Settings, encoder: ImageEncoder, projection: Projection) -> StageSpec:
    from featurizers.encoding import ImageStage, VectorCache
    from streams.ingest.privacy import Keyring

    config = image_config(settings)
    cache = VectorCache(config.cache_size)
    keyring = Keyring(settings.secret_bytes())

    def seal(dead_letter_id: str, original: bytes) -> str:
        return keyring.seal(original, dead_letter_id)

    return StageSpec(
        "image", ("trend.images",), lambda _: ImageStage(encoder, projection, cache, seal, config), stateful=False
    )


def encoder_spec(kind: str, settings: Settings) -> StageSpec:
    """The `text` or `image` encoder as a worker runs it, with the projection of the newest bundle."""
    import torch

    from featurizers.projection import projection_for

    text_folder, image_folder = projections(settings)
    torch.set_num_threads(1)  # the broker and the other workers want cores too
    if kind == "text":
        from featurizers.text import TextEncoder

        text = TextEncoder(text_config(settings))
        return text_spec(settings, text, projection_for(text.dimensions, text_folder))
    from featurizers.image import ImageEncoder

    image = ImageEncoder(image_config(settings))
    return image_spec(settings, image, projection_for(image.dimensions, image_folder))


def projections(settings: Settings) -> tuple[str, str]:
    """Folders of the text and the picture projection of the newest bundle; empty for the random ones."""
    from model.registry import newest

    path = newest(settings.model_dir)
    if path is None:
        return "", ""
    text, image = path / "projection-text", path / "projection-image"
    return (str(text) if text.is_dir() else "", str(image) if image.is_dir() else "")


def inference_spec(
    settings: Settings,
    bundle: Bundle,
    recorded: Mapping[int, Recorded] | None = None,
    heads_since: int = 0,
    live_epochs: Mapping[int, Callable[[int], int]] | None = None,
) -> StageSpec:
    """`recorded` and `live_epochs`, by partition, are the heads that earlier predictions name, to fold a log again;
    `heads_since` is the first epoch that the learner can make, where the windows stage has run before it (UTC ms)."""
    from model.heads import HeadStore
    from model.scoring import InferenceConfig, InferenceStage

    if bundle.network.config.task == "classification":
        raise ConfigurationError(
            f"{bundle.version} was trained for trend classes and gives no units: take it out of the model folder, or "
            "train another network after it"
        )

    heads = HeadStore(bundle.version, heads_since)

    def make(task: TaskKey) -> InferenceStage:
        of = task[1]
        then = recorded.get(of, {}) if recorded is not None else None
        return InferenceStage(
            task, InferenceConfig(), bundle, heads, then, live_epochs.get(of) if live_epochs is not None else None
        )

    return StageSpec(
        "inference",
        ("trend.windows",),
        make,
        stateful=False,
        versioned={"model.heads": heads},
        ready_timeout_ms=settings.head_wait_ms,
    )


def labels_spec(_: Settings) -> StageSpec:
    from model.labels import LabelConfig, LabelStage

    return StageSpec("labels", ("trend.predictions",), lambda task: LabelStage(task, LabelConfig()))


def learner_spec(settings: Settings, bundle: Bundle) -> StageSpec:
    from model.learning import LearnerConfig, LearnerStage

    config = LearnerConfig(
        partitions=settings.partitions,
        model=bundle.version,
        dispersion=tuple(tuple(row) for row in bundle.dispersion.tolist()),
        categories=bundle.categories,
    )
    return StageSpec("learner", ("trend.matured",), lambda task: LearnerStage(task, config))


def signals_spec(_: Settings) -> StageSpec:
    from streams.signals.config import SignalConfig
    from streams.signals.stage import SignalStage

    config = SignalConfig()
    return StageSpec("signals", ("trend.predictions",), lambda task: SignalStage(task, config), stateful=False)


def current_bundle(settings: Settings) -> Bundle:
    """The newest trained bundle of the model folder; the baseline, as an untrained one, before the first training."""
    import torch

    from model.registry import load_bundle, newest, untrained_bundle

    path = newest(settings.model_dir)
    torch.set_num_threads(1)  # the same sums in the same order wherever it runs; more partitions use more cores
    return load_bundle(path, device(settings)) if path else untrained_bundle(device=device(settings))


def bundle_of(settings: Settings, version: str) -> Bundle:
    """A bundle of the model folder by its version, or the untrained one. Raises ConfigurationError for another."""
    import torch

    from model.registry import load_bundle, untrained_bundle

    torch.set_num_threads(1)  # as in current_bundle
    path = settings.model_dir / version
    if version and path.is_dir():
        return load_bundle(path, device(settings))
    bundle = untrained_bundle(device=device(settings))
    if version not in ("", bundle.version):
        known = sorted(p.name for p in settings.model_dir.glob("*") if p.is_dir())
        raise ConfigurationError(
            f"network {version!r} is not in {settings.model_dir} ({', '.join(known) or 'empty'}); put its folder there"
        )
    return bundle


def device(settings: Settings) -> str:
    """`auto` is the GPU where there is one."""
    if settings.device == "cpu":
        return "cpu"
    import torch

    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("TRENDSTREAM_DEVICE is cuda, and no GPU is to be seen; set it to auto or cpu")
    return settings.device
