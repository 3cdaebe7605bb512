"""What a run forecast and what was sold, gathered from its internal topics: errors, `predictions.parquet`, charts.

Takes records in any order of topics, each partition in its own order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model.error_metrics import moving_average, seasonal_naive, wape
from streams.codecs import Rows, decode
from streams.records import CHANNELS, CLASSES, DAYS, HORIZONS, QUANTILES, WindowKind, split_product
from streams.records.inside import MATURED, OUTCOMES, PREDICTIONS, WINDOWS
from streams.stage import Message

METHODS = ("trendstream", "frozen", "moving_average", "seasonal_naive")
TOPICS = ("trend.windows", "trend.predictions", "trend.matured")


@dataclass
class Results:
    """Close windows that end at or after `since` (UTC ms), with what became of them."""

    since: int = 0
    _frames: dict[str, list[pd.DataFrame]] = field(default_factory=dict)

    def take(self, messages: Iterable[Message]) -> None:
        """Take records of TOPICS; others are passed over."""
        for message in messages:
            if message.topic not in TOPICS or message.value is None:
                continue
            rows = decode(message.value)
            if rows.record is WINDOWS:
                self._add("simple", self._simple(rows))
            elif rows.record is PREDICTIONS:
                self._add("predictions", self._predictions(rows))
            elif rows.record is MATURED:
                self._add("matured", self._matured(rows))
            elif rows.record is OUTCOMES and message.topic == "trend.windows":
                self._add("outcomes", self._outcomes(rows))

    def error(self) -> dict[str, dict[str, float]]:
        """WAPE of the median by horizon (days) and method, all on the same matured product-windows."""
        merged = self._frame("matured").merge(self._frame("simple"), on=["product", "end"], how="inner")
        errors: dict[str, dict[str, float]] = {}
        for delay, days in enumerate(HORIZONS):
            rows = merged[merged["delay"] == delay]
            if len(rows):
                errors[str(days)] = {m: wape(rows["total"], rows[self._column(m, days)]) for m in METHODS}
        return errors

    def scored(self) -> dict[str, int]:
        """How many matured product-windows each horizon's error is made of."""
        delays = self._frame("matured")["delay"]
        return {str(days): int((delays == delay).sum()) for delay, days in enumerate(HORIZONS)}

    def error_over_time(self, horizon: int = 1, days: int = 14) -> pd.DataFrame:
        """WAPE of the last `days` boundaries at each boundary: columns at, trendstream, frozen."""
        matured = self._frame("matured")
        rows = matured[matured["delay"] == HORIZONS.index(horizon)]
        sums = (
            pd.DataFrame(
                {
                    "at": rows["at"],
                    "units": rows["total"],
                    "trendstream": (rows["total"] - rows["median"]).abs(),
                    "frozen": (rows["total"] - rows["frozen_median"]).abs(),
                }
            )
            .groupby("at")
            .sum()
            .sort_index()
        )
        rolled = sums.rolling(days, min_periods=1).sum()
        units = rolled["units"].clip(lower=1)
        return pd.DataFrame({m: rolled[m] / units for m in ("trendstream", "frozen")}).reset_index()

    def predictions(self) -> pd.DataFrame:
        """One row per close window and horizon, with the units sold where they have matured."""
        predicted = self._frame("predictions")
        outcomes = self._frame("outcomes")
        if len(predicted) == 0:
            return predicted
        sums = (
            outcomes.pivot_table(index=["product", "end"], columns="delay", values="units", aggfunc="first")
            .reindex(columns=range(len(HORIZONS)))
            .cumsum(axis=1, skipna=False)
        )
        actual = sums.reset_index().melt(["product", "end"], var_name="delay", value_name="actual")
        actual["delay"] = actual["delay"].astype(predicted["delay"].dtype)
        frame = predicted.merge(actual, on=["product", "end", "delay"], how="left")
        names = [split_product(p) for p in frame["product"]]
        frame.insert(0, "platform", [n[0] for n in names])
        frame.insert(1, "product_id", [n[1] for n in names])
        frame["window_end"] = pd.to_datetime(frame["end"], unit="ms", utc=True)
        frame["actual"] = frame["actual"].astype("Int64")
        columns = ["platform", "product_id", "window_end", "horizon_days", "expected", "q10", "q50", "q90", "baseline"]
        columns += ["trend", "surging_probability", "head_version", "actual"]
        return frame[columns].sort_values(["window_end", "platform", "product_id", "horizon_days"], ignore_index=True)

    def write_predictions(self, path: Path) -> int:
        """`predictions.parquet`; returns its number of rows."""
        frame = self.predictions()
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(path, index=False)
        return len(frame)

    def _add(self, name: str, frame: pd.DataFrame) -> None:
        if len(frame):
            self._frames.setdefault(name, []).append(frame)

    def _frame(self, name: str) -> pd.DataFrame:
        parts = self._frames.get(name)
        if not parts:
            return pd.DataFrame(columns=_COLUMNS[name])
        if len(parts) > 1:
            self._frames[name] = [pd.concat(parts, ignore_index=True)]
        return self._frames[name][0]

    def _kept(self, rows: Rows) -> Any:
        return (rows["kind"] == WindowKind.CLOSE) & (rows["end"] >= self.since)

    def _simple(self, rows: Rows) -> pd.DataFrame:
        kept = self._kept(rows)
        day = rows["day"][kept].reshape(-1, len(CHANNELS), DAYS)[:, CHANNELS.index("units"), :]  # [rows, DAYS]
        frame = pd.DataFrame({"product": rows["product"][kept], "end": rows["end"][kept]})
        for name, forecast in (("moving_average", moving_average(day)), ("seasonal_naive", seasonal_naive(day))):
            for delay, days in enumerate(HORIZONS):
                frame[f"{name}_{days}"] = forecast[:, delay].astype(np.float32)
        return frame

    def _predictions(self, rows: Rows) -> pd.DataFrame:
        kept = self._kept(rows)
        count = int(kept.sum())
        quantiles = rows["quantiles"][kept].reshape(count, len(HORIZONS), len(QUANTILES))
        probabilities = rows["probabilities"][kept].reshape(count, len(HORIZONS), len(CLASSES))
        parts = []
        for delay, days in enumerate(HORIZONS):
            parts.append(
                pd.DataFrame(
                    {
                        "product": rows["product"][kept],
                        "end": rows["end"][kept],
                        "delay": delay,
                        "horizon_days": days,
                        "expected": rows["mean"][kept][:, : delay + 1].sum(axis=1),
                        "q10": quantiles[:, delay, 0],
                        "q50": quantiles[:, delay, 1],
                        "q90": quantiles[:, delay, 2],
                        "baseline": rows["baseline"][kept][:, : delay + 1].sum(axis=1),
                        "trend": rows["trend"][kept][:, delay],
                        "surging_probability": probabilities[:, delay, 0],
                        "head_version": rows["head"][kept],
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def _matured(self, rows: Rows) -> pd.DataFrame:
        kept = rows["end"] >= self.since
        names = ("product", "end", "delay", "at", "total", "median", "frozen_median")
        return pd.DataFrame({name: rows[name][kept] for name in names})

    def _outcomes(self, rows: Rows) -> pd.DataFrame:
        kept = rows["end"] >= self.since
        return pd.DataFrame({name: rows[name][kept] for name in ("product", "end", "delay", "units")})

    @staticmethod
    def _column(method: str, days: int) -> str:
        return {"trendstream": "median", "frozen": "frozen_median"}.get(method, f"{method}_{days}")


_SIMPLE = [f"{name}_{days}" for name in ("moving_average", "seasonal_naive") for days in HORIZONS]
_COLUMNS = {
    "simple": ["product", "end", *_SIMPLE],
    "predictions": ["product", "end", "delay"],
    "matured": ["product", "end", "delay", "at", "total", "median", "frozen_median"],
    "outcomes": ["product", "end", "delay", "units"],
}
