"""`trendstream evaluate`: every method forecasts the same product-windows, and is judged on them.

Windows are folded once by the stages themselves. A method learns from a window only after it has matured: rivals are
re-fitted weekly on matured labels, trendstream's own stages learn as outcomes come. What a method gave is kept by the
hash of what went into it, so that a change of one leaves the others alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deploy.errors import EvaluationError
from deploy.evaluation_fold import Fold, Plan, WindowLog, code_hash, fold_key, short_hash
from deploy.evaluation_fold import fold as fold_windows
from deploy.evaluation_leaks import Truncated, compare_events, compare_forecasts, compare_windows
from deploy.settings import Settings
from deploy.sources import Source
from deploy.watch import Watch
from model import evaluate_loop, evaluate_panel, evaluate_rivals
from model.evaluate import Cases, Forecasts
from model.evaluate_lightgbm import NAME as LIGHTGBM
from model.evaluate_lightgbm import FeatureMaker, LightGbm
from model.evaluate_panel import Panel
from model.registry import Bundle, load_bundle, save_bundle
from model.train import TrainConfig, train

if TYPE_CHECKING:
    from deploy.evaluation_report import EvaluationReport

Ints = npt.NDArray[np.int64]

FROZEN, UPDATED, INTERCEPT = "trendstream frozen", "trendstream updated", "intercept only"
POOLED = "lightgbm and tsb"
LEAST_PRODUCTS = 10  # of a table: a bootstrap over fewer says nothing
SERIES_STEP = 3  # judged boundaries from one origin of the per-series methods to the next
# Code that a result depends on, beside its own module.
_JUDGING = ("model/evaluate.py", "model/evaluate_panel.py", "model/error_metrics.py", "streams/negative_binomial.py")
_NETWORK = ("augmentation", "dataset", "dispersion", "features", "losses", "network", "sequences", "train")
_TRAINING = tuple(f"model/{name}.py" for name in _NETWORK)
_HEADS = ("calibration", "champion", "distribution", "drift", "estimation", "heads", "labels", "learning", "scoring")
_STAGES = tuple(f"model/{name}.py" for name in (*_NETWORK, *_HEADS, "reading", "evaluate_loop"))


@dataclass(frozen=True)
class Options:
    test_days: int = 84
    spacing: int = 3  # days between two judged boundaries
    series: int = 400  # products of the per-series methods
    # Networks to train, and trained ones, by name; "" is trendstream's own.
    networks: Mapping[str, TrainConfig] = field(default_factory=lambda: {"": TrainConfig()})
    bundles: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Table:
    """Methods on the same rows."""

    name: str
    about: str
    rows: Ints  # into the cases
    forecasts: Mapping[str, Forecasts]  # of those rows


@dataclass(frozen=True, eq=False)
class Evaluation:
    source: Source
    plan: Plan
    panel: Panel
    cases: Cases
    rows: Ints  # of the panel
    censored: int  # windows left out since stock ran out or an outcome is missing
    forecasts: Mapping[str, Forecasts]  # of all cases; a method may know only some
    tables: Sequence[Table]
    tuning: Sequence[Mapping[str, Any]]  # what LightGBM was tried with
    training: Mapping[str, Mapping[str, Any]]  # network -> report of its training
    dead: int  # events of the source that ingest could not use


@dataclass
class Methods:
    """Runs methods on a log of windows, each from the cache where it has run before."""

    settings: Settings
    plan: Plan
    options: Options
    log: WindowLog
    key: str  # of the log
    folder: Path
    watch: Watch
    training: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @staticmethod
    def of(
        source: Source, settings: Settings, plan: Plan, options: Options, folder: Path, watch: Watch, fold: Fold
    ) -> Methods:
        """On the windows of a source, which are folded where they are not in the cache."""
        key = fold_key(source, settings, plan)
        path = folder / f"windows-{key}.parquet"
        log = WindowLog(path) if path.is_file() else fold(source, settings, plan, path, watch)
        return Methods(settings, plan, options, log, key, folder, watch)

    def on_all(self, panel: Panel, rows: Ints, cases: Cases) -> dict[str, Forecasts]:
        """The methods that forecast every row."""
        found = {name: self._rival(name, mean, panel, rows, cases) for name, mean in evaluate_rivals.SIMPLE.items()}
        found[LIGHTGBM] = self.lightgbm(panel, rows, cases)
        for name, config in self.options.networks.items():
            found |= self.trendstream(name, self.network(name, config), panel, rows, cases)
        for name, path in self.options.bundles.items():
            bundle = load_bundle(path)
            if bundle.trained_until > self.plan.instant(self.plan.loop):
                raise EvaluationError(
                    f"{path} was trained on windows up to {self.plan.date_of(bundle.trained_until)}; train it on what "
                    f"was known on {self.plan.date(self.plan.loop)}, a gap before the first judged window"
                )
            found |= self.trendstream(name, bundle, panel, rows, cases)
        return found

    def tuning(self) -> list[Mapping[str, Any]]:
        """What LightGBM was tried with, and what came of it."""
        path = self._tuning_file()
        return list(json.loads(path.read_text())["tried"]) if path.is_file() else []

    def _tuning_file(self) -> Path:
        parts = [self.key, self._planned(), code_hash("model/evaluate_lightgbm.py", *_JUDGING)]
        return self.folder / f"tuning-{short_hash(parts)}.json"

    def _planned(self) -> list[str]:
        return [str(v) for v in vars(self.plan).values()]

    def panel(self) -> Panel:
        plan = self.plan
        days = plan.spaced(plan.first + 28, plan.last)
        key = short_hash([self.key, days, code_hash("model/evaluate_panel.py")])

        def make() -> dict[str, npt.NDArray[Any]]:
            self.watch.part("reading the windows", len(self.log))
            return evaluate_panel.collect(self.log.watched(self.watch.done), plan.platform.calendar, days).arrays()

        return Panel.of_arrays(self._arrays(f"panel-{key}", make))

    def per_series(self, panel: Panel, rows: Ints, cases: Cases) -> dict[str, Forecasts]:
        """On at most `series` products, drawn by sales class, and every third judged boundary."""
        drawn = evaluate_rivals.draw_series(panel, rows, self.options.series)
        mine = np.flatnonzero(np.isin(cases.product, drawn) & (self._steps(cases.day) % SERIES_STEP == 0))
        found = {}
        for name, mean in evaluate_rivals.PER_SERIES.items():
            part = self._rival(name, mean, panel, rows[mine], cases.take(mine), drawn)
            found[name] = Forecasts.empty(len(rows))
            found[name].put(mine, part)
        return found

    def cold(self, panel: Panel, rows: Ints, cases: Cases) -> dict[str, Forecasts]:
        """On the windows of young products; where a product has no neighbours, the category stands in for them."""
        young = np.flatnonzero(panel.age[rows] < evaluate_rivals.COLD_DAYS)
        found = {}
        for name, mean in evaluate_rivals.COLD.items():
            found[name] = Forecasts.empty(len(rows))
            if len(young):
                found[name].put(young, self._rival(name, mean, panel, rows[young], cases.take(young)))
                lonely = young[~found[name].known[young]]
                if len(lonely) < len(young):
                    found[name].put(lonely, found[evaluate_rivals.CATEGORY].take(lonely))
        return found

    def lightgbm(self, panel: Panel, rows: Ints, cases: Cases) -> Forecasts:
        """Tuned on the tuning range from what was known a gap before it, then re-fitted weekly; each week is kept, so
        that an interrupted run goes on."""
        plan, found = self.plan, Forecasts.empty(len(rows))
        key = short_hash([self._cases_key(panel, rows), LIGHTGBM, code_hash("model/evaluate_lightgbm.py", *_JUDGING)])
        weeks = evaluate_rivals.weekly(panel.day[rows], plan.test)

        @cache
        def model() -> LightGbm:
            made = self._tuned(LightGbm(panel, FeatureMaker(panel, plan.loop)), panel)
            self.watch.part("LightGBM, re-fitted weekly", len(weeks))
            return made

        for done, (origin, places) in enumerate(weeks.items(), start=1):
            make = partial(lambda at, mine: model().week(at, rows[mine], cases.take(mine)), origin, places)
            found.put(places, self._forecasts(f"lightgbm-{key}-{origin}", make))
            self.watch.done(done)
        return found

    def _tuned(self, model: LightGbm, panel: Panel) -> LightGbm:
        path = self._tuning_file()
        if path.is_file():
            model.use(json.loads(path.read_text()))
        else:
            self.watch.part("tuning LightGBM", 15)
            model.tune(self.plan.validation, self._tuning_rows(panel), self.watch.done)
            path.write_text(json.dumps(model.tuned()))
        return model

    def trendstream(self, name: str, bundle: Bundle, panel: Panel, rows: Ints, cases: Cases) -> dict[str, Forecasts]:
        """The updated heads, the frozen network, and the control whose head learns one level and nothing else."""
        suffix = f" {name}" if name else ""
        config = evaluate_loop.learner_of(bundle, self.settings.partitions)
        updated, frozen = self._loop(f"trendstream{suffix}", bundle, config, panel, rows, cases)
        found = {f"{UPDATED}{suffix}": updated, f"{FROZEN}{suffix}": frozen}
        if not name:
            control = evaluate_loop.intercept_only(config)
            found[INTERCEPT], _ = self._loop(INTERCEPT, bundle, control, panel, rows, cases)
        return found

    def network(self, name: str, config: TrainConfig) -> Bundle:
        """Trained on what was known at the start of the loop; from the cache where it was."""
        key = short_hash([self.key, self.plan.loop, repr(config), code_hash(*_TRAINING)])
        folder = self.folder / f"network-{key}"
        known = sorted(folder.glob("n*"))
        if known:
            bundle = load_bundle(known[0])
        else:
            self.watch.part(f"training the network {name}".strip(), 0)
            history = evaluate_loop.between(self.log, until=self.plan.instant(self.plan.loop))
            unfinished = self.folder / f"training-{key}"
            bundle = train(history, config, self.watch.trained, unfinished / "checkpoint.safetensors")
            save_bundle(bundle, folder)
            shutil.rmtree(unfinished, ignore_errors=True)
        self.training[name or "default"] = bundle.report
        return bundle

    def _loop(
        self, name: str, bundle: Bundle, config: Any, panel: Panel, rows: Ints, cases: Cases
    ) -> tuple[Forecasts, Forecasts]:
        code = code_hash(*_STAGES, *_JUDGING)
        parts = [self._cases_key(panel, rows), bundle.version, repr(config), code]
        path = self.folder / f"loop-{short_hash(parts)}"
        plan = self.plan

        def make() -> tuple[Forecasts, Forecasts]:
            self.watch.part(f"{name}: predicting, and learning as outcomes mature", len(self.log))
            since, until = plan.instant(plan.loop), plan.instant(int(cases.day.max()))
            log = evaluate_loop.between(self.log.watched(self.watch.done), since, until)
            return evaluate_loop.run(log, bundle, config, since, panel, cases, plan.platform.calendar)

        files = path.with_suffix(".updated.npz"), path.with_suffix(".frozen.npz")
        if not files[0].is_file():
            updated, frozen = make()
            _save(files[1], vars(frozen))
            _save(files[0], vars(updated))
        return Forecasts(**_load(files[0])), Forecasts(**_load(files[1]))

    def _rival(
        self, name: str, mean: evaluate_rivals.Mean, panel: Panel, rows: Ints, cases: Cases, of: Ints | None = None
    ) -> Forecasts:
        plan, tuning = self.plan, self._tuning_rows(panel)
        if of is not None:
            here = np.isin(panel.product[tuning], of) & (self._steps(panel.day[tuning]) % SERIES_STEP == 0)
            tuning = tuning[here]
        code = code_hash("model/evaluate_rivals.py", *_JUDGING)
        key = short_hash([self._cases_key(panel, rows), name, len(tuning), code])

        def make() -> Forecasts:
            self.watch.part(name.replace("_", " "), len(rows) + len(tuning))
            return evaluate_rivals.forecast(
                mean, name, panel, rows, cases, plan.test, tuning, plan.validation, self.watch.done
            )

        return self._forecasts(f"{name}-{key}", make)

    def _tuning_rows(self, panel: Panel) -> Ints:
        inside = np.flatnonzero((panel.day >= self.plan.validation) & (panel.day <= self.plan.tuned))
        return inside[(panel.outcomes(inside) >= 0).all(axis=1)]

    def _steps(self, day: Ints) -> Ints:
        return np.asarray((day - self.plan.test) // self.plan.spacing, np.int64)

    def _cases_key(self, panel: Panel, rows: Ints) -> list[Any]:
        digest = short_hash([panel.names[panel.product[rows]].tolist(), panel.day[rows].tolist()])
        return [self.key, digest, self._planned()]

    def _forecasts(self, name: str, make: Callable[[], Forecasts]) -> Forecasts:
        return Forecasts(**self._arrays(name, lambda: vars(make())))

    def _arrays(self, name: str, make: Callable[[], Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            _save(path, make())
        return _load(path)


def judged_rows(panel: Panel, plan: Plan) -> tuple[Ints, int]:
    """Rows of the panel whose outcomes are all known, in the days to judge; and how many are left out."""
    inside = np.flatnonzero((panel.day >= plan.test) & (panel.day <= plan.last))
    whole = inside[(panel.outcomes(inside) >= 0).all(axis=1)]
    return whole, len(inside) - len(whole)


def evaluate(
    source: Source, settings: Settings, options: Options, folder: Path, watch: Watch, fold: Fold = fold_windows
) -> tuple[Evaluation, Methods]:
    """Fold, run every method, and put those together that know the same rows. The cache lies in `folder`."""
    plan = Plan.for_source(source, settings, options.test_days, options.spacing)
    methods = Methods.of(source, settings, plan, options, folder, watch, fold)
    panel = methods.panel()
    rows, censored = judged_rows(panel, plan)
    cases = panel.cases(rows, plan.test)
    found = methods.on_all(panel, rows, cases)
    found |= methods.per_series(panel, rows, cases)
    found[POOLED] = _pool(found[LIGHTGBM], found["tsb"])
    found |= methods.cold(panel, rows, cases)
    tables = list(_tables(found, panel, rows))
    tuning, training = methods.tuning(), methods.training
    return Evaluation(
        source, plan, panel, cases, rows, censored, found, tables, tuning, training, methods.log.dead
    ), methods


def find_leaks(evaluation: Evaluation, methods: Methods, days: Sequence[int], fold: Fold = fold_windows) -> list[str]:
    """Do it again without what happens at or after each day: what differs before it, in words, nearest to its cause."""
    plan, cases, names, found = evaluation.plan, evaluation.cases, evaluation.panel.names, list[str]()
    for day in days:
        source = Truncated.of(evaluation.source, plan, day)
        again = Methods.of(source, methods.settings, plan, methods.options, methods.folder, methods.watch, fold)
        differences = compare_events(evaluation.source, source, plan.instant(day))
        differences += compare_windows(methods.log, again.log, plan, day)
        if not differences:  # else the predictions differ for that reason
            panel = again.panel()
            # Judged windows, in the order of the names of their products.
            judged = np.flatnonzero(cases.day == day)
            rows = np.flatnonzero(panel.day == day)
            rows = rows[np.isin(panel.names[panel.product[rows]], names[cases.product[judged]])]
            part = again.on_all(panel, rows, panel.cases(rows, plan.test))
            whole = {method: evaluation.forecasts[method].take(judged) for method in part}
            products = panel.names[panel.product[rows]].tolist()
            differences = compare_forecasts(whole, part, products, plan.date(day))
        found += differences
    return found


def run(
    source: Source, settings: Settings, options: Options, folder: Path, watch: Watch, check_leaks: bool
) -> EvaluationReport:
    """Evaluate, and write the report into `folder`."""
    from deploy.evaluation_report import make_report, write_report

    evaluation, methods = evaluate(source, settings, options, folder / "cache", watch)
    days = np.unique(evaluation.cases.day)
    checked = sorted({int(days[0]), int(days[len(days) // 3])}) if check_leaks else []
    leaks = find_leaks(evaluation, methods, checked)
    report = make_report(evaluation, watch, [str(evaluation.plan.date(d)) for d in checked], leaks)
    write_report(report, evaluation, folder)
    return report


def _tables(found: Mapping[str, Forecasts], panel: Panel, rows: Ints) -> Iterable[Table]:
    """One table for all rows, one for those of the per-series methods, and two for the cold start."""
    everyone = {name: f for name, f in found.items() if f.known.all()}
    yield Table("all", "every judged window", np.arange(len(rows)), everyone)
    some = found["tsb"].known & found["auto_ets"].known
    if some.any():
        about = "products drawn by sales class, at origins more than a week apart, where the per-series methods are too"
        series = {name: f for name, f in found.items() if f.known[some].all()}
        yield _table("per series", about, np.flatnonzero(some), series)
    sold = panel.units[rows].sum(axis=1) > 0
    young = panel.age[rows] < evaluate_rivals.COLD_DAYS
    for name, about, mine in (
        (
            "cold start, unsold",
            "a product's first 28 days, from its first record on, before its first sale",
            young & ~sold,
        ),
        ("cold start, sold", "a product's first 28 days, from its first record on, after its first sale", young & sold),
    ):
        if len(np.unique(panel.product[rows[mine]])) >= LEAST_PRODUCTS:
            known = {n: f for n, f in found.items() if f.known[mine].all()}
            yield _table(name, about, np.flatnonzero(mine), known)


def _table(name: str, about: str, rows: Ints, found: Mapping[str, Forecasts]) -> Table:
    return Table(name, about, rows, {method: forecasts.take(rows) for method, forecasts in found.items()})


def _pool(a: Forecasts, b: Forecasts) -> Forecasts:
    """The mean of two methods, where both forecast."""
    known = a.known & b.known
    names = ("mean", "quantiles", "surging", "below", "upto")
    means = {name: (getattr(a, name) + getattr(b, name)) / 2 for name in names}
    return replace(a, **means, known=known, version=np.where(known, POOLED, ""))


def _save(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
