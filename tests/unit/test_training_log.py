"""What TensorBoard shows is what the training said, and an interrupted one goes on in the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deploy.training_log import TrainingLog
from model.train import Step


def test_a_curve_would_miss_a_step_or_show_one_twice(tmp_path: Path) -> None:
    seen: list[Step] = []
    with TrainingLog(tmp_path, seen.append) as log:
        for step in range(1, 6):
            log(Step(1, step, 10, 5.0 - step, 0.001 * step))
    with TrainingLog(tmp_path, seen.append) as log:  # goes on from a checkpoint at step 3
        for step in range(4, 7):
            log(Step(1, step, 10, 5.0 - step, 0.001 * step))
        log(Step(1, 6, 10, 2.5, 0.0, {"weighted_quantile_loss": 0.25, "loss": 3.0}))
    assert [s.step for s in seen] == [1, 2, 3, 4, 5, 4, 5, 6, 6]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/step")] == [(s, 5.0 - s) for s in range(1, 7)]
    assert [e.value for e in events.Scalars("learning_rate")] == pytest.approx([0.001 * s for s in range(1, 7)])
    assert [(e.step, e.value) for e in events.Scalars("validation/weighted_quantile_loss")] == [(6, 0.25)]
