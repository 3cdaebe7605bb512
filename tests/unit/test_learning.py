from dataclasses import replace

import msgspec
import numpy as np
import pytest

from model.calibration import CalibrationConfig
from model.champion import FLOOR, THRESHOLD, Contest
from model.drift import DriftConfig, DriftWatch
from model.errors import ModelError
from model.estimation import EstimationConfig
from model.heads import frozen_head, head_version, identity_map, is_frozen
from model.labels import LabelStage
from model.learning import LearnerConfig, LearnerStage
from streams.calendars import DAY
from streams.codecs import decode, decode_json, encode, encode_json
from streams.errors import SnapshotError
from streams.negative_binomial import quantile
from streams.records.inside import INSTALLS
from streams.records.outside import Head, ModelEvent
from streams.stage import Output
from tests.unit.sales_world import MODEL, START, Run, World, closes, learner_config, message, outcomes, predictions

TASK = ("trend.matured", 0)
CONFIG = learner_config(World())


def heads(outputs: list[Output]) -> list[Head]:
    return [decode_json(o.value or b"", Head) for o in outputs if o.topic == "model.heads"]


def events(outputs: list[Output]) -> list[ModelEvent]:
    return [decode_json(o.value or b"", ModelEvent) for o in outputs if o.topic == "model.events"]


def fold(stage: LearnerStage, *values: bytes) -> list[Output]:
    return [output for value in values for output in stage.fold([message(*TASK, value)])]


def labels(partition: int, end: int, units: list[int], censored: list[int] | None = None, **given: object) -> bytes:
    """One MATURED batch of first buckets, as the labels stage makes it."""
    stage = LabelStage(("trend.predictions", partition))
    products = [f"shop:{partition}.{i}" for i in range(len(units))]
    rows = [(p, end, 0, u) for p, u in zip(products, units, strict=True)]
    for value in (predictions(products, end, **given), outcomes(rows, end + DAY, censored)):
        outputs = stage.fold([message("trend.predictions", partition, value)])
    assert outputs[0].value is not None
    return outputs[0].value


def relative_error(run: Run, means: list[np.ndarray], days: range, delay: int) -> float:
    pairs = [(means[d][:, delay], run.truth[d][:, delay]) for d in days]
    return sum(abs(m - t).sum() for m, t in pairs) / sum(t.sum() for _, t in pairs)


# --------------------------------------------------------------------------------------------------------------------
# Epochs.


def test_an_epoch_waits_for_every_partition_and_none_is_left_out() -> None:
    stage = LearnerStage(TASK, CONFIG)
    assert fold(stage, closes(0, START), closes(0, START + DAY)) == []
    # The first close of the other partition says that it has nothing to say about what was before.
    published = heads(fold(stage, closes(1, START + 2 * DAY)))
    assert [h.epoch for h in published] == [START, START + DAY]
    assert [h.version for h in published] == [head_version(MODEL, h.epoch) for h in published]
    assert [h.epoch for h in heads(fold(stage, closes(0, START + 4 * DAY)))] == [START + 2 * DAY]
    assert [h.epoch for h in heads(fold(stage, closes(1, START + 3 * DAY), closes(1, START + 4 * DAY)))] == [
        START + 3 * DAY,
        START + 4 * DAY,
    ]
    assert stage.counters()["epochs"] == 5


def test_a_head_is_the_same_whichever_partition_came_first() -> None:
    one, other = labels(0, START, [1, 9, 3]), labels(1, START, [4, 2])
    ends = [closes(p, START + DAY) for p in (0, 1)]
    a = fold(LearnerStage(TASK, CONFIG), one, other, ends[0], ends[1])
    b = fold(LearnerStage(TASK, CONFIG), other, ends[1], one, ends[0])
    assert a == b
    assert heads(a)[0].rows == 5


def test_an_epoch_waits_for_every_platform_whose_day_ends_with_it() -> None:
    stage = LearnerStage(TASK, replace(CONFIG, partitions=1))
    first = fold(stage, closes(0, START), closes(0, START, "fair"))
    assert [h.epoch for h in heads(first)] == [START]
    assert fold(stage, labels(0, START, [1, 2]), closes(0, START + DAY), labels(0, START, [3])) == []
    assert [h.rows for h in heads(fold(stage, closes(0, START + DAY, "fair")))] == [3]
    assert stage.counters()["late"] == 0


