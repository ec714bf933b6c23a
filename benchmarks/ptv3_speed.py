"""Times the network core against the public reference on the CPU, in one process, in float32 and bfloat16.

    python benchmarks/ptv3_speed.py [--size small base large] [--batch 1 4 16] [--tokens N ...] [--repeats 12]
        [--threads 2] [--cpu-time] [--memory] [--out FILE]

Every size, batch and number of tokens is measured by a process of its own. --out keeps them in a JSON file, and those
that are there are not measured again. With --memory nothing is timed: one forward pass in a process of its own, in
float32 and in bfloat16, and the most memory that this process held.

With POINTWORLD_REFERENCE naming a checkout of github.com/NVlabs/PointWorld its network is timed in turn with ours
(stand-ins for its CUDA parts: benchmarks/ptv3_reference.py) and their outputs are compared; otherwise ours are set
against times recorded with it on another day. The GEMM limit is the time that the forward's matrix products would
take at the speed of a large matrix product measured in the same run.

Results: EPYC (AVX-512) with 2 virtual cores, torch 2.13.0, nothing else running, 2 threads, wall clock [s], best of 3
(several samples: one run after one that does not count, or the first where it takes 20 s); "ours" is released mode in
float32:

    size   batch    tokens       ours   bfloat16   reference   ours, bfloat16 / reference
    small      1     3,100      0.226      0.176       0.467   0.48, 0.38
    small      1     8,200      0.384      0.292       0.714   0.54, 0.41
    small      1    15,300      0.734      0.467       1.136   0.65, 0.41
    small      4    12,400      0.734      0.450       1.143   0.64, 0.39
    small      4    32,800      1.441      0.964       2.273   0.63, 0.42
    small      4    61,200      2.901      2.438       4.178   0.69, 0.58
    small     16    49,600      2.256      2.168       3.917   0.58, 0.55
    small     16   131,200      6.138      4.399      10.945   0.56, 0.40
    small     16   244,800     14.558      9.329      19.623   0.74, 0.48
    base       1     3,100      0.685      0.540       1.140   0.60, 0.47
    base       1     8,200      1.328      0.934       2.136   0.62, 0.44
    base       1    15,300      2.381      1.454       3.897   0.61, 0.37
    base       4    12,400      1.994      1.274       3.499   0.57, 0.36
    base       4    32,800      7.054      3.326       8.367   0.84, 0.40
    base       4    61,200     13.505      7.559      16.678   0.81, 0.45
    base      16    49,600     10.078      4.370      12.644   0.80, 0.35
    base      16   131,200     31.916     14.954      43.067   0.74, 0.35
    base      16   244,800     54.030     32.011      76.329   0.71, 0.42
    large      1     3,100      1.156      0.890       1.807   0.64, 0.49
    large      1     8,200      2.301      1.568       3.600   0.64, 0.44
    large      1    15,300      3.983      2.596       5.904   0.67, 0.44
    large      4    12,400      3.584      2.234       4.966   0.72, 0.45
    large      4    32,800      9.288      5.948      13.393   0.69, 0.44
    large      4    61,200     22.035      9.438      26.922   0.82, 0.35
    large     16    49,600     16.380      8.400      22.235   0.74, 0.38
    large     16   131,200     49.451     26.963      64.824   0.76, 0.42
    large     16   244,800     89.396     53.090     120.705   0.74, 0.44

Stable mode takes up to 14 % longer than released mode. Largest difference between the two outputs with the same
draws: 6e-6 to 1.5e-5. bfloat16 products (convolutions too; attention, norms and sums stay float32) change the output by
0.67 to 0.92 %, weights as drawn. Large products go to oneDNN (`pointworld.products`); before, `base` and
`large` took 0.61 to 0.95 of the reference's time.

Most memory of a process with one forward pass, float32 / bfloat16 [GB], by --memory (of these 0.49, 1.95 and 4.25 GB
are there with the weights alone):

    size    batch   of 3,100       of 8,200       of 15,300 tokens each
    small      1    0.56 / 0.61    0.63 / 0.67    0.74 / 0.73
    small      4    0.69 / 0.71    0.95 / 0.91    1.45 / 1.16
    small     16    1.19 / 1.04    2.31 / 1.70    3.84 / 2.71
    base       1    2.04 / 2.33    2.17 / 2.42    2.40 / 2.58
    base       4    2.28 / 2.47    2.78 / 2.83    3.54 / 3.31
    base      16    3.17 / 3.06    5.44 / 4.53    8.21 / 6.51
    large      1    4.36 / 5.04    4.50 / 5.14    4.73 / 5.30
    large      4    4.63 / 5.20    5.15 / 5.67    5.96 / 6.09
    large     16    5.60 / 6.03    7.88 / 7.21    11.10 / 9.15

The GEMM limit is that of MKL, in which the reference computes its products: about 200 GFLOP/s here, half of what oneDNN
reaches. Ours takes 1.1 to 3.1 times as long. The trained `tiny` changes its
displacements by 0.43 % in bfloat16 (24 validation clips) and gains no time: its matrices are small.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cells import limit_memory, peak_memory, run_cells

from pointworld.geometry.voxel import voxel_representatives
from pointworld.model.predictor import DynamicsPredictor
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.flops import forward_flops
from pointworld.ptv3.levels import released_pyramid

GRID = 0.015
CASES = ((2000, 100), (6000, 200), (12000, 300))  # scene points, robot points per step
TOKENS = tuple(points + 11 * robot_points for points, robot_points in CASES)
RECORDED = {  # best seconds of the reference, EPYC Zen 4, 2 threads, torch 2.13, float32
    "small": (0.21, 0.45, 1.01),
    "base": (0.78, 1.73, 3.59),
    "large": (1.43, 3.66, 6.15),
}
#: Most seconds that ours may take of the reference's, in float32 and in bfloat16.
LIMITS = {"small": (0.75, 0.6), "base": (0.85, 0.5), "large": (0.85, 0.5)}
#: Seconds from which on a run is not repeated.
LONG = 20.0
WIDTH = {"small": 128, "base": 256, "large": 256, "tiny": 64}


def arch_of(size: str) -> PTv3Arch:
    """The named size."""
    named: dict[str, Callable[[], PTv3Arch]] = {
        "small": PTv3Arch.small,
        "base": PTv3Arch.base,
        "large": PTv3Arch.large,
        "tiny": PTv3Arch.tiny,
    }
    return named[size]()


def scene(points: int, robot_points: int, channels: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """A table with spheres and a moving gripper; every time's points are voxel-unique, as the data are."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(60 * points, 3, generator=generator) * torch.tensor([3.0, 3.0, 0.0])
    for _ in range(12):
        centre = torch.rand(2, generator=generator) * 2 + 0.5
        radius = 0.05 + 0.05 * float(torch.rand(1, generator=generator))
        height = radius**2 - ((dense[:, :2] - centre) ** 2).sum(1)
        dense[:, 2] = torch.where(height > 0, height.clamp(min=0).sqrt(), dense[:, 2])
    dense = dense[voxel_representatives(dense, GRID)]
    near = ((dense[:, :2] - 1.5) ** 2).sum(1).argsort()[:points]
    directions = torch.randn(40 * robot_points, 3, generator=generator)
    shell = directions / directions.norm(dim=1, keepdim=True) * 0.0085 * robot_points**0.5
    shell = shell[voxel_representatives(shell, GRID)]
    shell = shell[torch.randperm(len(shell), generator=generator)[:robot_points]]
    moves = torch.linspace(0, 1, 11)[:, None, None] * torch.tensor([0.05, 0.02, -0.03])
    robot = shell + moves + torch.tensor([1.5, 1.5, 0.15])
    if len(near) != points or robot.shape[1] != robot_points:
        raise ValueError(
            f"the synthetic scene has {len(near)} and {robot.shape[1]} points; make it larger"
        )
    features = torch.rand(1, points + 11 * robot_points, channels, generator=generator)
    return (
        dense[near][None],
        features[:, :points],
        torch.ones(1, points, dtype=torch.bool),
        robot[None],
        features[:, points:].reshape(1, 11, robot_points, channels),
        torch.ones(1, 11, robot_points, dtype=torch.bool),
    )


