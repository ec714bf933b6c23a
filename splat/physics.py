"""Let Gaussians fall, bend and flow: material-point simulation of chosen Gaussians of a scene.

The chosen Gaussians are a skin; `splat.physics_particles` fills it with material, `splat.physics_engine` moves the
material with a kept solver, and the Gaussians follow: each one's place by its nearest particles, its covariance by the
deformation gradient F as F S F^T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.errors import InputError
from splat.physics_engine import MaterialPoints
from splat.physics_particles import (
    HANGING,
    SkinBinding,
    SupportFrame,
    bind_skin,
    deform_scene,
    fill_skin,
    filled_volume,
)
from splat.physics_types import Energy, Material, PhysicsOptions, PushPath
from splat.query import Plane
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Pushing points that stay farther than this from the object are left out [m].
NEAR = 0.15
#: A Gaussian follows so many particles; a grain follows its own.
FOLLOWED = {"elastic": 4, "plastic": 4, "granular": 1}


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation:
    """What became of the material; index 0 = now.

    times: (frames,) [s]. positions: (frames, particles, 3) in the scene's frame [m]. deformations: (frames, particles,
    3, 3) F of each particle against time 0. volume_ratios: (frames,) volume against time 0. energies: one per frame.
    mass: of one particle [kg]. spacing: of the particles at time 0 [m]. steps: of the solver. binding: how the
    Gaussians hang on the particles.

    The volume is the mean determinant of F. Of grains it is the space that the heap fills: they come apart and together
    again, and F, which adds up how fast they do, does not forget.
    """

    times: Tensor
    positions: Tensor
    deformations: Tensor
    volume_ratios: Tensor
    energies: tuple[Energy, ...]
    mass: float
    spacing: float
    steps: int
    binding: SkinBinding


def simulate(
    scene: GaussianScene,
    mask: Tensor,
    plane: Plane,
    material: Material,
    options: PhysicsOptions | None = None,
    *,
    push: PushPath | None = None,
    obstacles: Tensor | None = None,
    advance: Callable[[int], None] | None = None,
) -> Simulation:
    """Simulate the Gaussians in `mask` as `material` on the support `plane`.

    Args:
        scene: the Gaussians. mask: (N,) bool, those that are the object.
        plane: what it stands on; gravity pulls against its normal.
        push: points that push. obstacles: (points, 3) places that stand still and are in the way [m].
        advance: called with 1 after every frame.

    Raises:
        InputError: nothing is chosen, nothing of it is above the support, or the simulation leaves all bounds.
        MissingExtraError: the extra `physics` is not installed.
    """
    options = options or PhysicsOptions()
    if mask.shape != (len(scene),) or mask.dtype != torch.bool or not bool(mask.any()):
        raise InputError(
            f"the mask is {tuple(mask.shape)} {mask.dtype} with {int(mask.sum())} chosen, expected ({len(scene)},) "
            "bool with one or more"
        )
    chosen = scene.means[mask].detach().cpu()
    frame = SupportFrame.of(plane, chosen)
    # A support of some thickness hides the feet of what stands on it.
    hanging = max(HANGING, 2 * plane.band)
    skin = frame.inward(chosen.double().numpy())
    rest, spacing = fill_skin(skin, options.particles, hanging=hanging)
    points = MaterialPoints(
        rest, spacing, material, options, _pushes(push, obstacles, frame, rest, spacing)
    )
    frames = round(options.seconds / options.frame_dt) + 1
    inner = max(1, int(np.ceil(options.frame_dt / options.max_step - 1e-9)))
    states, energies = [points.state()], [points.energy()]
    for _ in range(1, frames):
        for _ in range(inner):
            points.step(options.frame_dt / inner)
        states.append(points.state())
        energies.append(points.energy())
        if advance is not None:
            advance(1)
    places, gradients = (np.stack(rows) for rows in zip(*states, strict=True))
    if material.kind == "granular":
        volumes = np.array([filled_volume(place, spacing) for place in places])
    else:
        volumes = np.linalg.det(gradients).mean(-1)
    positions = torch.from_numpy(frame.outward(places))
    return Simulation(
        times=torch.arange(frames, dtype=torch.float64) * options.frame_dt,
        positions=positions,
        deformations=torch.from_numpy(frame.turn_outward(gradients)),
        volume_ratios=torch.from_numpy(volumes / volumes[0]),
        energies=tuple(energies),
        mass=points.mass,
        spacing=spacing,
        steps=(frames - 1) * inner,
        binding=bind_skin(chosen, positions[0], FOLLOWED[material.kind]),
    )


def moved_scene(
    scene: GaussianScene, mask: Tensor, simulation: Simulation, frame: int
) -> GaussianScene:
    """The scene at `frame` of the simulation: places, covariances and colours of the Gaussians in `mask` follow."""
    part = deform_scene(
        scene.select(mask),
        simulation.binding,
        simulation.positions[frame],
        simulation.deformations[frame],
    )
    moved: dict[str, Tensor] = {}
    for name in ("means", "quats_wxyz", "log_scales", "sh"):
        moved[name] = getattr(scene, name).clone()
        moved[name][mask] = getattr(part, name)
    return replace(scene, **moved, moving=mask.clone())


def _pushes(
    push: PushPath | None,
    obstacles: Tensor | None,
    frame: SupportFrame,
    rest: np.ndarray,
    spacing: float,
) -> list[PushPath]:
    """What may touch the material, in the support's axes; points that never come near it are left out."""
    paths = [] if push is None else [push]
    if obstacles is not None and len(obstacles):
        paths.append(PushPath(positions=obstacles[None], step_dt=1.0, radius=spacing))
    found = []
    low, high = rest.min(0) - NEAR, rest.max(0) + NEAR
    for path in paths:
        inside = frame.inward(path.positions.detach().cpu().double().numpy())
        near = ((inside >= low) & (inside <= high)).all(-1).any(0)
        if near.any():
            found.append(replace(path, positions=torch.from_numpy(inside[:, near])))
    return found
