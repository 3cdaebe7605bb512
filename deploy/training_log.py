"""What TensorBoard shows of a training: loss and learning rate by step, validation by epoch."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from model.train import Progress, Step


class TrainingLog:
    """Writes each step to `folder` and hands it on; a training that goes on after an interruption goes on here too."""

    def __init__(self, folder: Path, progress: Progress | None = None) -> None:
        self._folder = folder
        self._progress = progress
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> TrainingLog:
        return self

    def __call__(self, step: Step) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=step.step)
        if step.validation is None:
            self._write("loss/step", step.loss, step.step)
            self._write("learning_rate", step.learning_rate, step.step)
        else:
            self._write("loss/epoch", step.loss, step.step)
            for name, value in step.validation.items():
                self._write(f"validation/{name}", value, step.step)
        if self._progress:
            self._progress(step)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, name: str, value: float, step: int) -> None:
        assert self._writer is not None
        self._writer.add_scalar(name, value, step)
