"""How `WorldModel.predict` scales with the number of candidate robot motions, and what bounds its memory.

    python benchmarks/predict_candidates.py [--points 2000] [--size tiny] [--threads 1]

CPU time of all threads together, because it hardly depends on what else the machine does. Random weights; times do not
depend on them. `max_tokens` bounds the tokens that are in the network at once; peak memory is what the process holds
beyond its start.

Results (EPYC Zen 4, 1 thread, torch 2.13, 22 November 2026; the same times with every product in MKL):

  size points candidates max_tokens CPU s/candidate  peak MB
  tiny   2000          1       4096           0.088       50
  tiny   2000          8       4096           0.082       59
  tiny   2000         32       4096           0.077       70
  tiny   2000         32      32768           0.070      226
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

from pointworld.model import ModelSpec, WorldModel
from pointworld.ptv3 import PTv3Arch
from pointworld.types import RobotFlow, ScenePoints

SIZES = {"tiny": PTv3Arch.tiny, "small": PTv3Arch.small}
CASES = ((1, 4_096), (8, 4_096), (32, 4_096), (32, 32_768))


def inputs(points: int, candidates: int) -> tuple[ScenePoints, RobotFlow]:
    """A tabletop of one point per 1.5 cm cell, and hands that move over it."""
    generator = torch.Generator().manual_seed(0)
    side = int(points**0.5) + 1
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    xy = grid.reshape(-1, 2)[:points] * 0.015 + torch.rand(points, 2, generator=generator) * 0.01
    z = 0.05 * torch.rand(points, 1, generator=generator)
    scene = ScenePoints(
        points=torch.cat([xy, z], 1),
        colors=torch.rand(points, 3, generator=generator),
        normals=torch.tensor([0.0, 0, 1]).expand(points, 3),
    )
    hand = torch.rand(1, 1, 192, 3, generator=generator) * 0.1
    motion = torch.cumsum(0.02 * torch.randn(candidates, 11, 1, 3, generator=generator), 1)
    positions = hand + motion + 0.3
    flow = RobotFlow(
        positions=positions,
        normals=torch.full_like(positions, 3**-0.5),
        gripper_open=torch.ones(candidates, 11, 1),
        step_dt=0.1,
    )
    return scene, flow


def measure(size: str, points: int, candidates: int, max_tokens: int) -> None:
    """One line: CPU seconds per candidate (least of three) and peak memory; in a process of its own."""
    torch.manual_seed(0)
    model = WorldModel(ModelSpec(arch=SIZES[size](), sliding=True, robot_tokens=24)).eval()
    scene, flow = inputs(points, candidates)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(3):
        start = time.process_time()
        model.predict(scene, flow, max_tokens=max_tokens)
        seconds.append(time.process_time() - start)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(
        f"{size:>6} {points:>6} {candidates:>10} {max_tokens:>10} "
        f"{min(seconds) / candidates:>15.3f} {peak:>8.0f}",
        flush=True,
    )


def main() -> None:
    """Run every case in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.case:
        measure(args.size, args.points, *args.case)
        return
    print(f"torch {torch.__version__}, {args.threads} threads")
    print("  size points candidates max_tokens CPU s/candidate  peak MB")
    for candidates, max_tokens in CASES:
        case = ["--case", str(candidates), str(max_tokens)]
        words = f"--size {args.size} --points {args.points} --threads {args.threads}".split()
        subprocess.run([sys.executable, __file__, *words, *case], check=True)


if __name__ == "__main__":
    main()
