"""`trendstream backtest files`: train, stream the rest in-process, and leave numbers that anybody can check."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
DAYS, UNTIL, PRODUCTS = 112, 82, 10
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def _write_orders(folder: Path) -> pd.DataFrame:
    """Orders of some products with a weekly rhythm; returns what was sold: product_id, day, units."""
    generator = np.random.default_rng(1)
    sold, lines = [], []
    for day in range(DAYS):
        for product in range(PRODUCTS):
            rate = (1 + product) * (1.8 if day % 7 >= 5 else 0.8)
            for number in range(int(generator.poisson(rate))):
                units = int(generator.integers(1, 3))
                at = START + dt.timedelta(days=day, hours=8, seconds=600 * number + product)
                line = {"product_id": f"p{product}", "quantity": units, "unit_price": "4.50"}
                order = {
                    "platform": "shop",
                    "order_id": f"o{day}-{product}-{number}",
                    "buyer_id": f"b{number}",
                    "ordered_at": at.isoformat(),
                    "currency": "EUR",
                    "status": "placed",
                    "lines": [line],
                }
                lines.append((at, json.dumps(order)))
                sold.append((f"p{product}", day, units))
    lines.sort()
    (folder / "orders.ndjson").write_text("".join(f"{text}\n" for _, text in lines))
    return pd.DataFrame(sold, columns=["product_id", "day", "units"])


@pytest.mark.timeout(280)
def test_a_backtest_leaves_predictions_whose_actuals_and_errors_can_be_counted_again(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    sold = _write_orders(data)
    until = (START + dt.timedelta(days=UNTIL)).date()
    command = [sys.executable, "-m", "deploy.cli", "backtest", "files", str(data), "--until", str(until)]
    environment = {**os.environ, "TRENDSTREAM_PARTITIONS": "2", "TRENDSTREAM_PLATFORMS": '{"shop": {}}'}
    done = subprocess.run(
        [*command, "--folder", str(out), "--epochs", "1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=260,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "training the network" in done.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["broker"] == "in-process"
    events = report["events"]
    orders = len((data / "orders.ndjson").read_text().splitlines())
    assert events == {"produced": orders, "accepted": orders, "repeated": 0, "dead": 0}
    assert report["heads"]["late"] == 0
    assert (out / "report.html").stat().st_size > 100_000

    frame = pd.read_parquet(out / "predictions.parquet")
    assert frame.columns.tolist() == [
        "platform",
        "product_id",
        "window_end",
        "horizon_days",
        "expected",
        "q10",
        "q50",
        "q90",
        "baseline",
        "trend",
        "surging_probability",
        "head_version",
        "actual",
    ]
    assert frame["window_end"].min().date() == until
    day = (frame["window_end"] - pd.Timestamp(START)).dt.days
    per_day = sold.groupby(["product_id", "day"])["units"].sum()
    matured = frame[frame["actual"].notna()]
    assert set(matured["horizon_days"]) == {1, 7, 28}
    for row, first in zip(matured.itertuples(), day[matured.index], strict=True):
        ahead = [per_day.get((row.product_id, d), 0) for d in range(first, first + row.horizon_days)]
        assert row.actual == sum(ahead), row
    assert (frame["q10"] <= frame["q50"]).all()
    assert (frame["q50"] <= frame["q90"]).all()
    for horizon, rows in matured.groupby("horizon_days"):
        wape = (rows["actual"] - rows["q50"]).abs().sum() / rows["actual"].sum()
        assert report["error"][str(horizon)]["trendstream"] == pytest.approx(wape)
        assert set(report["error"][str(horizon)]) == {"trendstream", "frozen", "moving_average", "seasonal_naive"}
        assert np.isfinite(list(report["error"][str(horizon)].values())).all()
    assert frame["head_version"].nunique() > 20


def test_a_date_that_is_none_is_one_clear_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.cli", "backtest", "complete-journey", "--until", "soon"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "trendstream: --until 'soon' is no date; write it as 2017-04-01"
