"""What a replay changes, and why: by horizon, by product, and window by window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streams.records import HORIZONS
from streams.records.outside import Score
from streams.replay.pairs import Pair
from streams.replay.plan import Plan

HEAD, MODEL, CODE = "head", "model", "code"


class HorizonMoves(msgspec.Struct, kw_only=True):
    """Over all windows that were compared."""

    days: int
    moved: int = 0  # windows whose expected units changed
    expected_before: float = 0.0  # sums over the windows that were compared
    expected_after: float = 0.0
    largest: float = 0.0  # change of the expected units of one window, in size
    classes: dict[str, int] = {}  # "steady > rising": windows


class ProductMoves(msgspec.Struct, kw_only=True):
    product: str
    windows: int = 0  # that changed
    causes: dict[str, int] = {}  # by windows
    expected: dict[str, float] = {}  # by horizon: sum of the changes
    classes: int = 0  # windows with another class at any horizon
    reorder_before: int | None = None  # suggested order of the newest window that has one
    reorder_after: int | None = None
    bid_before: float | None = None
    bid_after: float | None = None


class Diff(msgspec.Struct, kw_only=True):
    replay: str
    change: str
    compared: int = 0  # windows
    changed: int = 0
    new: int = 0  # of these, windows that were never published
    causes: dict[str, int] = {}  # windows by cause
    horizons: list[HorizonMoves] = []
    reorders: int = 0  # inventory signals whose order or reorder point changed
    ordered_before: int = 0  # units suggested, over the windows that were compared
    ordered_after: int = 0
    bids: int = 0  # ads signals whose multiplier changed
    products: list[ProductMoves] = []  # most changed first


@dataclass
class Differ:
    """Sums pairs up. `relearnt` are the heads that the replay learnt otherwise under the same version."""

    plan: Plan
    touched: Mapping[str, list[str]] = field(default_factory=dict)
    relearnt: frozenset[str] = frozenset()

    def diff(self, pairs: Iterable[Pair]) -> Diff:
        found = Diff(replay=self.plan.replay, change=self.plan.change.described())
        horizons = {days: HorizonMoves(days=days) for days in HORIZONS}
        products: dict[str, ProductMoves] = {}
        causes: Counter[str] = Counter()
        for pair in pairs:
            found.compared += 1
            _add_orders(found, pair)
            for at, days in enumerate(HORIZONS):
                _move(horizons[days], pair, at)
            if not pair.changed:
                continue
            found.changed += 1
            found.new += pair.published is None
            cause = self.cause(pair)
            causes[cause] += 1
            of_product = products.setdefault(pair.product, ProductMoves(product=pair.product))
            _add(of_product, pair, cause)
        found.causes = dict(causes.most_common())
        found.horizons = list(horizons.values())
        found.products = sorted(products.values(), key=lambda p: (-_size(p), p.product))
        return found

    def rows(self, pairs: Iterable[Pair]) -> Iterator[dict[str, Any]]:
        """A row for each window that changed, for Parquet."""
        for pair in pairs:
            if not pair.changed:
                continue
            row: dict[str, Any] = {
                "product": pair.product,
                "window_id": pair.shadow.window_id if pair.published is None else pair.published.window_id,
                "window_end": pair.shadow.window_end,
                "kind": pair.shadow.window_kind,
                "cause": self.cause(pair),
            }
            for at, days in enumerate(HORIZONS):
                before, after = _horizon(pair.published, at), _horizon(pair.shadow, at)
                row |= {f"expected_{days}_before": before and before.expected, f"expected_{days}_after": after.expected}
                row |= {f"class_{days}_before": before and before.trend_class, f"class_{days}_after": after.trend_class}
            for name, (was, now) in {"order": pair.inventory, "bid": pair.ads}.items():
                of = "suggested_order" if name == "order" else "bid_multiplier"
                row |= {f"{name}_before": was and getattr(was, of), f"{name}_after": now and getattr(now, of)}
            yield row

    def cause(self, pair: Pair) -> str:
        """Why a window changed: rows of its product, else the head, the network, or other rows by way of its
        category's rates."""
        own = self.touched.get(pair.product)
        if own:
            return ", ".join(own)
        was, now = pair.published, pair.shadow
        if was is not None and was.model != now.model:
            return MODEL
        if was is not None and (was.head != now.head or now.head in self.relearnt) and not _baseline_moved(pair):
            return HEAD
        rows = sorted({cause for causes in self.touched.values() for cause in causes})
        return ", ".join(rows) + " of its category" if rows else CODE


def _baseline_moved(pair: Pair) -> bool:
    assert pair.published is not None
    return any(a.baseline != b.baseline for a, b in zip(pair.published.horizons, pair.shadow.horizons, strict=True))


def _horizon(score: Score | None, at: int) -> Any:
    return None if score is None else score.horizons[at]


def _move(moves: HorizonMoves, pair: Pair, at: int) -> None:
    before, after = _horizon(pair.published, at), pair.shadow.horizons[at]
    expected = before.expected if before else 0.0
    moves.expected_before += expected
    moves.expected_after += after.expected
    moves.moved += expected != after.expected
    moves.largest = max(moves.largest, abs(after.expected - expected))
    if before is not None and before.trend_class != after.trend_class:
        name = f"{before.trend_class} > {after.trend_class}"
        moves.classes[name] = moves.classes.get(name, 0) + 1


def _add_orders(found: Diff, pair: Pair) -> None:
    was, now = pair.inventory
    if now is not None:
        found.ordered_after += now.suggested_order
        found.ordered_before += was.suggested_order if was else 0
        found.reorders += was is None or (was.suggested_order, was.reorder_point) != (
            now.suggested_order,
            now.reorder_point,
        )
    bid, other = pair.ads
    if other is not None:
        found.bids += bid is None or bid.bid_multiplier != other.bid_multiplier


def _add(moves: ProductMoves, pair: Pair, cause: str) -> None:
    moves.windows += 1
    moves.causes[cause] = moves.causes.get(cause, 0) + 1
    other_class = False
    for at, days in enumerate(HORIZONS):
        before, after = _horizon(pair.published, at), pair.shadow.horizons[at]
        gain = after.expected - (before.expected if before else 0.0)
        moves.expected[str(days)] = round(moves.expected.get(str(days), 0.0) + gain, 6)
        other_class |= before is not None and before.trend_class != after.trend_class
    moves.classes += other_class
    was, now = pair.inventory
    if now is not None:
        moves.reorder_before, moves.reorder_after = (was.suggested_order if was else None), now.suggested_order
    bid, other = pair.ads
    if other is not None:
        moves.bid_before, moves.bid_after = (bid.bid_multiplier if bid else None), other.bid_multiplier


def _size(moves: ProductMoves) -> float:
    order = abs((moves.reorder_after or 0) - (moves.reorder_before or 0))
    return order + max(abs(gain) for gain in moves.expected.values())
