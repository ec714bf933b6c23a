"""The world model's forward in stable mode, and what goes in and out of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pointworld.errors import InputError
from pointworld.model import ModelInputs, ModelSpec, WorldModel, collate
from pointworld.types import RobotFlow, ScenePoints
from tests.model.test_rollout import arch, make_flow, make_model, make_scene

Pair = tuple[ScenePoints, RobotFlow]


def pairs(generator: torch.Generator, count: int = 4, channels: int = 0) -> list[Pair]:
    return [
        (make_scene(generator, 60 + 25 * i, channels), make_flow(generator, points=12 + 3 * i))
        for i in range(count)
    ]


def forward(model: WorldModel, samples: list[Pair], dtype: torch.dtype) -> torch.Tensor:
    with torch.no_grad():
        return model(collate(samples).to(dtype=dtype)).pred_norm


PRECISIONS = [(torch.float32, 1e-5, 0), (torch.float64, 1e-10, 0), (torch.float64, 1e-10, 8)]


@pytest.mark.parametrize(("dtype", "tolerance", "robot_tokens"), PRECISIONS)
def test_batch_mates_and_padding_change_nothing(
    dtype: torch.dtype, tolerance: float, robot_tokens: int, generator: torch.Generator
) -> None:
    model = make_model(image_channels=5, robot_tokens=robot_tokens).to(dtype)
    samples = pairs(generator, channels=5)
    together = forward(model, samples, dtype)
    for i, sample in enumerate(samples):
        alone = forward(model, [sample], dtype)[0]
        count = len(sample[0])
        scale = max(1.0, float(alone.abs().max()))
        torch.testing.assert_close(together[i, :, :count], alone, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance", "robot_tokens"), PRECISIONS)
def test_input_order_only_orders_the_output(
    dtype: torch.dtype, tolerance: float, robot_tokens: int, generator: torch.Generator
) -> None:
    model = make_model(image_channels=5, robot_tokens=robot_tokens).to(dtype)
    scene, flow = pairs(generator, 1, channels=5)[0]
    order = torch.randperm(len(scene), generator=generator)
    robot_order = torch.randperm(flow.positions.shape[1], generator=generator)
    shuffled = RobotFlow(
        positions=flow.positions[:, robot_order],
        normals=flow.normals[:, robot_order],
        gripper_open=flow.gripper_open,
        step_dt=flow.step_dt,
    )
    expected = forward(model, [(scene, flow)], dtype)[0][:, order]
    got = forward(model, [(scene.select(order), shuffled)], dtype)[0]
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got, expected, atol=tolerance * scale, rtol=0)
    assert float(expected.abs().max()) > 0.1


@pytest.mark.parametrize("mode", ["stable", "released"])
def test_every_parameter_is_trained(mode: str, generator: torch.Generator) -> None:
    model = make_model(mode, image_channels=5).train()
    outputs = model(collate(pairs(generator, 2, channels=5)))
    (outputs.pred_norm.square().mean() + outputs.log_var.square().mean()).backward()
    without = [
        name
        for name, p in model.named_parameters()
        if p.grad is None or not bool((p.grad != 0).any())
    ]
    assert without == []


def test_displacements_are_the_unnormalised_prediction(generator: torch.Generator) -> None:
    model = make_model()
    model.norm_stats_per_step_mean.normal_(generator=generator)
    model.norm_stats_per_step_var.uniform_(0.1, 2.0, generator=generator)
    inputs = collate(pairs(generator, 2))
    with torch.no_grad():
        outputs = model(inputs)
    assert bool((outputs.displacements[:, 0] == 0).all())
    back = model.normalise_displacements(outputs.displacements, inputs.domain)
    torch.testing.assert_close(back[:, 1:], outputs.pred_norm[:, 1:], atol=1e-5, rtol=1e-5)
    variance = model.norm_stats_per_step_var[0, 3, 1].sqrt()
    expected = outputs.pred_norm[1, 3, 2, 1] * variance + model.norm_stats_per_step_mean[0, 3, 1]
    torch.testing.assert_close(outputs.displacements[1, 3, 2, 1], expected)


def test_the_spread_map_holds_outside_training_and_leaves_motion_alone(
    generator: torch.Generator,
) -> None:
    plain = make_model()
    mapped = WorldModel(replace(plain.spec, spread=((1e-4, 0.5), (1e-2, 3.0))))
    mapped.load_state_dict(plain.state_dict())
    inputs = collate(pairs(generator, 2))
    with torch.no_grad():
        for training in (True, False):
            before = plain.train(training)(inputs)
            after = mapped.train(training)(inputs)
            assert torch.equal(before.displacements, after.displacements)
            assert torch.equal(before.log_var[:, 0], after.log_var[:, 0])
            if training:
                assert torch.equal(before.log_var, after.log_var)
                continue
            sigma = plain.stated_sigma(before.log_var, inputs.domain)[:, 1:]
            got = mapped.stated_sigma(after.log_var, inputs.domain)[:, 1:]
            spread = mapped.spec.spread_map
            assert spread is not None
            torch.testing.assert_close(got, spread(sigma))
            assert not torch.allclose(got, sigma)


def test_domain_chooses_the_statistics(generator: torch.Generator) -> None:
    torch.manual_seed(2)
    spec = ModelSpec(arch=arch(), features="released", domains=("a", "b"))
    model = WorldModel(spec).eval()
    model.norm_stats_per_step_var[1] = 4.0
    sample = pairs(generator, 1)[0]
    with torch.no_grad():
        outputs = model(collate([sample, sample], domain=[0, 1]))
    torch.testing.assert_close(outputs.displacements[1], 2 * outputs.displacements[0])
    model.scene_norm_mean[1] = 1.0
    with torch.no_grad():
        other = model(collate([sample, sample], domain=[0, 1]))
    assert not torch.allclose(other.pred_norm[0], other.pred_norm[1])


def test_names_are_the_released_ones_in_both_modes() -> None:
    stable, released = make_model(image_channels=8), make_model("released", image_channels=8)
    ours = {
        f"dynamics_predictor.cluster_mlp.fc{i}.{kind}"
        for i in (1, 2)
        for kind in ("weight", "bias")
    }
    assert set(stable.state_dict()) == set(released.state_dict()) | ours
    without = set(make_model().state_dict())
    image = set(stable.state_dict()) - without
    assert image == {
        f"scene_feature_encoder.{name}.{kind}"
        for name in ("scene_encoder.feat_proj", "scene_encoder_norm")
        for kind in ("weight", "bias")
    }


@pytest.mark.rejects_input
def test_collate_and_forward_refuse_what_does_not_fit(generator: torch.Generator) -> None:
    (scene, flow), (other, _) = pairs(generator, 2)
    with pytest.raises(InputError, match="no samples"):
        collate([])
    with pytest.raises(InputError, match="without a batch axis"):
        collate([(scene, make_flow(generator, 3))])
    with pytest.raises(InputError, match=r"different step counts \[5, 11\]"):
        collate([(scene, flow), (other, flow.steps(0, 5))])
    with pytest.raises(InputError, match="1 of 2 scenes have image features"):
        collate([(scene, flow), (make_scene(generator, 20, 4), flow)])
    with pytest.raises(InputError, match="needs 8 from the encoder"):
        make_model(image_channels=8)(collate([(scene, flow)]))
    inputs = collate([(scene, flow)])
    values = {name: getattr(inputs, name) for name in inputs.__dataclass_fields__}
    with pytest.raises(InputError, match="scene_colors is"):
        ModelInputs(**{**values, "scene_colors": inputs.scene_colors[:, :5]})
    with pytest.raises(InputError, match="gripper_open is"):
        ModelInputs(**{**values, "gripper_open": inputs.gripper_open[:, :5]})
