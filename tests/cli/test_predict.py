"""`pointworld predict` end to end on a small capture written to disk, and the input it must refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.capture.write import write_capture
from pointworld.cli.app import main
from pointworld.model import ModelSpec, WorldModel, load, save_checkpoint
from pointworld.robot import RobotModel
from pointworld.types import Capture, RGBDFrame
from tests.model.released_file import write_toy
from tests.model.test_rollout import arch

HEIGHT, WIDTH = 90, 160
K = np.array([[130.0, 0, WIDTH / 2], [0, 130.0, HEIGHT / 2], [0, 0, 1]])


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    T[:3, 3] = eye
    return T


def table_frame(name: str, eye: tuple[float, float, float]) -> RGBDFrame:
    """A table at z = 0 seen from `eye`, in the robot's base frame."""
    T = look_at(np.array(eye), np.array([0.5, 0.0, 0.0]))
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    down = (rays @ T[:3, :3].T)[..., 2]
    depth = np.where(down < -1e-3, -eye[2] / np.minimum(down, -1e-3), 0.0)
    depth = np.where(depth < 2.5, depth, 0.0).astype(np.float32)
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = 200, np.arange(WIDTH)
    return RGBDFrame(
        rgb=rgb, depth=depth, valid=depth > 0, K=K, T_world_cam=T, name=name, camera=name
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture, a checkpoint without image features, and a joint path."""
    folder = tmp_path_factory.mktemp("predict")
    frames = (table_frame("left", (0.2, 0.6, 0.5)), table_frame("right", (0.2, -0.6, 0.5)))
    capture = Capture(frames=frames, source="test", T_world_base=np.eye(4))
    write_capture(capture, folder / "capture")
    write_capture(Capture(frames=frames, source="test"), folder / "unplaced")
    torch.manual_seed(1)
    model = WorldModel(ModelSpec(arch=arch(), max_robot_points=40, max_scene_points=900))
    model.norm_stats_per_step_var.fill_(1e-4)
    save_checkpoint(model, folder / "checkpoint")
    robot = RobotModel.load("fr3")
    q = np.tile(robot.home, (8, 1))
    q[:, 0] += np.linspace(0.0, 0.3, 8)
    np.savez(
        folder / "path.npz",
        joint_positions=q[:, :7],
        joint_names=np.array(robot.joint_names[:7]),
        step_dt=0.2,
        gripper_width=np.full(8, 0.04),
    )
    return folder


def arguments(shared: Path, out: Path, **changes: str) -> list[str]:
    options = {
        "robot": "fr3",
        "trajectory": str(shared / "path.npz"),
        "out": str(out),
        "checkpoint": str(shared / "checkpoint"),
        "device": "cpu",
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    capture = options.pop("capture", str(shared / "capture"))
    return ["predict", capture, *(f"--{key}={value}" for key, value in options.items())]


def test_result_follows_the_file_contract(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result"
    out.mkdir()
    (out / "truth.npz").write_bytes(b"of the prediction before")
    assert main([*arguments(shared, out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert sorted(p.name for p in out.iterdir()) == ["prediction.npz", "run.json"]
    with np.load(out / "prediction.npz", allow_pickle=False) as file:
        result = {name: file[name] for name in file.files}
    assert set(result) == {
        "points",
        "colors",
        "displacements",
        "log_var",
        "robot_positions",
        "step_dt",
    }
    # Seven intervals of 0.2 s are fifteen steps of the checkpoint's 0.1 s: two chunks, the second one cut.
    steps, count = 15, len(result["points"])
    assert result["points"].shape == result["colors"].shape == (count, 3)
    assert 300 < count <= 900
    assert result["displacements"].shape == (steps, count, 3)
    assert result["log_var"].shape == (steps, count, 1)
    assert result["robot_positions"].shape == (steps, 40, 3)
    assert float(result["step_dt"]) == pytest.approx(0.1)
    assert (result["displacements"][0] == 0).all()
    assert np.isnan(result["log_var"][0]).all()
    assert np.isfinite(result["log_var"][1:]).all()
    assert np.abs(result["points"][:, 2]).max() < 5e-3, "the table is at z = 0 of the base frame"
    assert result["colors"][:, 0] == pytest.approx(200 / 255, abs=1e-5)
    assert summary["points"] == count
    assert summary["steps"] == steps
    run = json.loads((out / "run.json").read_text())
    assert run["command"] == "predict"
    assert run["frames"] == ["left", "right"]
    assert run["robot"] == "fr3"
    assert len(run["joint_positions"]) == steps


def test_robot_positions_are_those_of_the_resampled_path(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "result"
    assert main(arguments(shared, out)) == 0
    robot = RobotModel.load("fr3")
    run = json.loads((out / "run.json").read_text())
    joints = np.array(run["joint_positions"])
    assert joints[1, 0] - joints[0, 0] == pytest.approx(0.3 / 14, abs=1e-6)
    surface = robot.sample_surface(40, links="gripper", seed=0)
    flow = robot.flow(surface, torch.from_numpy(joints).float(), step_dt=0.1)
    with np.load(out / "prediction.npz") as file:
        assert np.allclose(file["robot_positions"], flow.positions.numpy(), atol=1e-5)


def test_options_choose_frames_base_and_workspace(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "result"
    changes = {
        "capture": str(shared / "unplaced"),
        "frames": "1",
        "base_pose": "0.1,0,0,1,0,0,0",
        "workspace": "0.2,-0.3,-0.1,0.6,0.3,0.6",
    }
    assert main(arguments(shared, out, **changes)) == 0
    with np.load(out / "prediction.npz") as file:
        points = file["points"]
    assert points[:, 0].min() >= 0.2
    assert points[:, 0].max() <= 0.6
    run = json.loads((out / "run.json").read_text())
    assert run["frames"] == ["right"]
    assert run["summary"]["T_world_base"][0][3] == pytest.approx(0.1)


def test_csv_path_and_config_file(shared: Path, tmp_path: Path) -> None:
    with np.load(shared / "path.npz") as file:
        names, q = [str(n) for n in file["joint_names"]], file["joint_positions"]
    header = ",".join([*names, "step_dt"])
    rows = [",".join(map(str, [*row, 0.2])) for row in q]
    (tmp_path / "path.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "options.yaml").write_text(f"checkpoint: {shared / 'checkpoint'}\nseed: 3\n")
    out = tmp_path / "result"
    words = arguments(shared, out, trajectory=str(tmp_path / "path.csv"))
    words = [word for word in words if not word.startswith("--checkpoint")]
    assert main([*words, "--config", str(tmp_path / "options.yaml")]) == 0
    assert json.loads((out / "run.json").read_text())["seed"] == 3


def _broken_path(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path, Path], str]:
    def make(shared: Path, folder: Path) -> str:
        with np.load(shared / "path.npz") as file:
            values = {name: file[name] for name in file.files}
        change(values)
        np.savez(folder / "path.npz", **values)
        return str(folder / "path.npz")

    return make


REFUSED: dict[str, tuple[dict[str, str | Callable[[Path, Path], str]], str]] = {
    "no base pose": ({"capture": lambda s, _: str(s / "unplaced")}, "--base-pose auto"),
    "empty folder": ({"capture": lambda _, t: str(t)}, "empty"),
    "unknown checkpoint": ({"checkpoint": "nothing"}, "no checkpoint 'nothing'"),
    "unknown robot": ({"robot": "fr33"}, "fr33"),
    "frame outside": ({"frames": "7"}, "outside the capture's 2 frames"),
    "frames not numbers": ({"frames": "a"}, "whole numbers"),
    "zero scene points": ({"workspace": "0.2,-0.3,0.3,0.9,0.3,0.9"}, "no scene points"),
    "robot out of reach": ({"workspace": "-0.3,0.5,-0.1,0,0.8,0.1"}, "no robot point comes into"),
    "workspace upside down": ({"workspace": "1,1,1,0,0,0"}, "not a box"),
    "unknown joint": (
        {"trajectory": _broken_path(lambda v: v.update(joint_names=np.array(list("abcdefg"))))},
        "joint",
    ),
    "joints missing": (
        {
            "trajectory": _broken_path(
                lambda v: v.update(
                    joint_names=v["joint_names"][:5], joint_positions=v["joint_positions"][:, :5]
                )
            )
        },
        "fr3_joint6",
    ),
    "NaN in the path": (
        {"trajectory": _broken_path(lambda v: v["joint_positions"].__setitem__((2, 3), np.nan))},
        "NaN",
    ),
    "beyond limits": (
        {"trajectory": _broken_path(lambda v: v["joint_positions"].__imul__(57.3))},
        "degrees",
    ),
    "unknown domain": ({"domain": "mars"}, "domain 'mars' is unknown"),
    "no cuda": ({"device": "cuda"}, "--device cpu"),
}


@pytest.mark.rejects_input
@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_ends_in_one_line_exit_code_2_and_no_output(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name == "no cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    changes, message = REFUSED[name]
    (tmp_path / "in").mkdir()
    plain = {k: v if isinstance(v, str) else v(shared, tmp_path / "in") for k, v in changes.items()}
    out = tmp_path / "result"
    assert main(arguments(shared, out, **plain)) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == ""
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert "Traceback" not in captured.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_released_checkpoint_predicts_on_the_capture(shared: Path, tmp_path: Path) -> None:
    """The released path whole: its encoder, sampling, robot points, time step and centred frame."""
    from pointworld.model.released_checkpoint import convert_released
    from tests.model.test_released_checkpoint import SIZES

    file = write_toy(tmp_path / "toy.pt", seed=5)
    convert_released(file, tmp_path / "toy", sizes=SIZES)
    assert load(tmp_path / "toy").spec.sampling == "released"
    robot = RobotModel.load("panda_robotiq")
    q = np.tile(robot.home, (12, 1))
    q[:, 0] += np.linspace(0.0, 0.2, 12)
    np.savez(
        tmp_path / "path.npz",
        joint_positions=q,
        joint_names=np.array(robot.joint_names),
        step_dt=2 / 15,
    )
    out = tmp_path / "result"
    words = arguments(
        shared,
        out,
        robot="panda_robotiq",
        trajectory=str(tmp_path / "path.npz"),
        checkpoint=str(tmp_path / "toy"),
    )
    assert main(words) == 0
    with np.load(out / "prediction.npz") as file:
        assert float(file["step_dt"]) == pytest.approx(2 / 15)
        assert file["displacements"].shape[0] == 12
        assert np.isfinite(file["displacements"]).all()
        assert file["robot_positions"].shape[1] == 500
