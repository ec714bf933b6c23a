"""Detailed meshes from installed packages."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import pytest

from pointworld.errors import InputError, MissingExtraError
from pointworld.robot import RobotModel, full_meshes
from tests.robot.conftest import Writer

PACKAGES = {
    "fr3": ("example-robot-data",),
    "panda_robotiq": ("example-robot-data", "airo-models"),
    "ur5e_robotiq": ("airo-models",),
}


def _installed(package: str) -> bool:
    try:
        return metadata.version(package) is not None
    except metadata.PackageNotFoundError:
        return False


def test_detailed_meshes_fill_the_same_space(robot: RobotModel) -> None:
    if not all(map(_installed, PACKAGES[robot.name])):
        with pytest.raises(MissingExtraError, match="full-meshes"):
            full_meshes(robot)
        pytest.skip("the packages of the extra full-meshes are not installed")
    detailed = full_meshes(robot)
    assert detailed.link_names == robot.link_names and detailed.gripper is robot.gripper
    assert sum(len(m.faces) for m in detailed.visual_meshes.values()) > 10_000
    for link, own in robot.visual_meshes.items():
        difference = np.abs(detailed.visual_meshes[link].bounds - own.bounds).max()
        assert difference < 0.02, link


@pytest.mark.rejects_input
def test_other_robots_have_none(write_urdf: Writer) -> None:
    with pytest.raises(InputError, match="only, not for"):
        full_meshes(RobotModel.load(write_urdf()))