def test_rows_of_a_later_boundary_wait_for_their_own_epoch() -> None:
    stage = LearnerStage(TASK, CONFIG)
    outputs = fold(stage, labels(0, START, [1]), closes(0, START + DAY), labels(0, START + DAY, [9] * 4),
                   closes(0, START + 2 * DAY), closes(1, START + DAY))  # fmt: skip
    assert [h.rows for h in heads(outputs)] == [1]
    assert [h.rows for h in heads(fold(stage, closes(1, START + 2 * DAY)))] == [4]


def test_an_epoch_without_rows_publishes_a_head_all_the_same() -> None:
    outputs = fold(LearnerStage(TASK, CONFIG), closes(0, START), closes(1, START))
    (head,) = heads(outputs)
    assert head.rows == 0
    assert not np.any(head.theta)
    assert events(outputs) == []


def test_censored_late_foreign_and_forgotten_rows_are_left_out_and_counted() -> None:
    config = replace(CONFIG, partitions=1)
    stage = LearnerStage(TASK, config)
    fold(
        stage,
        labels(0, START, [1, 2, 3], censored=[0, 1, 0]),
        labels(0, START, [4], model=["another"]),
        labels(0, START, [5], head=[f"{MODEL}-e12345"]),
        labels(0, START, [5], head=["what is this"]),
        closes(0, START + DAY),
        labels(0, START, [7]),
    )
    expected = {"rows": 7, "learned": 2, "censored": 1, "other_model": 1, "forgotten": 2, "late": 1}
    assert {name: stage.counters()[name] for name in expected} == expected


def test_each_epoch_tells_the_error_of_the_head_and_of_the_frozen_network_on_the_same_rows() -> None:
    median = np.zeros((3, 3, 4))
    median[:, :, 1] = 4.0
    value = labels(0, START, [1, 2, 6], quantiles=median.reshape(3, -1), frozen_median=np.full((3, 3), 2.0))
    (event,) = events(fold(LearnerStage(TASK, replace(CONFIG, partitions=1)), value, closes(0, START + DAY)))
    assert event.kind == "epoch"
    assert event.evidence["rows"] == 3
    assert (event.evidence["units_1"], event.evidence["error_1"], event.evidence["frozen_error_1"]) == (9, 7.0, 5.0)


def test_a_learner_without_partitions_is_refused() -> None:
    with pytest.raises(ModelError, match="partitions is 0"):
        LearnerStage(TASK, replace(CONFIG, partitions=0))


# --------------------------------------------------------------------------------------------------------------------
# Learning, on worlds whose truth is known.


@pytest.fixture(scope="module")
def steady() -> Run:
    return World(days=36, products=150).run()


@pytest.fixture(scope="module")
def doubled() -> Run:
    return World(days=34, demand=lambda day: 1.0 + (day >= 8)).run()


def test_without_drift_the_head_stays_at_the_frozen_network(steady: Run) -> None:
    assert max(abs(np.array(h.theta)).max() for h in steady.heads) < 0.15
    for delay in range(3):
        assert relative_error(steady, steady.mean, range(5, 36), delay) < 0.06
    assert {e.kind for e in steady.events} == {"epoch"}
    loss = np.mean([e.evidence["loss"] for e in steady.events])  # type: ignore[arg-type]
    frozen = np.mean([e.evidence["frozen_loss"] for e in steady.events])  # type: ignore[arg-type]
    assert loss < frozen + 0.02


def test_after_a_doubling_all_horizons_recover_within_days(doubled: Run) -> None:
    for delay in range(3):
        assert relative_error(doubled, doubled.frozen, range(14, 34), delay) == pytest.approx(0.5)
        assert relative_error(doubled, doubled.mean, range(14, 34), delay) < 0.1
    assert any(e.kind == "drift" and e.subject == "all" for e in doubled.events)
    assert not any(e.kind in ("rollback", "refused") for e in doubled.events)


@pytest.mark.parametrize("f", [0.0, 0.5])
def test_long_buckets_are_not_corrected_a_second_time_when_their_late_labels_come(f: float) -> None:
    # Sales double once; the baseline catches up with a half-life of 14 days, before the last labels come.
    world = World(days=56, products=30, partitions=1, f=f, noise_free=True, rate=40.0,
                  demand=lambda day: 1.0 + (day >= 10),
                  believed=lambda day: 2.0 - 0.5 ** (max(day - 10, 0) / 14))  # fmt: skip
    run = world.run()
    for delay in (1, 2):
        assert relative_error(run, run.mean, range(12, 56), delay) < 0.25 * relative_error(
            run, run.frozen, range(12, 56), delay
        )
        for day in range(38, 56):  # a month later: what is left of the correction must not overshoot
            assert run.mean[day][:, delay].sum() < 1.06 * run.truth[day][:, delay].sum()


