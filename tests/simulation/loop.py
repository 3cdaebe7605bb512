"""The loop on a simulated world: real baseline, heads, distribution, labels and learner, day by day.

The network is a log-linear one, fitted on a world in which nothing changes: it knows discounts ahead, ages, and how far
a baseline is to be believed, as a trained network does, and it is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from featurizers.baseline import BaselineConfig, CategoryRates, baseline
from model.dispersion import fit_dispersion
from model.distribution import Forecast, predict
from model.estimation import EstimationConfig
from model.heads import Correction, HeadStore, category_codes, frozen_head
from model.labels import LabelStage
from model.learning import LearnerConfig, LearnerStage
from streams.calendars import DAY
from streams.codecs import decode_json, encode
from streams.records import COMPONENTS, DAYS, DELAYS, HORIZONS, QUANTILES, SalesClass, WindowKind
from streams.records.inside import OUTCOMES, PREDICTIONS
from streams.records.outside import Head, ModelEvent
from streams.stage import Output
from tests.simulation.world import CATEGORIES, Floats, Ints, World
from tests.unit.sales_world import START, closes, message

MODEL = "simulated"
STARTS = (0, *HORIZONS[:-1])
AHEAD = 3  # inputs that differ by delay bucket: discount, season of each pair of categories
LIMIT = 4.0  # of a component, as in model/network.py


@dataclass(frozen=True, eq=False)
class Windows:
    """Close windows of one day, [rows] each."""

    product: Ints
    baseline: Floats  # [rows, delays]
    sales_class: Ints
    inputs: Floats  # [rows, delays, inputs]


class WindowMaker:
    """Windows of a world in the order of its days, with the real baseline."""

    def __init__(self, world: World) -> None:
        self.world, self.config = world, BaselineConfig()
        self.rates = CategoryRates(self.config)

    def close(self, day: int) -> Windows:
        """The windows at the start of a day, once the day before has been learnt; to be called for every day."""
        w = self.world
        if day:
            rows = w.active(day)
            ones = np.ones(len(rows))
            self.rates.learn((day - 1) % 7, w.category[rows], day - 1 - w.born[rows], w.units[rows, day - 1], ones)
        rows = w.active(day)
        first = day - DAYS
        history = w.units[rows, max(first, 0) : day]
        history = np.pad(history, ((0, 0), (DAYS - history.shape[1], 0)))
        known = (np.arange(first, day)[None] >= np.maximum(w.born[rows], 0)[:, None]).astype(np.float64)
        age = day - w.born[rows]
        weekdays = np.arange(first, day + HORIZONS[-1]) % 7
        base = baseline(self.config, self.rates, weekdays, history, known, w.category[rows], age)
        return Windows(
            rows, base.buckets, base.sales_class.astype(np.int64), self._inputs(rows, day, history, known, base.rate)
        )

    def _inputs(self, rows: Ints, day: int, history: Floats, known: Floats, rate: Floats) -> Floats:
        w = self.world
        weight = 0.5 ** (np.arange(DAYS - 1, -1, -1) / self.config.half_life)
        past = np.pad(w.discount[rows, max(day - DAYS, 0) : day], ((0, 0), (max(DAYS - day, 0), 0)))
        age = day - w.born[rows]
        columns = [
            np.log(rate + 0.02),
            np.log(history @ weight / np.maximum(known @ weight, 1e-9) + 0.02) - np.log(rate + 0.02),
            np.exp2(-age / 7),
            np.log1p(history[:, -7:].mean(axis=1)) - np.log1p(rate),
            past @ weight / weight.sum(),
        ]
        shared = np.stack(columns, axis=1)
        season = np.pad(w.season[max(day - DAYS, 0) : day], (max(DAYS - day, 0), 0)) @ weight / weight.sum()
        pairs = np.stack([w.category[rows] // 2 == pair for pair in (0, 1)], axis=1)
        ahead = []
        for a, b in zip(STARTS, HORIZONS, strict=True):
            coming = w.season[day + a : day + b].mean() - season
            ahead.append(np.column_stack([w.discount[rows, day + a : day + b].mean(axis=1), pairs * coming, shared]))
        return np.stack(ahead, axis=1)


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """f = [1, standardised inputs] · weights, per delay bucket; phi is all that differs between the inputs."""

    mean: Floats  # [inputs]
    spread: Floats  # [inputs]
    weights: Floats  # [delays, 1 + inputs]
    directions: Floats  # [phi, COMPONENTS] principal components of phi, scaled to standard deviation 1
    dispersion: Floats  # [horizons, sales classes]

    def read(self, inputs: Floats) -> tuple[Floats, Floats]:
        """f [rows, delays] and components [rows, COMPONENTS] of inputs [rows, delays, inputs]."""
        z = (inputs - self.mean) / self.spread
        f = np.einsum("nbi,bi->nb", z, self.weights[:, 1:]) + self.weights[:, 0]
        return f, np.clip(phi(z) @ self.directions, -LIMIT, LIMIT)


def phi(z: Floats) -> Floats:
    """[rows, ...] what a network keeps of standardised inputs [rows, delays, inputs]: those of each bucket, once."""
    return np.concatenate([z[:, :, :AHEAD].reshape(len(z), -1), z[:, 0, AHEAD:]], axis=1)


def train_network(world: World, first: int = DAYS) -> FrozenNetwork:
    """Poisson regression on the world's windows from `first` on, and r of its horizon sums by sales class."""
    windows, units = [], []
    maker = WindowMaker(world)
    for day in range(world.units.shape[1] - HORIZONS[-1]):
        made = maker.close(day)
        if day >= first:
            windows.append(made)
            units.append(sold(world, made, day))
    inputs, y = np.concatenate([w.inputs for w in windows]), np.concatenate(units).astype(np.float64)
    base = np.concatenate([w.baseline for w in windows])
    sales_class = np.concatenate([w.sales_class for w in windows])
    mean, spread = inputs.mean(axis=(0, 1)), inputs.std(axis=(0, 1)) + 1e-9
    x = np.concatenate([np.ones((*inputs.shape[:2], 1)), (inputs - mean) / spread], axis=2)
    kept = phi(x[:, :, 1:])
    variance, directions = np.linalg.eigh(kept.T @ kept / len(kept))
    directions = directions[:, ::-1][:, :COMPONENTS] / np.sqrt(variance[::-1][:COMPONENTS])
    weights = np.zeros((DELAYS, x.shape[2]))
    for b in range(DELAYS):
        for _ in range(8):  # Newton's, with the weight of an overdispersed count
            m = base[:, b] * np.exp(x[:, b] @ weights[b])
            share = 1 / (1 + m / 4)
            hessian = (x[:, b] * (m * share)[:, None]).T @ x[:, b]
            weights[b] += np.linalg.solve(hessian + np.eye(len(hessian)), x[:, b].T @ ((y[:, b] - m) * share))
    means = np.cumsum(base * np.exp(np.einsum("nbi,bi->nb", x, weights)), axis=1)
    totals = np.cumsum(y, axis=1).astype(np.int64)
    return FrozenNetwork(mean, spread, weights, directions, dispersion_of(totals, means, sales_class))


