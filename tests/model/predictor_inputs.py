"""Random inputs of the network core with shared voxels, padding and batch mates of different sizes."""

from __future__ import annotations

import torch

from pointworld.model.predictor import DynamicsPredictor

Inputs = tuple[torch.Tensor, ...]


def random_inputs(
    generator: torch.Generator,
    *,
    channels: int,
    batch: int = 4,
    points: int = 500,
    robot_points: int = 40,
) -> Inputs:
    """The six float64 tensors: a table with things on it, a robot that moves up to 10 cm."""

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    scene = torch.stack(
        [uniform(batch, points), uniform(batch, points) - 0.5, uniform(batch, points) * 0.1], -1
    )
    scene = scene * 0.4 + 0.2 * uniform(batch, 1, 3)
    start = uniform(batch, 1, robot_points, 3) * 0.1 + 0.1
    steps = torch.linspace(0, 0.1, 11, dtype=torch.float64)[None, :, None, None]
    robot = start + steps * uniform(batch, 1, 1, 3)
    robot_exists = (uniform(batch, 1, robot_points) > 0.2).expand(batch, 11, robot_points)
    return (
        scene,
        uniform(batch, points, channels) * 2 - 1,
        uniform(batch, points) > 0.2 * torch.arange(batch)[:, None],
        robot,
        uniform(batch, 11, robot_points, channels) * 2 - 1,
        robot_exists,
    )


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same with another floating-point type."""
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def lively(network: DynamicsPredictor, generator: torch.Generator) -> DynamicsPredictor:
    """Replaces the small initial weights by ones under which every layer matters (outputs of order 1)."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel() if parameter.shape[0] > 1 else 1
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn / fan_in**0.5)
    return network.eval().requires_grad_(False)