def test_intervals_of_an_overconfident_network_come_nearer_to_their_nominal_coverage() -> None:
    run = World(days=30, partitions=1, r_true=1.5, r_believed=1e3).run()

    def covered(days: range) -> float:
        inside = [
            (run.sold[d][:, 0] >= run.quantiles[d][:, 0, 0]) & (run.sold[d][:, 0] <= run.quantiles[d][:, 0, 2])
            for d in days
        ]
        return float(np.mean(inside))

    def nominal(days: range) -> float:  # what the truth would cover: counts cover more than 0.8
        low, high = (np.stack([quantile(q, run.truth[d][:, 0], 1.5) for d in days]) for q in (0.1, 0.9))
        sold = np.stack([run.sold[d][:, 0] for d in days])
        return float(((sold >= low) & (sold <= high)).mean())

    assert covered(range(2)) < 0.7
    assert covered(range(8, 30)) == pytest.approx(nominal(range(8, 30)), abs=0.03)


def test_chance_alone_is_not_published_and_a_true_change_is_within_days() -> None:
    shocks = np.exp(np.random.default_rng(5).normal(size=70) * 0.1)
    calm = World(days=30, partitions=1, demand=lambda day: float(shocks[day])).run()
    moved = World(days=30, partitions=1, demand=lambda day: float(shocks[day]) * (1.0 + 0.6 * (day >= 22))).run()
    said, said_moved = (
        np.array([np.log(m[:, 0].sum() / f[:, 0].sum()) for m, f in zip(run.mean, run.frozen, strict=True)])
        for run in (calm, moved)
    )
    assert calm.learner is not None
    learnt = np.array([past.theta[0, 0] for past in calm.learner._estimator.past])
    assert np.std(said) < 0.2 * np.std(learnt)
    # The first day of the change is sold at the next boundary, whose head serves a day later; then it is confirmed.
    assert said_moved[26] > 0.5 * np.log(1.6)


def test_one_day_of_three_times_the_usual_sales_is_no_new_level() -> None:
    shocks = np.exp(np.random.default_rng(5).normal(size=80) * 0.1)
    shocks[10:] *= 1.3
    shocks[26] *= 3
    run = World(days=30, partitions=1, demand=lambda day: float(shocks[day])).run()
    said = np.array([np.log(m[:, 0].sum() / f[:, 0].sum()) for m, f in zip(run.mean, run.frozen, strict=True)])
    assert said[27] > 0.5 * np.log(1.3), "the level that was there before is followed"
    assert said[28] < said[27] + 0.2 * np.log(3)


def test_what_all_late_forecasts_were_off_by_does_not_widen_what_is_said_after_it() -> None:
    world = World(products=20, partitions=1, days=50, rate=20.0,
                  demand=lambda day: 1.0 + (day >= 20), believed=lambda day: 1.0 + (day >= 22))  # fmt: skip
    left_in = EstimationConfig(calibration=CalibrationConfig(common_information=1e12))
    learners = [world.run(learner_config(world, estimation=e)).learner for e in (EstimationConfig(), left_in)]
    narrow, wide = (learner._estimator.dispersion[2, 0] for learner in learners if learner)
    assert narrow > 0.9 * world.r_believed
    assert wide < 0.8 * narrow


def test_a_few_orders_a_hundred_times_the_others_do_not_widen_what_is_said_of_the_rest() -> None:
    stage = LearnerStage(TASK, replace(CONFIG, partitions=1))
    rng = np.random.default_rng(0)
    for day in range(25):
        units = rng.poisson(4.0, 100)
        units[:2] *= 100  # wholesale
        mean = np.full((100, 3), 4.0)
        value = labels(0, START + day * DAY, units.tolist(), mean=mean, dispersion=np.full((100, 3), 1e3),
                       frozen_mean=mean, frozen_dispersion=np.full((100, 3), 1e3), baseline=mean,
                       f=np.zeros((100, 3)), components=np.zeros((100, 8)))  # fmt: skip
        published = heads(fold(stage, value, closes(0, START + (day + 1) * DAY)))
    assert published[-1].dispersion[0][0] > 20.0  # by the variance it would be below 0.01


