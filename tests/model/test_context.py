"""The part of the scene that the network looks at."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pointworld.model import ModelSpec, WorldModel, collate
from pointworld.model.context import nearest_to_robot
from pointworld.ptv3 import PTv3Arch
from pointworld.types import RobotFlow, ScenePoints

ARCH = PTv3Arch(
    name="test",
    in_channels=8,
    enc_depths=(1, 1),
    enc_channels=(8, 8),
    enc_heads=(2, 2),
    dec_depths=(1,),
    dec_channels=(8,),
    dec_heads=(2,),
    patch_size=16,
    drop_path=0.0,
)
KEPT = 30


def pair(seed: int, points: int, channels: int) -> tuple[ScenePoints, RobotFlow]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scene = ScenePoints(
        points=draw(points, 3) * 0.2,
        colors=torch.rand(points, 3, generator=generator, dtype=torch.float64),
        normals=torch.nn.functional.normalize(draw(points, 3), dim=-1),
        features=draw(points, channels) if channels else None,
    )
    path = 0.02 * torch.arange(11, dtype=torch.float64)[:, None, None]
    robot = RobotFlow(
        positions=draw(14, 3) * 0.03 + path,
        normals=torch.nn.functional.normalize(draw(11, 14, 3), dim=-1),
        gripper_open=torch.ones(11, 1, dtype=torch.float64),
        step_dt=0.1,
    )
    return scene, robot


def make_model(channels: int) -> WorldModel:
    torch.manual_seed(0)
    spec = ModelSpec(arch=ARCH, image_channels=channels, robot_tokens=5, context_points=KEPT)
    return WorldModel(spec).double().eval()


@pytest.mark.parametrize("channels", [0, 3])
def test_the_kept_points_are_predicted_as_if_they_were_the_scene(channels: int) -> None:
    model = make_model(channels)
    scene, robot = pair(1, 80, channels)
    whole = model(collate([(scene, robot)]))
    index = nearest_to_robot(collate([(scene, robot)]), KEPT)[0]
    alone = model(collate([(scene.select(index), robot)]))
    assert (whole.displacements[0][:, index] - alone.displacements[0]).abs().max() < 1e-10
    assert (whole.log_var[0][:, index] - alone.log_var[0]).abs().max() < 1e-10
    rest = torch.ones(80, dtype=torch.bool)
    rest[index] = False
    assert not whole.displacements[0][:, rest].any()
    assert (whole.log_var[0][1:, rest] == math.log(1e-6)).all()
    assert not whole.log_var[0][0].any()


def test_the_kept_points_are_the_nearest_to_the_path() -> None:
    scene, robot = pair(2, 80, 0)
    index = nearest_to_robot(collate([(scene, robot)]), KEPT)[0]
    reach = torch.cdist(scene.points, robot.positions.flatten(0, 1)).min(-1).values
    assert set(index.tolist()) == set(reach.argsort()[:KEPT].tolist())
    assert (index.diff() > 0).all()


def test_padding_and_batch_mates_change_nothing() -> None:
    model = make_model(3)
    pairs = [pair(3, 80, 3), pair(4, 20, 3), pair(5, 140, 3)]
    together = model(collate(pairs))
    for row, (scene, robot) in enumerate(pairs):
        alone = model(collate([(scene, robot)]))
        difference = together.displacements[row, :, : len(scene)] - alone.displacements[0]
        assert difference.abs().max() < 1e-10


def test_predict_uses_the_same_points_and_image_tokens() -> None:
    model = make_model(3)
    scene, robot = pair(6, 80, 3)
    predicted = model.predict(scene, robot)
    direct = model(collate([(scene, robot)]))
    assert (predicted.displacements - direct.displacements[0]).abs().max() < 1e-10
    everything = WorldModel(replace(model.spec, context_points=0)).double().eval()
    everything.load_state_dict(model.state_dict())
    assert (everything.predict(scene, robot).displacements != 0).any(-1)[1:].all()
