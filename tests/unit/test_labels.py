import numpy as np
import pytest

from model.labels import KEEP, LabelConfig, LabelStage
from streams.calendars import DAY
from streams.codecs import decode
from streams.errors import SnapshotError
from streams.records import DELAYS, QUANTILES, WindowKind
from streams.records.inside import MATURED
from tests.unit.sales_world import START, closes, message, outcomes, predictions

TASK = ("trend.predictions", 3)
PRODUCTS = ["shop:a", "shop:b", "shop:c"]


def forecasts(end: int = START, products: list[str] = PRODUCTS, **given: object) -> bytes:
    n = len(products)
    order = np.arange(n, dtype=np.float64)[:, None]
    quantiles = np.zeros((n, DELAYS, len(QUANTILES)))
    quantiles[:, :, QUANTILES.index(0.5)] = order * 10 + np.arange(DELAYS)
    return predictions(
        products,
        end,
        mean=order + np.array([1.0, 6.0, 21.0]),
        frozen_mean=order + np.array([2.0, 12.0, 42.0]),
        dispersion=order + np.array([0.1, 0.2, 0.3]),
        quantiles=quantiles.reshape(n, -1),
        components=np.repeat(order, 8, axis=1),
        category=[f"category of {p}" for p in products],
        **given,
    )


def fold(stage: LabelStage, *values: bytes) -> list[bytes]:
    outputs = [o for value in values for o in stage.fold([message(TASK[0], TASK[1], value)])]
    assert all((o.topic, o.partition, o.key) == ("trend.matured", 0, None) for o in outputs)
    return [o.value for o in outputs if o.value is not None]


def due(delay: int, units: list[int], products: list[str] = PRODUCTS, end: int = START) -> bytes:
    rows = [(p, end, delay, u) for p, u in zip(products, units, strict=True)]
    return outcomes(rows, end + (1, 7, 28)[delay] * DAY)


def test_a_label_carries_its_own_prediction_and_cumulated_sales() -> None:
    stage = LabelStage(TASK)
    assert fold(stage, forecasts()) == []
    (first,) = fold(stage, due(0, [5, 6, 7]))
    (second,) = fold(stage, due(1, [20, 10], ["shop:c", "shop:a"]))  # another order than the predictions'
    rows = decode(first)
    assert rows.record is MATURED
    assert rows["total"].tolist() == rows["units"].tolist() == [5, 6, 7]
    assert rows["partition"].tolist() == [3, 3, 3]
    rows = decode(second)
    assert rows["product"].tolist() == ["shop:c", "shop:a"]
    assert rows["category"].tolist() == ["category of shop:c", "category of shop:a"]
    assert rows["units"].tolist() == [20, 10]
    assert rows["total"].tolist() == [27, 15]
    assert rows["mean"].tolist() == [8.0, 6.0]
    assert rows["total_mean"].tolist() == [11.0, 7.0]
    assert rows["frozen_total_mean"].tolist() == [18.0, 14.0]
    assert rows["dispersion"].tolist() == [2.2, 0.2]
    assert rows["median"].tolist() == [21.0, 1.0]
    assert rows["components"][:, 0].tolist() == [2.0, 0.0]
    assert rows["at"].tolist() == [START + 7 * DAY] * 2


def test_labels_come_in_the_order_of_the_outcomes_across_window_ends() -> None:
    stage = LabelStage(TASK)
    fold(stage, forecasts(), forecasts(START + 6 * DAY), due(0, [1, 1, 1]))
    mixed = [("shop:b", START + 6 * DAY, 0, 2), ("shop:b", START, 1, 3), ("shop:a", START + 6 * DAY, 0, 4)]
    (value,) = fold(stage, outcomes(mixed, START + 7 * DAY))
    rows = decode(value)
    assert list(zip(rows["product"], rows["end"], rows["delay"], rows["total"], strict=True)) == [
        ("shop:b", START + 6 * DAY, 0, 2),
        ("shop:b", START, 1, 4),
        ("shop:a", START + 6 * DAY, 0, 4),
    ]


