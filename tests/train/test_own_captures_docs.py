"""Commands of docs/finetuning.md and docs/shards.md can be given as they stand; simulated recordings are usable."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from pointworld.capture import read_capture
from pointworld.cli.app import COMMANDS, find_command, main
from pointworld.cli.common import parse
from pointworld.data import read_clip
from pointworld.data.recordings import open_recording
from pointworld.robot import RobotModel

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(page: str) -> list[str]:
    """Every `pointworld ...` line of a page's code blocks, continuation lines joined."""
    blocks = re.findall(r"```\n(.*?)```", (DOCS / page).read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0] for line in lines if line.startswith("pointworld ")]


@pytest.mark.parametrize(
    "line", [line for page in ("finetuning.md", "shards.md") for line in commands(page)]
)
def test_commands_of_the_documentation_can_be_given(line: str) -> None:
    found = find_command(shlex.split(line)[1:])
    assert found is not None, line
    name, argv = found
    module = importlib.import_module(f"pointworld.cli.{COMMANDS[name][0]}")
    (arguments,) = [
        value
        for key, value in vars(module).items()
        if key.endswith("Args") and value.__module__ == module.__name__
    ]
    assert parse(arguments, argv, prog=f"pointworld {name}") is not None


def test_simulated_recordings_are_captures_with_a_log(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    small = "--renderer rays --tabletop.height 36 --tabletop.width 64 --noise --seed 50"
    assert (
        main(["capture", "simulate", "--recordings", "1", "--out", str(tmp_path), *small.split()])
        == 0
    )
    (folder,) = tmp_path.glob("050-*")
    capture, clip = read_capture(folder), read_clip(folder / "truth.npz")
    cameras = {frame.camera for frame in capture.frames}
    assert len(capture.frames) == 11 * len(cameras) and clip.key == "50/000000"
    # Noise is new in every frame, the wrong calibration is not.
    same = [frame for frame in capture.frames if frame.camera == min(cameras)]
    assert all((frame.T_world_cam == same[0].T_world_cam).all() for frame in same)
    assert (same[0].T_world_cam != clip.views[int(min(cameras)[3:])].T_world_cam).any()
    recording = open_recording(folder, RobotModel.load("fr3"))
    assert len(recording.joint_times) == 11
    assert abs(recording.joint_positions[:, :7] - clip.joint_positions[:, :7]).max() < 1e-9
