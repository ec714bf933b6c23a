"""Synthetic released files of both domains, in both containers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import trimesh

from pointworld.data.released import RawClip, synthetic
from pointworld.robot import RobotModel

#: Without the extra `datasets` there is nothing to test here.
collect_ignore_glob = [] if find_spec("h5py") and find_spec("webdataset") else ["test_*.py"]

UUID = "SYNTH+0a1b2c3d+2023-01-01-00h-00m-00s"


@dataclass(frozen=True)
class Files:
    """One clip in both containers."""

    raw: RawClip
    h5: Path
    shard: Path
    root: Path


@pytest.fixture(scope="session")
def droid(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A DROID clip, its H5 named as released (`_flows`), its shard key without it."""
    root = tmp_path_factory.mktemp("droid")
    raw = synthetic.droid_clip(
        np.random.default_rng(3), key=f"{UUID}-5:16", serials=("1", "2", "3")
    )
    h5 = root / f"{UUID}_flows.h5"
    synthetic.write_h5(h5, {"5:16": raw})
    return Files(raw, h5, synthetic.write_wds(root, "test", {raw.key: raw}), root)


@pytest.fixture(scope="session")
def behavior(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("behavior")
    raw = synthetic.behavior_clip(np.random.default_rng(4), joint_names=("torso", "left_slide"))
    h5 = root / "task-0000" / "episode_00000010.hdf5"
    synthetic.write_h5(h5, {"0:11": raw})
    return Files(raw, h5, synthetic.write_wds(root, "test", {raw.key: raw}), root)


@pytest.fixture(scope="session")
def panda() -> RobotModel:
    return RobotModel.load("panda_robotiq")


@pytest.fixture(scope="session")
def two_arms(tmp_path_factory: pytest.TempPathFactory) -> RobotModel:
    """A robot with two gripper boxes, 1 m apart, named as the links of the R1 Pro; a joint the clips do not have."""
    folder = tmp_path_factory.mktemp("robot")
    joints = ""
    for side, y in (("left", 0.5), ("right", -0.5)):
        trimesh.creation.box((0.06, 0.04, 0.1)).export(folder / f"{side}_gripper_link.stl")
        joints += (
            f'<link name="{side}_gripper_link"><visual><geometry><mesh filename="{side}_gripper_link.stl"/></geometry>'
            f'</visual></link><joint name="{side}_slide" type="prismatic"><parent link="base"/>'
            f'<child link="{side}_gripper_link"/><origin xyz="0.4 {y} 0.2"/><axis xyz="1 0 0"/>'
            '<limit lower="-1" upper="1" effort="1" velocity="1"/></joint>'
        )
    urdf = folder / "two_arms.urdf"
    urdf.write_text(f'<robot name="two_arms"><link name="base"/>{joints}</robot>')
    return RobotModel.load(urdf)
