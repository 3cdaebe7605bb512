"""One of several processes that train the same network: `torchrun -m tests.unit.train_together FOLDER`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from deploy.processes import processes
from model.dataset import DatasetConfig, collect
from model.network import NetworkConfig
from model.train import TrainConfig, train_on
from tests.unit.synthetic_windows import history

TOGETHER = TrainConfig(
    network=NetworkConfig("cnn", width=16, layers=1, hidden=32),
    epochs=2,
    batch_rows=32,
    learning_rate=6e-3,
    min_steps=0,
)

if __name__ == "__main__":
    with processes("cpu") as (workers, device):
        mine = collect(history(30, 90), DatasetConfig(daily=True)) if workers.rank == 0 else None
        dataset = workers.from_first(mine)
        assert dataset is not None, "the first process has sent its rows"
        bundle = train_on(dataset, replace(TOGETHER, device=device), workers=workers)
        save_file(bundle.network.state_dict(), Path(sys.argv[1]) / f"{workers.rank}.safetensors")