def test_an_outcome_without_its_prediction_is_counted_and_harms_nobody() -> None:
    stage = LabelStage(TASK)
    fold(stage, forecasts())
    (value,) = fold(stage, outcomes([("shop:x", START, 0, 1), ("shop:b", START, 0, 2), ("shop:a", START - DAY, 0, 3)],
                                    START + DAY))  # fmt: skip
    assert decode(value)["product"].tolist() == ["shop:b"]
    assert stage.counters()["orphans"] == 2
    assert fold(stage, due(1, [1, 1, 1]))  # shop:b alone has its first bucket
    assert stage.counters()["incomplete"] == 2
    assert stage.counters()["matured"] == 2


def test_live_predictions_make_no_labels() -> None:
    stage = LabelStage(TASK)
    kind = np.array([WindowKind.LIVE, WindowKind.CLOSE, WindowKind.LIVE])
    fold(stage, forecasts(kind=kind))
    (value,) = fold(stage, due(0, [1, 2, 3]))
    assert decode(value)["product"].tolist() == ["shop:b"]
    assert decode(value)["mean"].tolist() == [2.0]
    counters = stage.counters()
    assert (counters["live"], counters["predictions"], counters["orphans"]) == (2, 1, 2)


def test_closes_are_handed_on_byte_for_byte_after_the_labels_before_them() -> None:
    stage = LabelStage(TASK)
    close = closes(3, START + DAY)
    values = fold(stage, forecasts(), due(0, [1, 2, 3]), close)
    assert values[-1] == close
    assert decode(values[0]).record is MATURED
    assert len(values) == 2


def test_large_batches_are_split_below_the_limit_in_order() -> None:
    products = [f"shop:{i}" for i in range(300)]
    stage = LabelStage(TASK, LabelConfig(max_bytes=20_000))
    values = fold(stage, forecasts(products=products), due(0, list(range(300)), products))
    assert len(values) > 1
    assert max(map(len, values)) <= 20_000
    assert [u for value in values for u in decode(value)["units"].tolist()] == list(range(300))


def test_a_prediction_is_forgotten_when_all_has_matured_or_an_outcome_was_lost() -> None:
    stage = LabelStage(TASK)
    fold(stage, forecasts(), *(due(delay, [1, 1, 1]) for delay in range(DELAYS)), forecasts(START + DAY))
    assert [name for name in stage.snapshot() if name.startswith("kept")] == [f"kept.{START + DAY}"]
    fold(stage, closes(3, START + DAY + KEEP))
    assert any(name.startswith("kept") for name in stage.snapshot())
    fold(stage, closes(3, START + 2 * DAY + KEEP))
    assert not any(name.startswith("kept") for name in stage.snapshot())


def test_a_restored_task_goes_on_byte_for_byte() -> None:
    log = [
        forecasts(),
        due(0, [1, 2, 3]),
        forecasts(START + DAY, ["shop:c", "shop:d"]),
        closes(3, START + DAY),
        due(1, [4, 5, 6]),
        due(0, [9, 9], ["shop:d", "shop:c"], START + DAY),
        closes(3, START + 7 * DAY),
        due(2, [1, 1, 1]),
    ]
    whole = LabelStage(TASK)
    expected = [fold(whole, value) for value in log]
    for cut in range(len(log)):
        before, after = LabelStage(TASK), LabelStage(TASK)
        got = [fold(before, value) for value in log[:cut]]
        blobs = before.snapshot()
        after.restore(blobs)
        assert after.snapshot() == blobs
        got += [fold(after, value) for value in log[cut:]]
        assert got == expected
        assert after.snapshot() == whole.snapshot()
        assert after.counters() == whole.counters()


def test_a_broken_snapshot_is_refused() -> None:
    with pytest.raises(SnapshotError, match="labels"):
        LabelStage(TASK).restore({})
