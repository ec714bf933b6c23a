"""How near rendered futures come to what the simulator shows later.

    python benchmarks/splat_future.py --scenes 24 --seed 60 --out future.json --picture future.png

Every scene is a simulated tabletop of shapes that the shipped checkpoint was not trained on, in which something moves.
Gaussians are fitted to the first images of three cameras, moved by the model's flow, by nothing but the robot's
commanded motion, and by the true flow of the same points; what no camera saw of the table is filled in. Rendered from
the same cameras at later steps, they are compared with the simulator's images of those steps. "moving" are pixels that
show a moved object then or at time 0; the robot's own pixels do not count there. Two rows more: the true flow without
the filling, and nothing moves at all, the robot neither.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pointworld.cli.splat_future import fill_unseen, robot_parts, robot_views
from pointworld.cli.splat_pictures import Look
from pointworld.data import (
    Clip,
    ClipView,
    DatasetSpec,
    TabletopConfig,
    clip_facts,
    clip_to_capture,
    clip_to_sample,
    dataset_generator,
    moving_bodies,
)
from pointworld.data.generate import ClipGenerator
from pointworld.files import write_json
from pointworld.geometry import invert
from pointworld.model import WorldModel, load
from pointworld.robot import RobotModel
from pointworld.train import flow_errors
from splat.fit import FitConfig, fit, split_views
from splat.fit.optimise import render
from splat.future import TrueFrame, bind_future, compare_futures, future_scenes, part_owners
from splat.raster import get_rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

NAMES = ("nothing_at_all", "no_motion", "model", "true_flow", "true_flow_not_filled")
WORDS = {
    "model": "the model's flow",
    "no_motion": "no motion of the scene",
    "true_flow": "the true flow (ceiling)",
    "true_flow_not_filled": "the true flow, places that no camera saw left empty",
    "nothing_at_all": "nothing, the robot neither",
}


def log(text: str) -> None:
    """Progress for people; the result goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def true_frame(clip: Clip, now: ClipView, later: ClipView, step: int) -> TrueFrame:
    """A later image of a camera, and where something other than the robot has moved."""
    movers = np.array(moving_bodies(clip), dtype=int) + 1
    robot = np.isin(later.segmentation, np.array(clip.bodies_of_kind("robot")) + 1)
    moving = (np.isin(later.segmentation, movers) | np.isin(now.segmentation, movers)) & ~robot
    return TrueFrame(
        step=step,
        rgb=torch.from_numpy(later.rgb).float() / 255,
        viewmat=torch.from_numpy(invert(later.T_world_cam)).float(),
        K=torch.from_numpy(later.K).float(),
        moving=torch.from_numpy(moving),
    )


