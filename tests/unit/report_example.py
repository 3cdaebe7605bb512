"""A made-up run, as large as a real one, for the tests of the report."""

from __future__ import annotations

import datetime as dt
import math

from deploy.report import BidRow, ErrorSeries, ProductSeries, ReorderRow, RunReport, TrendRow


def example_report() -> RunReport:
    days = [(dt.date(2017, 4, 1) + dt.timedelta(d)).isoformat() for d in range(200)]

    def series(number: int, title: str, level: float) -> ProductSeries:
        median = [level * (1 + 0.4 * math.sin(d / 17 + number)) for d in range(200)]
        sold = [round(m * (1 + 0.35 * math.sin(d * 12.9898 + number))) for d, m in enumerate(median)]
        low, high = [m - 0.5 * m for m in median], [m + 0.55 * m for m in median]
        return ProductSeries(str(number), title, days, sold, [None, *median[1:]], [None, *low[1:]], [None, *high[1:]])

    titles = ("Bananas, 40 LB", "Own brand Eggs - X-Large, 1 DZ", "Strawberries, 16 OZ", "Corn Yellow, 48 CT")
    frozen = [0.52 + 0.07 * math.sin(d / 25) + 0.0004 * d for d in range(200)]
    return RunReport(
        broker="kafka 4.1.0",
        data={
            "name": "Complete Journey",
            "about": "grocery transactions of one year; simulated by the authors of the data set",
            "licence": "MIT (package); for education, not for claims about real buyers",
            "span": {"from": "2017-04-01", "to": "2017-12-31", "days": 275, "timezone": "America/New_York"},
            "products": 300,
            "rows": {"orders": 70123, "reviews": 3012, "images": 331, "products": 300, "inventory.levels": 36077},
            "left_out": {"products_not_sold_by_the_piece": 24, "lines_of_quantity_zero": 805},
            "simulated": ["sales (by the authors)", "reviews", "pictures", "stock levels"],
            "notes": ["products are the best-selling of the whole year, by units"],
        },
        events={"produced": 109843, "accepted": 109640, "repeated": 0, "dead": 203},
        windows={"close": 81234, "live": 15678},
        scores=96912,
        heads={"versions": 274, "promoted": 1},
        outcomes=228111,
        error={
            "1": {"trendstream": 0.541, "frozen": 0.562, "moving_average": 0.604, "seasonal_naive": 0.791},
            "7": {"trendstream": 0.331, "frozen": 0.352, "moving_average": 0.377, "seasonal_naive": 0.455},
            "28": {"trendstream": 0.262, "frozen": 0.291, "moving_average": 0.288, "seasonal_naive": float("nan")},
        },
        latency_ms={"order_to_score": {"p50": 412.0, "p95": 1377.0, "p99": 2215.0}},
        seconds={"load": 5.1, "train": 61.4, "stream": 141.9, "report": 1.2, "total": 211.5},
        as_of="31 December 2017",
        products=[series(i, title, 8 + 6 * i) for i, title in enumerate(titles)],
        error_over_time=[ErrorSeries(1, days, [f - 0.0002 * d for d, f in enumerate(frozen)], frozen)],
        stage_rates={"ingest": 21234.0, "windows": 48123.0, "inference": 1311.0, "labels": 90123.0, "learner": 70444.0},
        stage_latency_ms={
            "ingest": {"p50": 12.0, "p95": 41.0, "p99": 97.0},
            "windows": {"p50": 33.0, "p95": 120.0, "p99": 288.0},
            "inference": {"p50": 220.0, "p95": 700.0, "p99": 1400.0},
        },
        surging=[
            TrendRow(
                "1",
                "Own brand Eggnog, 1 QT",
                "surging",
                7,
                6.2,
                19.4,
                0.83,
                "28 units this week after 9 the week before",
            ),
            TrendRow(
                "2", "Hot chocolate mix, 10 CT", "surging", 7, 3.1, 8.8, 0.61, "sales doubled; three good reviews"
            ),
        ],
        falling=[
            TrendRow(
                "3", "Watermelon seedless", "falling", 7, 14.5, 4.1, 0.92, "6 units this week after 31 the week before"
            ),
        ],
        reorders=[
            ReorderRow("1", "Own brand Eggnog, 1 QT", 4, 0, 5, 21, 33, "stock ends in 2 days, delivery takes 5"),
            ReorderRow("4", "Bananas, 40 LB", 61, 120, 3, 204, 146, "the next 3 days may need 204"),
        ],
        bids=[
            BidRow("2", "Hot chocolate mix, 10 CT", 1.41, "rising and sure of it"),
            BidRow("1", "Own brand Eggnog, 1 QT", 0.0, "stock will not last"),
        ],
    )
