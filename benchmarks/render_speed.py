"""Frames per second of the two renderers, and milliseconds per stage of making a clip.

Run: python benchmarks/render_speed.py [--clips 40]

A frame is RGB, depth and segmentation of one 320x180 camera, with the cost of handing a new scene to the renderer
shared by its 2-3 cameras, as in data generation. Rates are given per second of wall time and per second of CPU time:
the second does not suffer from other programs on the machine.

Results (2 virtual cores of an AMD EPYC shared with other jobs, Mesa software EGL, MuJoCo 4.0.0, Python 3.11, FR3 with
13 900 triangles, 20 clips):

    clips (gl): 10.6 per CPU second (5.0/s of wall time while other jobs used the same cores)
    gl     105 frames per CPU second
    rays    51 frames per CPU second
"""

from __future__ import annotations

import argparse
import os
import platform
import time

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "1")

import mujoco
import torch

from pointworld.data import ClipGenerator, TabletopConfig
from pointworld.data.render import SceneRenderer, make_renderer
from pointworld.data.robot_tree import robot_tree
from pointworld.errors import InputError
from pointworld.robot import RobotModel


def rate(renderer: SceneRenderer, scenes: list[tuple[object, object, tuple]]) -> str:
    """Frames per second of wall and of CPU time over all scenes."""
    wall, cpu, frames = time.perf_counter(), time.process_time(), 0
    for model, data, cameras in scenes:
        frames += len(renderer.render(model, data, cameras))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return f"{frames / wall:6.1f} frames/s  {frames / cpu:6.1f} frames per CPU second"


def main() -> None:
    """Draw clips once (timing the stages), then render their scenes with both renderers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    clips = parser.parse_args().clips
    torch.set_num_threads(1)
    config = TabletopConfig()
    tree = robot_tree(RobotModel.load("fr3"))
    generator = ClipGenerator.create(tree, "fr3", config, "auto")
    generator.draw(0, 0)
    generator.timings.clear()
    wall, cpu, scenes = time.perf_counter(), time.process_time(), []
    for index in range(1, clips + 1):
        drawn = generator.draw(0, index)
        data = mujoco.MjData(drawn.model)
        data.qpos[:] = drawn.episode.qpos[0]
        mujoco.mj_forward(drawn.model, data)
        scenes.append((drawn.model, data, drawn.cameras))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{platform.machine()}, python {platform.python_version()}, mujoco {mujoco.__version__}, one process"
    )
    print(
        f"clips ({generator.renderer.name}): {clips / wall:.1f}/s, {clips / cpu:.1f} per CPU second"
    )
    print(
        "ms per clip: "
        + "  ".join(f"{k} {1000 * v / clips:.1f}" for k, v in generator.timings.items())
    )
    for name in ("gl", "rays"):
        try:
            renderer = make_renderer(name, config.height, config.width)
        except InputError as error:
            print(f"{name:5s} not measured: {error}")
            continue
        rate(renderer, scenes[:2])
        print(f"{name:5s} {rate(renderer, scenes)}")


if __name__ == "__main__":
    main()
