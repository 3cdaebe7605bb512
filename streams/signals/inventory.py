"""Reorder point and suggested order: the quantile of demand at the product's lead time and service level.

The reorder point covers the lead time. The order fills the stock up to what covers lead time and review period, since
the next order can only arrive that much later. Where cost and price are known, the service level is the newsvendor's
(Arrow, Harris and Marschak, Optimal Inventory Policy, 1951): the margin lost by a unit too few, against the cost of
holding one too many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams import negative_binomial
from streams.codecs import Rows
from streams.signals.config import SignalConfig
from streams.signals.demand import Bools, Demand, Floats, span, units


@dataclass(frozen=True)
class InventoryDecisions:
    """One decision a row; where `known` is False the other numbers mean nothing."""

    known: Bools  # [rows] stock, orders and lead time are known
    on_hand: Floats
    on_order: Floats
    lead_time_days: Floats
    service_level: Floats
    expected_demand: Floats  # over the lead time
    reorder_point: Floats  # whole units
    target: Floats  # order-up-to level, whole units
    suggested_order: npt.NDArray[np.int64]
    review_days: float

    def reason(self, row: int) -> str:
        position = round(float(self.on_hand[row] + self.on_order[row]), 2)
        days = round(float(self.lead_time_days[row]) + self.review_days, 2)
        target = float(self.target[row])
        held = f"{units(position)} on hand or on order"
        need = f"the {units(target)} that cover {span(days)} at a service level of {self.service_level[row]:.1%}"
        order = int(self.suggested_order[row])
        return f"Order {units(order)}: {held} are short of {need}." if order else f"No order: {held} reach {need}."


def decide_inventory(rows: Rows, demand: Demand, config: SignalConfig) -> InventoryDecisions:
    """Decisions for a PREDICTIONS batch and its demand."""
    on_hand, on_order, lead_time = rows["on_hand"], rows["on_order"], rows["lead_time_days"]
    known = np.isfinite(on_hand) & np.isfinite(on_order) & np.isfinite(lead_time) & (lead_time >= 0)
    days = np.where(known, lead_time, 0.0)
    level = service_levels(rows["price"], rows["unit_cost"], config)
    mean, r = demand.over(days)
    reorder_point = negative_binomial.quantile(level, mean, r)
    # Less spread over a longer time may not lead to less stock.
    target = np.maximum(negative_binomial.quantile(level, *demand.over(days + config.review_days)), reorder_point)
    position = np.where(known, on_hand + on_order, 0.0)
    order = np.ceil(np.maximum(target - position, 0.0)).astype(np.int64)
    return InventoryDecisions(
        known, on_hand, on_order, lead_time, level, mean, reorder_point, target, order, config.review_days
    )


def service_levels(price: npt.ArrayLike, unit_cost: npt.ArrayLike, config: SignalConfig) -> Floats:
    """[rows] margin / (margin + holding) within the bounds; the default where price or cost is unknown (-1)."""
    paid, cost = np.asarray(price, np.float64), np.asarray(unit_cost, np.float64)
    margin = np.maximum(paid - cost, 0.0)
    ratio = margin / np.maximum(margin + cost * config.holding_share, 1e-9)
    bounded = np.clip(ratio, config.least_service_level, config.most_service_level)
    return np.where((paid >= 0) & (cost >= 0), bounded, config.service_level)
