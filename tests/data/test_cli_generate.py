"""`pointworld generate`: one JSON object on stdout, resumable, clear errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pointworld
from pointworld.cli.common import parse
from pointworld.cli.generate import GenerateArgs, main
from pointworld.data import list_clips, read_clip
from pointworld.errors import AssetError, InputError
from pointworld.robot import RobotModel

SMALL = [
    "--workers",
    "1",
    "--renderer",
    "rays",
    "--tabletop.height",
    "72",
    "--tabletop.width",
    "128",
    "--seed",
    "4",
]


def test_generate_writes_clips_and_one_json_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mujoco")
    assert main(["--out", str(tmp_path), "--clips", "2", "--json", *SMALL]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["made"] == 2 and summary["bytes_max"] <= 200_000
    assert {"touched", "moved", "tipped"} == set(summary["shares"])
    clip = read_clip(list_clips(tmp_path)[0])
    assert clip.views[0].rgb.shape == (72, 128, 3) and clip.num_steps == 11
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["seed"] == 4 and run["command"] == "generate"
    assert json.loads((tmp_path / "manifest.json").read_text())["tabletop"]["shapes"] == "train"


def test_the_record_tells_of_every_run_that_made_clips(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    record, here = tmp_path / "run.json", [*SMALL, "--workers", "0"]
    assert main(["--out", str(tmp_path), "--clips", "1", *here]) == 0
    first = record.read_bytes()
    assert main(["--out", str(tmp_path), "--clips", "1", *here]) == 0
    assert record.read_bytes() == first, "a run that had nothing to do leaves no trace"
    assert main(["--out", str(tmp_path), "--clips", "2", *here]) == 0
    run, before = json.loads(record.read_text()), json.loads(first)
    assert run["summary"]["made"] == 2 and sum(run["summary"]["families"].values()) == 2
    assert run["timings_s"]["generate"] > before["timings_s"]["generate"]
    # What cannot be read is replaced, not stumbled over.
    record.write_text(json.dumps(run | {"summary": {"made": "many"}}))
    list_clips(tmp_path)[1].write_bytes(b"half")
    assert main(["--out", str(tmp_path), "--clips", "2", *here]) == 0
    assert json.loads(record.read_text())["summary"]["made"] == 1


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "0"], "clips is 0"),
        (["--seed", "-3"], "seed is -3"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(["--out", str(tmp_path / "set"), *options])
    assert not (tmp_path / "set").exists()


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tabletop.max-objects", "12"], "objects per clip"),
        (["--tabletop.shapes", "teapots"], "teapots"),
    ],
)
def test_bad_scenes_end_with_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path / "set"), *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_shipped_configurations_can_be_read(tmp_path: Path) -> None:
    folder = Path(pointworld.__file__).parent / "configs" / "data"
    shapes = {}
    for path in sorted(folder.glob("tabletop_*.yaml")):
        args = parse(
            GenerateArgs,
            ["--config", str(path), "--out", str(tmp_path)],
            prog="pointworld generate",
        )
        shapes[path.stem] = (args.tabletop.shapes, args.seed)
    assert {name: value[0] for name, value in shapes.items()} == {
        "tabletop_test": "test",
        "tabletop_train": "train",
        "tabletop_validation": "train",
    }
    assert len({value[1] for value in shapes.values()}) == 3


@pytest.mark.rejects_input
def test_unsuitable_robots_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    with pytest.raises(AssetError):
        main(["--out", str(tmp_path / "set"), "--clips", "1", "--robot", "no_such_robot"])
    assert not (tmp_path / "set").exists()


@pytest.mark.rejects_input
def test_robot_without_the_right_joints_is_refused(tmp_path: Path) -> None:
    from pointworld.data.robot_tree import robot_tree

    urdf = tmp_path / "pointer.urdf"
    urdf.write_text(
        '<robot name="pointer"><link name="base"/><link name="arm"/><joint name="turn" type="revolute">'
        '<parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>'
        '<limit lower="-1" upper="1" effort="1" velocity="1"/></joint></robot>'
    )
    with pytest.raises(InputError, match="six or seven arm hinges"):
        robot_tree(RobotModel.load(urdf))
