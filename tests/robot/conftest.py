"""Robots loaded once, and an independent float64 reading of their URDFs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from pointworld.robot import RobotModel

ROBOTS = ("fr3", "panda_robotiq", "ur5e_robotiq")


@cache
def load(name: str) -> RobotModel:
    return RobotModel.load(name)


@pytest.fixture(params=ROBOTS)
def robot(request: pytest.FixtureRequest) -> RobotModel:
    """Each bundled robot in turn."""
    return load(request.param)


@pytest.fixture
def fr3() -> RobotModel:
    return load("fr3")


def random_positions(robot: RobotModel, count: int, seed: int) -> np.ndarray:
    """(count, joints) float64 within limits."""
    rng = np.random.default_rng(seed)
    return robot.lower + (robot.upper - robot.lower) * rng.random((count, len(robot.lower)))


def oracle_poses(urdf: Path, values: dict[str, float]) -> dict[str, np.ndarray]:
    """T_base_link (4, 4) of every link in float64, link by link, written apart from the package's own code.

    Reads the file with the standard library, rotates with Rodrigues' formula and follows <mimic> by hand.
    """
    root = _xml(urdf)
    joints = root.findall("joint")
    by_name = {j.attrib["name"]: j for j in joints}

    def value(name: str) -> float:
        mimic = by_name[name].find("mimic")
        if mimic is None:
            return values[name]
        factor, shift = float(mimic.get("multiplier", 1)), float(mimic.get("offset", 0))
        return factor * value(mimic.attrib["joint"]) + shift

    children = {j.find("child").attrib["link"]: j for j in joints}  # type: ignore[union-attr]

    @cache
    def pose(link: str) -> np.ndarray:
        if link not in children:
            return np.eye(4)
        joint = children[link]
        origin = joint.find("origin")
        assert origin is not None
        xyz = [float(v) for v in origin.get("xyz", "0 0 0").split()]
        roll, pitch, yaw = (float(v) for v in origin.get("rpy", "0 0 0").split())
        fixed = np.eye(4)
        fixed[:3, :3] = (
            rodrigues([0, 0, 1], yaw) @ rodrigues([0, 1, 0], pitch) @ rodrigues([1, 0, 0], roll)
        )
        fixed[:3, 3] = xyz
        moved = np.eye(4)
        if joint.attrib["type"] != "fixed":
            axis = np.array([float(v) for v in joint.find("axis").attrib["xyz"].split()])  # type: ignore[union-attr]
            axis /= np.linalg.norm(axis)
            if joint.attrib["type"] == "prismatic":
                moved[:3, 3] = axis * value(joint.attrib["name"])
            else:
                moved[:3, :3] = rodrigues(axis, value(joint.attrib["name"]))
        return pose(joint.find("parent").attrib["link"]) @ fixed @ moved  # type: ignore[union-attr]

    return {e.attrib["name"]: pose(e.attrib["name"]) for e in root.findall("link")}


@cache
def _xml(urdf: Path) -> ElementTree.Element:
    return ElementTree.parse(urdf).getroot()


def rodrigues(axis: list[float] | np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis
    S = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=float)
    return np.eye(3) + np.sin(angle) * S + (1 - np.cos(angle)) * S @ S


Writer = Callable[..., Path]

GOOD = """<robot name="two">
  <link name="base"><visual><geometry><box size="0.1 0.1 0.1"/></geometry></visual></link>
  <link name="arm"><visual><geometry><mesh filename="arm.stl"/></geometry></visual></link>
  <joint name="turn" type="revolute">
    <parent link="base"/><child link="arm"/><origin xyz="0 0 0.1" rpy="0 0 0"/>
    <axis xyz="0 0 1"/><limit lower="-1" upper="1" velocity="1" effort="1"/>
  </joint>
</robot>
"""


@pytest.fixture
def write_urdf(tmp_path: Path) -> Writer:
    """Writes a URDF (a good one, with replacements, or any text) beside a good mesh; returns its path."""
    import trimesh

    folder = tmp_path / "robot"
    folder.mkdir()
    (folder / "arm.stl").write_bytes(
        trimesh.creation.box((0.02, 0.02, 0.3)).export(file_type="stl")
    )

    def write(*replacements: tuple[str, str], text: str = GOOD) -> Path:
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = folder / "robot.urdf"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def to_tensor(values: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.as_tensor(values, dtype=dtype)
