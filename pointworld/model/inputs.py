"""What the world model's forward takes and gives: padded batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from pointworld.errors import InputError
from pointworld.geometry import SUPPORT, point_clusters
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInputs:
    """A padded batch; rows whose `exists` is False are zero and influence nothing.

    scene_points: (batch, points, 3) [m]. scene_colors: 0-1 RGB. scene_normals: unit. All alike in shape.
    scene_features: (batch, points, image_channels), or None for a model without an image branch.
    scene_clusters: (batch, points) int64, which points of a sample hang together; SUPPORT on supporting surfaces.
    scene_exists: (batch, points) bool.
    robot_positions, robot_normals: (batch, steps, robot points, 3) [m]. robot_exists: (batch, steps, robot points).
    gripper_open: (batch, steps, grippers) in [0, 1].
    domain: (batch,) int64, row of the normalisation buffers.
    """

    scene_points: Tensor
    scene_colors: Tensor
    scene_normals: Tensor
    scene_features: Tensor | None
    scene_clusters: Tensor
    scene_exists: Tensor
    robot_positions: Tensor
    robot_normals: Tensor
    robot_exists: Tensor
    gripper_open: Tensor
    domain: Tensor

    def __post_init__(self) -> None:
        b, n = self.scene_exists.shape
        steps, m = self.robot_exists.shape[1:]
        expected = {
            "scene_points": (b, n, 3),
            "scene_colors": (b, n, 3),
            "scene_normals": (b, n, 3),
            "scene_clusters": (b, n),
            "robot_positions": (b, steps, m, 3),
            "robot_normals": (b, steps, m, 3),
            "robot_exists": (b, steps, m),
            "domain": (b,),
        }
        for name, shape in expected.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise InputError(f"model inputs: {name} is {got}, expected {shape}")
        if self.gripper_open.shape[:2] != (b, steps):
            raise InputError(
                f"model inputs: gripper_open is {tuple(self.gripper_open.shape)}, expected ({b}, {steps}, grippers)"
            )
        if self.scene_features is not None and self.scene_features.shape[:2] != (b, n):
            raise InputError(
                f"model inputs: scene_features is {tuple(self.scene_features.shape)}, expected ({b}, {n}, channels)"
            )

    @property
    def batch_size(self) -> int:
        return int(self.scene_points.shape[0])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ModelInputs:
        """Copy to a device and/or floating dtype (masks and indices keep theirs)."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            moved[field.name] = value
        return ModelInputs(**moved)


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelOutputs:
    """Predicted motion of a padded batch; rows of padding are meaningless.

    pred_norm: (batch, steps, points, 3) normalised displacement, zero at step 0.
    log_var: (batch, steps, points, 1) log variance of the normalised error, zero at step 0.
    displacements: (batch, steps, points, 3) [m] from time 0.
    """

    pred_norm: Tensor
    log_var: Tensor
    displacements: Tensor


def pad_rows(rows: Sequence[Tensor], *, dim: int = 0, fill: int = 0) -> Tensor:
    """Stack tensors that differ only in size along `dim`, padding with `fill` to the largest."""
    size = max(row.shape[dim] for row in rows)
    padded = []
    for row in rows:
        missing = list(row.shape)
        missing[dim] = size - row.shape[dim]
        padded.append(torch.cat([row, row.new_full(missing, fill)], dim))
    return torch.stack(padded)


def clusters_of(scene: ScenePoints) -> Tensor:
    """The scene's clusters, found now where it does not know them."""
    if scene.clusters is not None:
        return scene.clusters
    return point_clusters(scene.points, scene.normals)


def collate(
    pairs: Sequence[tuple[ScenePoints, RobotFlow]], *, domain: Sequence[int] | None = None
) -> ModelInputs:
    """Pad scenes and robot flows (no batch axis, same number of steps) to one batch.

    Args:
        pairs: one (scene, robot flow) per sample.
        domain: row of the normalisation buffers per sample; 0 for all when absent.

    Raises:
        InputError: no sample, a batched robot flow, different step counts, or features in some scenes only.
    """
    if not pairs:
        raise InputError("collate was given no samples")
    scenes, flows = [scene for scene, _ in pairs], [flow for _, flow in pairs]
    if any(flow.batch_shape for flow in flows):
        raise InputError(
            "collate takes robot flows without a batch axis: give one pair per candidate"
        )
    if len({flow.num_steps for flow in flows}) > 1:
        raise InputError(
            f"robot flows have different step counts {sorted({flow.num_steps for flow in flows})}"
        )
    features = [scene.features for scene in scenes if scene.features is not None]
    if len(features) not in (0, len(scenes)):
        raise InputError(
            f"{len(features)} of {len(scenes)} scenes have image features: give all or none"
        )
    device = scenes[0].points.device
    rows = (
        torch.zeros(len(pairs), dtype=torch.int64)
        if domain is None
        else torch.as_tensor(domain, dtype=torch.int64)
    )
    return ModelInputs(
        scene_points=pad_rows([scene.points for scene in scenes]),
        scene_colors=pad_rows([scene.colors for scene in scenes]),
        scene_normals=pad_rows([scene.normals for scene in scenes]),
        scene_features=pad_rows(features) if features else None,
        scene_clusters=pad_rows([clusters_of(scene) for scene in scenes], fill=SUPPORT),
        scene_exists=pad_rows(
            [torch.ones(len(scene), dtype=torch.bool, device=device) for scene in scenes]
        ),
        robot_positions=pad_rows([flow.positions for flow in flows], dim=1),
        robot_normals=pad_rows([flow.normals for flow in flows], dim=1),
        robot_exists=pad_rows(
            [
                torch.ones(flow.positions.shape[:-1], dtype=torch.bool, device=device)
                for flow in flows
            ],
            dim=1,
        ),
        gripper_open=torch.stack([flow.gripper_open for flow in flows]),
        domain=rows.to(device),
    )
