"""Times what feeds training and a training step of `tiny`, on samples that `pointworld train` has cached.

    python benchmarks/training.py [--clips DATA] [--threads 1] [--batch 8] [--steps 20]

DATA: clips of `pointworld generate`; 40 are made in a temporary folder when it is not given. Seconds are of the CPU,
so that other processes disturb them less.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from pointworld.data import DatasetSpec, generate_dataset
from pointworld.model import ModelSpec, WorldModel
from pointworld.ptv3 import PTv3Arch
from pointworld.train import TrainConfig
from pointworld.train.augment import TrainingSample, augment
from pointworld.train.cache import CachedSample, build_cache, read_cached
from pointworld.train.objective import batch_loss
from pointworld.train.optimiser import make_optimiser
from pointworld.train.preparation import SURFACE_POINTS


def seconds(work: Callable[[int], object], count: int) -> float:
    """CPU seconds per call of work(0), work(1), ..., after one that does not count."""
    work(0)
    start = time.process_time()
    for index in range(count):
        work(index)
    return (time.process_time() - start) / count


def time_samples(clips: Path, folder: Path) -> list[CachedSample]:
    """Prints how fast clips become samples and samples are read; the samples."""
    start = time.perf_counter()
    count = build_cache(clips, folder)
    print(
        f"clips to samples, once     {count / (time.perf_counter() - start):8.1f} a second (wall)"
    )
    files = sorted(folder.glob("*.safetensors"))
    each = seconds(lambda i: read_cached(files[i % len(files)]), len(files))
    print(f"cached samples read, once  {1 / each:8.1f} a second")
    return [read_cached(path) for path in files]


def time_steps(samples: list[CachedSample], config: TrainConfig, count: int) -> tuple[float, float]:
    """CPU seconds to draw one sample, and of a step without it."""
    torch.manual_seed(0)
    spec = ModelSpec(
        arch=PTv3Arch.tiny(),
        robot_tokens=16,
        context_points=700,
        max_robot_points=SURFACE_POINTS,
        image_channels=0,
    )
    model = WorldModel(spec).train()
    optimiser = make_optimiser(model, config)
    generator = torch.Generator().manual_seed(0)

    def draw(index: int) -> TrainingSample:
        sample = replace(samples[index % len(samples)], features=None)
        return augment(sample, config.augment, generator, step_dt=0.1, voxel_size=spec.grid_size)

    def step(index: int) -> None:
        batch = [draw(index * config.batch_size + k) for k in range(config.batch_size)]
        optimiser.zero_grad()
        batch_loss(model, batch, config).backward()
        optimiser.step()

    drawing = seconds(draw, 4 * count)
    return drawing, seconds(step, count) - config.batch_size * drawing


def main() -> None:
    """Prints one line per stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, batches of {arguments.batch}")
    with tempfile.TemporaryDirectory() as folder:
        clips = arguments.clips or Path(folder, "clips")
        if arguments.clips is None:
            generate_dataset(DatasetSpec(clips=40, seed=0), clips, workers=0)
        samples = time_samples(clips, Path(folder, "cache"))
    kinds: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    for precision in kinds:
        config = TrainConfig(batch_size=arguments.batch, precision=precision)
        drawing, step = time_steps(samples, config, arguments.steps)
        trained = arguments.batch / (step + arguments.batch * drawing)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{precision:9} drawn {1 / drawing:6.0f} samples a second, trained {trained:5.1f}, "
            f"step {step * 1e3:4.0f} ms, peak memory so far {memory:.2f} GB",
            flush=True,
        )


if __name__ == "__main__":
    main()