def test_what_a_bucket_has_learnt_is_held_back_where_the_network_alone_would_have_lost_less() -> None:
    config = EstimationConfig(calibration=CalibrationConfig(conformal_rate=0.0))
    stage = LearnerStage(TASK, replace(CONFIG, partitions=1, estimation=config))
    stage._estimator.conformal[:] = 0.5 + 0.2 * (identity_map() - 0.5)  # all is more certain than the network says
    rng, mean = np.random.default_rng(0), np.full((100, 3), 4.0)
    bent = []
    for day in range(25):
        made_by = head_version(MODEL, START + (day - 1) * DAY if day > 1 else 0)
        value = labels(0, START + day * DAY, rng.poisson(4.0, 100).tolist(), head=[made_by] * 100, frozen_mean=mean,
                       frozen_dispersion=np.full((100, 3), 1e3), baseline=mean, f=np.zeros((100, 3)),
                       components=np.zeros((100, 8)))  # fmt: skip
        outputs = fold(stage, value, closes(0, START + (day + 1) * DAY))
        bent.append(abs(np.array(heads(outputs)[0].conformal) - identity_map()).max(axis=1))
    assert bent[0][0] == pytest.approx(0.18, abs=0.01), "half of it, as long as nothing has matured"
    assert bent[-1][0] < 0.02
    assert bent[-1][2] == bent[0][2], "no label of the longest horizon has come yet"
    told = events(outputs)[0].evidence
    assert float(told["share_1"]) < 0.1
    assert told["share_28"] == 0.5


def test_what_is_held_back_is_learnt_as_if_it_were_not() -> None:
    world = World(days=32, products=40, r_true=1.5)
    half, bold = (world.run(learner_config(world, estimation=EstimationConfig(share_rate=rate))) for rate in (0.0, 1e3))
    assert half.heads[-1] != bold.heads[-1]
    assert half.learner
    assert bold.learner
    learnt = bold.learner._estimator.arrays()
    for name, array in half.learner._estimator.arrays().items():
        np.testing.assert_array_equal(array, learnt[name], err_msg=name)


def test_common_shocks_slow_the_learning_down() -> None:
    shocks = np.exp(np.random.default_rng(5).normal(size=60) * 0.3)
    calm, shocked = (
        World(days=18, partitions=1).run(),
        World(days=18, partitions=1, demand=lambda day: float(shocks[day])).run(),
    )
    variance = [run.learner._estimator.covariance[0, 0, 0] for run in (calm, shocked) if run.learner]
    assert variance[1] > 1.5 * variance[0]


# --------------------------------------------------------------------------------------------------------------------
# Champion, drift, state.


def test_the_frozen_network_takes_over_from_a_head_that_does_harm_and_gives_way_again() -> None:
    contest, decisions = Contest(), []
    for day in range(120):
        gain = -0.08 if day < 40 else 0.08
        decisions.append(contest.weigh({0: gain, 1: gain, 2: gain}, START + day * DAY, 1.0))
    made = [(day, decision) for day, decision in enumerate(decisions) if decision]
    kinds = [decision.kind for _, decision in made]
    assert all(decision.wealth >= THRESHOLD for _, decision in made)
    assert all((decision.veto < 0) == (decision.kind == "refused") for _, decision in made[1:])
    assert kinds[0] == "rollback"
    assert kinds[-1] == "promotion"
    assert made[0][0] < 40 < made[-1][0]
    assert set(kinds[1:-1]) <= {"refused"}
    assert contest.champion == "head"


def test_noise_decides_nothing_and_old_merits_hide_no_breakdown() -> None:
    rng = np.random.default_rng(0)
    contest = Contest()
    assert {contest.weigh({0: g}, START + d * DAY, 1.0) for d, g in enumerate(rng.normal(0, 0.03, 200))} == {None}
    for day in range(200, 400):
        contest.weigh({0: 0.1, 1: 0.1}, START + day * DAY, 1.0)
    assert contest.evidence == pytest.approx(FLOOR)
    days = next(d for d in range(99) if contest.weigh({0: -0.1, 1: -0.1}, START + (400 + d) * DAY, 1.0))
    assert days < 30
    assert THRESHOLD == 20


def test_false_decisions_stay_within_the_chance_that_the_bet_allows() -> None:
    # Gains of either sign, as likely: whoever is the champion is no worse.
    rng, bets, wrong = np.random.default_rng(1), 60, 0
    for _ in range(300):
        contest = Contest()
        gains = rng.choice([-0.1, 0.1], bets)
        wrong += any(contest.weigh({0: g}, START + d * DAY, 1.0) for d, g in enumerate(gains))
    assert wrong / 300 <= (1 + bets / 20) / THRESHOLD
    assert wrong > 0


