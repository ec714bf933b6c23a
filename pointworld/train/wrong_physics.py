"""The simulator with wrong friction, mass or both: how far perfect geometry and mechanics come that are blind to them.

A clip's scene is drawn again from what the clip was drawn from, so that geometry, joint path and the state at time 0
are exact; only then friction and mass of the free objects become guesses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pointworld.data import Clip, ClipGenerator, true_positions
from pointworld.data.episode import joint_controls
from pointworld.data.families import REGISTRY
from pointworld.data.generate import Drawn
from pointworld.data.motions import joint_path
from pointworld.data.simulator import import_mujoco, set_joints
from pointworld.errors import InputError

Tensor = torch.Tensor

#: What free objects are drawn with: sliding friction (the target of a topple clip: more) and density [kg/m³].
FRICTION, TOPPLE_FRICTION, DENSITY = (0.15, 0.9), (0.5, 1.0), (150.0, 1400.0)
#: A scene that is drawn again must start as the clip does, to this [m]; more means another generator.
_SAME = 1e-4


@dataclass(frozen=True, kw_only=True)
class Physics:
    """Sliding friction and density [kg/m³] of every free object of a scene, in their order."""

    friction: tuple[float, ...]
    density: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """A clip and its scene, ready to be simulated again along the same joint path.

    path: (waypoints, joints) [rad or m].
    """

    generator: ClipGenerator
    clip: Clip
    drawn: Drawn
    path: np.ndarray

    @property
    def true_physics(self) -> Physics:
        objects = self.drawn.scene.objects
        return Physics(
            friction=tuple(item.friction for item in objects),
            density=tuple(item.density for item in objects),
        )

    def body_poses(self, physics: Physics) -> np.ndarray:
        """(steps, bodies, 7) poses of the clip's bodies when its free objects have this physics from time 0 on."""
        mujoco = import_mujoco()
        config, motion = self.generator.config, self.drawn.motion
        model = copy.deepcopy(self.drawn.model)
        data = mujoco.MjData(model)
        lead = round(motion.lead / config.timestep)
        per_step = round(config.step_dt / config.timestep)
        controls = joint_controls(
            self.generator.tree, self.path, config, lead + per_step * config.horizon
        )
        set_joints(data, self.drawn.episode.index, self.path[0])
        data.ctrl[:] = self.path[0]
        mujoco.mj_forward(model, data)
        settle = REGISTRY[motion.family].settle_time
        mujoco.mj_step(model, data, nstep=round(settle / config.timestep))
        bodies = [int(model.body(name).id) for name in self.clip.body_names]
        records: list[np.ndarray] = []
        for step, control in enumerate(controls):
            if step == lead:
                set_physics(model, self.true_physics, physics)
            if step >= lead and (step - lead) % per_step == 0:
                records.append(_poses(data, bodies))
            data.ctrl[:] = control
            mujoco.mj_step(model, data)
        records.append(_poses(data, bodies))
        return np.stack(records)

    def displacements(self, points: Tensor, body_ids: Tensor, physics: Physics) -> Tensor:
        """(steps, points, 3) motion [m] of points (points, 3) fixed to the bodies `body_ids`."""
        guessed = replace(self.clip, body_poses=self.body_poses(physics))
        moved = true_positions(guessed, points.double().numpy(), body_ids.numpy())
        # Points are seen at the clip's own time 0, which the replay shares.
        return torch.from_numpy(moved - moved[:1]).to(points)


def _poses(data: Any, bodies: Sequence[int]) -> np.ndarray:
    import_mujoco().mj_kinematics(data.model, data)
    return np.concatenate([data.xpos[bodies], data.xquat[bodies]], -1)


def set_physics(model: Any, true: Physics, physics: Physics) -> None:
    """Give the free objects of a compiled scene, which have `true` physics, other friction and mass."""
    mujoco = import_mujoco()
    for k, (friction, density) in enumerate(zip(physics.friction, physics.density, strict=True)):
        body = int(model.body(f"object{k}").id)
        first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
        model.geom_friction[first : first + count, 0] = friction
        model.body_mass[body] *= density / true.density[k]
        model.body_inertia[body] *= density / true.density[k]
    mujoco.mj_setConst(model, mujoco.MjData(model))


def prepare_replay(generator: ClipGenerator, clip: Clip) -> Replay | None:
    """Draw the scene of `clip` again; None when it has no free object or something soft, whose physics is not guessed.

    Raises:
        InputError: the clip was made by another generator or another version of it.
        MissingExtraError: the simulator is not installed.
    """
    drawn = generator.draw(clip.seed, clip.index)
    if not drawn.scene.objects or any(prop.deformable for prop in drawn.scene.props):
        return None
    names = [str(drawn.model.body(b).name) for b in range(drawn.model.nbody)]
    rows = [names.index(name) for name in clip.body_names if name in names]
    again = drawn.episode.body_poses[:, rows]
    if again.shape != clip.body_poses.shape or np.abs(again - clip.body_poses).max() > _SAME:
        raise InputError(
            f"clip {clip.key}: drawn again, its scene is another one; the data set was made with other settings or by "
            "another version. Generate it again to compare with the simulator."
        )
    path = joint_path(generator.arm, drawn.motion, drawn.scene.table_height)
    assert path is not None  # it was followed when the scene was drawn
    return Replay(generator=generator, clip=clip, drawn=drawn, path=path)


def _friction_ranges(replay: Replay) -> list[tuple[float, float]]:
    scene = replay.drawn.scene
    topples = replay.drawn.motion.family == "topple"
    return [
        TOPPLE_FRICTION if topples and k == scene.target else FRICTION
        for k in range(len(scene.objects))
    ]


def nominal_physics(replay: Replay, *, friction: bool = True, mass: bool = True) -> Physics:
    """The middle of what objects are drawn with, for all of them.

    Args:
        friction, mass: which of the two is a guess; the other one is true.
    """
    ranges, true = _friction_ranges(replay), replay.true_physics
    middle = math.sqrt(DENSITY[0] * DENSITY[1])
    return Physics(
        friction=tuple(sum(r) / 2 for r in ranges) if friction else true.friction,
        density=(middle,) * len(ranges) if mass else true.density,
    )


def draw_physics(replay: Replay, rng: np.random.Generator) -> Physics:
    """Friction and density as the generator could have drawn them for this scene."""
    ranges = _friction_ranges(replay)
    return Physics(
        friction=tuple(float(rng.uniform(*limits)) for limits in ranges),
        density=tuple(float(np.exp(rng.uniform(*np.log(DENSITY)))) for _ in ranges),
    )
