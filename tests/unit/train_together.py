"""One of several processes that train the same network: `torchrun -m tests.unit.train_together FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from model.dataset import DatasetConfig, collect
from model.network import NetworkConfig
from model.parallel import Group
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
    torch.distributed.init_process_group("gloo")
    group = Group.of()
    dataset = collect(history(30, 90), DatasetConfig())
    bundle = train_on(dataset, TOGETHER, workers=group)
    save_file(bundle.network.state_dict(), Path(sys.argv[1]) / f"{group.rank}.safetensors")
    torch.distributed.destroy_process_group()
