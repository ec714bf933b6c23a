"""`splat simulate` before the solver: which object, on what, pushed by which robot, with what in its way."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.cli.common import parse
from pointworld.cli.splat_future import read_prediction
from pointworld.cli.splat_pictures import Look
from pointworld.cli.splat_simulate import (
    SplatSimulateArgs,
    demo_setup,
    obstacle_points,
    scene_at,
    scene_setup,
)
from pointworld.cli.splat_simulate_robot import robot_in_scene
from pointworld.errors import InputError
from pointworld.geometry import transform_points
from pointworld.robot import RobotModel
from splat.io import write_native
from splat.physics import Simulation
from splat.physics_demo import jelly_cube
from splat.physics_particles import bind_skin
from splat.physics_types import MATERIALS
from splat.raster import get_rasterizer
from splat.types import GaussianScene, concatenate
from tests.splat.fit.room import room

TURN = np.array(
    [[0.0, -1.0, 0.0, 0.4], [1.0, 0.0, 0.0, -0.2], [0.0, 0.0, 1.0, 0.1], [0.0, 0.0, 0.0, 1.0]]
)


@pytest.fixture
def scene_file(tmp_path: Path) -> Path:
    """A jelly cube (object 0) on a floor, a small post beside it (object 1), and two cameras."""
    made = jelly_cube(count=8)
    post = torch.tensor([[0.1, 0.02, h] for h in np.arange(0.01, 0.05, 0.004)])
    count = len(post)
    extra = GaussianScene(
        means=post.float(),
        quats_wxyz=torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        log_scales=torch.full((count, 3), -5.5),
        opacity_logits=torch.full((count,), 4.0),
        sh=torch.zeros(count, 1, 3),
    )
    ids = torch.cat([made.mask.long() - 1, torch.full((count,), 1)])
    scene = concatenate([made.scene, extra])
    scene = GaussianScene(
        **{n: getattr(scene, n) for n in ("means", "quats_wxyz", "log_scales", "sh")},
        opacity_logits=scene.opacity_logits,
        ids=ids,
    )
    away = made.viewmat.clone()
    away[2, 3] += 3.0
    path = tmp_path / "scene.safetensors"
    write_native(
        scene,
        path,
        tensors={
            "camera_viewmats": torch.stack([away, made.viewmat]),
            "camera_K": torch.stack([made.K, made.K]),
        },
        metadata={
            "cameras": json.dumps(["far", "near"]),
            "size": json.dumps([320, 240]),
            "object_planes": json.dumps({"0": [0.0, 0.0, 1.0, 0.0, 0.004]}),
        },
    )
    return path


@pytest.fixture
def prediction(tmp_path: Path) -> Path:
    folder = tmp_path / "prediction"
    folder.mkdir()
    robot = np.random.default_rng(0).random((11, 5, 3)).astype(np.float32)
    points = np.zeros((4, 3), np.float32)
    np.savez(
        folder / "prediction.npz",
        points=points,
        colors=points,
        displacements=np.zeros((11, 4, 3), np.float32),
        step_dt=np.array(0.1),
        robot_positions=robot,
    )
    (folder / "run.json").write_text(json.dumps({"summary": {"T_world_base": TURN.tolist()}}))
    return folder


def _args(words: str) -> SplatSimulateArgs:
    return parse(SplatSimulateArgs, ["--out", "unused", *words.split()], prog="test")


def test_an_object_stands_on_what_the_query_found(scene_file: Path) -> None:
    args = _args(f"{scene_file} --object 0 --material plastic --yield-stress 700")
    setup = scene_setup(args)
    assert setup.stored.scene.ids is not None
    assert torch.equal(setup.mask, setup.stored.scene.ids == 0)
    assert np.allclose(setup.plane.normal, [0, 0, 1]) and setup.plane.offset == 0
    assert setup.material.kind == "plastic" and setup.material.yield_stress == 700
    assert setup.material.density == MATERIALS["plastic"].density
    near = torch.allclose(setup.viewmat, setup.stored.tensors["camera_viewmats"][1])
    assert near and setup.size == (640, 480) and setup.K[0, 0] == 720
    named = scene_setup(_args(f"{scene_file} --object 0 --camera far --scale 1"))
    assert torch.equal(named.viewmat, setup.stored.tensors["camera_viewmats"][0])


def test_other_things_are_in_the_way_unless_said_otherwise(scene_file: Path) -> None:
    args = _args(f"{scene_file} --object 0")
    found = obstacle_points(args, scene_setup(args))
    assert found is not None and len(found) >= 8
    assert (found[:, 0] - 0.1).abs().max() < 1e-6
    args = _args(f"{scene_file} --object 0 --no-obstacles")
    assert obstacle_points(args, scene_setup(args)) is None


def test_everything_on_a_given_support(scene_file: Path) -> None:
    # The normal is turned towards the cameras, whichever way it is given.
    args = _args(f"{scene_file} --all --support 0 0 -2 0.008")
    setup = scene_setup(args)
    assert np.allclose(setup.plane.normal, [0, 0, 1])
    assert setup.plane.offset == pytest.approx(-0.004)
    ids = setup.stored.scene.ids
    assert ids is not None and bool(setup.mask[ids == 1].all()) and bool(setup.mask[ids == 0].any())
    assert not setup.mask[ids == -1].any()


def test_the_robot_of_a_prediction_pushes_in_the_scenes_world(
    scene_file: Path, prediction: Path
) -> None:
    setup = scene_setup(_args(f"{scene_file} --object 0 --robot {prediction} --robot-radius 0.01"))
    assert setup.push is not None
    assert setup.push.step_dt == pytest.approx(0.1) and setup.push.radius == 0.01
    with np.load(prediction / "prediction.npz", allow_pickle=False) as arrays:
        wanted = transform_points(TURN, arrays["robot_positions"].astype(np.float64))
    assert np.allclose(setup.push.positions.numpy(), wanted)


def test_the_robot_moves_in_the_pictures_and_what_is_simulated_is_no_part_of_it(
    scene_file: Path, prediction: Path, tmp_path: Path
) -> None:
    args = _args(f"{scene_file} --object 0 --robot {prediction}")
    setup = scene_setup(args)
    times = np.array([0.0, 0.05, 0.1, 0.3])
    looks = [Look(viewmat=setup.viewmat, K=setup.K, size=setup.size)]
    options = {"looks": looks, "rasterizer": get_rasterizer("cpu")}
    plain = read_prediction(prediction)
    assert robot_in_scene(setup.scene, plain, times, setup.mask, **options) is None
    write_capture(room(frames=2), tmp_path / "capture")
    model = RobotModel.load("fr3")
    joints = np.zeros((3, len(model.joint_names)))
    joints[:, 3], joints[:, 5], joints[:, 0] = -1.5, 1.5, [0.0, 0.2, 0.4]
    known = replace(
        plain,
        capture=tmp_path / "capture",
        result=replace(plain.result, robot="fr3", joint_positions=joints),
    )
    robot = robot_in_scene(setup.scene, known, times, setup.mask, **options)
    assert robot is not None
    count = len(setup.scene)
    assert (robot.owner[:count] < 0).all() and (robot.owner[count:] >= 0).all()
    path = np.stack([joints[0], joints[0], joints[1], joints[2]])
    path[1, 0] = 0.1
    T = torch.from_numpy(TURN) @ model.forward_kinematics(torch.from_numpy(path)).double()
    for frame in range(4):
        now, links = robot.at(frame), robot.owner[count:]
        assert torch.equal(now.means[:count], setup.scene.means)
        motion = (T[frame] @ torch.linalg.inv(T[0]))[links]
        first = robot.scene.means[count:].double()
        wanted = (motion[:, :3, :3] @ first[..., None])[..., 0] + motion[:, :3, 3]
        assert (now.means[count:] - wanted).abs().max() < 1e-4
    # The simulated object goes its own way in the same picture.
    rest = setup.scene.means[setup.mask].double()
    simulation = Simulation(
        times=torch.from_numpy(times),
        positions=rest + torch.tensor([0.0, 0.0, 0.02]) * torch.arange(4)[:, None, None],
        deformations=torch.eye(3).double().expand(4, len(rest), 3, 3),
        volume_ratios=torch.ones(4).double(),
        energies=(),
        mass=1.0,
        spacing=0.01,
        steps=3,
        binding=bind_skin(setup.scene.means[setup.mask], rest, 1),
    )
    shown = scene_at(setup, simulation, robot, 3)
    lifted = shown.means[:count][setup.mask] - setup.scene.means[setup.mask]
    assert torch.allclose(lifted, torch.tensor([0.0, 0.0, 0.06]).expand_as(lifted), atol=1e-5)
    assert torch.equal(shown.means[count:], robot.at(3).means[count:])
    assert shown.moving is not None and bool(shown.moving[:count][setup.mask].all())


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    "words,message",
    [
        ("{scene}", "--object"),
        ("{scene} --object 7", "no object 7"),
        ("{scene} --object 1", "--support"),
        ("{scene} --all --support 0 0 0 1", "no direction"),
        ("{scene} --object 0 --poisson-ratio 0.7", "Poisson"),
        ("", "--demo"),
    ],
)
def test_unclear_orders_are_refused(scene_file: Path, words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scene_setup(_args(words.format(scene=scene_file)))


@pytest.mark.rejects_input
def test_a_demo_takes_no_scene(scene_file: Path) -> None:
    with pytest.raises(InputError, match="not both"):
        demo_setup(_args(f"{scene_file} --demo sand"))


@pytest.mark.skipif(
    importlib.util.find_spec("newton") is not None, reason="the extra physics is installed"
)
def test_without_the_extra_it_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"splat simulate --demo sand --physics.particles 100 --out {tmp_path / 'out'}"
    assert main(words.split()) == 2
    assert "pointworld-open[physics]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
