"""LightGBM as a competent analyst would run it: features of the window, tuned for quantile loss on the tuning range,
re-fitted every week on all matured labels.

Tweedie regression gives the mean, a classifier the probability of surging. The quantiles are either a negative binomial
around the mean or quantile regressions, whichever loses less on the tuning range, horizon by horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model.evaluate import Cases, Forecasts, counts
from model.evaluate_panel import Panel
from model.evaluate_rivals import by_class
from streams import negative_binomial
from streams.records import CHANNELS, HORIZONS, QUANTILES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LAGS = 14  # days that are features by themselves
TITLES = 8  # principal components of the title vector
MAX_ROWS = 30_000  # of a fit; above it the newest half of them and an even draw of the older ones
MOST_TREES = 250
NAME = "lightgbm"


@dataclass(frozen=True)
class Choice:
    """What was tuned, for one horizon."""

    offset: bool = False  # whether boosting starts at the log of the baseline
    power: float = 1.2  # of the Tweedie variance
    leaves: int = 31
    least: int = 50  # rows of a leaf
    trees: int = 150
    direct: bool = False  # quantile regressions in place of a negative binomial
    quantile_trees: tuple[int, ...] = (100,) * len(QUANTILES)
    classifier_trees: int = 80
    loss: float = float("nan")  # weighted quantile loss on the tuning range


class FeatureMaker:
    """Columns of a panel's rows; built once, taken by row."""

    def __init__(self, panel: Panel, known_until: int) -> None:
        units = panel.units.astype(np.float32)
        sums = {span: units[:, -span:].sum(axis=1) for span in (1, 3, 7, 14, 28, 56)}
        sold = units > 0
        silent = np.where(sold.any(axis=1), np.argmax(sold[:, ::-1], axis=1), units.shape[1])
        typical = np.where(sums[28] > 0, panel.channels[:, 1, CHANNELS.index("revenue")] / np.maximum(sums[28], 1), -1)
        paid = np.where(sums[7] > 0, panel.channels[:, 0, CHANNELS.index("revenue")] / np.maximum(sums[7], 1), -1)
        others = [i for i, name in enumerate(CHANNELS) if name != "units"]
        week = units.reshape(len(units), 8, 7).sum(axis=2)
        columns = [
            units[:, -LAGS:],
            week,
            np.stack(list(sums.values()), axis=1),
            np.stack([sold[:, -span:].mean(axis=1) for span in (7, 28, 56)], axis=1),
            np.stack([units[:, -28:].std(axis=1), units[:, -28:].max(axis=1), silent], axis=1),
            panel.channels[:, :, others].reshape(len(units), -1),
            panel.known.reshape(len(units), -1),
            np.stack([panel.rate, panel.price, panel.stock, typical, paid], axis=1),
            np.where(typical > 0, paid / np.where(typical > 0, typical, 1), 1)[:, None],
            np.cumsum(panel.baseline, axis=1),
            np.log(np.maximum(panel.baseline, 1e-6)),
            self._of_category(panel),
            self._of_titles(panel, known_until),
            np.stack([panel.age, panel.weekday, panel.sales_class, panel.category], axis=1),
        ]
        self.values = np.concatenate([np.asarray(c, np.float32) for c in columns], axis=1)
        varies = self.values[panel.day < known_until].std(axis=0) > 0
        self.categorical = [int(varies[:-3].sum()) + i for i in range(int(varies[-3:].sum()))]  # the last three
        self.values = self.values[:, varies]

    @staticmethod
    def _of_category(panel: Panel) -> npt.NDArray[np.float32]:
        """How the whole category, and everything, sold lately: sums and growth of the windows at the same boundary."""
        _, group = np.unique(np.stack([panel.day, panel.category]), axis=1, return_inverse=True)
        found = []
        for code in (group.reshape(-1), panel.day - panel.day.min()):
            size = int(code.max()) + 1
            week, month = (np.bincount(code, panel.units[:, -span:].sum(axis=1), size) for span in (7, 28))
            count = np.maximum(np.bincount(code, minlength=size), 1)
            found += [(month / count)[code], ((week * 4 + 1) / (month + 1))[code]]
        return np.stack(found, axis=1).astype(np.float32)

    @staticmethod
    def _of_titles(panel: Panel, known_until: int) -> npt.NDArray[np.float32]:
        known = panel.title[panel.day < known_until]
        if not known.any():
            return np.zeros((len(panel), 0), np.float32)
        mean = known.mean(axis=0)
        _, _, directions = np.linalg.svd(known[:: max(1, len(known) // 5_000)] - mean, full_matrices=False)
        return np.asarray((panel.title - mean) @ directions[:TITLES].T, np.float32)


@dataclass
class LightGbm:
    panel: Panel
    features: FeatureMaker
    seed: int = 0
    choices: list[Choice] = field(default_factory=list)  # by horizon
    r: Floats = field(default_factory=lambda: np.ones((len(HORIZONS), 4)))
    tried: list[dict[str, Any]] = field(default_factory=list)

    def tuned(self) -> dict[str, Any]:
        """What `tune` found, as plain values; `use` takes it."""
        return {"choices": [vars(choice) for choice in self.choices], "r": self.r.tolist(), "tried": self.tried}

    def use(self, tuned: dict[str, Any]) -> None:
        choices = ({**choice, "quantile_trees": tuple(choice["quantile_trees"])} for choice in tuned["choices"])
        self.choices, self.r, self.tried = [Choice(**c) for c in choices], np.array(tuned["r"]), tuned["tried"]

    def tune(self, origin: int, rows: Ints, progress: Callable[[int], None] | None = None) -> None:
        """Choose on `rows` what to do from what had matured at the boundary `origin`."""
        total = self.panel.outcomes(rows)
        done = 0
        for h in range(len(HORIZONS)):
            known = np.flatnonzero(total[:, h] >= 0)
            mine, y = rows[known], total[known, h]
            best: tuple[Choice, Floats] | None = None
            for choice in _grid():
                model, trees = self._mean(choice, origin, h, (mine, y))
                mean = self._expect(model, choice, mine, h)
                loss = self._loss(y, mean, self.panel.sales_class[mine])
                choice = replace(choice, trees=trees, loss=loss)
                self._note(choice, h, "negative binomial")
                if best is None or loss < best[0].loss:
                    best = choice, mean
                done += 1
                if progress:
                    progress(done)
            assert best is not None
            choice, mean = best
            self.r[h] = by_class(y, mean, self.panel.sales_class[mine])
            fits = [self._quantile(choice, origin, h, q, (mine, y)) for q in QUANTILES]
            loss = _quantile_loss(y, self._direct([model for model, _ in fits], mine))
            trees = self._surge(choice, origin, h, mine)[1]
            direct_choice = replace(choice, direct=True, loss=loss, quantile_trees=tuple(n for _, n in fits))
            self._note(direct_choice, h, "quantile regressions")
            chosen = direct_choice if loss < choice.loss else choice
            self.choices.append(replace(chosen, classifier_trees=trees))

    def week(self, origin: int, rows: Ints, cases: Cases) -> Forecasts:
        """Forecasts of `rows` (which are `cases`) by models fitted on what had matured at the boundary `origin`."""
        n = len(rows)
        mean, surging = np.empty((n, len(HORIZONS))), np.empty((n, len(HORIZONS)))
        quantiles = np.full((n, len(HORIZONS), len(QUANTILES)), np.nan)
        for h, choice in enumerate(self.choices):
            mean[:, h] = self._expect(self._mean(choice, origin, h)[0], choice, rows, h)
            surging[:, h] = self._surge(choice, origin, h)[0].predict(self.features.values[rows])
            if choice.direct:
                quantiles[:, h] = self._direct([self._quantile(choice, origin, h, q)[0] for q in QUANTILES], rows)
        forecast = counts(cases, mean, self.r.T[cases.sales_class], f"{NAME}@{origin}")
        direct_horizons = np.isfinite(quantiles)
        nothing = direct_horizons.all(axis=2)
        return replace(
            forecast,
            quantiles=np.where(direct_horizons, quantiles, forecast.quantiles),
            surging=surging,
            below=np.where(nothing, np.nan, forecast.below),
            upto=np.where(nothing, np.nan, forecast.upto),
        )

    def _note(self, choice: Choice, h: int, quantiles: str) -> None:
        self.tried.append({"days": HORIZONS[h], "quantiles": quantiles, **vars(choice)})

    def _train(
        self, params: dict[str, Any], rows: Ints, label: Floats, trees: int, start: Floats | None, check: Any
    ) -> tuple[Any, int]:
        import lightgbm

        common = {
            "learning_rate": 0.1,
            "feature_fraction": 0.7,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 1.0,
            "num_threads": 1,
            "seed": self.seed,
            "deterministic": True,
            "verbosity": -1,
            "max_bin": 63,
        }
        x = self.features.values
        data = lightgbm.Dataset(
            x[rows], label, init_score=start, categorical_feature=self.features.categorical, free_raw_data=True
        )
        if check is None:
            return lightgbm.train({**common, **params}, data, trees), trees
        check_rows, check_label, check_start = check
        held = lightgbm.Dataset(x[check_rows], check_label, init_score=check_start, reference=data)
        stop = lightgbm.early_stopping(30, verbose=False)
        model = lightgbm.train({**common, **params}, data, MOST_TREES, valid_sets=[held], callbacks=[stop])
        return model, max(model.best_iteration, 5)

    def _rows(self, origin: int, h: int) -> Ints:
        rows = self.panel.labelled(origin, h, since=int(self.panel.day.min()))
        if len(rows) <= MAX_ROWS:
            return rows
        newest, older = rows[-MAX_ROWS // 2 :], rows[: -MAX_ROWS // 2]
        drawn = np.random.default_rng(self.seed).choice(older, MAX_ROWS - len(newest), replace=False)
        return np.concatenate([np.sort(drawn), newest])

    def _offset(self, choice: Choice, rows: Ints, h: int) -> Floats | None:
        if not choice.offset:
            return None
        return np.log(np.maximum(np.cumsum(self.panel.baseline[rows], axis=1)[:, h], 1e-6))

    def _mean(self, choice: Choice, origin: int, h: int, check: tuple[Ints, Ints] | None = None) -> tuple[Any, int]:
        rows = self._rows(origin, h)
        label = self.panel.outcomes(rows)[:, h].astype(np.float64)
        params = {
            "objective": "tweedie",
            "tweedie_variance_power": choice.power,
            "num_leaves": choice.leaves,
            "min_data_in_leaf": choice.least,
        }
        held = None if check is None else (check[0], check[1], self._offset(choice, check[0], h))
        return self._train(params, rows, label, choice.trees, self._offset(choice, rows, h), held)

    def _expect(self, model: Any, choice: Choice, rows: Ints, h: int) -> Floats:
        raw = model.predict(self.features.values[rows], raw_score=True)
        offset = self._offset(choice, rows, h)
        return np.asarray(np.exp(np.clip(raw + (0.0 if offset is None else offset), -14.0, 14.0)), np.float64)

    def _quantile(
        self, choice: Choice, origin: int, h: int, q: float, check: tuple[Ints, Ints] | None = None
    ) -> tuple[Any, int]:
        rows = self._rows(origin, h)
        label = self.panel.outcomes(rows)[:, h].astype(np.float64)
        params = {"objective": "quantile", "alpha": q, "num_leaves": choice.leaves, "min_data_in_leaf": choice.least}
        held = None if check is None else (check[0], check[1], None)
        return self._train(params, rows, label, choice.quantile_trees[QUANTILES.index(q)], None, held)

    def _direct(self, models: list[Any], rows: Ints) -> Floats:
        """[rows, QUANTILES] by quantile regressions, in order."""
        found = np.stack([model.predict(self.features.values[rows]) for model in models], axis=1)
        return np.asarray(np.sort(np.maximum(found, 0.0), axis=1), np.float64)

    def _surge(self, choice: Choice, origin: int, h: int, check: Ints | None = None) -> tuple[Any, int]:
        rows = self._rows(origin, h)
        params = {"objective": "binary", "num_leaves": 15, "min_data_in_leaf": 100}
        held = None if check is None else (check, self._surged(check, h), None)
        return self._train(params, rows, self._surged(rows, h), choice.classifier_trees, None, held)

    def _surged(self, rows: Ints, h: int) -> Floats:
        return np.asarray(self.panel.outcomes(rows)[:, h] >= self.panel.thresholds[rows, h, 0], np.float64)

    @staticmethod
    def _loss(y: Ints, mean: Floats, sales_class: Ints) -> float:
        r = by_class(y, mean, sales_class)[sales_class]
        return _quantile_loss(y, negative_binomial.quantiles(QUANTILES, mean, r))


def _grid() -> Iterator[Choice]:
    for offset in (False, True):
        for leaves, least in ((15, 100), (63, 50)):
            yield Choice(offset=offset, leaves=leaves, least=least)
    yield Choice(offset=True, leaves=15, least=100, power=1.5)


def _quantile_loss(y: Ints, quantiles: Floats) -> float:
    error = y[:, None] - quantiles
    q = np.asarray(QUANTILES)
    return float(2 * np.maximum(q * error, (q - 1) * error).mean(axis=1).sum() / max(y.sum(), 1))
