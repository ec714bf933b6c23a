"""Robot flow on the CPU: how long joint paths take to become moving surface points.

    python benchmarks/robot_flow.py [--robot fr3] [--repeats 15]

CPU ms counts all threads; FK CPU is the share of forward kinematics; the last column is million points per CPU second.

Results (fr3, 2 virtual cores of an AMD EPYC shared with other jobs at load 6, so that wall times were 3-5 times the
CPU times and say nothing; torch 2.13.0+cpu, pytorch-kinematics 0.10.0, Python 3.11.7, Debian 12):

| paths | points | links   | threads | dtype   |  CPU ms | FK CPU | Mpts/CPUs |
|-------|--------|---------|---------|---------|---------|--------|-----------|
|     1 |    500 | gripper |       1 | float32 |     0.9 |    0.4 |       6.2 |
|     8 |    500 | gripper |       1 | float32 |     1.6 |    0.7 |      27.6 |
|    64 |    500 | gripper |       1 | float32 |     6.5 |    3.1 |      54.0 |  (17.8 when pages were not reused)
|   512 |    500 | gripper |       1 | float32 |   140.8 |   37.2 |      20.0 |
|    64 |    100 | gripper |       1 | float32 |     4.5 |    3.0 |      15.8 |
|    64 |   2500 | gripper |       1 | float32 |    65.4 |    3.5 |      26.9 |
|    64 |    500 | all     |       1 | float32 |     8.8 |    3.0 |      40.1 |
|    64 |   2500 | all     |       1 | float32 |    69.4 |    3.1 |      25.4 |
|    64 |    500 | gripper |       2 | float32 |     6.9 |    3.3 |      50.7 |
|   512 |    500 | gripper |       2 | float32 |   118.9 |   18.6 |      23.7 |
|    64 |   2500 | gripper |       2 | float32 |    53.6 |    3.4 |      32.8 |
|    64 |    500 | gripper |       2 | float64 |    10.1 |    3.8 |      34.9 |

Forward kinematics grows with paths only; beyond some 4 MB of output the cost is memory (fresh pages), not arithmetic.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from pointworld.robot import RobotModel

STEPS = 11


def paths(robot: RobotModel, count: int, dtype: torch.dtype) -> torch.Tensor:
    """(count, STEPS, joints) smooth random motions within limits."""
    rng = np.random.default_rng(0)
    ends = robot.lower + (robot.upper - robot.lower) * rng.random((2, count, 1, len(robot.lower)))
    share = np.linspace(0, 1, STEPS)[:, None]
    return torch.as_tensor(ends[0] + (ends[1] - ends[0]) * share, dtype=dtype)


def milliseconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median wall time and mean CPU time (all threads) of `repeats` runs after two warm-ups."""
    work()
    work()
    laps, cpu = [], time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        laps.append(1000 * (time.perf_counter() - start))
    return statistics.median(laps), 1000 * (time.process_time() - cpu) / repeats


def row(
    robot: RobotModel, batch: int, points: int, links: str, dtype: torch.dtype, repeats: int
) -> str:
    """One line of the table."""
    surface = robot.sample_surface(points, links=links, seed=0)
    q = paths(robot, batch, dtype)
    wall, cpu = milliseconds(lambda: robot.flow(surface, q, step_dt=0.1), repeats)
    _, poses = milliseconds(lambda: robot.forward_kinematics(q), repeats)
    rate = batch * STEPS * points / cpu / 1000
    kind = str(dtype).removeprefix("torch.")
    return (
        f"| {batch:5d} | {points:6d} | {links:7s} | {torch.get_num_threads():7d} | {kind} | {wall:7.1f} | "
        f"{cpu:7.1f} | {poses:6.1f} | {rate:9.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robot", default="fr3")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    start = time.perf_counter()
    robot = RobotModel.load(arguments.robot)
    loading = time.perf_counter() - start
    print(
        f"{arguments.robot}: {len(robot.joint_names)} joints, {len(robot.link_names)} links, "
        f"loaded in {loading:.2f} s; {STEPS} steps; torch {torch.__version__}, "
        f"Python {sys.version.split()[0]}, {platform.machine()}"
    )
    print(
        "| paths | points | links   | threads | dtype   | wall ms |  CPU ms | FK CPU | Mpts/CPUs |"
    )
    print(
        "|-------|--------|---------|---------|---------|---------|---------|--------|-----------|"
    )
    cases = [(1, 500, "gripper"), (8, 500, "gripper"), (64, 500, "gripper"), (512, 500, "gripper")]
    cases += [(64, 100, "gripper"), (64, 2500, "gripper"), (64, 500, "all"), (64, 2500, "all")]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for batch, points, links in cases:
            print(row(robot, batch, points, links, torch.float32, arguments.repeats))
    print(row(robot, 64, 500, "gripper", torch.float64, arguments.repeats))


if __name__ == "__main__":
    main()
