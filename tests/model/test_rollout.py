"""Predictions of any length and for many candidates."""

from __future__ import annotations

import math

import pytest
import torch

from pointworld.errors import InputError
from pointworld.geometry import point_clusters
from pointworld.model import ModelSpec, WorldModel, collate
from pointworld.model.prepare import pad_steps, prepare_released, released_gripper
from pointworld.model.rollout import carry_normals
from pointworld.ptv3 import PTv3Arch
from pointworld.types import RobotFlow, ScenePoints

DT = 0.1


def arch(width: int = 16) -> PTv3Arch:
    return PTv3Arch(
        name="test",
        in_channels=width,
        enc_depths=(2, 1),
        enc_channels=(width, 32),
        enc_heads=(2, 4),
        dec_depths=(1,),
        dec_channels=(width,),
        dec_heads=(2,),
        patch_size=32,
        drop_path=0.0,
    )


def make_model(
    mode: str = "stable", image_channels: int = 0, grippers: int = 1, robot_tokens: int = 0
) -> WorldModel:
    torch.manual_seed(0)
    spec = ModelSpec(
        arch=arch(),
        mode=mode,  # type: ignore[arg-type]
        features="relative" if mode == "stable" else "released",
        sliding=mode == "stable",
        image_channels=image_channels,
        encoder="rgb" if image_channels else None,
        step_dt=DT,
        grippers=grippers,
        robot_tokens=robot_tokens,
    )
    model = WorldModel(spec)
    # Centimetres per step, as a trained model has them.
    model.norm_stats_per_step_var.fill_(1e-4)
    return model.eval()


def make_scene(generator: torch.Generator, count: int = 120, channels: int = 0) -> ScenePoints:
    normals = torch.randn(count, 3, generator=generator)
    return ScenePoints(
        points=torch.rand(count, 3, generator=generator) * 0.4,
        colors=torch.rand(count, 3, generator=generator),
        normals=normals / normals.norm(dim=-1, keepdim=True),
        features=torch.randn(count, channels, generator=generator) if channels else None,
    )


def make_flow(
    generator: torch.Generator, *batch: int, steps: int = 11, points: int = 30, grippers: int = 1
) -> RobotFlow:
    base = torch.rand(1, points, 3, generator=generator) * 0.1
    motion = torch.cumsum(0.02 * torch.randn(*batch, steps, 1, 3, generator=generator), -3)
    positions = base + motion
    return RobotFlow(
        positions=positions,
        normals=torch.full_like(positions, 3**-0.5),
        gripper_open=torch.ones(*batch, steps, grippers),
        step_dt=DT,
    )


@pytest.mark.parametrize("mode", ["stable", "released"])
def test_one_chunk_is_the_forward_pass(mode: str, generator: torch.Generator) -> None:
    model, scene, flow = make_model(mode), make_scene(generator), make_flow(generator)
    prediction = model.predict(scene, flow)
    if mode == "stable":
        inputs, kept = collate([(scene, flow)]), torch.arange(len(scene))
    else:
        chunk = prepare_released(scene, flow, model.spec)
        inputs, kept = chunk.inputs, chunk.kept
    with torch.no_grad():
        outputs = model(inputs)
    torch.testing.assert_close(prediction.displacements[:, kept], outputs.displacements[0])
    torch.testing.assert_close(prediction.log_var[1:, kept], outputs.log_var[0, 1:])
    assert bool((prediction.displacements[0] == 0).all())
    assert bool(torch.isnan(prediction.log_var[0]).all())
    assert not bool(torch.isnan(prediction.log_var[1:]).any())
    assert float(prediction.displacements.abs().max()) > 1e-4


@pytest.mark.parametrize("mode", ["stable", "released"])
def test_candidates_do_not_influence_each_other(mode: str, generator: torch.Generator) -> None:
    model, scene = make_model(mode, image_channels=6), make_scene(generator, channels=6)
    flow = make_flow(generator, 2, 3)
    together = model.predict(scene, flow)
    assert together.displacements.shape == (2, 3, 11, len(scene), 3)
    assert together.log_var.shape == (2, 3, 11, len(scene), 1)
    bounded = model.predict(scene, flow, max_tokens=1000)
    torch.testing.assert_close(together.displacements, bounded.displacements, atol=1e-6, rtol=0)
    alone = model.predict(
        scene,
        RobotFlow(
            positions=flow.positions[1, 2],
            normals=flow.normals[1, 2],
            gripper_open=flow.gripper_open[1, 2],
            step_dt=DT,
        ),
    )
    torch.testing.assert_close(together.displacements[1, 2], alone.displacements, atol=1e-6, rtol=0)


