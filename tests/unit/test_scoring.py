"""The inference stage: which head scores a window, and that nothing else than the record decides about its bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.errors import ScoringError
from model.features import extract
from model.heads import HeadStore
from model.reading import read
from model.registry import Bundle, untrained_bundle
from model.scores import rounded
from model.scoring import InferenceConfig, InferenceStage, elapsed_share
from streams.codecs import Rows, decode, decode_json, encode, encode_json
from streams.records import CLASSES, CONTRIBUTIONS, HORIZONS, QUANTILES, Modality, WindowKind
from streams.records.inside import CLOSES, EVENTS, MATURED, OUTCOMES, WINDOWS
from streams.records.outside import Horizon, Score
from streams.stage import Message, Output
from tests.unit.synthetic_windows import (
    ALL,
    START,
    history,
    learnt_head,
    lively_bundle,
    made_live,
    message,
    small_windows,
)

CONFIG = InferenceConfig(batch_rows=32)
TASK = ("trend.windows", 1)
EPOCHS = (1_000, 2_000, 3_000)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return lively_bundle()


def store(bundle: Bundle, *epochs: int) -> HeadStore:
    heads = HeadStore(bundle.version)
    for offset, epoch in enumerate(epochs):
        heads.put(Message("model.heads", 0, offset, 0, None, encode_json(learnt_head(bundle, epoch))))
    return heads


def make(
    bundle: Bundle, *epochs: int, recorded: dict[tuple[int, int], tuple[str, int]] | None = None
) -> InferenceStage:
    return InferenceStage(TASK, CONFIG, bundle, store(bundle, *epochs), recorded)


def closed(n: int, epoch: int = 0, seed: int = 0, mask: int = ALL) -> dict[str, Any]:
    return {**small_windows(n, seed, mask), "epoch": np.full(n, epoch)}


def windows(columns: dict[str, Any], offset: int = 0) -> Message:
    return message(encode(WINDOWS, columns), offset)


def predictions(outputs: list[Output]) -> Rows:
    (value,) = (o.value for o in outputs if o.topic == "trend.predictions")
    assert value is not None
    return decode(value)


def scores(outputs: list[Output]) -> list[Score]:
    return [decode_json(o.value or b"", Score) for o in outputs if o.topic == "trend.scores"]


def test_what_passes_through_would_be_changed_or_lose_its_order(bundle: Bundle) -> None:
    log = [m for m in history(3, 8) if m.value is not None]
    stage = make(bundle)
    outputs = stage.fold(log)
    handed_on = [m.value for m in log if m.value is not None and decode(m.value).record in (OUTCOMES, CLOSES)]
    assert [o.value for o in outputs if o.value in handed_on] == handed_on
    kinds = [decode(o.value).record.name for o in outputs if o.topic == "trend.predictions" and o.value]
    expected = [decode(m.value).record.name.replace("windows", "predictions") for m in log if m.value]
    assert kinds == expected
    assert {o.partition for o in outputs} == {1}
    outcomes = sum(len(decode(m.value)) for m in log if m.value and decode(m.value).record is OUTCOMES)
    assert stage.counters() == {"windows": 24, "live": 0, "scores": 24, "head_late": 0, "outcomes": outcomes}


def test_one_call_with_two_records_would_differ_from_two_calls(bundle: Bundle) -> None:
    log = [windows(closed(5, 1_000)), windows(made_live(closed(3, seed=1), 7, 4), 1), windows(closed(40, 2_000, 2), 2)]
    together, apart, restored = make(bundle, *EPOCHS), make(bundle, *EPOCHS), make(bundle, *EPOCHS)
    outputs = together.fold(log)
    first, second = apart.fold(log[:1]), apart.fold(log[1:2])
    restored.restore(apart.snapshot())
    assert outputs == [*first, *second, *restored.fold(log[2:])]
    assert restored.counters() == together.counters()
    assert restored.snapshot() == together.snapshot()


def test_a_window_would_be_scored_otherwise_in_another_record(bundle: Bundle) -> None:
    rows = decode(encode(WINDOWS, closed(9, 1_000)))
    whole = predictions(make(bundle, *EPOCHS).fold([message(encode(WINDOWS, closed(9, 1_000)))]))
    for i in (0, 4, 8):
        part = Rows(WINDOWS, rows.batch.slice(i, 1))
        alone = read(bundle.network, extract(part), part["baseline"], CONFIG.batch_rows)
        assert np.array_equal(alone.f[0], whole["f"][i])
        assert np.array_equal(alone.components[0], whole["components"][i])
        assert np.array_equal(alone.contributions[0], whole["contributions"][i])


def test_a_close_window_would_not_wait_for_its_head_or_a_live_one_would(bundle: Bundle) -> None:
    stage, later = make(bundle, 1_000), windows(closed(2, 2_000), 5)
    assert stage.ready(windows(closed(2, 0), 1))
    assert stage.ready(windows(closed(2, 1_000), 2))
    assert stage.ready(windows(made_live(closed(2, 2_000), 3, 1), 3))
    assert stage.ready(message(encode(CLOSES, {"partition": [1], "platform": ["shop"], "end": [START],
                                               "windows": [2], "outcomes": [0]}), 4))  # fmt: skip
    assert not stage.ready(later)
    assert not stage.ready(later), "asking again does not make it ready"
    stage.heads.put(Message("model.heads", 0, 1, 0, None, encode_json(learnt_head(bundle, 2_000))))
    assert stage.ready(later)
    found = predictions(stage.fold([later]))
    assert found["head_epoch"].tolist() == [2_000, 2_000]
    assert found["head_late"].tolist() == [0, 0]


def test_a_head_of_the_future_would_score_a_close_window(bundle: Bundle) -> None:
    stage = make(bundle, *EPOCHS)
    for epoch, used in ((0, 0), (999, 0), (1_000, 1_000), (2_500, 2_000), (3_000, 3_000)):
        found = predictions(stage.fold([windows(closed(2, epoch))]))
        assert found["head_epoch"].tolist() == [used, used]
        assert found["head"][0] == (f"{bundle.version}-e{used}" if used else f"{bundle.version}-frozen")
        assert found["head_late"].tolist() == [0, 0]
    live = predictions(stage.fold([windows(made_live(closed(2, 1_000), 3, 1))]))
    assert live["head_epoch"].tolist() == [3_000, 3_000]
    assert predictions(make(bundle).fold([windows(made_live(closed(1), 3, 1))]))["head_epoch"].tolist() == [0]


def test_an_epoch_from_before_the_learner_began_would_be_waited_for(bundle: Bundle) -> None:
    stage = make(bundle)
    stage.heads.since = 2_000
    early = windows(closed(2, 1_999))
    assert stage.ready(early)
    found = predictions(stage.fold([early]))
    assert (found["head"][0], found["head_late"][0]) == (f"{bundle.version}-frozen", 0)
    assert not stage.ready(windows(closed(2, 2_000)))


def test_a_head_that_did_not_come_would_go_unsaid(bundle: Bundle) -> None:
    stage = make(bundle, 1_000)
    outputs = stage.fold([windows(closed(3, 2_000))])
    assert predictions(outputs)["head_epoch"].tolist() == [1_000] * 3
    assert predictions(outputs)["head_late"].tolist() == [1] * 3
    assert all(s.head_late and s.head == f"{bundle.version}-e1000" for s in scores(outputs))
    assert stage.counters()["head_late"] == 3
    nothing = predictions(make(bundle).fold([windows(closed(1, 2_000))]))
    assert (nothing["head"][0], nothing["head_late"][0]) == (f"{bundle.version}-frozen", 1)


def test_a_refold_would_use_other_heads_than_the_run(bundle: Bundle) -> None:
    log = [windows(closed(3, 2_000), 10), windows(made_live(closed(2), 5, 2), 12)]
    run = make(bundle, 1_000)
    published = [*run.fold(log[:1]), *run.fold(log[1:])]
    recorded = {}
    for output in published:
        if output.topic == "trend.predictions" and output.value:
            p = decode(output.value)
            for offset, kind, version, late in zip(
                p["window_offset"].tolist(), p["kind"].tolist(), p["head"], p["head_late"].tolist(), strict=True
            ):
                recorded[(offset, kind)] = (version, late)
    again = make(bundle, *EPOCHS, recorded=recorded)
    assert again.ready(log[0])
    assert again.fold(log) == published
    assert make(bundle, *EPOCHS).fold(log) != published
    with pytest.raises(ScoringError, match="offset 11: no head is recorded"):
        again.fold([windows(closed(3, 2_000), 11)])
    with pytest.raises(ScoringError, match="not in model"):
        make(bundle, 2_000, recorded=recorded).fold(log)


@pytest.mark.parametrize("mask", [0, *(ALL & ~(1 << m) for m in Modality), ALL])
def test_a_missing_modality_would_stop_a_score(bundle: Bundle, mask: int) -> None:
    outputs = make(bundle).fold([windows(closed(4, mask=mask))])
    found = predictions(outputs)
    for name in ("mean", "dispersion", "quantiles", "probabilities", "trend", "contributions", "frozen_median"):
        assert np.isfinite(found[name]).all(), name
    assert np.allclose(found["probabilities"].reshape(4, len(HORIZONS), -1).sum(axis=2), 1.0)
    assert (np.diff(found["quantiles"].reshape(4, len(HORIZONS), -1), axis=1) >= 0).all()
    assert found["mask"].tolist() == [mask] * 4
    missing = [m.name.lower() for m in Modality if not mask >> m & 1]
    assert all(s.missing == missing for s in scores(outputs))
    parts = {"text": [0], "image": [1], "catalogue": [2, 3, 4], "behaviour": [5]}
    for i, name in enumerate(CONTRIBUTIONS):
        there = any(mask >> m & 1 for m in parts[name])
        assert (found["contributions"][:, i] != 0).all() == there, name


def test_a_contribution_would_not_be_the_change_of_the_log_mean(bundle: Bundle) -> None:
    full = predictions(make(bundle).fold([windows(closed(3))]))
    without = predictions(make(bundle).fold([windows(closed(3, mask=ALL & ~(1 << Modality.IMAGE)))]))
    change = np.log(full["frozen_mean"].sum(axis=1)) - np.log(without["frozen_mean"].sum(axis=1))
    assert np.allclose(full["contributions"][:, CONTRIBUTIONS.index("image")], change, atol=1e-5)


def test_an_untrained_bundle_would_not_forecast_the_baseline() -> None:
    bundle = untrained_bundle()
    columns = closed(4)
    found = predictions(make(bundle).fold([windows(columns)]))
    assert np.allclose(found["mean"], columns["baseline"])
    assert np.array_equal(found["mean"], found["frozen_mean"])
    assert np.allclose(found["trend"], 0.0)
    assert not found["contributions"].any()


def test_the_frozen_control_would_move_with_the_heads(bundle: Bundle) -> None:
    log = [windows(closed(3, 3_000))]
    frozen, updated = predictions(make(bundle).fold(log)), predictions(make(bundle, *EPOCHS).fold(log))
    for name in ("frozen_mean", "frozen_dispersion", "frozen_median", "f", "components", "contributions"):
        assert np.array_equal(frozen[name], updated[name]), name
    assert (updated["mean"] > frozen["mean"]).all()


def test_what_sold_in_the_open_day_would_not_move_a_live_forecast(bundle: Bundle) -> None:
    quiet, busy = (scores(make(bundle).fold([windows(made_live(closed(3), 12, u))])) for u in (0, 60))
    for low, high in zip(quiet, busy, strict=True):
        assert all(h.expected >= 60 and h.quantiles["0.1"] >= 60 for h in high.horizons)
        assert high.horizons[2].expected - low.horizons[2].expected > 60, "what remains is expected to rise too"


def test_the_share_of_a_day_would_not_follow_its_hours() -> None:
    profile = np.zeros(24)
    profile[[9, 18]] = 0.25, 0.75
    share = elapsed_share(profile, np.array([0.0, 9 / 24, 9.5 / 24, 12 / 24, 1.0, 1.2]))
    assert np.allclose(share, [0.0, 0.0, 0.125, 0.25, 1.0, 1.0])


def test_a_score_would_not_say_what_made_it(bundle: Bundle) -> None:
    outputs = make(bundle, *EPOCHS).fold([windows(made_live(closed(2), 6, 1), 8)])
    first = scores(outputs)[0]
    assert first.score_id == f"shop:p0@{START}.3/{bundle.version}"
    assert first.window_id == f"shop:p0@{START}.3"
    assert (first.revision, first.window_kind, first.window_end) == (3, "live", START)
    assert first.as_of == START + 6 * 3_600_000
    assert (first.platform, first.product_id) == ("shop", "p0")
    assert (first.model, first.head) == (bundle.version, f"{bundle.version}-e3000")
    assert first.encoders == {"text": "text-1", "image": "image-1"}
    assert [o.key for o in outputs] == [None, b"shop:p0", b"shop:p1"]
    found = predictions(outputs)
    assert found["window_offset"].tolist() == [8, 8]
    for h, horizon in enumerate(first.horizons):
        assert horizon.days == HORIZONS[h]
        assert horizon.expected == pytest.approx(found["mean"][0, : h + 1].sum(), rel=1e-5)
        assert list(horizon.quantiles) == [str(q) for q in QUANTILES]
        assert horizon.trend_class == max(horizon.probabilities, key=lambda name: horizon.probabilities[name])
        assert len(horizon.means) == h + 1
    close = scores(make(bundle).fold([windows({**closed(1), "revision": np.array([7])})]))[0]
    assert (close.score_id, close.revision) == (f"shop:p0@{START}/{bundle.version}", 0)


def plain_score(window: dict[str, Any], said: dict[str, Any], model: str) -> Score:
    """The record of one row of WINDOWS and of PREDICTIONS, field by field."""

    def six(values: Any) -> list[float]:
        return [round(float(f"{v:.6g}"), 15) + 0.0 for v in values]

    live, platform = window["kind"] == WindowKind.LIVE, window["product"].split(":")[0]
    revision = window["revision"] if live else 0
    window_id = f"{window['product']}@{window['end']}" + (f".{revision}" if live else "")
    horizons = []
    for h, days in enumerate(HORIZONS):
        quantiles, probabilities = said["quantiles"][4 * h : 4 * h + 4], said["probabilities"][4 * h : 4 * h + 4]
        horizons.append(
            Horizon(
                days=days,
                expected=six([sum(said["mean"][: h + 1])])[0],
                quantiles=dict(zip(map(str, QUANTILES), six(quantiles), strict=True)),
                baseline=six([sum(window["baseline"][: h + 1])])[0],
                trend=six([said["trend"][h]])[0],
                trend_class=CLASSES[int(np.argmax(probabilities))],  # type: ignore[arg-type]
                probabilities=dict(zip(CLASSES, six(probabilities), strict=True)),
                means=six(said["mean"][: h + 1]),
                dispersion=six([said["dispersion"][h]])[0],
            )
        )
    return Score(
        score_id=f"{window_id}/{model}",
        revision=revision,
        platform=platform,
        product_id=window["product"].removeprefix(f"{platform}:"),
        window_id=window_id,
        window_kind="live" if live else "close",
        window_end=window["end"],
        window_revision=revision,
        as_of=window["as_of"],
        events_offset=window["offset"],
        horizons=horizons,
        contributions=dict(zip(CONTRIBUTIONS, six(said["contributions"]), strict=True)),
        missing=[m.name.lower() for m in Modality if not window["mask"] >> m & 1],
        head_late=bool(said["head_late"]),
        model=said["model"],
        head=said["head"],
        encoders={n: window[f"{n}_encoder"] for n in ("text", "image") if window[f"{n}_encoder"]},
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_score_would_say_another_thing_than_its_prediction(bundle: Bundle, seed: int) -> None:
    masks = np.random.default_rng(seed).integers(0, ALL + 1, 40)
    close, live = closed(40, 2_000, seed), made_live({**small_windows(25, seed + 10), "epoch": np.zeros(25)}, 7, 4)
    close["mask"] = masks
    both = {k: np.concatenate([np.asarray(close[k]), np.asarray(live[k])]) for k in close}
    log = windows(both)
    outputs = make(bundle, *EPOCHS).fold([log])
    seen, said = decode(log.value or b"").batch.to_pylist(), predictions(outputs).batch.to_pylist()
    plain = [encode_json(plain_score(w, p, bundle.version)) for w, p in zip(seen, said, strict=True)]
    assert [o.value for o in outputs if o.topic == "trend.scores"] == plain
    assert [o.key for o in outputs if o.topic == "trend.scores"] == [w["product"].encode() for w in seen]


def test_a_large_record_would_be_beyond_the_limit_of_its_topic(bundle: Bundle) -> None:
    stage = InferenceStage(TASK, replace(CONFIG, max_bytes=20_000), bundle, store(bundle))
    values = [o.value for o in stage.fold([windows(closed(60))]) if o.topic == "trend.predictions"]
    assert len(values) > 1
    assert all(len(v or b"") <= 20_000 for v in values)
    assert [p for v in values for p in decode(v or b"")["product"]] == [f"shop:p{i}" for i in range(60)]


def test_a_foreign_record_would_be_scored(bundle: Bundle) -> None:
    assert {WINDOWS, OUTCOMES, CLOSES}.isdisjoint({EVENTS, MATURED})
    columns: dict[str, list[int]] = {field.name: [] for field in MATURED.schema}
    with pytest.raises(ScoringError, match="offset 4 holds 'matured'"):
        make(bundle).fold([message(encode(MATURED, columns), 4)])


def test_a_record_with_two_kinds_would_give_one_of_them_the_head_of_the_other(bundle: Bundle) -> None:
    close, live = closed(2, 1_000), made_live(closed(2, seed=1), 4, 1)
    both = {k: np.concatenate([np.asarray(close[k]), np.asarray(live[k])]) for k in close}
    found = predictions(make(bundle, *EPOCHS).fold([windows(both)]))
    assert found["kind"].tolist() == [WindowKind.CLOSE] * 2 + [WindowKind.LIVE] * 2
    assert found["head_epoch"].tolist() == [1_000, 1_000, 3_000, 3_000]
    apart = predictions(make(bundle, *EPOCHS).fold([windows(live)]))
    assert np.array_equal(found["mean"][2:], apart["mean"])
    assert np.array_equal(found["quantiles"][2:], apart["quantiles"])


def test_rounding_would_leave_digits_or_take_too_many() -> None:
    values = np.array([0.0, -0.0, 1 / 3, -2 / 3, 123456.7, 1234567.8, 1e-9 / 3, 0.1 + 0.2])
    assert repr(rounded(values)) == "[0.0, 0.0, 0.333333, -0.666667, 123457.0, 1234568.0, 3.33333e-10, 0.3]"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: the stage on a GPU was not tried")
def test_the_stage_on_a_gpu_would_forecast_something_else() -> None:
    log = [windows(closed(40, 1_000))]
    cpu, gpu = lively_bundle(), lively_bundle(device="cuda")
    assert cpu.version == gpu.version
    expected, found = (predictions(make(b, *EPOCHS).fold(log)) for b in (cpu, gpu))
    assert np.allclose(found["mean"], expected["mean"], rtol=1e-3)
    assert make(gpu, *EPOCHS).fold(log) == make(gpu, *EPOCHS).fold(log)
