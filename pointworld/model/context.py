"""The part of a scene that the network looks at: the points that the robot's path comes nearest to.

What is far from everything the robot does stays where it is. Leaving it out of the network keeps the cost of a
candidate motion independent of how much of the room the cameras see. In `stable` mode the kept tokens have the same
voxels and codes as in the whole scene.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from pointworld.model.inputs import ModelInputs, ModelOutputs
from pointworld.model.normalisation import VARIANCE_FLOOR

Tensor = torch.Tensor


@torch.no_grad()
def nearest_to_robot(inputs: ModelInputs, count: int) -> Tensor:
    """Indices (batch, count), ascending, of the scene points nearest to the robot's surface over all steps.

    `count` must be below the number of (padded) scene points; absent points come last.
    """
    batch = inputs.batch_size
    surface = inputs.robot_positions.reshape(batch, -1, 3)
    exists = inputs.robot_exists.reshape(batch, 1, -1)
    # The matrix-product form of cdist loses digits, and with them independence of the batch.
    distance = torch.cdist(
        inputs.scene_points, surface, compute_mode="donot_use_mm_for_euclid_dist"
    ).masked_fill_(~exists, torch.inf)
    reach = distance.min(-1).values.masked_fill(~inputs.scene_exists, torch.inf)
    return reach.topk(count, dim=1, largest=False, sorted=False).indices.sort(dim=1).values


def _rows(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def take_points(inputs: ModelInputs, index: Tensor) -> ModelInputs:
    """The same batch with only the scene points at `index` (batch, count)."""
    features = inputs.scene_features
    return replace(
        inputs,
        scene_points=_rows(inputs.scene_points, index),
        scene_colors=_rows(inputs.scene_colors, index),
        scene_normals=_rows(inputs.scene_normals, index),
        scene_features=None if features is None else _rows(features, index),
        scene_clusters=inputs.scene_clusters.gather(1, index),
        scene_exists=inputs.scene_exists.gather(1, index),
    )


def take_tokens(image_tokens: Tensor | None, index: Tensor) -> Tensor | None:
    """Rows of image tokens (batch or 1, points, C) at `index` (batch, count)."""
    if image_tokens is None:
        return None
    return _rows(image_tokens.expand(len(index), -1, -1), index)


def spread_outputs(outputs: ModelOutputs, index: Tensor, points: int) -> ModelOutputs:
    """Outputs for all `points` of the scene; those that were left out stay still, with the least variance."""

    def spread(values: Tensor, fill: float) -> Tensor:
        whole = values.new_full((*values.shape[:2], points, values.shape[-1]), fill)
        target = index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[-1])
        return whole.scatter(2, target, values)

    log_var = spread(outputs.log_var, math.log(VARIANCE_FLOOR))
    log_var[:, 0] = 0.0
    return ModelOutputs(
        pred_norm=spread(outputs.pred_norm, 0.0),
        log_var=log_var,
        displacements=spread(outputs.displacements, 0.0),
    )
