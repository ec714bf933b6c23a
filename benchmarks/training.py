"""Times what feeds training and a training step of each size, on samples that `pointworld train` has cached.

    python benchmarks/training.py [--clips DATA] [--size tiny small base] [--threads 1] [--batch 8] [--steps 20]
        [--seconds 60] [--out FILE]

DATA: clips of `pointworld generate`; 40 are made in a temporary folder when it is not given. Seconds are of the CPU,
so that other processes disturb them less. A row ends after --steps or, from its second step on, after --seconds. Every
row is a process of its own, with a peak memory of its own; --out keeps them in a JSON file, and those that are there
are not measured again.

Results (EPYC Zen 4, 1 thread, torch 2.13, 22 November 2026): 17 clips a second become samples; 242 cached samples are
read a second. Of `tiny`, batches of 8:

  precision   drawn [1/s]   trained [1/s]   step [s]   peak GB
  float32           2,444            18.3       0.43      0.82
  bfloat16          2,427            12.7       0.63      1.59
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cells import limit_memory, measure, peak_memory, read_cells, run_cells

from pointworld.data import DatasetSpec, generate_dataset
from pointworld.model import ModelSpec, WorldModel
from pointworld.ptv3 import PTv3Arch
from pointworld.train import TrainConfig
from pointworld.train.augment import TrainingSample, augment
from pointworld.train.cache import CachedSample, build_cache, read_cached
from pointworld.train.objective import batch_loss
from pointworld.train.optimiser import make_optimiser
from pointworld.train.preparation import SURFACE_POINTS

SIZES: dict[str, Callable[[], PTv3Arch]] = {
    "tiny": PTv3Arch.tiny,
    "small": PTv3Arch.small,
    "base": PTv3Arch.base,
    "large": PTv3Arch.large,
}


def seconds(work: Callable[[int], object], count: int, most: float = float("inf")) -> float:
    """CPU seconds per call of work(0), work(1), ..., after one that does not count.

    Args:
        most: no further call once this many seconds have passed.
    """
    work(0)
    start = time.process_time()
    for done in range(1, count + 1):
        work(done - 1)
        if time.process_time() - start > most:
            break
    return (time.process_time() - start) / done


def measure_samples(clips: Path | None, folder: Path) -> dict[str, float]:
    """How many clips become samples, and samples are read, in a second; the samples stay in folder/cache."""
    made = folder / "clips" if clips is None else clips
    if clips is None:
        generate_dataset(DatasetSpec(clips=40, seed=0), made, workers=0)
    start = time.perf_counter()
    count = build_cache(made, folder / "cache")
    built = time.perf_counter() - start
    files = sorted((folder / "cache").glob("*.safetensors"))
    each = seconds(lambda i: read_cached(files[i % len(files)]), len(files))
    return {"made_per_second_wall": count / built, "read_per_second": 1 / each}


def measure_step(samples: list[CachedSample], arguments: argparse.Namespace) -> dict[str, float]:
    """CPU seconds to draw one sample and of a step without it, and the peak memory of this process [GB]."""
    torch.manual_seed(0)
    (size,), (precision,) = arguments.size, arguments.precision
    config = TrainConfig(batch_size=arguments.batch, precision=precision)
    spec = ModelSpec(
        arch=SIZES[size](),
        sliding=True,
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

    drawing = seconds(draw, 80)
    whole = seconds(step, arguments.steps, arguments.seconds)
    return {
        "drawn_per_second": 1 / drawing,
        "trained_per_second": config.batch_size / whole,
        "step_s": whole - config.batch_size * drawing,
        "memory_gb": peak_memory(),
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--size", nargs="+", choices=tuple(SIZES), default=["tiny"])
    kinds = ("float32", "bfloat16")
    parser.add_argument("--precision", nargs="+", choices=kinds, default=list(kinds))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60, help="a row takes few steps more")
    parser.add_argument("--out", type=Path, help="JSON file that keeps what is measured")
    parser.add_argument("--gb", type=float, default=18, help="a row that needs more memory fails")
    parser.add_argument("--minutes", type=float, default=15, help="a row that takes longer fails")
    parser.add_argument("--cell", choices=("samples", "step"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_cell(arguments: argparse.Namespace) -> dict[str, float]:
    """What the process of one row does."""
    limit_memory(arguments.gb)
    torch.set_num_threads(arguments.threads)
    if arguments.cell == "samples":
        return measure_samples(arguments.clips, arguments.folder)
    files = sorted((arguments.folder / "cache").glob("*.safetensors"))
    return measure_step([read_cached(path) for path in files], arguments)


def cells_of(arguments: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """Name of every row to the command that measures it; steps need the samples, which come first."""
    passed = [__file__, "--folder", str(folder), "--threads", str(arguments.threads)]
    passed += ["--batch", str(arguments.batch), "--steps", str(arguments.steps)]
    passed += ["--seconds", str(arguments.seconds), "--gb", str(arguments.gb)]
    clips = [] if arguments.clips is None else ["--clips", str(arguments.clips)]
    how = f"{arguments.threads} threads"
    commands = {f"samples, {how}": [*passed, *clips, "--cell", "samples"]}
    for size in arguments.size:
        for precision in arguments.precision:
            name = f"{size}, {arguments.batch} samples, {precision}, {how}"
            own = ["--cell", "step", "--size", size, "--precision", precision]
            commands[name] = [*passed, *own]
    return commands


def line_of(result: dict[str, Any]) -> str:
    """One row for people."""
    if "failed" in result:
        return str(result["failed"])
    if "step_s" not in result:
        return (
            f"{result['made_per_second_wall']:.1f} clips a second become samples, once (wall); "
            f"{result['read_per_second']:.0f} cached samples a second read, once"
        )
    return (
        f"drawn {result['drawn_per_second']:.0f} samples a second, trained {result['trained_per_second']:.2f}, "
        f"step {result['step_s']:.2f} s, peak memory {result['memory_gb']:.2f} GB"
    )


def main() -> None:
    """Prints one line per row."""
    arguments = parse_arguments()
    if arguments.cell:
        print(json.dumps(measure_cell(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        commands = cells_of(arguments, Path(folder))
        first, known = next(iter(commands)), read_cells(arguments.out)
        if first in known and not set(commands) <= set(known):
            print("samples of an earlier run are gone: making them again", flush=True)
            again = measure(commands[first], arguments.minutes)
            if "failed" in again:
                raise SystemExit(f"no samples: {again['failed']}")
        found = run_cells(commands, arguments.out, minutes=arguments.minutes)
    print(f"\ntorch {torch.__version__}")
    for name, result in found.items():
        print(f"{name}: {line_of(result)}")


if __name__ == "__main__":
    main()
