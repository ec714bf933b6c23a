"""A robot and a clip generator shared by the data tests."""

from __future__ import annotations

import pytest

from pointworld.data import ClipGenerator, TabletopConfig
from pointworld.data.robot_tree import RobotTree, robot_tree
from pointworld.robot import RobotModel

SEED = 11


@pytest.fixture(scope="session")
def robot() -> RobotModel:
    return RobotModel.load("fr3")


@pytest.fixture(scope="session")
def tree(robot: RobotModel) -> RobotTree:
    pytest.importorskip(
        "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
    )
    return robot_tree(robot)


@pytest.fixture(scope="session")
def config() -> TabletopConfig:
    return TabletopConfig(shapes="all")


@pytest.fixture(scope="session")
def rays(tree: RobotTree, config: TabletopConfig) -> ClipGenerator:
    """A generator that needs no GL."""
    return ClipGenerator.create(tree, "fr3", config, "rays")


@pytest.fixture(scope="session")
def any_renderer(tree: RobotTree, config: TabletopConfig) -> ClipGenerator:
    """GL where there is one."""
    return ClipGenerator.create(tree, "fr3", config, "auto")