def one_scene(
    clip: Clip,
    generator: ClipGenerator,
    model: WorldModel,
    robot: RobotModel,
    args: argparse.Namespace,
) -> tuple[dict[str, Any], np.ndarray]:
    """All scores of one clip, and a row of pictures of its last step."""
    began = time.process_time()
    training, _ = split_views(clip_to_capture(clip), max_width=320, holdout=0)
    config = FitConfig(
        gaussians=args.gaussians, iterations=args.iterations, grow=0.0, seed=args.seed
    )
    scene = fit(training, config).scene
    fitted = time.process_time()
    sample = clip_to_sample(clip, robot, surface=500, seed=args.seed)
    predicted = model.predict(sample.scene, sample.robot).displacements
    flows = {"model": predicted, "no_motion": 0 * predicted, "true_flow": sample.displacements}
    parts = robot_parts(robot, clip.joint_positions, np.eye(4), seed=args.seed)
    rasterizer = get_rasterizer()
    points = sample.scene.points
    looks = [
        Look(viewmat=view.viewmat, K=view.K, size=(view.width, view.height)) for view in training
    ]
    views = robot_views(scene, looks, robot, clip.joint_positions[0], np.eye(4), rasterizer)
    owner = part_owners(scene, parts, views=views, rasterizer=rasterizer)
    both = torch.cat([predicted, sample.displacements])
    filled, owners = fill_unseen(scene, points, both, looks, owner, rasterizer)
    bound = bind_future(filled, points, parts=parts, owner=owners)
    futures = {name: future_scenes(bound, flow) for name, flow in flows.items()}
    unfilled = bind_future(scene, points, parts=parts, owner=owner)
    futures["true_flow_not_filled"] = future_scenes(unfilled, sample.displacements)
    futures["nothing_at_all"] = [scene] * clip.num_steps
    steps = [int(step) for step in args.steps.split(",")]
    frames = [
        true_frame(clip, now, later, step)
        for step in steps
        for now, later in zip(
            clip.views, generator.views_at(clip.seed, clip.index, step), strict=True
        )
    ]
    scores = compare_futures(futures, frames, rasterizer)
    first = [true_frame(clip, view, view, 0) for view in clip.views]
    errors = flow_errors(predicted, sample.displacements, ~sample.on_moving_body)
    still = flow_errors(0 * predicted, sample.displacements, ~sample.on_moving_body)
    row: dict[str, Any] = {
        "clip": clip.key,
        "family": clip.family,
        "now": compare_futures({"now": [scene]}, first, rasterizer)["now"],
        **scores,
        "flow_ratio": errors["l2_moved"] / still["l2_moved"],
        "fit_cpu_seconds": round(fitted - began, 1),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    largest = max(frames[-len(clip.views) :], key=lambda frame: int(frame.moving.sum()))
    return row, picture_row(futures, largest, scene)


@torch.no_grad()
def picture_row(
    futures: dict[str, list[GaussianScene]], frame: TrueFrame, scene: GaussianScene
) -> np.ndarray:
    """Now, no motion, the model, the true flow, the simulator; moving pixels are outlined in the last."""
    height, width = frame.rgb.shape[:2]
    order = [
        scene,
        futures["no_motion"][frame.step],
        futures["model"][frame.step],
        futures["true_flow"][frame.step],
    ]
    tiles = [
        render(get_rasterizer(), one, frame.viewmat, frame.K, (width, height), "RGB")[0].clamp(0, 1)
        for one in order
    ]
    inner = frame.moving.clone()
    inner[1:-1, 1:-1] &= (
        frame.moving[:-2, 1:-1]
        & frame.moving[2:, 1:-1]
        & frame.moving[1:-1, :-2]
        & frame.moving[1:-1, 2:]
    )
    outlined = frame.rgb.clone()
    outlined[frame.moving & ~inner] = torch.tensor([1.0, 0.9, 0.0])
    return (torch.cat([*tiles, outlined], 1) * 255).round().to(torch.uint8).numpy()


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over scenes, with their standard errors."""
    result = {}
    for name in NAMES:
        found: dict[str, float] = {}
        for key in ("psnr", "psnr_moving"):
            values = np.array([row[name][key] for row in rows])
            found[key] = float(values.mean())
            found[f"{key}_error"] = float(values.std() / math.sqrt(len(values)))
        result[name] = found
    moving = {name: np.array([row[name]["psnr_moving"] for row in rows]) for name in NAMES}
    gain = {name: moving[name] - moving["no_motion"] for name in ("model", "true_flow")}
    result["gain_moving"] = {
        "model": float(gain["model"].mean()),
        "true_flow": float(gain["true_flow"].mean()),
        "share": float(gain["model"].mean() / gain["true_flow"].mean()),
        "model_better_than_no_motion": float((gain["model"] > 0).mean()),
    }
    return result


def table(result: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| Gaussians moved by | all pixels | moving pixels |", "|---|---|---|"]
    for name in NAMES:
        row = result[name]
        lines.append(
            f"| {WORDS[name]} | {row['psnr']:.2f} ± {row['psnr_error']:.2f} dB | "
            f"{row['psnr_moving']:.2f} ± {row['psnr_moving_error']:.2f} dB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all scenes; one JSON object on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=60, help="of the simulated clips")
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--steps", default="3,6,10", help="later steps that are compared")
    parser.add_argument("--gaussians", type=int, default=40_000)
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--out", type=Path, help="JSON file, written after every scene")
    parser.add_argument("--picture", type=Path, help="PNG, one row per scene")
    args = parser.parse_args()
    model, robot = load(args.checkpoint), RobotModel.load("fr3")
    spec = DatasetSpec(
        clips=1, seed=args.seed, tabletop=TabletopConfig(shapes="test", min_cameras=3)
    )
    generator = dataset_generator(spec)
    rows: list[dict[str, Any]] = []
    pictures: list[np.ndarray] = []
    result: dict[str, Any] = {}
    index = 0
    while len(rows) < args.scenes:
        clip = generator.make(args.seed, index)
        index += 1
        if not clip_facts(clip)["moved"]:
            continue
        row, picture = one_scene(clip, generator, model, robot, args)
        rows.append(row)
        pictures.append(picture)
        log(f"{len(rows)}: {json.dumps(row)}")
        means = summary(rows)
        result = {"scenes": len(rows), "summary": means, "table": table(means), "rows": rows}
        if args.out:
            write_json(args.out, result)
        if args.picture:
            Image.fromarray(np.concatenate(pictures)).save(args.picture)
    log(str(result["table"]))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