def test_image_features_matter_and_are_projected_once(generator: torch.Generator) -> None:
    model, scene = make_model(image_channels=6), make_scene(generator, channels=6)
    calls: list[int] = []
    encoder = model.scene_feature_encoder.scene_encoder
    assert encoder is not None
    encoder.register_forward_hook(lambda *_: calls.append(1))
    flow = make_flow(generator, 4, steps=21)
    prediction = model.predict(scene, flow, max_tokens=500)
    assert len(calls) == 1
    assert scene.features is not None
    other = ScenePoints(
        points=scene.points,
        colors=scene.colors,
        normals=scene.normals,
        features=scene.features.flip(0),
    )
    changed = model.predict(other, flow)
    assert float((prediction.displacements - changed.displacements).abs().max()) > 1e-5


@pytest.mark.parametrize("mode", ["stable", "released"])
def test_chunks_continue_where_the_last_one_ended(mode: str, generator: torch.Generator) -> None:
    model, scene = make_model(mode, image_channels=6), make_scene(generator, channels=6)
    flow = make_flow(generator, steps=17)
    whole = model.predict(scene, flow)
    assert whole.displacements.shape[0] == 17
    first = model.predict(scene, flow.steps(0, 11))
    torch.testing.assert_close(whole.displacements[:11], first.displacements)
    if mode == "released":
        return  # There the second chunk keeps the tokens of the first, which a fresh prediction would choose anew.
    end = scene.points + first.displacements[-1]
    moved = ScenePoints(
        points=end,
        colors=scene.colors,
        normals=carry_normals(scene.points[None], end[None], scene.normals[None])[0],
        features=scene.features,
        clusters=point_clusters(scene.points, scene.normals),
    )
    second = model.predict(moved, flow.steps(10, 17))
    expected = first.displacements[-1] + second.displacements[1:]
    torch.testing.assert_close(whole.displacements[11:], expected, atol=1e-6, rtol=0)


def test_released_chunks_keep_the_tokens_of_the_first(generator: torch.Generator) -> None:
    model, scene = make_model("released"), make_scene(generator)
    model.norm_stats_per_step_var.fill_(1e-2)
    # Several points per voxel now, and another number of them once they have moved.
    scene = ScenePoints(points=0.15 * scene.points, colors=scene.colors, normals=scene.normals)
    seen: list[int] = []
    model.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].scene_points.shape[1]))
    model.predict(scene, make_flow(generator, steps=31))
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2] < len(scene)


def test_variances_of_chunks_add_up(generator: torch.Generator) -> None:
    model, scene = make_model(), make_scene(generator)
    flow = make_flow(generator, steps=21)
    model.norm_stats_per_step_var[:, 1:6] = 4e-4
    whole = model.predict(scene, flow)
    first = model.predict(scene, flow.steps(0, 11))
    scale = model.norm_stats_per_step_var[0].mean(-1)[:, None, None]
    metres = whole.log_var[11:].exp() * scale[1:]
    assert bool((metres >= (first.log_var[-1].exp() * scale[-1]) * (1 - 1e-5)).all())
    assert not torch.allclose(whole.log_var[11:16], whole.log_var[16:], atol=1e-3)


def test_tail_is_padded_by_standing_still_then_cut(generator: torch.Generator) -> None:
    model, scene, flow = make_model(), make_scene(generator), make_flow(generator, steps=5)
    padded = pad_steps(flow, 11)
    assert padded.num_steps == 11
    assert bool((padded.positions[5:] == flow.positions[-1]).all())
    full = model.predict(scene, padded)
    short = model.predict(scene, flow)
    assert short.displacements.shape[0] == 5
    torch.testing.assert_close(short.displacements, full.displacements[:5])