def test_overlapping_epochs_do_not_bet_twice() -> None:
    contest = Contest()
    for hour in range(20):
        contest.weigh({0: -0.1, 1: -0.1}, START + hour * DAY // 24, 1 / 24)
    assert contest.evidence < 2


def test_a_rolled_back_learner_publishes_the_frozen_network_and_goes_on_learning() -> None:
    # Every day sells the opposite of what the head says, and the learner believes in no noise.
    certain = CalibrationConfig(dispersion_bounds=(1e3, 1e4))
    gullible = EstimationConfig(overdispersion=1.0, overdispersion_epochs=1e9, calibration=certain)
    stage = LearnerStage(TASK, replace(CONFIG, partitions=1, estimation=gullible))
    published, told = [], []
    for day in range(30):
        raised = bool(published) and sum(published[-1].theta[0]) > 0
        units = [1 if raised else 40] * 30
        head = published[-1].version if published else f"{MODEL}-frozen"
        mean = np.full((30, 3), 6.3)
        value = labels(0, START + day * DAY, units, head=[head] * 30, baseline=mean, frozen_mean=mean,
                       frozen_dispersion=np.full((30, 3), 5.0), f=np.zeros((30, 3)),
                       components=np.zeros((30, 8)))  # fmt: skip
        outputs = fold(stage, value, closes(0, START + (day + 1) * DAY))
        published += heads(outputs)
        told += events(outputs)
    first = next(e for e in told if e.kind == "rollback")
    after = next(h for h in published if h.epoch == first.epoch)
    assert not np.any(after.theta)
    assert float(first.evidence["wealth"]) >= THRESHOLD
    assert not np.any(after.covariance)
    assert after.dispersion == [list(row) for row in CONFIG.dispersion]
    assert stage.counters()["rollbacks"] >= 1
    assert len(published) == 30


def test_drift_is_told_once_and_a_steady_error_never() -> None:
    watch, config = DriftWatch(), DriftConfig()
    rng = np.random.default_rng(0)
    quiet = [watch.observe("all", float(e), config) for e in 0.3 + 0.05 * rng.normal(size=150)]
    assert not any(quiet)
    found = [watch.observe("all", 0.55, config) for _ in range(8)]
    assert sum(f is not None for f in found) == 1
    assert len(watch.errors["all"]) < 10


def test_a_restored_learner_goes_on_byte_for_byte(doubled: Run) -> None:
    config = learner_config(World())
    whole, log = LearnerStage(TASK, config), doubled.matured[:80]
    expected = [fold(whole, value) for value in log]
    for cut in (0, 2, len(log) // 2 + 1, len(log) - 1):
        before, after = LearnerStage(TASK, config), LearnerStage(TASK, config)
        for value in log[:cut]:
            fold(before, value)
        blobs = before.snapshot()
        after.restore(blobs)
        assert after.snapshot() == blobs
        assert [fold(after, value) for value in log[cut:]] == expected[cut:]
        assert after.snapshot() == whole.snapshot()
        assert after.counters() == whole.counters()


def test_a_snapshot_of_another_shape_is_refused() -> None:
    blobs = LearnerStage(TASK, replace(CONFIG, categories=("one",))).snapshot()
    with pytest.raises(SnapshotError, match="theta has shape"):
        LearnerStage(TASK, CONFIG).restore(blobs)


def test_heads_are_forgotten_when_no_forecast_of_theirs_can_mature() -> None:
    stage = LearnerStage(TASK, LearnerConfig(1, MODEL, CONFIG.dispersion, estimation=EstimationConfig(kept_days=5)))
    for day in range(12):
        fold(stage, closes(0, START + day * DAY))
    old, new = head_version(MODEL, START + 2 * DAY), head_version(MODEL, START + 9 * DAY)
    fold(stage, labels(0, START + 11 * DAY, [1], head=[old]), labels(0, START + 11 * DAY, [1], head=[new]),
         closes(0, START + 12 * DAY))  # fmt: skip
    assert (stage.counters()["forgotten"], stage.counters()["learned"]) == (1, 1)


def test_what_the_learner_publishes_is_one_record_per_epoch_and_its_key_the_version(doubled: Run) -> None:
    assert [h.epoch for h in doubled.heads] == [START + day * DAY for day in range(34)]
    assert decode(doubled.matured[-1]).record.name == "closes"
    (output,) = fold(LearnerStage(TASK, replace(CONFIG, partitions=1)), closes(0, START))
    assert (output.topic, output.partition, output.key) == ("model.heads", 0, head_version(MODEL, START).encode())


# --------------------------------------------------------------------------------------------------------------------
# Heads that are installed by hand.


def install(head: Head) -> bytes:
    return encode(INSTALLS, {"head": [encode_json(head)], "audit": ["a1"]})


def days(first: int, last: int) -> list[bytes]:
    """Closes and outcomes of both partitions for days of whose products some sell more than was forecast."""
    values = []
    for day in range(first, last):
        for partition in (0, 1):
            end = START + (day - 1) * DAY
            made_by = head_version(MODEL, START + (day - 2) * DAY) if day > 2 else head_version(MODEL, 0)
            values += [
                labels(partition, end, [9, 4 + day, 1], head=[made_by] * 3),
                closes(partition, START + day * DAY),
            ]
    return values


def test_a_bad_head_that_is_rolled_back_leaves_no_trace_in_what_is_learnt_after_it() -> None:
    calm, troubled = LearnerStage(TASK, CONFIG), LearnerStage(TASK, CONFIG)
    first = heads(fold(calm, closes(0, START), closes(1, START), *days(1, 6)))
    assert heads(fold(troubled, closes(0, START), closes(1, START), *days(1, 6))) == first
    good = first[-1]
    bad = replace_head(good, theta=[[5.0, *row[1:]] for row in good.theta])
    published = fold(troubled, install(bad), install(good))
    worse, better = heads(published)
    assert (worse.version, worse.theta) == (f"{good.version}.1", bad.theta)
    assert (better.version, better.epoch, better.revision) == (f"{good.version}.2", good.epoch, 2)
    assert better.theta == good.theta
    assert [(e.kind, e.evidence["by"], e.evidence["version"]) for e in events(published)] == [
        ("promotion", "hand", bad.version),
        ("rollback", "hand", good.version),
    ]
    # A restart between them changes nothing.
    restarted = LearnerStage(TASK, CONFIG)
    restarted.restore(troubled.snapshot())
    after = [heads(fold(stage, *days(6, 12))) for stage in (calm, troubled, restarted)]
    assert len(after[0]) == 6
    assert after[0] == after[1] == after[2]


def replace_head(head: Head, **changes: object) -> Head:
    return msgspec.structs.replace(head, version="bench-1", **changes)


def test_learning_goes_on_from_the_head_that_it_went_back_to() -> None:
    stage, other = LearnerStage(TASK, CONFIG), LearnerStage(TASK, CONFIG)
    published = heads(fold(stage, closes(0, START), closes(1, START), *days(1, 9)))
    fold(other, closes(0, START), closes(1, START), *days(1, 5))
    old = published[4]
    (again,) = heads(fold(stage, install(old)))
    assert (again.theta, again.dispersion, again.conformal) == (old.theta, old.dispersion, old.conformal)
    state, wanted = stage._estimator.arrays(), other._estimator.arrays()
    assert old.epoch == START + 4 * DAY
    for name in ("theta", "covariance", "merits", "shocks", "dispersion"):
        np.testing.assert_array_equal(state[name], wanted[name])
    assert heads(fold(stage, *days(9, 10)))[0].theta != published[-1].theta


def test_a_head_of_another_network_or_form_is_refused_and_said() -> None:
    stage = LearnerStage(TASK, CONFIG)
    (head,) = heads(fold(stage, closes(0, START), closes(1, START)))
    for wrong in (replace_head(head, model="other"), replace_head(head, theta=[[0.0]])):
        outputs = fold(stage, install(wrong))
        assert heads(outputs) == []
        assert [e.kind for e in events(outputs)] == ["refused"]
    frozen = LearnerStage(TASK, CONFIG)
    assert [e.kind for e in events(fold(frozen, install(head)))] == ["refused"]  # before the first epoch


def test_the_frozen_network_can_be_installed_and_the_learnt_head_learns_beside_it() -> None:
    stage = LearnerStage(TASK, CONFIG)
    published = heads(fold(stage, closes(0, START), closes(1, START), *days(1, 5)))
    frozen = frozen_head(MODEL, np.array(CONFIG.dispersion), CONFIG.categories)
    (head,) = heads(fold(stage, install(frozen)))
    assert (head.version, is_frozen(head)) == (f"{published[-1].version}.1", True)
    (following,) = heads(fold(stage, *days(5, 6)))
    assert is_frozen(following)
    assert np.any(stage._estimator.theta != np.array(published[-1].theta))
