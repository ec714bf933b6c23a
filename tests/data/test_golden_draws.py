"""What every family draws from a fixed seed, as digests: whoever changes them must raise GENERATOR_VERSION.

Then `python -m tests.data.test_golden_draws` writes them anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointworld.data.families import REGISTRY
from pointworld.data.families.base import Family
from pointworld.data.generate import GENERATOR_VERSION
from pointworld.data.ik import ArmKinematics
from pointworld.data.motions import joint_path
from pointworld.data.robot_tree import RobotTree, robot_tree
from pointworld.data.scene_model import scene_model
from pointworld.data.tabletop import TabletopConfig, draw_cameras
from pointworld.robot import RobotModel

GOLDEN = Path(__file__).parents[1] / "golden" / "clip_draws.json"
ROBOTS = ("fr3", "ur5e_robotiq")
SEED = 20261122
_TRIES = 200


@pytest.mark.parametrize("robot", ROBOTS)
def test_no_draw_changes_without_a_new_generator_version(robot: str) -> None:
    pytest.importorskip(
        "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
    )
    golden = json.loads(GOLDEN.read_text())
    assert golden["generator"] == GENERATOR_VERSION, "write the digests anew, see above"
    assert _draws(robot) == golden["draws"][robot], "other clips: raise GENERATOR_VERSION"


def _draws(robot: str) -> dict[str, str]:
    """Per family the digest of the first clip that can be drawn."""
    tree = robot_tree(RobotModel.load(robot))
    return {name: _digest(tree, family) for name, family in REGISTRY.items()}


def _digest(tree: RobotTree, family: Family) -> str:
    """SHA-256 over the simulated model and the joint path, rounded to what every processor computes alike."""
    arm, config = ArmKinematics(tree), TabletopConfig()
    rng = np.random.default_rng(SEED)
    for _ in range(_TRIES):
        scene = family.draw_scene(rng, config)
        if scene is None:
            continue
        cameras = draw_cameras(rng, config, scene.table_height)
        motion = family.draw_motion(rng, scene, config.horizon * config.step_dt)
        path = None if motion is None else joint_path(arm, motion, scene.table_height)
        if path is not None:
            model = scene_model(tree, scene, cameras, config)
            return _hash(model, path)
    raise AssertionError(f"{family.name}: nothing usable in {_TRIES} draws")


def _hash(model: Any, path: np.ndarray) -> str:
    numbers = (path, model.body_pos, model.body_mass, model.geom_size, model.geom_friction,
               model.geom_rgba, model.mesh_vert, model.flex_vert, model.cam_pos, model.light_pos,
               model.jnt_range, model.dof_damping, model.opt.timestep, model.tex_data)  # fmt: skip
    digest = hashlib.sha256()
    for array in numbers:
        # + 0.0 turns -0.0 into 0.0.
        digest.update((np.round(np.asarray(array, np.float64), 4) + 0.0).tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    record = {"generator": GENERATOR_VERSION, "draws": {robot: _draws(robot) for robot in ROBOTS}}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
