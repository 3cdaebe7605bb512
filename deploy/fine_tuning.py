"""Fine-tuning from a sample to a model folder, with what it gave: before, after, and with permuted labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from deploy.errors import SourceError
from deploy.samples import Kind, Sample
from featurizers.adapters import save_adapters, take_out
from featurizers.augmentation import Augmentation
from featurizers.encoding import ImageConfig, TextConfig
from featurizers.finetuning import Tuned, TuningConfig, prepare, tune
from featurizers.image import ImageEncoder
from featurizers.pictures import decode_picture
from featurizers.probing import Targets, chance, parts, quality, read_off
from featurizers.projection import Floats
from featurizers.text import TextEncoder

Rows = npt.NDArray[np.int64]
PRODUCTS = (0.6, 0.2, 0.2)  # training, validation, test
TIMES = (0.5, 0.7)  # quantiles of time: validation and test begin there
LEAST = 20  # items of a part
CHUNK = 32


@dataclass(frozen=True)
class Outcome:
    """Of one fine-tuning. Qualities are of a linear probe on the test items: share of right classes, or R²."""

    encoder: str  # name of the new version; where no epoch was better on validation, its weights are the old ones
    base: str
    method: str
    items: tuple[int, int, int]  # training, validation, test: disjoint in product and, where dated, in time
    chance: float
    before: float
    after: float
    permuted: float  # tuned with permuted labels of the training items
    losses: list[dict[str, float]]


def split(sample: Sample) -> tuple[Rows, Rows, Rows]:
    """Items for training, validation and test. Raises SourceError where a part would be too small."""
    part = parts(sample.products, PRODUCTS)
    if sample.dated:
        cuts = np.quantile(sample.at, TIMES)
        part = np.where(part == np.searchsorted(cuts, sample.at, side="right"), part, -1)
    rows = tuple(np.flatnonzero(part == i) for i in range(3))
    if min(map(len, rows)) < LEAST:
        sizes = ", ".join(str(len(r)) for r in rows)
        raise SourceError(
            f"{len(sample)} items leave {sizes} for training, validation and test, of other products and other times "
            f"each; give a sample that leaves {LEAST} at least"
        )
    return rows[0], rows[1], rows[2]


class Encoder:
    """Either kind of encoder over a sample's items."""

    def __init__(
        self, kind: Kind, model: str, sample: Sample, device: str = "cpu", how: Augmentation | None = None
    ) -> None:
        self.items: list[Any] = list(sample.items)
        self.encoder: TextEncoder | ImageEncoder
        how = how or Augmentation()
        self._change: Callable[[Any, np.random.Generator], Any] = how.text if kind == "text" else how.picture
        if kind == "text":
            self.encoder = TextEncoder(TextConfig(model=model, device=device))
        else:
            self.encoder = image = ImageEncoder(ImageConfig(model=model, device=device))
            self.items = [image.prepare(picture(path)) for path in sample.items]

    def forward(self, rows: Rows, changes: np.random.Generator | None = None) -> Any:
        """With a generator, the items as they are trained on."""
        items = [self.items[i] for i in rows]
        return self.encoder.differentiable([self._change(i, changes) for i in items] if changes else items)

    def vectors(self, rows: Rows) -> Floats:
        chunks = [[self.items[i] for i in rows[start : start + CHUNK]] for start in range(0, len(rows), CHUNK)]
        return np.concatenate([self.encoder.encode(chunk) for chunk in chunks])

    def save(self, tuned: Tuned, folder: Path) -> None:
        """A folder that `TextEncoder` or `ImageEncoder` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = tuned.merged()
        adapters = take_out(model)
        if isinstance(self.encoder, TextEncoder):
            model.save_pretrained(folder)
            self.encoder.tokenizer.save_pretrained(folder)
        else:
            from timm.models import save_for_hf

            model.to(memory_format=torch.contiguous_format)  # safetensors takes no other
            save_for_hf(model, str(folder), model_args={"num_classes": 0}, safe_serialization=True)
        if adapters:
            save_adapters(adapters, folder)


def picture(path: str) -> Image.Image:
    try:
        return decode_picture(Path(path).read_bytes())
    except OSError as error:
        raise SourceError(f"picture {path} of the sample cannot be read: {error}") from error


def fine_tune(
    kind: Kind,
    sample: Sample,
    folder: Path,
    config: TuningConfig,
    model: str = "",
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Outcome:
    """Tune `model` (empty: the packaged one) on a sample; the new version lies in `folder`, beside `report.json`."""
    targets = Targets.of(sample.labels)
    train, check, test = split(sample)
    steps = -(-len(train) // config.batch_rows) * config.epochs

    def judged(encoder: Encoder) -> float:
        said = read_off(encoder.vectors(train), targets.take(train), encoder.vectors(test))
        return quality(said, targets.take(test))

    def tuned(labels: Targets, what: str) -> tuple[Encoder, Tuned, list[dict[str, float]]]:
        encoder = Encoder(kind, model, sample, device, config.augmentation)
        inner = prepare(encoder.encoder.model, config, steps, lambda: encoder.forward(train[:1]))
        told = tune(inner, encoder.forward, labels, train, check, config, lambda step: progress(what, step, steps))
        return encoder, inner, told

    base = Encoder(kind, model, sample, device)
    before = judged(base)
    encoder, inner, losses = tuned(targets, "tuning")
    after = judged(encoder)
    encoder.save(inner, folder)
    shuffled = targets.values.copy()
    shuffled[train] = shuffled[np.random.default_rng(config.seed).permutation(train)]
    control, _, _ = tuned(replace(targets, values=shuffled), "the control, with permuted labels")
    outcome = Outcome(
        encoder=Encoder(kind, str(folder), sample.first(1), device).encoder.name,
        base=base.encoder.name,
        method=config.method,
        items=(len(train), len(check), len(test)),
        chance=chance(targets.take(test)),
        before=before,
        after=after,
        permuted=judged(control),
        losses=losses,
    )
    (folder / "report.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome
