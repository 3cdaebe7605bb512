"""Why a score is what it is: shares of channels and modalities in the log of the expected units, which add up to it.

    log M_h = log B_h + network on the bare product + head + day so far + sum of the shares

The shares are Shapley values (Shapley 1953; Strumbelj and Kononenko 2014), exact by enumeration: every set of inputs is
run through the same network and head as the score. An input that is left out is what it is where it is missing: a
modality the network's own missing state, a channel a product whose numbers are as usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from model.distribution import accumulate
from model.errors import ModelError
from model.features import PRICE_CONTEXT, SERIES, TREND_CONTEXT, VECTORS, Doubles, Features, concatenate, extract
from model.heads import LEAST, Correction, category_codes, frozen_head
from model.reading import Reading, read
from model.registry import Bundle
from model.scoring import forecast
from streams.codecs import Rows
from streams.records import KNOWN, PROMOTION_KINDS, Modality
from streams.records.outside import Head

METHOD = "exact Shapley values on the log of the expected units"
BASELINE, PRODUCT, HEAD, TODAY = "baseline", "product", "head", "day so far"


@dataclass(frozen=True, eq=False)
class Explanation:
    """Of one score. The parts add up to `log_mean`, horizon by horizon."""

    method: str
    log_mean: Doubles  # [horizons] log of the expected units
    # Each [horizons], in log units: the baseline, the network on nothing but the product (rate, age, weekday), the head
    # there, the day so far of a live window; then the inputs that the window has.
    parts: Mapping[str, Doubles]


def explain(window: Rows, bundle: Bundle, head: Head, batch_rows: int = 64) -> Explanation:
    """Explain the score that `head` on `bundle` gave to `window`: one row of WINDOWS.

    `batch_rows` is the inference stage's own: with it the log mean is that of the score, to the bit. Raises ModelError
    for more rows than one, or a head of another network.
    """
    if len(window) != 1:
        raise ModelError(f"explain takes one window at a time, not {len(window)}; pick its row")
    if head.model != bundle.version:
        raise ModelError(f"head {head.version} belongs to network {head.model}, not {bundle.version}; load that bundle")
    features = extract(window)
    players = [name for name, leave_out in INPUTS.items() if not _equal(features, leave_out(features))]
    coalitions = np.arange(1 << len(players))[:, None] >> np.arange(len(players)) & 1  # [coalitions, players]
    kept = [_without(features, [p for p, there in zip(players, row, strict=True) if not there]) for row in coalitions]
    frozen = Correction.of(frozen_head(bundle.version, bundle.dispersion, bundle.categories))
    used = Correction.of(head)
    value = np.log(_totals(window, bundle, used, concatenate(kept), batch_rows))  # [coalitions, horizons]
    product = np.log([_expected(window, bundle, h, kept[0], batch_rows) for h in (frozen, used)])
    log_baseline = np.log(np.maximum(accumulate(window["baseline"]), LEAST))[0]
    parts = {BASELINE: log_baseline, PRODUCT: product[0] - log_baseline, HEAD: product[1] - product[0]}
    if (today := value[0] - product[1]).any():
        parts[TODAY] = today
    return Explanation(METHOD, value[-1], parts | dict(zip(players, shapley(value), strict=True)))


def effects(
    window: Rows,
    bundle: Bundle,
    head: Head,
    modality: Modality,
    vectors: npt.NDArray[np.float32],
    batch_rows: int = 64,
) -> Doubles:
    """[vectors, horizons] what each of a product's reviews, pictures or titles says by itself: the log mean with its
    vector [vectors, VECTOR] in place of the pooled one, less the log mean without the modality.

    Those with the largest effect in the direction of the modality's part are nearest to what moved the score.
    """
    features = extract(window)
    bare = _leave_out(modality)(features)
    there = features.present.copy()
    there[:, modality] = True
    changed = [replace(features, present=there, vectors=_swap(features.vectors, modality, v)) for v in vectors]
    value = np.log(_totals(window, bundle, Correction.of(head), concatenate([bare, *changed]), batch_rows))
    gains: Doubles = value[1:] - value[0]
    return gains


def shapley(value: Doubles) -> Doubles:
    """[players, ...] Shapley values of a game whose `value` [2^players, ...] is indexed by bit masks of players."""
    players = (len(value) - 1).bit_length()
    masks = np.arange(len(value))
    size = (masks[:, None] >> np.arange(players) & 1).sum(axis=1)
    weights = np.array([1 / (players * math.comb(players - 1, s)) for s in range(players)])
    shares = np.empty((players, *value.shape[1:]))
    for player in range(players):
        without = masks[masks >> player & 1 == 0]
        gains = value[without | 1 << player] - value[without]
        shares[player] = np.tensordot(weights[size[without]], gains, axes=1)
    return shares


# --------------------------------------------------------------------------------------------------------------------
# What it means to leave an input out.


def _leave_out(*modalities: Modality) -> Callable[[Features], Features]:
    def without(features: Features) -> Features:
        present = features.present.copy()
        present[:, list(modalities)] = False
        return replace(features, present=present)

    return without


def _usual(*series: str, context: slice | None = None) -> Callable[[Features], Features]:
    columns = [SERIES.index(name) for name in series]

    def without(features: Features) -> Features:
        days, hours, numbers = features.days.copy(), features.hours.copy(), features.context.copy()
        days[:, :, columns] = hours[:, :, columns] = 0.0
        if context is not None:
            numbers[:, context] = 0.0
        return replace(features, days=days, hours=hours, context=numbers)

    return without


def _unknown(*known: str) -> Callable[[Features], Features]:
    columns = [KNOWN.index(name) for name in known]

    def without(features: Features) -> Features:
        days, ahead = features.days.copy(), features.ahead.copy()
        days[:, :, [len(SERIES) + column for column in columns]] = 0.0
        ahead[:, :, columns] = 0.0
        return replace(features, days=days, ahead=ahead)

    return without


INPUTS: dict[str, Callable[[Features], Features]] = {
    "sales": _usual("units", "orders", "returned", context=TREND_CONTEXT),
    "price": _usual("price", context=PRICE_CONTEXT),
    "calendar": _unknown("holiday"),
    "promotions": _unknown(*PROMOTION_KINDS),
    "ratings": _usual("reviews", "rating"),
    "behaviour": _leave_out(Modality.BEHAVIOR),
    "text": _leave_out(Modality.TEXT),
    "image": _leave_out(Modality.IMAGE),
    "title": _leave_out(Modality.TITLE),
    "catalogue": _leave_out(Modality.CATALOGUE),
    "level": _leave_out(Modality.LEVEL),
}


def _without(features: Features, players: Sequence[str]) -> Features:
    for player in players:
        features = INPUTS[player](features)
    return features


def _equal(one: Features, other: Features) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def _swap(
    vectors: npt.NDArray[np.float32], modality: Modality, vector: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    swapped = vectors.copy()
    swapped[:, VECTORS.index(modality)] = vector
    return swapped


# --------------------------------------------------------------------------------------------------------------------
# What the network and a head say of changed features of one window.


def _read(window: Rows, bundle: Bundle, features: Features, batch_rows: int) -> tuple[Rows, Reading]:
    n = len(features)
    rows = Rows(window.record, window.batch.take(np.zeros(n, np.int64)))
    return rows, read(bundle.network, features, None, batch_rows)


def _totals(window: Rows, bundle: Bundle, head: Correction, features: Features, batch_rows: int) -> Doubles:
    """[n, horizons] expected units of each of the changed features, as they would have been published."""
    rows, reading = _read(window, bundle, features, batch_rows)
    return np.maximum(forecast(bundle, head, rows, reading, np.arange(len(features))).total, LEAST)


def _expected(window: Rows, bundle: Bundle, head: Correction, features: Features, batch_rows: int) -> Doubles:
    """[horizons] the same for one row, as if the day that is open had only begun."""
    rows, reading = _read(window, bundle, features, batch_rows)
    log_baseline = np.log(np.maximum(rows["baseline"], LEAST))
    f, components = reading.f.astype(np.float64), reading.components.astype(np.float64)
    mu, s2 = head.correct(log_baseline, f, components, category_codes(head.head.categories, rows["category"]))
    total: Doubles = accumulate(np.maximum(mu * np.exp(s2 / 2), LEAST))[0]
    return total
