"""Encoders side by side on a user's own sample: how fast, how large, and what can be read off their vectors."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from deploy.errors import DeployError
from deploy.samples import Kind, Sample
from featurizers.device import quiet_torchao
from featurizers.errors import FeaturizersError
from featurizers.probing import Targets, chance, cross_validated
from featurizers.projection import Floats
from featurizers.text import packaged_model

UNTRAINED, STATIC = "untrained:", "static"
CHUNK = 32  # items handed over at a time
WARM = 8  # items before the clock starts


@dataclass(frozen=True)
class Candidate:
    """What was found of one encoder; without `quality` it could not be had, and `note` says why."""

    name: str
    note: str = ""
    version: str = ""
    dimensions: int = 0
    parameters: int = 0
    items_per_second: float = 0.0
    peak_mib: float = 0.0  # of its process, above what Python and torch take before the model is loaded
    quality: float | None = None
    error: float = 0.0  # standard, of the quality


def compare(
    kind: Kind, names: Sequence[str], sample: Sample, progress: Callable[[int, str], None] = lambda done, name: None
) -> list[Candidate]:
    """One candidate after the other, each in a process of its own, so that its memory is its own.

    A name is a folder, a hub's or timm's name, empty for the packaged model, `static` for the packaged text model's
    word pieces alone, or `untrained:NAME` for an architecture with random weights: of use for speed and memory alone.
    """
    found = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for done, name in enumerate(names):
            progress(done, name)
            found.append(pool.submit(measure, kind, name, sample).result())
    return found


def measure(kind: Kind, name: str, sample: Sample) -> Candidate:
    """One candidate, in this process."""
    import timm  # noqa: F401  # what any encoder needs is no candidate's own
    import transformers  # noqa: F401

    before = _peak_mib()
    try:
        with TemporaryDirectory() as folder:
            encoder, items = _load(kind, name, sample, Path(folder))
            vectors, rate = _encode(encoder, items)
    except (FeaturizersError, DeployError) as error:
        return Candidate(name, note=str(error))
    targets = Targets.of(sample.labels)
    quality, error_ = cross_validated(vectors, targets, sample.products)
    model = getattr(encoder, "model", None)
    return Candidate(
        name=name,
        note="random weights: its quality says nothing of a trained one" if name.startswith(UNTRAINED) else "",
        version=encoder.name,
        dimensions=encoder.dimensions,
        parameters=sum(p.numel() for p in model.parameters()) if model is not None else 0,
        items_per_second=rate,
        peak_mib=_peak_mib() - before,
        quality=quality,
        error=error_,
    )


def advice(found: Sequence[Candidate], sample: Sample) -> str:
    """What follows from the table: the fastest of those that are as good as the best, within two standard errors."""
    trained = [c for c in found if c.quality is not None and not c.name.startswith(UNTRAINED)]
    if not trained:
        return "none of them could be judged: name an encoder that is here, or leave the names out"
    best = max(trained, key=lambda c: c.quality or 0.0)
    if (best.quality or 0.0) - 2 * best.error <= chance(Targets.of(sample.labels)):
        return "no encoder says more of these labels than their frequencies do: give more items, or other labels"
    good = [c for c in trained if (c.quality or 0.0) >= (best.quality or 0.0) - 2 * max(best.error, c.error)]
    fastest = max(good, key=lambda c: c.items_per_second)
    if fastest is best:
        return f"take {_shown(best.name)}: the best, and the fastest of those that are as good"
    times = fastest.items_per_second / best.items_per_second
    as_good = f"as good as {_shown(best.name)} within the error"
    return f"take {_shown(fastest.name)}: {as_good}, and {times:.1f} times as fast"


def _shown(name: str) -> str:
    return name or "the packaged one"


def _load(kind: Kind, name: str, sample: Sample, folder: Path) -> tuple[Any, list[Any]]:
    from deploy.fine_tuning import picture
    from featurizers.encoding import ImageConfig, TextConfig
    from featurizers.image import ImageEncoder
    from featurizers.static import StaticTextEncoder
    from featurizers.text import TextEncoder

    if name.startswith(UNTRAINED):
        _make_untrained(kind, name.removeprefix(UNTRAINED), folder)
        name = str(folder)
    if kind == "text":
        return StaticTextEncoder() if name == STATIC else TextEncoder(TextConfig(model=name)), sample.items
    image = ImageEncoder(ImageConfig(model=name))
    return image, [image.prepare(picture(path)) for path in sample.items]


def _make_untrained(kind: Kind, architecture: str, folder: Path) -> None:
    """A model folder with random weights and, for texts, the packaged model's tokenizer."""
    if kind == "image":
        import timm

        try:
            model = timm.create_model(architecture, pretrained=False, num_classes=0)
        except RuntimeError as error:
            raise DeployError(f"timm has no architecture {architecture!r}: {error}") from None
        timm.models.save_for_hf(model, str(folder), model_args={"num_classes": 0}, safe_serialization=True)
        return
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    quiet_torchao()
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(str(packaged_model()), local_files_only=True)
    ends = {"bos_token_id": None, "eos_token_id": None}  # an architecture's own lie beyond this vocabulary
    try:
        config = AutoConfig.for_model(architecture, vocab_size=len(tokenizer), **ends)
    except ValueError:
        raise DeployError(f"transformers has no architecture {architecture!r}; take one such as bert or gpt2") from None
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _encode(encoder: Any, items: list[Any]) -> tuple[Floats, float]:
    encoder.encode(items[:WARM])
    start = time.perf_counter()
    vectors = [encoder.encode(items[i : i + CHUNK]) for i in range(0, len(items), CHUNK)]
    return np.concatenate(vectors), len(items) / (time.perf_counter() - start)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
