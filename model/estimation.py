"""What the learner knows of a head, and how one epoch's matured rows move it.

Theta and P by forget, gather, step; the dispersion and the conformal map by PIT values. Heads of past epochs
are kept as long as a forecast of theirs may still mature: a long bucket learns on the level that its forecast was made
with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.calibration import (
    CalibrationConfig,
    common_error,
    forward,
    randomised_pit,
    track_dispersion,
    track_maps,
    watch_tails,
)
from model.distribution import spread
from model.heads import (
    LEAST,
    RESIDUAL_LIMIT,
    Floats,
    Ints,
    Prior,
    design,
    effect,
    feature_count,
    forget,
    head_version,
    identity_map,
    pearson,
    step,
)
from streams import negative_binomial
from streams.calendars import DAY
from streams.records import DELAYS, HORIZONS, QUANTILES, SalesClass
from streams.records.outside import Head

WIDTHS = tuple(right - left for left, right in zip((0, *HORIZONS[:-1]), HORIZONS, strict=True))  # days
FROZEN, FORGOTTEN = -1, -2  # in place of an epoch's index: the frozen head; one that is not kept any more
NEVER = -(2**62)
SHOCK_LIMIT = 1.0  # in usual shocks: an epoch with a larger one counts less
_LEVELS = np.array(QUANTILES)
SHARES = np.array([0.0, 0.5, 1.0])  # of what a bucket has learnt by itself, that are held against each other
LOOSE, LOOSE_CATEGORY = 1.0, 0.005  # variances of a level that is not learnt but allowed for


@dataclass(frozen=True)
class EstimationConfig:
    """Half-lives and times in days."""

    prior: Prior = field(default_factory=Prior)
    level_half_life: float = 14.0  # intercept and category effects; the baseline catches up as fast
    own_half_life: tuple[float, ...] = (56.0, 28.0, 112.0)  # f_b and components, at least 4 x the delay
    close_every: float = 1.0
    kept_days: int = 36  # heads of past epochs: the longest delay, head_lag, and a week for late ones
    overdispersion: float = 4.0  # D before anything is known, with the weight of so many epochs:
    overdispersion_epochs: float = 4.0
    overdispersion_half_life: float = 14.0  # non-overlapping epochs
    credit_information: float = 4.0  # a correction that explains less is not believed, see `credit`
    adopted_information: float = 20.0  # that a head which was made elsewhere is taken to have explained
    credit_half_life: tuple[float, ...] = (56.0, 56.0, 112.0)
    share_rate: float = 30.0  # log weight of what an epoch would have been without loss with
    share_rows: float = 20.0  # an epoch with so few rows counts half
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)


@dataclass(frozen=True, eq=False)
class Labels:
    """Matured rows of one epoch, [rows] each; learning leaves out censored ones and other networks' before."""

    delay: Ints
    units: Floats
    total: Floats
    median: Floats
    frozen_mean: Floats
    frozen_total_mean: Floats
    frozen_dispersion: Floats
    frozen_median: Floats
    baseline: Floats
    f: Floats
    components: Floats  # [rows, 8]
    sales_class: Ints
    category: Ints  # code, -1 unknown
    head: Ints  # epoch of the head that predicted, 0 = frozen
    uniform: Floats  # pseudo-uniform of the row, for its randomised PIT

    def __len__(self) -> int:
        return len(self.delay)

    def take(self, rows: npt.NDArray[np.integer]) -> Labels:
        return Labels(**{name: column[rows] for name, column in vars(self).items()})


_STATE = ("theta", "covariance", "conformal", "merits", "gains", "shocks", "shocks_at", "dispersion", "tails")


@dataclass(eq=False)
class Past:
    """The state as it was learnt at an epoch, whether it was published or not."""

    epoch: int  # and revision: see `head_key`
    state: dict[str, npt.NDArray[Any]]  # by the names of _STATE

    @property
    def theta(self) -> Floats:
        return self.state["theta"]

    @property
    def merits(self) -> Floats:
        return self.state["merits"]


