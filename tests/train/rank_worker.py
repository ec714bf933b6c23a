"""What `torchrun` starts in test_parallel.py: a short training run on analytic pushes."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from pointworld.model.spec import Mode
from pointworld.train import joined_ranks, train
from tests.train.synthetic import push
from tests.train.test_trainer import CONFIG, SPEC


def main(folder: Path, steps: int, mode: Mode = "stable") -> None:
    """Train `steps` steps in `folder`; every process leaves a file with its number."""
    torch.set_num_threads(1)
    samples = [push(i) for i in range(6)]
    validation = [push(100 + i) for i in range(2)]
    config = replace(CONFIG, steps=steps, validate_every=steps, schedule="constant", warmup=0.0)
    with joined_ranks() as ranks:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"pid{ranks.rank}").write_text(str(os.getpid()))
        train(replace(SPEC, mode=mode), samples, validation, folder, config, ranks=ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), "released" if "released" in sys.argv else "stable")