def dispersion_of(totals: Ints, means: Floats, sales_class: Ints) -> Floats:
    """r [horizons, sales classes] of horizon sums."""
    return np.array(
        [[fit_dispersion(totals[sales_class == c, h], means[sales_class == c, h]) for c in SalesClass]
         for h in range(len(HORIZONS))]
    )  # fmt: skip


def sold(world: World, windows: Windows, day: int) -> Ints:
    """[rows, delays] units in each delay bucket."""
    parts = [world.units[windows.product, day + a : day + b].sum(axis=1) for a, b in zip(STARTS, HORIZONS, strict=True)]
    return np.stack(parts, axis=1)


def truth(world: World, windows: Windows, day: int) -> Floats:
    """[rows, delays] expected units in each delay bucket."""
    spans = zip(STARTS, HORIZONS, strict=True)
    return np.stack([world.expected[windows.product, day + a : day + b].sum(axis=1) for a, b in spans], axis=1)


@dataclass(eq=False)
class Run:
    """What a loop has shown, one entry a day of the stream."""

    days: list[int] = field(default_factory=list)
    windows: list[Windows] = field(default_factory=list)
    updated: list[Forecast] = field(default_factory=list)
    frozen: list[Forecast] = field(default_factory=list)
    informed: list[Forecast] = field(default_factory=list)  # of a network that learnt in the changed world
    truth: list[Floats] = field(default_factory=list)  # [rows, delays]
    sold: list[Ints] = field(default_factory=list)  # [rows, delays]
    heads: list[Head] = field(default_factory=list)
    events: list[ModelEvent] = field(default_factory=list)


