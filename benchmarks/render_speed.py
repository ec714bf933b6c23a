"""Frames per second of the two renderers, and seconds per stage of making a clip.

Run: python benchmarks/render_speed.py [--clips 40]

A frame is RGB, depth and segmentation of one 320x180 camera, with the cost of handing a new scene to the renderer
shared by its 2-3 cameras, as in data generation.

RESULTS_PLACEHOLDER
"""

from __future__ import annotations

import argparse
import os
import platform
import time

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "1")

from pointworld.data import ClipGenerator, TabletopConfig
from pointworld.data.robot_tree import robot_tree
from pointworld.errors import InputError
from pointworld.robot import RobotModel


def measure(renderer: str, clips: int) -> None:
    """Print frames per second and seconds per stage for one renderer."""
    config = TabletopConfig()
    generator = ClipGenerator.create(robot_tree(RobotModel.load("fr3")), "fr3", config, renderer)
    generator.make(0, 0)
    generator.timings.clear()
    start = time.perf_counter()
    frames = sum(len(generator.make(0, i).views) for i in range(1, clips + 1))
    wall = time.perf_counter() - start
    stages = "  ".join(
        f"{name} {1000 * value / clips:.1f}" for name, value in generator.timings.items()
    )
    rate = f"{frames / generator.timings['render']:6.1f} frames/s  {clips / wall:5.1f} clips/s"
    print(f"{renderer:5s} {rate}  ms per clip: {stages}")


def main() -> None:
    """Measure both renderers in one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    clips = parser.parse_args().clips
    print(
        f"{platform.processor() or platform.machine()}, python {platform.python_version()}, one process"
    )
    for renderer in ("gl", "rays"):
        try:
            measure(renderer, clips)
        except InputError as error:
            print(f"{renderer:5s} not measured: {error}")


if __name__ == "__main__":
    main()
