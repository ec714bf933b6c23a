"""The commands of docs/tutorial_splat.md, as they stand there, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from pointworld.cli.app import main

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial_splat.md"
#: What every command of the Gaussian layer prints with --json, whatever it is about.
STABLE = {"psnr", "ssim", "depth_l1_m", "gaussians", "seconds", "peak_memory_mb"}
MADE = (
    "desk/sheet.png",
    "desk/features.png",
    "orbit/color.mp4",
    "orbit/features.mp4",
    "object/query.png",
    "moved/edit.png",
    "gone/edit.png",
    "future/color.mp4",
    "future/depth.mp4",
    "future/features.mp4",
    "future/sheet.png",
)


def commands() -> list[list[str]]:
    """The arguments of every command in the page's plain code blocks."""
    blocks = re.findall(r"^```\n(.*?)^```", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines() if line]
    assert all(line[0] == "pointworld" for line in lines)
    return [line[1:] for line in lines]


def test_the_page_shows_every_command_of_the_gaussian_layer() -> None:
    named = {line[1] for line in commands() if line[0] == "splat"}
    assert named >= {"fit", "render", "query", "edit", "mesh"}


@pytest.mark.slow
def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("mujoco", "numba", "av", "open3d"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    for command in commands():
        splat = command[0] == "splat"
        capsys.readouterr()
        assert main([*command, *(["--json"] if splat else [])]) == 0, command
        if splat:
            summary = json.loads(capsys.readouterr().out)
            assert set(summary) >= STABLE, (command, sorted(STABLE - set(summary)))
            assert summary["gaussians"] > 0 and summary["seconds"] > 0
    for name in MADE:
        assert (tmp_path / "out" / name).is_file(), name
    future = json.loads((tmp_path / "out" / "future" / "run.json").read_text())["summary"]
    assert future["robot"] == "scene" and future["moving_gaussians"] > 100
    assert future["future"]["predicted"]["psnr"] > 18
    assert list((tmp_path / "out" / "mesh").glob("*.glb"))
