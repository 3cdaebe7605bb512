"""Factor on a product's bid: the trend, shrunk by how sure its direction is; zero where stock will not last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streams import negative_binomial
from streams.codecs import Rows
from streams.records import CLASSES, HORIZONS, Trend
from streams.signals.config import SignalConfig
from streams.signals.demand import Bools, Demand, Floats, span, units


@dataclass(frozen=True)
class AdsDecisions:
    """One decision a row."""

    multiplier: Floats
    trend: Floats  # log2 of expected over baseline units
    confidence: Floats  # in [0, 1]: by how much the trend's direction is likelier than the other one
    up: Floats  # P(rising or surging)
    down: Floats  # P(falling)
    sold_out: Bools  # nothing is on hand
    stock: Floats  # on hand and on order, NaN unknown
    days: Floats  # that the stock must last, NaN unknown
    risk: Floats  # P(demand over `days` > stock), 0 where unknown
    stopped: Bools
    horizon: int

    def reason(self, row: int) -> str:
        if self.sold_out[row]:
            return "No bid: nothing is on hand."
        if self.stopped[row]:
            stock, days = round(float(self.stock[row]), 2), round(float(self.days[row]), 2)
            return (
                f"No bid: {units(stock)} on hand or on order run out within {span(days)} "
                f"with a probability of {self.risk[row]:.1%}."
            )
        change = round(float(self.multiplier[row]) - 1.0, 3)
        what = f"Raise the bid by {change:.1%}" if change > 0 else f"Lower the bid by {-change:.1%}"
        return (
            f"{what if change else 'Keep the bid'}: sales over {span(self.horizon)} are forecast at "
            f"{2.0 ** self.trend[row]:.2f} times the baseline, up with a probability of {self.up[row]:.1%}, "
            f"down with {self.down[row]:.1%}."
        )


def decide_ads(rows: Rows, demand: Demand, config: SignalConfig) -> AdsDecisions:
    """Decisions for a PREDICTIONS batch and its demand."""
    horizon = HORIZONS.index(config.ads_horizon)
    trend = rows["trend"][:, horizon]
    probabilities = rows["probabilities"].reshape(len(rows), len(HORIZONS), len(CLASSES))[:, horizon]
    up = probabilities[:, Trend.SURGING] + probabilities[:, Trend.RISING]
    down = probabilities[:, Trend.FALLING]
    confidence = np.clip(np.sign(trend) * (up - down), 0.0, 1.0)
    exponent = np.clip(config.ads_gain * confidence * trend, np.log2(config.least_bid), np.log2(config.most_bid))

    on_hand, on_order, lead_time = rows["on_hand"], rows["on_order"], rows["lead_time_days"]
    stock, days = on_hand + on_order, lead_time + config.ads_horizon
    known = np.isfinite(stock) & np.isfinite(days) & (lead_time >= 0)
    mean, r = demand.over(np.where(known, days, 0.0))
    risk = np.where(known, 1.0 - negative_binomial.cdf(np.where(known, stock, 0.0), mean, r), 0.0)
    sold_out = on_hand <= 0  # False for NaN
    stopped = sold_out | (risk > config.stockout_risk)
    multiplier = np.where(stopped, 0.0, np.exp2(exponent))
    return AdsDecisions(
        multiplier, trend, confidence, up, down, sold_out, stock, days, risk, stopped, config.ads_horizon
    )