def run(
    world: World,
    network: FrozenNetwork,
    informed: FrozenNetwork,
    estimation: EstimationConfig | None = None,
    first: int = DAYS,
) -> Run:
    """Stream the world from day `first` on through labels and learner, with the head that its epoch gives."""
    config = LearnerConfig(
        partitions=1,
        model=MODEL,
        dispersion=tuple(map(tuple, network.dispersion.tolist())),
        categories=CATEGORIES,
        estimation=estimation or EstimationConfig(),
    )
    learner, labels = LearnerStage(("trend.matured", 0), config), LabelStage(("trend.predictions", 0))
    store, result, maker = HeadStore(MODEL), Run(), WindowMaker(world)
    control = frozen_head(MODEL, network.dispersion, CATEGORIES)

    def deliver(value: bytes) -> None:
        for matured in labels.fold([message("trend.predictions", 0, value)]):
            for out in learner.fold([message(matured.topic, 0, matured.value)]):
                _keep(out, store, result)

    last = world.units.shape[1] - HORIZONS[-1]
    for day in range(last):
        windows = maker.close(day)
        if day < first:
            continue
        end = START + day * DAY
        for b, horizon in enumerate(HORIZONS):
            if day - horizon >= first:
                then = result.windows[day - horizon - first]
                deliver(_outcomes(world, then, day - horizon, b, result.sold[day - horizon - first][:, b]))
        head = store.select(end - DAY) or control
        f, components = network.read(windows.inputs)
        category = np.array(CATEGORIES, object)[world.category[windows.product]]
        updated, frozen = (_forecast(h, windows, f, components, category) for h in (head, control))
        deliver(_predictions(world, windows, end, head, updated, frozen, f, components, category))
        deliver(closes(0, end))
        result.days.append(day)
        result.windows.append(windows)
        result.updated.append(updated)
        result.frozen.append(frozen)
        knowing = frozen_head(MODEL, informed.dispersion, CATEGORIES)
        result.informed.append(_forecast(knowing, windows, *informed.read(windows.inputs), category))
        result.truth.append(truth(world, windows, day))
        result.sold.append(sold(world, windows, day))
    return result


def _keep(out: Output, store: HeadStore, result: Run) -> None:
    assert out.value is not None
    if out.topic == "model.heads":
        store.put(message(out.topic, 0, out.value))
        result.heads.append(decode_json(out.value, Head))
    else:
        result.events.append(decode_json(out.value, ModelEvent))


def _forecast(head: Head, windows: Windows, f: Floats, components: Floats, category: np.ndarray) -> Forecast:
    used = Correction.of(head)
    mu, s2 = used.correct(np.log(windows.baseline), f, components, category_codes(head.categories, category))
    r = used.row_dispersion(windows.sales_class)
    none = np.full((len(f), DELAYS, 3), -1, np.int64)
    return predict(mu, s2, r, windows.baseline, none, used.conformal)


def _predictions(
    world: World,
    windows: Windows,
    end: int,
    head: Head,
    updated: Forecast,
    frozen: Forecast,
    f: Floats,
    components: Floats,
    category: np.ndarray,
) -> bytes:
    n = len(windows.product)
    given = {
        "product": [world.names[i] for i in windows.product],
        "end": np.full(n, end),
        "kind": np.full(n, WindowKind.CLOSE),
        "mean": updated.mean,
        "dispersion": updated.dispersion,
        "frozen_mean": frozen.mean,
        "frozen_dispersion": frozen.dispersion,
        "quantiles": updated.quantiles.reshape(n, -1),
        "frozen_median": frozen.median,
        "baseline": windows.baseline,
        "f": f,
        "components": components,
        "category": category,
        "sales_class": windows.sales_class,
        "model": [MODEL] * n,
        "head": [head.version] * n,
    }
    plain = {}
    for column in PREDICTIONS.schema:
        length = getattr(column.type, "list_size", None)
        plain[column.name] = (
            [""] * n if "dictionary" in str(column.type) else np.zeros(n if length is None else (n, length))
        )
    assert set(given) <= set(plain)
    assert updated.quantiles.shape[2] == len(QUANTILES)
    return encode(PREDICTIONS, plain | given)


def _outcomes(world: World, windows: Windows, day: int, delay: int, units: Ints) -> bytes:
    n = len(windows.product)
    columns = {
        "product": [world.names[i] for i in windows.product],
        "end": np.full(n, START + day * DAY),
        "delay": np.full(n, delay),
        "at": np.full(n, START + (day + HORIZONS[delay]) * DAY),
        "units": units,
        "exposure": np.ones(n),
        "censored": np.zeros(n),
    }
    return encode(OUTCOMES, columns)