def best_seconds(
    runs: dict[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Shortest time of each, run in turn so that a disturbance meets all of them.

    Args:
        runs: what to time, by name.
        repeats: timed runs of each, after one that is not timed; where that takes LONG it is the only one.
        clock: `time.perf_counter`, or `time.process_time` where other processes want the cores too.
    """

    def seconds(name: str) -> float:
        start = clock()
        runs[name]()
        return clock() - start

    best = {name: first if (first := seconds(name)) > LONG else float("inf") for name in runs}
    again = [name for name, found in best.items() if found == float("inf")]
    for _ in range(repeats):
        for name in again:
            best[name] = min(best[name], seconds(name))
    return best


def largest_difference(
    ours: DynamicsPredictor, reference: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
) -> float:
    """Between the two outputs, for the same draws; the reference's ties are sorted stably, as ours are."""
    plain = torch.argsort
    torch.manual_seed(1)
    try:
        torch.argsort = functools.partial(plain, stable=True)  # type: ignore[assignment]
        expected = reference(*inputs)["pred"]
    finally:
        torch.argsort = plain
    ours.mode = "released"
    got = ours(*inputs, orders="drawn", generator=torch.Generator().manual_seed(1))[0]
    return float((got - expected).abs().max())


def relative_rms(difference: torch.Tensor, values: torch.Tensor) -> float:
    """Root mean square of a difference over that of the values."""
    return float(difference.square().mean().sqrt() / values.square().mean().sqrt())


def gemm_speed(clock: Callable[[], float], repeats: int = 8) -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    a, b = torch.rand(2, 2048, 2048)
    seconds = best_seconds({"gemm": lambda: a @ b}, repeats, clock)["gemm"]
    return 2 * 2048**3 / seconds


def batch_of(size: str, batch: int, case: int) -> tuple[torch.Tensor, ...]:
    """Inputs of `batch` scenes of CASES[case]."""
    scenes = [scene(*CASES[case], WIDTH[size], seed) for seed in range(batch)]
    return tuple(torch.cat(parts) for parts in zip(*scenes, strict=True))


def drawn_network(size: str) -> DynamicsPredictor:
    """Our network in released mode, weights as drawn."""
    generator = torch.Generator().manual_seed(0)
    return DynamicsPredictor(arch_of(size), "released", GRID, generator=generator).eval()


def forward_memory(size: str, batch: int, case: int, precision: str) -> dict[str, float]:
    """Peak memory of this process with the weights alone, and after one forward pass [GB]."""
    network = drawn_network(size)
    weights = peak_memory()
    inputs = batch_of(size, batch, case)
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        start = time.perf_counter()
        network(*inputs)
        seconds = time.perf_counter() - start
    numbers = {"memory_gb": peak_memory(), "with_weights_alone_gb": weights, "first_s": seconds}
    return {name: round(value, 3) for name, value in numbers.items()}


def time_forward(size: str, batch: int, case: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Shortest seconds of every variant, and what they are compared with."""
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    ours, reference = drawn_network(size), None
    checkout = os.environ.get("POINTWORLD_REFERENCE")
    if checkout and size != "tiny":
        from ptv3_reference import load_reference

        reference = load_reference(Path(checkout), size, WIDTH[size])
        reference.load_state_dict(ours.state_dict(), strict=True)
    inputs = batch_of(size, batch, case)

    def run_ours(mode: str) -> torch.Tensor:
        ours.mode = mode
        return ours(*inputs)[0]

    def run_fast() -> torch.Tensor:
        ours.mode = "released"
        with torch.autocast("cpu", torch.bfloat16):
            return ours(*inputs)[0]

    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: run_ours("released"),
        "bfloat16": run_fast,
    }
    if batch == 1:
        runs["stable"] = lambda: run_ours("stable")
    if reference is not None:
        network = reference
        runs["reference"] = lambda: network(*inputs)["pred"]
    with torch.no_grad():
        best = best_seconds(runs, arguments.repeats, clock)
        result: dict[str, Any] = {"seconds": best, "gemm_flops": gemm_speed(clock)}
        exact = run_ours("released")
        result["bfloat16_changes"] = relative_rms(run_fast().float() - exact, exact)
        result["memory_of_all_gb"] = peak_memory()
        if reference is not None:
            result["largest_difference"] = largest_difference(ours, reference, inputs)
        elif size in RECORDED and batch == 1:
            best["recorded reference"] = RECORDED[size][case]
    return result | work_of(arch_of(size), inputs)


def work_of(arch: PTv3Arch, inputs: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """Tokens of every level, and floating-point operations of the matrix products."""
    batch = len(inputs[0])
    coords = torch.cat([inputs[0], inputs[3].flatten(1, 2)], 1).flatten(0, 1)
    samples = torch.arange(batch).repeat_interleave(len(coords) // batch)
    pyramid = released_pyramid(coords, samples, batch, arch=arch, grid_size=GRID)
    levels = [len(level.batch) for level in pyramid.levels]
    return {"tokens": levels, "flops": forward_flops(arch, pyramid)}


def time_line(size: str, result: dict[str, Any]) -> str:
    """One row for people."""
    limit = result["flops"] / result["gemm_flops"]
    times = ", ".join(f"{n} {s:.3f} s = {s / limit:.2f}x" for n, s in result["seconds"].items())
    line = f"{result['tokens']} tokens, {result['flops'] / 1e9:.1f} GFLOP, "
    line += f"GEMM {result['gemm_flops'] / 1e9:.0f} GFLOP/s | {times} | "
    line += f"bfloat16 changes {result['bfloat16_changes']:.2%}, "
    line += f"memory with all variants {result['memory_of_all_gb']:.2f} GB"
    if "largest_difference" in result:
        line += f" | largest difference {result['largest_difference']:.1e}"
    return line + against_limits(size, result["seconds"])


def against_limits(size: str, seconds: dict[str, float]) -> str:
    """Ratios to the reference, where it was timed or recorded, and whether they keep LIMITS."""
    reference = seconds.get("reference", seconds.get("recorded reference"))
    if reference is None or size not in LIMITS:
        return ""
    texts = []
    for name, limit in zip(("ours", "bfloat16"), LIMITS[size], strict=True):
        ratio = seconds[name] / reference
        verdict = "met" if ratio <= limit else "missed"
        texts.append(f"{name} / reference {ratio:.2f}, at most {limit}: {verdict}")
    return " | " + "; ".join(texts)


def cells_of(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Name of every cell to the command that measures it."""
    kinds = ("float32", "bfloat16") if arguments.memory else ("time",)
    passed = ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    passed += ["--gb", str(arguments.gb), *(["--cpu-time"] if arguments.cpu_time else [])]
    how = f"{arguments.threads} threads"
    if not arguments.memory:
        how += f", best of {arguments.repeats}{', CPU' if arguments.cpu_time else ''}"
    commands = {}
    for size in arguments.size:
        for batch in arguments.batch:
            for tokens in arguments.tokens or TOKENS:
                cell = ["--size", size, "--batch", str(batch), "--tokens", str(tokens)]
                for kind in kinds:
                    name = f"{size}, {batch} x {tokens}, {kind}, {how}"
                    commands[name] = [__file__, "--cell", kind, *cell, *passed]
    return commands


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(WIDTH), nargs="+", default=["small"])
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1], help="samples that go through together"
    )
    parser.add_argument("--tokens", type=int, nargs="+", choices=TOKENS, help="default all")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU seconds, for a shared machine; use --threads 1"
    )
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    parser.add_argument("--out", type=Path, help="JSON file that keeps what is measured")
    parser.add_argument("--gb", type=float, default=18, help="a cell that needs more memory fails")
    parser.add_argument("--minutes", type=float, default=15, help="a cell that takes longer fails")
    parser.add_argument("--cell", choices=("time", "float32", "bfloat16"), help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_cell(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the process of one cell does."""
    limit_memory(arguments.gb)
    torch.set_num_threads(arguments.threads)
    (size,), (batch,), (tokens,) = arguments.size, arguments.batch, arguments.tokens
    case = TOKENS.index(tokens)
    if arguments.cell == "time":
        return time_forward(size, batch, case, arguments)
    return forward_memory(size, batch, case, arguments.cell)


def main() -> None:
    """Prints one row per cell."""
    arguments = parse_arguments()
    if arguments.cell:
        print(json.dumps(measure_cell(arguments)))
        return
    found = run_cells(cells_of(arguments), arguments.out, minutes=arguments.minutes)
    print(f"\ntorch {torch.__version__}")
    for name, result in found.items():
        if "failed" in result:
            print(f"{name}: {result['failed']}")
        elif "seconds" in result:
            print(f"{name}: {time_line(name.split(',')[0], result)}")
        else:
            print(f"{name}: {result['memory_gb']:.2f} GB")


if __name__ == "__main__":
    main()