def quantile_loss(units: Floats, mean: Floats, r: Floats, conformal: Floats) -> float:
    """Sum over rows of the loss of the published quantiles."""
    over = units[:, None] - negative_binomial.quantiles(forward(conformal, QUANTILES), mean, r)
    return float(np.maximum(_LEVELS * over, (_LEVELS - 1) * over).sum())


def common_score(units: Floats, mean: Floats, r: Floats) -> float:
    """How far all rows are off together, in standard deviations as if they were independent."""
    weight = mean / (1 + mean / r)
    return float((pearson(units, mean, r) * np.sqrt(weight)).sum() / np.sqrt(weight.sum()))


class Estimator:
    """The learnt head. `dispersion` [horizons, sales classes] is the network's own."""

    def __init__(self, categories: int, dispersion: Floats, config: EstimationConfig) -> None:
        self.config = config
        self.categories = categories
        self.shared = 1 + categories  # features of the level
        self.network_dispersion = np.asarray(dispersion, np.float64).reshape(len(HORIZONS), len(SalesClass))
        self.prior = config.prior.covariance(categories)
        self.theta = np.zeros((DELAYS, feature_count(categories)))
        self.covariance = self.prior.copy()
        self.conformal = identity_map()
        self.merits = np.zeros((DELAYS, 2, 2))  # of level and own terms: what they explained, what they claimed
        self.gains = np.zeros((DELAYS, len(SHARES)))  # of quantile loss, by share of what was learnt, over none of it
        self.shocks = np.zeros((DELAYS, 3))  # newest standardised score, decayed sum of its variance, weight
        self.shocks_at = np.full(DELAYS, NEVER, np.int64)
        self.past: list[Past] = []
        self.dispersion = self.network_dispersion.copy()
        self.tails = np.zeros((2, *self.dispersion.shape))  # smoothed error of the share in the tails, and its square

    def learn(self, labels: Labels, epoch: int, elapsed: float) -> None:
        """One update from the rows that matured at `epoch`, `elapsed` days after the epoch before."""
        known = labels.take(np.flatnonzero(self.index(labels.head) != FORGOTTEN))
        mean, r = self._weigh(known, elapsed)
        self._calibrate(known, mean, r, elapsed)
        for b in range(DELAYS):
            mine = known.take(np.flatnonzero(known.delay == b))
            self._judge(b, mine, elapsed)
            self._update(b, mine, epoch, elapsed)
        self.theta[1:, : self.shared] = self.theta[0, : self.shared]
        self.covariance[1:, : self.shared, : self.shared] = self.covariance[0, : self.shared, : self.shared]

    def keep(self, epoch: int) -> None:
        """Remember the state of this epoch, and forget those that nothing can ask for any more."""
        now = Past(epoch, self._state())
        self.past = [p for p in self.past if p.epoch >= epoch - self.config.kept_days * DAY] + [now]

    def go_back(self, epoch: int) -> bool:
        """Stand where an epoch that is kept has left the state; False where it is not kept.

        What was published since is withdrawn: its forecasts count as made with this state.
        """
        found = next((p for p in self.past if p.epoch == epoch), None)
        if found is None:
            return False
        self._take(found.state)
        for later in self.past:
            if later.epoch > epoch:
                later.state = self._state()
        return True

    def adopt(self, head: Head) -> None:
        """Go on from a head that was made elsewhere; what is known of spread and shocks stays."""
        for name in ("theta", "covariance", "dispersion", "conformal"):
            setattr(self, name, np.array(getattr(head, name), np.float64))
        claimed = self.config.adopted_information  # theta is as it was published: believed whole, to begin with
        self.merits[:] = claimed + self.config.credit_information * self.config.level_half_life, claimed
        self.gains[:] = SHARES

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {name: np.array(getattr(self, name)) for name in _STATE}

    def _take(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        for name in _STATE:
            setattr(self, name, np.array(state[name], order="C"))

    def credit(self, merits: Floats) -> Floats:
        """[delays, features] how much of each term is believed: the regression of what was sold on what it said.

        Chance alone moves theta as far as its prior allows, and the day after knows nothing of it; a true change is
        confirmed the day after. So level and own terms count as far as they have predicted. The level is judged by its
        day alone: for a longer horizon it must have explained as much for each day, of those that it lasts.
        """
        c, terms = self.config, merits.copy()
        terms[:, 0] = merits[0, 0]
        needed = np.full((DELAYS, 2), c.credit_information)
        needed[:, 0] *= np.minimum(HORIZONS, c.level_half_life)
        believed = np.clip(terms[:, :, 0] / (terms[:, :, 1] + needed), 0.0, 1.0)
        return np.repeat(believed, (self.shared, self.theta.shape[1] - self.shared), axis=1)

    def head(self, model: str, categories: list[str], epoch: int, rows: int) -> Head:
        theta, covariance, dispersion, conformal = self.published(self._state(), self.shares(self.gains))
        return Head(
            version=head_version(model, epoch),
            model=model,
            epoch=epoch,
            theta=theta.tolist(),
            covariance=covariance.tolist(),
            dispersion=dispersion.tolist(),
            categories=categories,
            conformal=conformal.tolist(),
            rows=rows,
        )

    def shares(self, gains: Floats) -> Floats:
        """[delays] how much is published of what a bucket has learnt by itself (own terms, spread and map): the mean of
        SHARES, weighted by what each has gained."""
        weights = np.exp(self.config.share_rate * (gains - gains.max(axis=1, keepdims=True)))
        mean: Floats = (weights * SHARES).sum(axis=1) / weights.sum(axis=1)
        return mean

    def published(self, state: Mapping[str, npt.NDArray[Any]], share: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Theta, P, dispersion and conformal map of a head that publishes `share` [delays] of a state."""
        credit = self.credit(state["merits"])
        credit[:, self.shared :] *= share[:, None]
        moved = (state["dispersion"] / self.network_dispersion) ** share[:, None]
        return (
            credit * state["theta"],
            credit[:, :, None] * state["covariance"] * credit[:, None, :],
            self.network_dispersion * moved,
            identity_map() + share[:, None] * (state["conformal"] - identity_map()),
        )

    def index(self, epochs: Ints) -> Ints:
        """[rows] index into `past` of each head's epoch, FROZEN or FORGOTTEN."""
        kept = np.array([p.epoch for p in self.past], np.int64)
        if not len(kept):
            return np.where(epochs == 0, FROZEN, FORGOTTEN).astype(np.int64)
        place = np.minimum(np.searchsorted(kept, epochs), len(kept) - 1)
        return np.where(epochs == 0, FROZEN, np.where(kept[place] == epochs, place, FORGOTTEN)).astype(np.int64)

    def replay(self, labels: Labels) -> Floats:
        """Bucket mean [rows] that the learnt head of each row's epoch gives, whether it was published or not."""
        mean = labels.frozen_mean.copy()
        for rows, past, b in self._by_past(labels):
            mine = labels.take(rows)
            theta, covariance, _, _ = self.published(past.state, self.shares(past.state["gains"]))
            shift, s2 = effect(theta[b], covariance[b], mine.f, mine.components, mine.category)
            mean[rows] *= np.exp(shift + s2 / 2)
        return mean

    def _weigh(self, labels: Labels, elapsed: float) -> tuple[Floats, Floats]:
        """Hold the shares against each other. Mean and r [rows] of the horizon's total, had all been published that was
        learnt: what is held back teaches as if it were not."""
        c = self.config
        mean, r = labels.frozen_total_mean.copy(), labels.frozen_dispersion.copy()
        loss, count = np.zeros(self.gains.shape), np.zeros(DELAYS)
        for rows, past, b in self._by_past(labels):
            mine = labels.take(rows)
            for i, share in enumerate(SHARES):
                theta, covariance, dispersion, conformal = self.published(past.state, np.full(DELAYS, share))
                shift, s2 = effect(theta[b], covariance[b], mine.f, mine.components, mine.category)
                moved = (dispersion / self.network_dispersion)[b, mine.sales_class]
                mean[rows] = mine.frozen_total_mean * np.exp(shift + s2 / 2)
                r[rows] = spread(mean[rows, None], s2[:, None], (mine.frozen_dispersion * moved)[:, None])[:, 0]
                loss[b, i] += quantile_loss(mine.total, mean[rows], r[rows], conformal[b])
            count[b] += len(rows)
        gain = np.clip(1 - loss / np.maximum(loss[:, :1], LEAST), -1.0, 1.0)
        trust = np.minimum(1.0, c.close_every / np.array(WIDTHS)) * count / (count + c.share_rows)
        lasting = 0.5 ** (elapsed / np.array(c.credit_half_life))
        self.gains = lasting[:, None] * self.gains + trust[:, None] * gain
        return mean, r

    def _calibrate(self, labels: Labels, mean: Floats, r: Floats, elapsed: float) -> None:
        c, every = self.config.calibration, self.config.close_every
        level = common_error(labels.delay, labels.total, mean, r, c.common_information)
        pit = randomised_pit(labels.total, mean * level, r, labels.uniform)
        self.tails, errors = watch_tails(self.tails, labels.delay, labels.sales_class, pit, c, elapsed)
        self.dispersion = track_dispersion(
            self.dispersion, self.network_dispersion, self.tails, errors, c, every, elapsed
        )
        self.conformal = track_maps(self.conformal, labels.delay, pit, c, every)

    def overdispersion(self, bucket: int) -> float:
        """D: how far the score spreads beyond its information; at least 1."""
        c = self.config
        start = c.overdispersion * c.overdispersion_epochs
        total, weight = float(self.shocks[bucket, 1]), float(self.shocks[bucket, 2])
        return max(1.0, (start + total) / (c.overdispersion_epochs + weight))

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The whole state; `load` is the inverse."""
        past = self.past
        return {
            **{name: getattr(self, name) for name in _STATE},
            "past_epoch": np.array([p.epoch for p in past], np.int64),
            **{
                f"past_{name}": np.array([p.state[name] for p in past], getattr(self, name).dtype).reshape(
                    len(past), *getattr(self, name).shape
                )
                for name in _STATE
            },
        }

    def load(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        for name in _STATE:
            if arrays[name].shape != getattr(self, name).shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, this head {getattr(self, name).shape}")
        self._take(arrays)
        self.past = [
            Past(int(epoch), {name: arrays[f"past_{name}"][i].copy() for name in _STATE})
            for i, epoch in enumerate(arrays["past_epoch"])
        ]

    def _update(self, b: int, labels: Labels, epoch: int, elapsed: float) -> None:
        c = self.config
        half_life = np.full(self.theta.shape[1], c.own_half_life[b])
        half_life[: self.shared] = c.level_half_life
        theta, covariance = forget(self.theta[b], self.covariance[b], self.prior[b], 0.5 ** (elapsed / half_life))
        if b:
            # A long bucket says nothing of the level, but must not explain one by its own features either: here the
            # level is what its forecasts were made with, plus anything, and what is found of it is thrown away. A
            # category's may lie a little from it: what a season does to some is their own features' to say.
            theta[: self.shared] = 0.0
            covariance[: self.shared] = covariance[:, : self.shared] = 0.0
            covariance[range(1, self.shared), range(1, self.shared)] = LOOSE_CATEGORY
            covariance[0, 0] = LOOSE
        if len(labels):
            x = design(labels.f, labels.components, labels.category, self.categories)
            offset = np.log(np.maximum(labels.baseline, LEAST)) + labels.f
            if b:
                offset = offset + self._past_level(labels)
            r = self._r(b, labels)
            score = common_score(labels.units, np.exp(offset + np.einsum("nf,f->n", x, theta)), r)
            kappa = self._kappa(b) * self._usual(b, score)
            self._watch_shocks(b, score, epoch)
            theta, covariance = step(theta, covariance, x, offset, labels.units, r, kappa)
        if b:
            theta[: self.shared] = 0.0
            covariance[: self.shared] = covariance[:, : self.shared] = 0.0
        self.theta[b], self.covariance[b] = theta, covariance

    def _r(self, b: int, labels: Labels) -> Floats:
        """[rows] the network's own of each row, moved as that of its class has been."""
        moved: Floats = (self.dispersion / self.network_dispersion)[b, labels.sales_class]
        return labels.frozen_dispersion * moved

    def _kappa(self, b: int) -> float:
        return min(1.0, self.config.close_every / WIDTHS[b]) / self.overdispersion(b)

    def _past_level(self, labels: Labels) -> Floats:
        # [rows] the level that each forecast was made with: the one of today has seen what came after it
        level = np.zeros(len(labels))
        for rows, past, b in self._by_past(labels):
            category = labels.category[rows]
            effects = np.where(category >= 0, past.theta[0][np.maximum(category, 0) + 1], 0.0)
            level[rows] = self.credit(past.merits)[b, 0] * (past.theta[0, 0] + effects)
        return level

    def _judge(self, b: int, labels: Labels, elapsed: float) -> None:
        """Hold what the heads of these rows said, level and own terms apart, against what was sold."""
        self.merits[b] *= 0.5 ** (elapsed / self.config.credit_half_life[b])
        kappa = self._kappa(b)
        for rows, past, _ in self._by_past(labels):
            mine = labels.take(rows)
            x = design(mine.f, mine.components, mine.category, self.categories)
            # A day's outcome is news to all that was learnt before; a longer bucket's outcomes overlap.
            theta = past.theta[b] if b else self.theta[0]
            blocks = (slice(None, self.shared), slice(self.shared, None))
            said = np.stack([np.einsum("nf,f->n", x[:, block], theta[block]) for block in blocks])
            r = self._r(b, mine)
            mean = np.maximum(mine.baseline, LEAST) * np.exp(mine.f + said.sum(axis=0))
            weight = mean / (1 + mean / r)
            score = pearson(mine.units, mean, r) * np.sqrt(weight)
            claimed = kappa * (weight * said**2).sum(axis=1)
            self.merits[b, :, 0] += claimed + kappa * (score * said).sum(axis=1)
            self.merits[b, :, 1] += claimed

    def _by_past(self, labels: Labels) -> list[tuple[Ints, Past, int]]:
        at = self.index(labels.head)
        pairs = [(i, b) for i in np.unique(at[at >= 0]).tolist() for b in range(DELAYS)]
        found = [(np.flatnonzero((at == i) & (labels.delay == b)), self.past[i], b) for i, b in pairs]
        return [group for group in found if len(group[0])]

    def _usual(self, b: int, score: float) -> float:
        """Weight of an epoch by its common shock, Huber's: the day before a holiday tells little of those after it."""
        return min(1.0, SHOCK_LIMIT * math.sqrt(self.overdispersion(b)) / max(abs(score), LEAST))

    def _watch_shocks(self, b: int, score: float, epoch: int) -> None:
        # Half the squared difference of neighbours is their variance without what a slow bias adds.
        first = self.shocks_at[b] == NEVER
        if not first and epoch - self.shocks_at[b] < (WIDTHS[b] - 0.1) * DAY:
            return
        if not first:
            limit = RESIDUAL_LIMIT**2 * self.overdispersion(b)
            decay = 0.5 ** (1 / self.config.overdispersion_half_life)
            self.shocks[b, 1] = decay * self.shocks[b, 1] + min((score - self.shocks[b, 0]) ** 2 / 2, limit)
            self.shocks[b, 2] = decay * self.shocks[b, 2] + 1
        self.shocks[b, 0] = score
        self.shocks_at[b] = epoch