def test_released_points_without_a_token_move_with_the_nearest(generator: torch.Generator) -> None:
    model = make_model("released")
    scene = make_scene(generator)
    twins = scene.points + 1e-5
    far = torch.tensor([[0.2, 0.2, 9.0]])
    both = ScenePoints(
        points=torch.cat([scene.points, twins, far]),
        colors=torch.cat([scene.colors, scene.colors, scene.colors[:1]]),
        normals=torch.cat([scene.normals, scene.normals, scene.normals[:1]]),
    )
    prediction = model.predict(both, make_flow(generator))
    count = len(scene)
    torch.testing.assert_close(
        prediction.displacements[:, :count],
        prediction.displacements[:, count:-1],
        atol=1e-7,
        rtol=0,
    )
    assert bool(torch.isfinite(prediction.displacements).all())


def test_released_gripper_is_binary_and_absent_arms_are_closed() -> None:
    given = torch.tensor([[1.0], [0.9], [0.8], [0.0]])
    expected = torch.tensor([[1.0, 0], [1, 0], [0, 0], [0, 0]])
    assert torch.equal(released_gripper(given, 2), expected)


def test_normals_turn_with_a_rotating_body_and_stay_on_a_still_one(
    generator: torch.Generator,
) -> None:
    body = torch.rand(200, 3, generator=generator, dtype=torch.float64) * 0.1
    table = torch.rand(200, 3, generator=generator, dtype=torch.float64) * 0.1
    table[:, 2] = -0.02
    angle = math.radians(30)
    R = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]],
        dtype=torch.float64,
    )
    normals = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    normals = normals / normals.norm(dim=-1, keepdim=True)
    before = torch.cat([body, table])[None]
    after = torch.cat([body @ R.T + 0.1, table])[None]
    turned = carry_normals(before, after, normals[None])[0]
    assert torch.equal(turned[200:], normals[200:])
    error = (turned[:200] - normals[:200] @ R.T).norm(dim=-1)
    assert float(error.median()) < 1e-6
    assert float(error.max()) < 0.05
    torch.testing.assert_close(turned.norm(dim=-1), torch.ones(400, dtype=torch.float64))


def test_prediction_leaves_the_training_flag_alone(generator: torch.Generator) -> None:
    model, scene, flow = make_model(), make_scene(generator), make_flow(generator)
    model.train()
    prediction = model.predict(scene, flow)
    assert model.training
    assert not prediction.displacements.requires_grad


@pytest.mark.rejects_input
def test_wrong_inputs_are_refused(generator: torch.Generator) -> None:
    model, scene, flow = make_model(), make_scene(generator), make_flow(generator)
    with pytest.raises(InputError, match="no points"):
        model.predict(scene.select(torch.zeros(0, dtype=torch.int64)), flow)
    with pytest.raises(InputError, match=r"trained at 0.1 s.*resample_joint_path"):
        wrong = RobotFlow(
            positions=flow.positions,
            normals=flow.normals,
            gripper_open=flow.gripper_open,
            step_dt=0.2,
        )
        model.predict(scene, wrong)
    with pytest.raises(InputError, match="1 step"):
        model.predict(scene, flow.steps(0, 1))
    with pytest.raises(InputError, match="gripper channel"):
        model.predict(scene, make_flow(generator, grippers=2))
    with pytest.raises(InputError, match="6 from the encoder 'rgb'"):
        make_model(image_channels=6).predict(scene, flow)
    with pytest.raises(InputError, match="domain 'mars' is unknown"):
        model.predict(scene, flow, domain="mars")
    with pytest.raises(InputError, match=r"5 steps, expected 11 .*actions instead of positions"):
        model(collate([(scene, flow.steps(0, 5))]))


@pytest.mark.parametrize("mode", ["stable", "released"])
def test_bfloat16_changes_little_and_is_finite(mode: str, generator: torch.Generator) -> None:
    model, scene = make_model(mode, image_channels=6), make_scene(generator, channels=6)
    flow = make_flow(generator, steps=17)
    exact = model.predict(scene, flow)
    fast = model.predict(scene, flow, precision="bfloat16")
    assert fast.displacements.dtype == exact.displacements.dtype == torch.float32
    assert torch.isfinite(fast.displacements).all() and torch.isfinite(fast.log_var[1:]).all()
    difference = fast.displacements - exact.displacements
    change = difference.square().mean().sqrt() / exact.displacements.square().mean().sqrt()
    assert 1e-5 < float(change) < 0.08  # under 0.01 with trained weights; these are drawn
