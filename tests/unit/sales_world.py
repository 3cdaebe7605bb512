"""A small world with a known truth, and the loop from predictions over sales to heads, on the real stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.distribution import predict
from model.heads import Correction, HeadStore, category_codes, frozen_head
from model.labels import LabelStage
from model.learning import LearnerConfig, LearnerStage
from streams.calendars import DAY
from streams.codecs import decode, decode_json, encode
from streams.records import COMPONENTS, DELAYS, HORIZONS, QUANTILES, WindowKind
from streams.records.inside import CLOSES, OUTCOMES, PREDICTIONS
from streams.records.outside import Head, ModelEvent
from streams.stage import Message, Output

MODEL = "n1"
START = 20_000 * DAY
WIDTHS = np.array((1, 6, 21))
Floats = npt.NDArray[np.float64]


def message(topic: str, partition: int, value: bytes | None, offset: int = 0, key: bytes | None = None) -> Message:
    return Message(topic, partition, offset, 0, key, value)


def predictions(products: list[str], end: int, **given: Any) -> bytes:
    """A PREDICTIONS batch; what is not given is plain."""
    n = len(products)
    columns: dict[str, Any] = {}
    for column in PREDICTIONS.schema:
        length = getattr(column.type, "list_size", None)
        if column.name in given:
            columns[column.name] = given[column.name]
        elif "dictionary" in str(column.type):
            columns[column.name] = [""] * n
        else:
            columns[column.name] = np.ones(n if length is None else (n, length))
    columns.update(product=products, end=np.full(n, end), kind=given.get("kind", np.full(n, WindowKind.CLOSE)))
    columns["model"] = given.get("model", [MODEL] * n)
    columns["head"] = given.get("head", [f"{MODEL}-frozen"] * n)
    return encode(PREDICTIONS, columns)


def outcomes(rows: list[tuple[str, int, int, int]], at: int, censored: npt.ArrayLike | None = None) -> bytes:
    """An OUTCOMES batch of (product, end, delay, units)."""
    product, end, delay, units = zip(*rows, strict=True)
    n = len(rows)
    return encode(
        OUTCOMES,
        {
            "product": list(product),
            "end": np.array(end),
            "delay": np.array(delay),
            "at": np.full(n, at),
            "units": np.array(units),
            "exposure": np.ones(n),
            "censored": np.zeros(n) if censored is None else np.asarray(censored),
        },
    )


def closes(partition: int, end: int, platform: str = "shop") -> bytes:
    columns = {"partition": [partition], "platform": [platform], "end": [end], "windows": [0], "outcomes": [0]}
    return encode(CLOSES, {name: np.array(c) if name != "platform" else c for name, c in columns.items()})


@dataclass
class Run:
    """What a loop has shown, day by day."""

    heads: list[Head] = field(default_factory=list)
    events: list[ModelEvent] = field(default_factory=list)
    matured: list[bytes] = field(default_factory=list)
    mean: list[Floats] = field(default_factory=list)  # [n, delays] at each day
    frozen: list[Floats] = field(default_factory=list)
    quantiles: list[npt.NDArray[np.float64]] = field(default_factory=list)  # [n, horizons, quantiles]
    truth: list[Floats] = field(default_factory=list)  # [n, delays] expected units
    sold: list[Floats] = field(default_factory=list)  # [n, delays] that were sold
    learner: LearnerStage | None = None


@dataclass
class World:
    """Products that sell their rate times `demand(day)` a day; the frozen network expects the rate times
    `believed(day)` on every day of the horizon, of which it gives exp(f) itself and the baseline the rest."""

    products: int = 90
    days: int = 30
    partitions: int = 2
    seed: int = 0
    demand: Callable[[int], npt.ArrayLike] = lambda day: 1.0
    believed: Callable[[int], npt.ArrayLike] = lambda day: 1.0
    r_true: float = 1e6
    r_believed: float = 1e3
    noise_free: bool = False
    rate: float = 4.0
    f: float = 0.0

    def run(self, config: LearnerConfig | None = None) -> Run:
        rng = np.random.default_rng(self.seed)
        n = self.products
        names = [f"shop:{i}" for i in range(n)]
        partition = np.arange(n) % self.partitions
        category = np.where(np.arange(n) % 3 == 0, "fruit", "bread").tolist()
        rate = rng.gamma(4.0, self.rate / 4.0, n)
        components = rng.normal(size=(n, COMPONENTS)).astype(np.float32)
        expected = np.array([rate * self.demand(d) for d in range(self.days + 28)])  # [days, n]
        shape = self.r_true
        sold = rng.poisson(expected * rng.gamma(shape, 1 / shape, expected.shape)) if not self.noise_free else expected
        config = config or learner_config(self)
        learner = LearnerStage(("trend.matured", 0), config)
        labels = [LabelStage(("trend.predictions", p)) for p in range(self.partitions)]
        store, run = HeadStore(MODEL), Run(learner=learner)
        first = frozen_head(MODEL, np.array(config.dispersion), config.categories)
        sales_class = np.zeros(n, np.int64)

        def deliver(outputs: list[Output]) -> None:
            for output in outputs:
                assert output.value is not None
                run.matured.append(output.value)
                for out in learner.fold([message(output.topic, 0, output.value)]):
                    assert out.value is not None
                    if out.topic == "model.heads":
                        store.put(message(out.topic, 0, out.value))
                        run.heads.append(decode_json(out.value, Head))
                    else:
                        run.events.append(decode_json(out.value, ModelEvent))

        for day in range(self.days):
            end = START + day * DAY
            head = store.select(end - DAY) or first
            f = np.full((n, DELAYS), self.f)
            baseline = (rate * self.believed(day) * np.exp(-self.f))[:, None] * WIDTHS
            args = (baseline, np.zeros((n, DELAYS, 3), np.int64) - 1)
            updated, frozen = Correction.of(head), Correction.of(first)
            mu, s2 = updated.correct(np.log(baseline), f, components, category_codes(head.categories, category))
            forecast = predict(mu, s2, updated.row_dispersion(sales_class), *args, updated.conformal)
            frozen_r = frozen.row_dispersion(sales_class)
            control = predict(baseline * np.exp(f), np.zeros_like(baseline), frozen_r, *args, frozen.conformal)
            truth = np.stack([expected[day + a : day + b].sum(0) for a, b in ((0, 1), (1, 7), (7, 28))], axis=1)
            actual = np.stack([sold[day + a : day + b].sum(0) for a, b in ((0, 1), (1, 7), (7, 28))], axis=1)
            run.mean.append(forecast.mean)
            run.frozen.append(control.mean)
            run.truth.append(truth)
            run.sold.append(actual)
            run.quantiles.append(forecast.quantiles)
            for p in range(self.partitions):
                mine = np.flatnonzero(partition == p)
                value: list[bytes] = []
                due = [(b, day - HORIZONS[b]) for b in range(DELAYS) if day >= HORIZONS[b]]
                rows = [
                    (names[i], START + then * DAY, b, round(float(run.sold[then][i, b])))
                    for b, then in due
                    for i in mine
                ]
                if rows:
                    value.append(outcomes(rows, end))
                value.append(
                    predictions(
                        [names[i] for i in mine],
                        end,
                        mean=forecast.mean[mine],
                        dispersion=forecast.dispersion[mine],
                        frozen_mean=control.mean[mine],
                        frozen_dispersion=control.dispersion[mine],
                        quantiles=forecast.quantiles[mine].reshape(len(mine), DELAYS * len(QUANTILES)),
                        frozen_median=control.median[mine],
                        baseline=baseline[mine],
                        f=f[mine],
                        components=components[mine],
                        category=[category[i] for i in mine],
                        sales_class=sales_class[mine],
                        head=[head.version] * len(mine),
                    )
                )
                value.append(closes(p, end))
                for v in value:
                    deliver(labels[p].fold([message("trend.predictions", p, v)]))
        return run


def learner_config(world: World, **given: Any) -> LearnerConfig:
    dispersion = ((world.r_believed,) * 4,) * 3
    return LearnerConfig(
        **{"partitions": world.partitions, "model": MODEL, "dispersion": dispersion, "categories": ("fruit", "bread")}
        | given
    )


def of_record(values: list[bytes], name: str) -> list[Any]:
    """The decoded batches of one record type."""
    return [rows for rows in map(decode, values) if rows.record.name == name]
