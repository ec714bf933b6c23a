"""Two scenes to see the physics by: a jelly cube that falls and is pushed, and a column of sand that collapses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from splat.physics import Simulation
from splat.physics_types import MATERIALS, Material, PushPath
from splat.query import Plane
from splat.sh import C0
from splat.types import GaussianScene, concatenate

Tensor = torch.Tensor

#: The support: z = 0.
FLOOR = Plane(normal=np.array([0.0, 0.0, 1.0]), offset=0.0, band=0.003)
#: Standard deviation of a Gaussian, relative to the distance between Gaussians.
WIDTH = 0.6
#: Share of the sand's top that is left out when a slope is fitted, at the tip and at the foot.
TIP, FOOT = 0.15, 0.15


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoScene:
    """scene: object and floor. mask: (N,) bool, the object. material: of it. push: what pushes it, or None.

    viewmat (4, 4), K (3, 3) [px]: a camera for 320 x 240 pictures.
    """

    scene: GaussianScene
    mask: Tensor
    material: Material
    push: PushPath | None
    viewmat: Tensor
    K: Tensor


def jelly_cube(*, side: float = 0.06, drop: float = 0.0, count: int = 14) -> DemoScene:
    """A cube of jelly, let go `drop` [m] above the floor, and a finger that comes from the side after 0.5 s."""
    grid = (torch.arange(count) + 0.5) * side / count
    x, y, z = torch.meshgrid(grid, grid, grid, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3) - torch.tensor([side / 2, side / 2, 0.0])
    stripes = (z.reshape(-1) / side * 6).long() % 2 == 0
    colors = torch.where(
        stripes[:, None], torch.tensor([0.85, 0.15, 0.25]), torch.tensor([0.98, 0.7, 0.2])
    )
    points[:, 2] += drop
    return _with_floor(_gaussians(points, colors, side / count), MATERIALS["elastic"], _finger())


def sand_column(*, radius: float = 0.04, height: float = 0.06, count: int = 7000) -> DemoScene:
    """A column of dry sand in coloured layers that nothing holds."""
    spacing = (np.pi * radius**2 * height / count) ** (1 / 3)
    flat = torch.arange(-radius, radius + 1e-9, spacing)
    up = torch.arange(spacing / 2, height, spacing)
    x, y, z = torch.meshgrid(flat, flat, up, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    points = points[points[:, :2].norm(dim=-1) <= radius]
    layer = (points[:, 2] / height * 4).long()
    palette = torch.tensor(
        [[0.85, 0.72, 0.45], [0.55, 0.38, 0.2], [0.9, 0.85, 0.7], [0.7, 0.3, 0.15]]
    )
    scene = _gaussians(points, palette[layer.clamp(0, 3)], spacing)
    return _with_floor(scene, MATERIALS["granular"], None)


def pile_slope(simulation: Simulation) -> float:
    """Slope of the surface of a pile round its middle at the last frame, as an angle [rad]."""
    points = simulation.positions[-1].numpy()
    middle = points[:, :2].mean(0)
    distance = np.linalg.norm(points[:, :2] - middle, axis=1)
    edges = np.arange(0.0, distance.max(), 1.5 * simulation.spacing)
    ring = np.digitize(distance, edges) - 1
    tops = np.array([np.quantile(points[ring == r, 2], 0.98) for r in np.unique(ring)])
    places = np.array([distance[ring == r].mean() for r in np.unique(ring)])
    kept = (tops < (1 - TIP) * tops.max()) & (tops > FOOT * tops.max())
    if kept.sum() < 2:
        return 0.0
    slope = np.polyfit(places[kept], tops[kept], 1)[0]
    return float(np.arctan(-slope))


def runout(simulation: Simulation) -> float:
    """How far a pile has spread, (end radius - first radius) / first radius; the radius holds 99 % of it."""
    first, last = (
        np.quantile(np.linalg.norm(p[:, :2] - p[:, :2].mean(0), axis=1), 0.99)
        for p in (simulation.positions[0].numpy(), simulation.positions[-1].numpy())
    )
    return float((last - first) / first)


def finger_scene(push: PushPath, time: float) -> GaussianScene:
    """The pushing points as grey Gaussians at `time` [s]."""
    place = torch.from_numpy(push.at(time)[0]).float()
    return _gaussians(place, torch.full((len(place), 3), 0.35), push.radius)


def _finger() -> PushPath:
    """A vertical row of balls that rests for 0.5 s, pushes 5 cm along x at 0.2 m/s, and goes back."""
    column = torch.stack([torch.tensor([-0.06, 0.0, h]) for h in torch.arange(0.012, 0.12, 0.006)])
    reach = torch.tensor([0, 0, 0, 0, 0, 0.02, 0.04, 0.05, 0.03, 0.01, -0.01])
    shift = torch.stack([reach, torch.zeros(11), torch.zeros(11)], -1)
    return PushPath(positions=column + shift[:, None], step_dt=0.1)


def _gaussians(points: Tensor, colors: Tensor, spacing: float) -> GaussianScene:
    count = len(points)
    return GaussianScene(
        means=points.float(),
        quats_wxyz=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        log_scales=torch.full((count, 3), float(np.log(WIDTH * spacing))),
        opacity_logits=torch.full((count,), 4.0),
        sh=((colors.float() - 0.5) / C0)[:, None],
    )


def _with_floor(thing: GaussianScene, material: Material, push: PushPath | None) -> DemoScene:
    """The object on a chequered floor, and a camera that looks down on it from the front."""
    line = torch.arange(-0.2, 0.2, 0.006)
    x, y = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, -0.004)], -1).reshape(-1, 3)
    dark = ((x / 0.04).floor() + (y / 0.04).floor()).reshape(-1) % 2 == 0
    colors = torch.where(dark[:, None], torch.tensor(0.45), torch.tensor(0.75)).expand(-1, 3)
    floor = _gaussians(points, colors, 0.006)
    flat = floor.log_scales.clone()
    flat[:, 2] = float(np.log(0.0008))
    floor = GaussianScene(
        means=floor.means,
        quats_wxyz=floor.quats_wxyz,
        log_scales=flat,
        opacity_logits=floor.opacity_logits,
        sh=floor.sh,
    )
    mask = torch.zeros(len(thing) + len(floor), dtype=torch.bool)
    mask[: len(thing)] = True
    K = torch.tensor([[360.0, 0.0, 160.0], [0.0, 360.0, 120.0], [0.0, 0.0, 1.0]])
    return DemoScene(
        scene=concatenate([thing, floor]),
        mask=mask,
        material=material,
        push=push,
        viewmat=_camera(),
        K=K,
    )


def _camera() -> Tensor:
    """T_cam_world (4, 4) of a camera in front of the floor's middle, OpenCV axes."""
    eye, target = torch.tensor([0.05, -0.34, 0.19]), torch.tensor([0.0, 0.0, 0.03])
    ahead = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(ahead, torch.tensor([0.0, 0.0, 1.0])), dim=0
    )
    R = torch.stack([right, torch.linalg.cross(ahead, right), ahead])
    viewmat = torch.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = R, -R @ eye
    return viewmat
