"""From a scene in the base frame to the inputs of one chunk, in each of the model's two conventions.

Source of the released chain (centre, box, voxels, cap, centre again): the evaluation transforms of the PointWorld
release; checked by tests/golden/world_model.npz.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.geometry import voxel_representatives
from pointworld.model.inputs import ModelInputs, collate
from pointworld.model.spec import ModelSpec
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor

#: Half edge of the cube about the centre outside which the release drops scene points [m].
RELEASED_BOX = 3.0
#: A DROID gripper counts as open while its finger joint is below 0.1 of its 0.725 rad.
RELEASED_OPEN = 1.0 - 0.1 / 0.725
#: The release draws its cap of scene points from this seed (and a clip name that a capture does not have).
RELEASED_SEED = 42


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedChunk:
    """One sample as the released model sees it.

    inputs: batch of one, in the centred frame. kept: (kept points,) rows of the scene that are tokens.
    shift: (3,) [m], position of the centred frame's origin in the base frame.
    """

    inputs: ModelInputs
    kept: Tensor
    shift: Tensor


def prepare_released(
    scene: ScenePoints,
    robot_flow: RobotFlow,
    spec: ModelSpec,
    *,
    domain: int = 0,
    kept: Tensor | None = None,
) -> ReleasedChunk:
    """Centre, thin and centre again, as the release does before its forward.

    Args:
        scene: in the base frame.
        robot_flow: without a batch axis; its points are thinned to one per voxel at time 0.
        domain: row of the normalisation buffers.
        kept: rows of the scene to use, from an earlier chunk; the scene is then not thinned again.
    """
    robot = robot_flow.positions
    shift = torch.cat([scene.points, robot[0]]).mean(0)
    points, robot = scene.points - shift, robot - shift
    if kept is None:
        kept = _released_selection(points, spec)
    points = points[kept]
    robot_kept = voxel_representatives(robot[0], spec.grid_size)
    robot = robot[:, robot_kept]
    second = torch.cat([points, robot[0]]).mean(0)
    thinned = scene.select(kept)
    centred = ScenePoints(
        points=points - second,
        colors=thinned.colors,
        normals=thinned.normals,
        features=thinned.features,
        clusters=thinned.clusters,
    )
    flow = RobotFlow(
        positions=robot - second,
        normals=robot_flow.normals[:, robot_kept],
        gripper_open=released_gripper(robot_flow.gripper_open, spec.grippers),
        step_dt=robot_flow.step_dt,
    )
    return ReleasedChunk(
        inputs=collate([(centred, flow)], domain=[domain]), kept=kept, shift=shift + second
    )


def _released_selection(points: Tensor, spec: ModelSpec) -> Tensor:
    """Rows inside the box, one per voxel, at most `max_scene_points`."""
    inside = (points.abs() < RELEASED_BOX).all(-1).nonzero()[:, 0]
    kept = inside[voxel_representatives(points[inside], spec.grid_size)]
    if len(kept) <= spec.max_scene_points:
        return kept
    generator = torch.Generator().manual_seed(RELEASED_SEED)
    chosen = torch.randperm(len(kept), generator=generator)[: spec.max_scene_points].sort().values
    return kept[chosen.to(kept.device)]


def released_gripper(gripper_open: Tensor, grippers: int) -> Tensor:
    """Open or closed, as the release knows it, with zeros for an arm that is absent.

    Args:
        gripper_open: (steps, given) in [0, 1], right arm first; given <= grippers.
    """
    binary = (gripper_open > RELEASED_OPEN).to(gripper_open.dtype)
    absent = binary.new_zeros(binary.shape[0], grippers - binary.shape[1])
    return torch.cat([binary, absent], -1)


def pad_steps(robot_flow: RobotFlow, num_steps: int) -> RobotFlow:
    """Repeat the last step of a robot flow until it has `num_steps` (the robot stands still)."""
    missing = num_steps - robot_flow.num_steps
    if missing <= 0:
        return robot_flow

    def extend(values: Tensor, dim: int) -> Tensor:
        last = values.narrow(dim, values.shape[dim] - 1, 1)
        return torch.cat([values, *[last] * missing], dim)

    return RobotFlow(
        positions=extend(robot_flow.positions, -3),
        normals=extend(robot_flow.normals, -3),
        gripper_open=extend(robot_flow.gripper_open, -2),
        step_dt=robot_flow.step_dt,
    )
