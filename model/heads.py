"""Online heads: a small Bayesian correction of the network's means, per delay bucket.

    log mu_b = log B_b + f_b + x_b'theta_b        x_b = [1, category effects, f_b, components of phi]

The intercept and the category effects are one level for all buckets, learnt from the first alone: a long bucket's
residual arrives when the baseline has caught up and would correct twice. The other buckets learn what is their own
(f_b and the components), slowly. Definitions: docs/forecast.md, "Online update".

Everything here adds up element by element in a fixed order, so that a row's numbers do not depend on its company.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model.errors import ModelError
from streams.codecs import decode_json
from streams.records import COMPONENTS, DELAYS, HORIZONS, SalesClass
from streams.records.outside import Head
from streams.stage import Message

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OWN = 1 + COMPONENTS  # features that belong to one bucket: f_b and the components
RESIDUAL_LIMIT = 4.0  # of a Pearson residual
LEAST = 1e-9  # of a mean
MOST_STEPS, LONGEST_STRIDE, SMALLEST_STRIDE = 8, 1.0, 1e-4  # Newton's, the last two as changes of a log mean
KNOTS = 19  # levels of the conformal map, see model/calibration.py


@dataclass(frozen=True)
class Prior:
    """Prior variances of theta: how far the log mean may lie from the network's."""

    level: float = 0.06
    category: float = 0.02
    network: float = 0.04  # slope on f_b
    component: float = 0.01  # slope on a component, which is in standard deviations

    def covariance(self, categories: int) -> Floats:
        """[delays, features, features], the same for every bucket."""
        variances = [self.level, *[self.category] * categories, self.network, *[self.component] * COMPONENTS]
        return np.tile(np.diag(variances), (DELAYS, 1, 1))


def feature_count(categories: int) -> int:
    return 1 + categories + OWN


def head_version(model: str, epoch: int, revision: int = 0) -> str:
    """`<model>-e<epoch>`, with `.<revision>` for one that was installed by hand; epoch 0 is the frozen head."""
    if not epoch:
        return f"{model}-frozen"
    return f"{model}-e{epoch}.{revision}" if revision else f"{model}-e{epoch}"


def head_key(model: str, version: str) -> int | None:
    """What orders the versions of one network: epoch + revision, 0 for the frozen head; None for another's version.

    Epochs are days apart in ms, so the sum stands for both.
    """
    if version == head_version(model, 0):
        return 0
    epoch, _, revision = version.removeprefix(f"{model}-e").partition(".")
    return int(epoch) + int(revision or 0) if epoch.isdecimal() and (revision or "0").isdecimal() else None


def is_frozen(head: Head) -> bool:
    """Whether it says what the network says, at whatever epoch it was published."""
    return not np.any(head.theta) and not np.any(head.covariance)


def identity_map() -> Floats:
    """[horizons, knots] the conformal map that changes nothing."""
    return np.tile(np.arange(1, KNOTS + 1) / (KNOTS + 1), (len(HORIZONS), 1))


def frozen_head(model: str, dispersion: Floats, categories: Sequence[str], epoch: int = 0) -> Head:
    """The network as it was trained: theta 0, no uncertainty beyond `dispersion` [horizons, sales classes].

    Its covariance is 0 and not the prior's: its r was fitted with all of its errors in it. With `epoch` it is what the
    learner publishes while the frozen network is the champion.
    """
    features = feature_count(len(categories))
    return Head(
        version=head_version(model, epoch),
        model=model,
        epoch=epoch,
        theta=np.zeros((DELAYS, features)).tolist(),
        covariance=np.zeros((DELAYS, features, features)).tolist(),
        dispersion=np.asarray(dispersion, np.float64).reshape(len(HORIZONS), len(SalesClass)).tolist(),
        categories=list(categories),
        conformal=identity_map().tolist(),
        rows=0,
    )


def category_codes(categories: Sequence[str], category: Sequence[str] | npt.NDArray[np.object_]) -> Ints:
    """[n] index into `categories`, -1 for one that the head does not know."""
    index = {name: code for code, name in enumerate(categories)}
    return np.fromiter((index.get(name, -1) for name in category), np.int64, len(category))


@dataclass(frozen=True, eq=False)
class Correction:
    """A head as arrays, ready to be applied to many windows."""

    head: Head
    theta: Floats  # [delays, features]
    covariance: Floats  # [delays, features, features]
    dispersion: Floats  # [sales classes, horizons]
    conformal: Floats  # [horizons, knots]
    frozen: bool  # it changes nothing

    @staticmethod
    def of(head: Head) -> Correction:
        theta, covariance = np.asarray(head.theta, np.float64), np.asarray(head.covariance, np.float64)
        count = len(head.categories)
        if theta.shape != (DELAYS, feature_count(count)):
            raise ModelError(f"head {head.version}: theta is {theta.shape} for {count} categories; drop it")
        dispersion, conformal = np.asarray(head.dispersion, np.float64).T, np.asarray(head.conformal, np.float64)
        return Correction(head, theta, covariance, dispersion, conformal, is_frozen(head))

    def row_dispersion(self, sales_class: npt.NDArray[np.integer]) -> Floats:
        """r [n, horizons] of rows by their sales class [n]."""
        r: Floats = self.dispersion[sales_class]
        return r

    def correct(self, log_baseline: Floats, f: Floats, components: Floats, codes: Ints) -> tuple[Floats, Floats]:
        """mu and s2 [n, delays], the variance of log mu, from log B and f [n, delays], components [n, 8] and category
        codes [n]."""
        if self.frozen:
            return np.exp(log_baseline + f), np.zeros(f.shape)
        shift, s2 = effect(self.theta, self.covariance, f, components, codes)
        return np.exp(log_baseline + f + shift), s2


def effect(theta: Floats, covariance: Floats, f: Floats, components: Floats, codes: Ints) -> tuple[Floats, Floats]:
    """x'theta and x'Px of one bucket [n], or of several [n, buckets], as f is: theta [features] or [buckets, features],
    covariance likewise, components [n, COMPONENTS], codes [n]."""
    categories = theta.shape[-1] - 1 - OWN
    each = (len(f), *[1] * (f.ndim - 1))  # a row's number, for all of its buckets
    f64, c64 = np.asarray(f, np.float64), np.asarray(components, np.float64)
    dense = [np.ones(each), f64, *(np.ascontiguousarray(c64[:, k]).reshape(each) for k in range(COMPONENTS))]
    place = [0, *range(1 + categories, theta.shape[-1])]  # of the dense features
    known = (codes >= 0).reshape(each)
    at = np.where(codes >= 0, codes + 1, 0)  # of each row's category
    shift = np.where(known, theta[..., at].T, 0.0)
    variance = np.where(known, covariance[..., at, at].T, 0.0)
    for i, (x, p) in enumerate(zip(dense, place, strict=True)):
        shift = shift + x * theta[..., p]
        across = np.where(known, covariance[..., at, p].T, 0.0)
        for y, q in zip(dense[i + 1 :], place[i + 1 :], strict=True):
            across = across + y * covariance[..., p, q]
        variance = variance + x * (x * covariance[..., p, p] + 2 * across)
    return shift, np.maximum(variance, 0.0)


def design(f: Floats, components: Floats, codes: Ints, categories: int) -> Floats:
    """x [n, features] of one bucket."""
    x = np.zeros((len(f), feature_count(categories)))
    x[:, 0] = 1.0
    known = np.flatnonzero(codes >= 0)
    x[known, codes[known] + 1] = 1.0
    x[:, 1 + categories] = f
    x[:, 2 + categories :] = components
    return x


# --------------------------------------------------------------------------------------------------------------------
# One bucket's update, step by step.


def forget(theta: Floats, covariance: Floats, prior: Floats, keep: Floats) -> tuple[Floats, Floats]:
    """Draw theta and P towards the prior; `keep` [features] is the diagonal of Gamma."""
    drawn = keep[:, None] * covariance * keep[None, :] + np.diag(1 - keep * keep) * prior
    return keep * theta, drawn


def gather(x: Floats, units: Floats, mean: Floats, r: Floats) -> tuple[Floats, Floats]:
    """Information H and score g of rows x [n, features] at their `mean` and r [n], before kappa."""
    m = np.maximum(mean, LEAST)
    weight = m / (1 + m / r)
    residual = pearson(units, m, r)
    # einsum without optimisation adds in a fixed order, whatever the number of BLAS threads.
    return np.einsum("nf,ng->fg", x * weight[:, None], x), np.einsum("nf,n->f", x, residual * np.sqrt(weight))


def pearson(units: Floats, mean: Floats, r: Floats) -> Floats:
    """Pearson residuals, clipped."""
    m = np.maximum(mean, LEAST)
    return np.clip((units - m) / np.sqrt(m * (1 + m / r)), -RESIDUAL_LIMIT, RESIDUAL_LIMIT)


def step(
    theta: Floats, covariance: Floats, x: Floats, offset: Floats, units: Floats, r: Floats, kappa: float
) -> tuple[Floats, Floats]:
    """P <- (P^-1 + H)^-1 and theta <- theta + P g for rows x [n, features] whose log mean is offset + x'theta.

    One step alone turns a tripling of sales into a head that says seven times as many (theta 2 for log 3), so it is
    taken again from where it led, with a bounded stride, until it stays: Newton's way to the mode.
    """
    inverse = np.linalg.inv(covariance)
    start, updated = theta, covariance
    for _ in range(MOST_STEPS):
        mean = np.exp(offset + np.einsum("nf,f->n", x, theta))
        information, score = gather(x, units, mean, r)
        new = np.linalg.inv(inverse + kappa * information)
        updated = np.asarray((new + new.T) / 2, np.float64)
        pull = np.einsum("fg,g->f", inverse, theta - start)
        stride = np.einsum("fg,g->f", updated, kappa * score - pull)
        reach = float(np.abs(np.einsum("nf,f->n", x, stride)).max())
        theta = theta + stride * min(1.0, LONGEST_STRIDE / max(reach, LEAST))
        if reach < SMALLEST_STRIDE:
            break
    return theta, updated


# --------------------------------------------------------------------------------------------------------------------


@dataclass
class HeadStore:
    """Heads of one network as they arrive from `model.heads`; versioned data of the inference stage."""

    model: str
    since: int = 0  # the frozen head's are all epochs before: no learner ran that could have made others
    _heads: dict[int, Head] = field(default_factory=dict)  # by epoch, ascending; of each the highest revision
    _versions: dict[str, Head] = field(default_factory=dict)

    def put(self, message: Message) -> None:
        if message.value is None:
            return
        head = decode_json(message.value, Head)
        if head.model != self.model:
            return
        self._versions[head.version] = head
        if head.epoch in self._heads and self._heads[head.epoch].revision > head.revision:
            return
        late = bool(self._heads) and head.epoch < next(reversed(self._heads))
        self._heads[head.epoch] = head
        if late:  # a re-read topic; the learner itself writes epochs in order
            self._heads = dict(sorted(self._heads.items()))

    def select(self, epoch: int) -> Head | None:
        """The newest head at or before the epoch."""
        return next((head for at, head in reversed(self._heads.items()) if at <= epoch), None)

    def newest(self) -> Head | None:
        return next(reversed(self._heads.values()), None)

    def has(self, epoch: int) -> bool:
        """Whether a head of this epoch or a later one is there, so that `select(epoch)` will not change any more."""
        return epoch < self.since or (bool(self._heads) and next(reversed(self._heads)) >= epoch)

    def get(self, version: str) -> Head | None:
        return self._versions.get(version)
