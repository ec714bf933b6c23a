"""Measure a world model and the baselines on simulated clips, through rendered RGB-D as at inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pointworld.data import Clip, FlowSample, clip_to_sample, list_clips, read_clip
from pointworld.encoders import ImageEncoder
from pointworld.errors import InputError
from pointworld.geometry import transform_points, unproject
from pointworld.model import WorldModel
from pointworld.robot import RobotModel
from pointworld.train.baselines import RADII, HandMotion, no_motion, object_carry, rigid_carry
from pointworld.train.cache import SURFACE_POINTS, SURFACE_SEED
from pointworld.train.metrics import Summary, calibration, flow_errors, moved_mask, summarise

Tensor = torch.Tensor

#: Surface points of the gripper for the baselines: about 4 mm apart.
DENSE_SURFACE = 4000
PREDICTORS = ("model", "no_motion", "rigid_carry", "object_carry")


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationClip:
    """A sample with what the baselines need beside it."""

    sample: FlowSample
    hand: HandMotion
    objects: tuple[int, ...]
    dense_points: Tensor
    dense_bodies: Tensor

    @property
    def never_moves(self) -> Tensor:
        """(points,) bool: the point's body does not move during the clip."""
        return ~self.sample.on_moving_body


def read_evaluation_clip(
    clip: Clip, robot: RobotModel, *, encoder: ImageEncoder | None = None
) -> EvaluationClip:
    """Build the sample by the path of inference: the robot is masked by ray casting its description."""
    sample = clip_to_sample(
        clip,
        robot,
        encoder=encoder,
        surface=robot.sample_surface(SURFACE_POINTS, links="gripper", seed=SURFACE_SEED),
        mask="robot",
    )
    dense = robot.flow(
        robot.sample_surface(DENSE_SURFACE, links="gripper", seed=SURFACE_SEED + 1),
        sample.joint_positions,
        step_dt=clip.step_dt,
    ).to(dtype=torch.float32)
    if dense.gripper_pose is None:
        raise InputError(
            f"the robot '{robot.name}' has no tool link; the baselines need its motion"
        )
    points, bodies = pixel_points(clip)
    return EvaluationClip(
        sample=sample,
        hand=HandMotion(surface=dense.positions, normals=dense.normals, pose=dense.gripper_pose),
        objects=clip.bodies_of_kind("object"),
        dense_points=torch.from_numpy(points).float(),
        dense_bodies=torch.from_numpy(bodies),
    )


def pixel_points(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Every depth pixel of all views: (pixels, 3) points [m] and (pixels,) body ids."""
    points, bodies = [], []
    for view in clip.views:
        seen = (view.depth > 0) & (view.segmentation > 0)
        points.append(transform_points(view.T_world_cam, unproject(view.depth, view.K)[seen]))
        bodies.append(view.segmentation[seen].astype(np.int64) - 1)
    return np.concatenate(points), np.concatenate(bodies)


def tune_radius(clips: Sequence[EvaluationClip], radii: Sequence[float] = RADII) -> float:
    """The rigid-carry radius with the least mover error on validation clips."""

    def error(radius: float) -> float:
        scores = []
        for clip in clips:
            predicted = rigid_carry(clip.sample.scene.points, clip.hand, radius=radius)
            scores.append(flow_errors(predicted, clip.sample.displacements, clip.never_moves))
        mean = summarise(s["l2_moved"] for s in scores).mean
        return math.inf if mean is None else mean

    return min(radii, key=error)


@torch.no_grad()
def evaluate_clip(
    model: WorldModel | None, clip: EvaluationClip, *, radius: float
) -> dict[str, dict[str, float]]:
    """Per predictor the metrics of one clip [m]."""
    sample = clip.sample
    points, true = sample.scene.points, sample.displacements
    predictions = {
        "no_motion": no_motion(points, len(true)),
        "rigid_carry": rigid_carry(points, clip.hand, radius=radius),
        "object_carry": object_carry(
            points,
            sample.body_ids,
            clip.objects,
            clip.hand,
            dense_points=clip.dense_points,
            dense_bodies=clip.dense_bodies,
        ),
    }
    spread: dict[str, float] = {}
    if model is not None:
        flow = model.predict(sample.scene, sample.robot)
        predictions = {"model": flow.displacements, **predictions}
        scale = model.norm_stats_per_step_var[0].mean(-1).clamp_min(1e-6).sqrt()
        sigma = (flow.log_var[..., 0] / 2).exp() * scale[:, None]
        spread = calibration((flow.displacements - true)[1:], sigma[1:], moved_mask(true)[1:])
    results = {
        name: flow_errors(predicted, true, clip.never_moves)
        for name, predicted in predictions.items()
    }
    if model is not None:
        results["model"] |= spread
    return results


def evaluate(
    data: str | Path,
    model: WorldModel | None,
    robot: RobotModel,
    *,
    radius: float,
    encoder: ImageEncoder | None = None,
    limit: int | None = None,
    on_clip: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Evaluate on every clip below `data`.

    Returns:
        A JSON-ready table: `overall` and `families`, each per predictor per metric mean, standard error and count, and
        `ratios` of the mover error to no motion.
    """
    rows: list[tuple[str, dict[str, dict[str, float]]]] = []
    for path in list_clips(data)[:limit]:
        clip = read_clip(path)
        scored = evaluate_clip(
            model, read_evaluation_clip(clip, robot, encoder=encoder), radius=radius
        )
        rows.append((clip.family, scored))
        if on_clip is not None:
            on_clip(1)
    families = sorted({family for family, _ in rows})
    return {
        "clips": len(rows),
        "rigid_carry_radius_m": radius,
        "overall": tabulate([row for _, row in rows]),
        "families": {
            name: tabulate([row for family, row in rows if family == name]) for name in families
        },
    }


def tabulate(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, object]:
    """Means over clips per predictor, and mover errors relative to no motion."""
    predictors = [name for name in PREDICTORS if rows and name in rows[0]]
    metrics = {
        name: {
            metric: asdict(summarise(row[name][metric] for row in rows)) for metric in rows[0][name]
        }
        for name in predictors
    }
    reference = Summary(**metrics["no_motion"]["l2_moved"]).mean if rows else None
    ratios = {
        name: None
        if not reference or metrics[name]["l2_moved"]["mean"] is None
        else metrics[name]["l2_moved"]["mean"] / reference
        for name in predictors
    }
    return {"metrics": metrics, "ratios_to_no_motion": ratios}
