"""What the signals are tuned by."""

from __future__ import annotations

from dataclasses import dataclass

from streams.errors import ConfigurationError
from streams.records import HORIZONS


@dataclass(frozen=True)
class SignalConfig:
    """Raises ConfigurationError for a value that makes no sense."""

    service_level: float = 0.95  # probability that stock lasts, where cost and price do not say it
    least_service_level: float = 0.5  # bounds of what cost and price may say
    most_service_level: float = 0.99
    holding_share: float = 0.05  # cost of one unit too many, as a share of its unit cost
    review_days: float = 1.0  # between two looks at the stock: an order must last until the next one arrives
    ads_horizon: int = 7  # days, one of HORIZONS
    ads_gain: float = 1.0  # exponent on the trend: 1 doubles the bid of a product that surely doubles its sales
    least_bid: float = 0.5
    most_bid: float = 2.0
    stockout_risk: float = 0.5  # bids stop where the stock runs out with more than this probability

    def __post_init__(self) -> None:
        rules = {
            "service_level": 0 < self.service_level < 1,
            "least_service_level": 0 < self.least_service_level < 1,
            "most_service_level": self.least_service_level <= self.most_service_level < 1,
            "holding_share": self.holding_share > 0,
            "review_days": 0 <= self.review_days <= 365,
            "ads_horizon": self.ads_horizon in HORIZONS,
            "ads_gain": 0 <= self.ads_gain <= 10,
            "least_bid": 0 < self.least_bid <= 1,
            "most_bid": 1 <= self.most_bid <= 100,
            "stockout_risk": 0 <= self.stockout_risk <= 1,
        }
        for name, holds in rules.items():
            if not holds:
                raise ConfigurationError(
                    f"signals: {name} = {getattr(self, name)!r} makes no sense; "
                    "see SignalConfig in streams/signals/config.py for what it means"
                )
