"""Signals: what a prediction says about stock and bids."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import negative_binomial
from streams.calendars import DAY
from streams.codecs import decode, decode_json, encode
from streams.errors import ConfigurationError, SnapshotError
from streams.records import CLASSES, HORIZONS, QUANTILES, WindowKind
from streams.records.inside import CLOSES, OUTCOMES, PREDICTIONS
from streams.records.outside import AdsSignal, InventorySignal
from streams.signals.config import SignalConfig
from streams.signals.demand import Demand
from streams.signals.inventory import service_levels
from streams.signals.stage import ADS_TOPIC, INVENTORY_TOPIC, SignalStage
from streams.stage import Message, Output

END = 20_000 * DAY
DEFAULT = SignalConfig()
Row = dict[str, Any]


def row(product: str = "shop:a", /, **changes: Any) -> Row:
    """A prediction of 2 units on day 1, 2 a day up to day 7, 2 a day up to day 28."""
    values: Row = {
        "product": product,
        "end": END,
        "kind": WindowKind.CLOSE,
        "revision": 0,
        "as_of": END,
        "mean": (2.0, 12.0, 42.0),
        "dispersion": (5.0, 5.0, 5.0),
        "trend": (0.0, 0.0, 0.0),
        "probabilities": (0.1, 0.2, 0.5, 0.2) * 3,
        "open_units": 0,
        "price": -1,
        "unit_cost": -1,
        "on_hand": 100.0,
        "on_order": 0.0,
        "lead_time_days": 7.0,
        "model": "net-1",
        "head": "net-1-h3",
    }
    return values | changes


def encoded(rows: list[Row]) -> bytes:
    blank: Row = {}
    for field in PREDICTIONS.schema:
        if field.type.id == PREDICTIONS.schema.field("product").type.id:
            blank[field.name] = ""
        elif hasattr(field.type, "list_size"):
            blank[field.name] = (0.0,) * field.type.list_size
        else:
            blank[field.name] = 0
    return encode(PREDICTIONS, {name: [(blank | r)[name] for r in rows] for name in PREDICTIONS.schema.names})


def message(rows: list[Row], offset: int = 0) -> Message:
    return Message("trend.predictions", 3, offset, 0, None, encoded(rows))


def fold(*rows: Row, config: SignalConfig = DEFAULT) -> list[Output]:
    return SignalStage(("trend.predictions", 3), config).fold([message(list(rows))])


def inventory(*rows: Row, config: SignalConfig = DEFAULT) -> list[InventorySignal]:
    return [
        decode_json(o.value or b"", InventorySignal) for o in fold(*rows, config=config) if o.topic == INVENTORY_TOPIC
    ]


def ads(*rows: Row, config: SignalConfig = DEFAULT) -> list[AdsSignal]:
    return [decode_json(o.value or b"", AdsSignal) for o in fold(*rows, config=config) if o.topic == ADS_TOPIC]


def demand(*rows: Row) -> Demand:
    return Demand.of(decode(encoded(list(rows))))


def probabilities(up: float, down: float) -> tuple[float, ...]:
    return (up / 2, up / 2, 1 - up - down, down) * len(HORIZONS)


# Demand ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "units"), [(0, 0), (0.5, 1), (1, 2), (4, 2 + 9), (7, 20), (14, 20 + 14), (28, 62), (40, 62 + 24)]
)
def test_a_bucket_is_spread_evenly_and_the_last_rate_goes_on(days: float, units: float) -> None:
    mean, r = demand(row(mean=(2.0, 18.0, 42.0))).over([days])
    assert mean[0] == pytest.approx(units)
    assert r[0] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("days", "inverse"), [(0.5, 0.5), (1, 0.5), (4, 0.35), (7, 0.2), (17.5, 0.1), (28, 0), (50, 0)]
)
def test_dispersion_lies_between_that_of_the_horizons_around_it(days: float, inverse: float) -> None:
    _, r = demand(row(dispersion=(2.0, 5.0, np.inf))).over([days])
    assert 1 / r[0] == pytest.approx(inverse, abs=2e-8)


def test_units_sold_since_the_window_ended_are_not_demanded_again() -> None:
    live = row(kind=WindowKind.LIVE, revision=2, as_of=END + DAY // 4, open_units=5, mean=(8.0, 12.0, 42.0))
    rest = demand(live)
    assert rest.over([0.75])[0][0] == pytest.approx(3)  # what is left of the day
    assert rest.over([0.375])[0][0] == pytest.approx(1.5)
    assert rest.over([2.75])[0][0] == pytest.approx(3 + 4)
    assert rest.over([27.75])[0][0] == pytest.approx(3 + 12 + 42)


def test_more_sold_than_forecast_leaves_no_negative_demand() -> None:
    live = row(kind=WindowKind.LIVE, as_of=END + 25 * DAY // 24, open_units=50)
    assert demand(live).over([0.0, 0.0])[0].min() >= 0
    assert demand(live).over([1.0])[0][0] <= 2


# Inventory ------------------------------------------------------------------------------------------------------------


def test_reorder_point_holds_the_service_level_in_a_simulated_gamma_poisson_world() -> None:
    rng = np.random.default_rng(7)
    case = row(mean=(2.0, 18.0, 63.0), dispersion=(4.0, 4.0, 4.0), lead_time_days=10.0, on_hand=0.0)
    (signal,) = inventory(case, config=SignalConfig(service_level=0.9))
    common = rng.gamma(4.0, 1 / 4.0, 400_000)  # one factor for all days
    sold = rng.poisson(common * 2) + rng.poisson(common * 18) + rng.poisson(common * 9)
    assert signal.expected_demand == pytest.approx(29)
    assert (sold <= signal.reorder_point).mean() >= 0.9 - 0.002
    assert (sold <= signal.reorder_point - 1).mean() < 0.9 + 0.002
    tomorrow = sold + rng.poisson(common * 3)  # the review period
    assert (tomorrow <= signal.suggested_order).mean() >= 0.9 - 0.002
    assert (tomorrow <= signal.suggested_order - 1).mean() < 0.9 + 0.002


@settings(max_examples=60)
@given(
    mean=st.tuples(*[st.floats(0, 500)] * 3),
    r=st.floats(0.05, 1e9),
    on_hand=st.integers(-50, 2000),
    on_order=st.integers(0, 500),
    lead=st.floats(0, 120),
    levels=st.tuples(st.floats(0.01, 0.999), st.floats(0.01, 0.999)).map(sorted),
)
def test_more_stock_never_orders_more_and_more_service_never_orders_less(
    mean: tuple[float, ...], r: float, on_hand: int, on_order: int, lead: float, levels: list[float]
) -> None:
    case = row(mean=mean, dispersion=(r, r, r), on_hand=float(on_hand), on_order=float(on_order), lead_time_days=lead)
    low, more = inventory(case, case | {"on_hand": on_hand + 7.0}, config=SignalConfig(service_level=levels[0]))
    (high,) = inventory(case, config=SignalConfig(service_level=levels[1]))
    assert more.suggested_order <= low.suggested_order <= high.suggested_order
    assert more.reorder_point == low.reorder_point <= high.reorder_point
    assert on_hand + on_order + high.suggested_order >= high.reorder_point


def test_service_level_is_the_newsvendors_where_cost_and_price_are_known() -> None:
    config = SignalConfig(holding_share=0.5)
    levels = service_levels(
        [1000, 1000, 1000, 500, 500, -1, 1000, 0], [600, 995, 1, 500, 700, 100, -1, 0], config
    ).tolist()
    assert levels[0] == pytest.approx(400 / (400 + 300))
    assert levels[1:3] == [0.5, 0.99]
    assert levels[3:5] == [0.5, 0.5]  # no margin
    assert levels[5:7] == [0.95, 0.95]
    assert levels[7] == 0.5


def test_a_dear_unit_is_stocked_less_than_one_with_a_wide_margin() -> None:
    dear, wide = inventory(row(price=1000, unit_cost=950, on_hand=0.0), row(price=1000, unit_cost=300, on_hand=0.0))
    assert dear.suggested_order < wide.suggested_order
    assert (dear.service_level, wide.service_level) == (0.5128, 0.979)


@pytest.mark.parametrize("column", ["on_hand", "on_order", "lead_time_days"])
def test_an_unknown_level_gives_a_bid_and_no_order(column: str) -> None:
    stage = SignalStage(("trend.predictions", 3), SignalConfig())
    outputs = stage.fold([message([row(**{column: np.nan}), row("shop:b")])])
    assert [(o.topic, o.key) for o in outputs] == [
        (ADS_TOPIC, b"shop:a"),
        (INVENTORY_TOPIC, b"shop:b"),
        (ADS_TOPIC, b"shop:b"),
    ]
    assert stage.counters() == {"rows": 2, "inventory": 1, "ads": 2, "no_level": 1, "unusable": 0}


def test_reason_of_an_order_says_its_numbers() -> None:
    short, enough = inventory(row(on_hand=3.0, on_order=1.0), row(on_hand=1.0, on_order=900.0))
    target = 4 + short.suggested_order
    assert short.reason == (
        f"Order {short.suggested_order} units: 4 units on hand or on order are short of "
        f"the {target} units that cover 8 days at a service level of 95.0%."
    )
    assert enough.reason.startswith("No order: 901 units on hand or on order reach the ")


# Ads ------------------------------------------------------------------------------------------------------------------


def test_bid_follows_the_trend_as_far_as_its_direction_is_sure() -> None:
    surely, perhaps, falling, torn = ads(
        row(trend=(0, 0.8, 0), probabilities=probabilities(0.95, 0.0)),
        row(trend=(0, 0.8, 0), probabilities=probabilities(0.5, 0.25)),
        row(trend=(0, -0.8, 0), probabilities=probabilities(0.05, 0.75)),
        row(trend=(0, 0.8, 0), probabilities=probabilities(0.2, 0.4)),
    )
    assert surely.bid_multiplier == pytest.approx(2 ** (0.8 * 0.95), abs=1e-4)
    assert perhaps.bid_multiplier == pytest.approx(2 ** (0.8 * 0.25), abs=1e-4)
    assert falling.bid_multiplier == pytest.approx(2 ** (-0.8 * 0.7), abs=1e-4)
    assert (torn.bid_multiplier, torn.confidence) == (1.0, 0.0)
    assert surely.reason == (
        "Raise the bid by 69.3%: sales over 7 days are forecast at 1.74 times the baseline, "
        "up with a probability of 95.0%, down with 0.0%."
    )
    assert torn.reason.startswith("Keep the bid: ")


def test_bids_stay_within_their_bounds() -> None:
    up, down = ads(
        row(trend=(0, 6, 0), probabilities=probabilities(1, 0), on_hand=1e6),
        row(trend=(0, -6, 0), probabilities=probabilities(0, 1)),
    )
    assert (up.bid_multiplier, down.bid_multiplier) == (2.0, 0.5)


def test_no_bid_where_stock_will_not_last_until_an_order_could_arrive() -> None:
    # 7 days of lead time and 7 of ads sell 28 units in the mean; the median of this mixture is 26.
    kept, stopped, helped, sold_out = ads(
        row(on_hand=26.0), row(on_hand=25.0), row(on_hand=25.0, on_order=1.0), row(on_hand=0.0, on_order=500.0)
    )
    risk = 1 - negative_binomial.cdf(25, 28.0, 5.0)
    assert 0.5 < risk < 0.53
    assert [s.bid_multiplier for s in (kept, stopped, helped, sold_out)] == [1.0, 0.0, 1.0, 0.0]
    assert stopped.reason == (
        f"No bid: 25 units on hand or on order run out within 14 days with a probability of {risk:.1%}."
    )
    assert sold_out.reason == "No bid: nothing is on hand."


@settings(max_examples=60)
@given(mean=st.tuples(*[st.floats(0, 500)] * 3), r=st.floats(0.05, 1e9), stock=st.integers(0, 2000))
def test_more_stock_never_stops_a_bid(mean: tuple[float, ...], r: float, stock: int) -> None:
    case = row(mean=mean, dispersion=(r, r, r), trend=(0, 0.5, 0), probabilities=probabilities(0.7, 0.1))
    less, more = ads(case | {"on_hand": float(stock)}, case | {"on_hand": stock + 5.0})
    assert less.bid_multiplier <= more.bid_multiplier


# Stage ----------------------------------------------------------------------------------------------------------------

ROWS = st.builds(
    row,
    st.sampled_from(["shop:a", "shop:b:c", "laden:ä/@1"]),
    kind=st.sampled_from([0, 1]),
    revision=st.integers(0, 9),
    as_of=st.integers(END, END + DAY),
    mean=st.tuples(*[st.floats(0, 1e6) | st.just(np.nan)] * 3),
    dispersion=st.tuples(*[st.floats(1e-3, 1e9) | st.just(np.inf)] * 3),
    trend=st.tuples(*[st.floats(-20, 20)] * 3),
    probabilities=st.floats(0, 1).map(lambda up: probabilities(up, (1 - up) / 2)),
    open_units=st.integers(0, 1000),
    price=st.integers(-1, 10**9),
    unit_cost=st.integers(-1, 10**9),
    on_hand=st.floats(-1e6, 1e6) | st.just(np.nan),
    on_order=st.floats(0, 1e6) | st.just(np.nan),
    lead_time_days=st.floats(-1, 1000) | st.just(np.nan),
)
LOGS = st.lists(st.lists(ROWS, min_size=1, max_size=3), max_size=4)


@settings(max_examples=60)
@given(log=LOGS, cut=st.integers(0, 4))
def test_a_restored_stage_goes_on_as_if_it_had_never_stopped(log: list[list[Row]], cut: int) -> None:
    messages = [message(rows, offset) for offset, rows in enumerate(log)]
    whole = SignalStage(("trend.predictions", 3), SignalConfig())
    expected = whole.fold(messages)
    first = SignalStage(("trend.predictions", 3), SignalConfig())
    outputs = first.fold(messages[:cut])
    second = SignalStage(("trend.predictions", 3), SignalConfig())
    second.restore(first.snapshot())
    outputs += second.fold(messages[cut:])
    assert outputs == expected
    assert second.snapshot() == whole.snapshot()
    counts = whole.counters()
    assert counts["rows"] == sum(map(len, log)) == counts["ads"] + counts["unusable"]
    assert counts["ads"] == counts["inventory"] + counts["no_level"]


@settings(max_examples=60)
@given(rows=st.lists(ROWS, min_size=1, max_size=6))
def test_a_decision_depends_on_its_row_alone_and_holds_finite_numbers(rows: list[Row]) -> None:
    together = fold(*rows)
    assert together == [output for one in rows for output in fold(one)]
    for output in together:
        record: dict[str, Any] = msgspec.json.decode(output.value or b"")
        assert output.partition == 3
        assert output.key == f"{record['platform']}:{record['product_id']}".encode()
        numbers = [v for v in record.values() if isinstance(v, float)]
        assert None not in record.values()
        assert all(np.isfinite(numbers))
        assert "nan" not in record["reason"]
        assert re.search(r"-0\.0\b", (output.value or b"").decode()) is None


def test_ids_name_window_and_model_and_tell_revisions_apart() -> None:
    live = {"kind": WindowKind.LIVE, "revision": 4, "as_of": END + 5}
    close, later = ads(row(), row(**live))
    order = inventory(row(**live))[0]
    assert close.score_id == f"shop:a@{END}/net-1"
    assert close.signal_id == f"shop:a@{END}/net-1/ads"
    assert later.signal_id == f"shop:a@{END}.4/net-1/ads"
    assert order.signal_id == f"shop:a@{END}.4/net-1/inventory"
    assert (order.window_end, order.revision, order.as_of, order.head) == (END, 4, END + 5, "net-1-h3")


def test_outcomes_closes_and_tombstones_cause_nothing() -> None:
    others = [
        encode(OUTCOMES, {name: ["shop:a"] if name == "product" else [0] for name in OUTCOMES.schema.names}),
        encode(CLOSES, {name: ["shop"] if name == "platform" else [0] for name in CLOSES.schema.names}),
        encoded([]),
        None,
    ]
    stage = SignalStage(("trend.predictions", 3), SignalConfig())
    assert stage.fold([Message("trend.predictions", 3, i, 0, None, value) for i, value in enumerate(others)]) == []
    assert set(stage.counters().values()) == {0}


def test_a_broken_snapshot_is_refused() -> None:
    stage = SignalStage(("trend.predictions", 3), SignalConfig())
    broken: list[Callable[[], dict[str, bytes]]] = [dict, lambda: {"counters": b"{"}, lambda: {"counters": b"{}"}]
    for blobs in broken:
        with pytest.raises(SnapshotError, match="take an older one"):
            stage.restore(blobs())


@pytest.mark.parametrize(("name", "value"), [("service_level", 1.0), ("ads_horizon", 3), ("most_bid", 0.5)])
def test_a_setting_that_makes_no_sense_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} = {value}"):
        SignalConfig(**{name: value})  # type: ignore[arg-type]


def test_the_order_of_classes_and_quantiles_is_what_these_tests_write() -> None:
    assert CLASSES == ("surging", "rising", "steady", "falling")
    assert len(QUANTILES) == 4
