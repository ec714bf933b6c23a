"""The network core in both modes: parameters, training, edge cases and bad input."""

from __future__ import annotations

import math

import pytest
import torch

from pointworld.errors import InputError
from pointworld.model.predictor import DynamicsPredictor, _masked_max, _over_clusters
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.backbone import drop_rows
from tests.model.predictor_inputs import Inputs, cast, lively, random_inputs

MODES = pytest.mark.parametrize("mode", ["stable", "released"])


@pytest.fixture
def inputs(generator: torch.Generator) -> Inputs:
    return random_inputs(generator, channels=64, batch=2, points=120, robot_points=12)


def test_released_key_names_and_shapes() -> None:
    with torch.device("meta"):
        state = DynamicsPredictor(PTv3Arch.small(), "released").state_dict()
    assert len(state) == 448 + 4 + 12
    expected = {
        "skip_film_gamma": (1, 1, 128),
        "robot_film_beta": (1, 1, 128),
        "dynamics_head.0.fc1.weight": (128, 128),
        "dynamics_head.1.weight": (30, 128),
        "log_var_head.0.fc2.bias": (128,),
        "log_var_head.1.bias": (10,),
        "predictor_model.embedding.stem.linear.weight": (128, 128),
        "predictor_model.embedding.stem.norm.bias": (128,),
        "predictor_model.enc.enc2.down.proj.weight": (128, 128),
        "predictor_model.enc.enc4.down.norm.0.weight": (512,),
        "predictor_model.enc.enc3.block5.cpe.0.weight": (256, 3, 3, 3, 256),
        "predictor_model.enc.enc3.block5.cpe.2.bias": (256,),
        "predictor_model.enc.enc1.block0.norm1.0.weight": (128,),
        "predictor_model.dec.dec3.up.proj.0.weight": (256, 512),
        "predictor_model.dec.dec3.up.proj_skip.1.bias": (256,),
        "predictor_model.dec.dec0.block1.attn.qkv.weight": (384, 128),
        "predictor_model.dec.dec0.block1.mlp.0.fc1.weight": (512, 128),
    }
    for key, shape in expected.items():
        assert tuple(state[key].shape) == shape, key


@MODES
def test_initial_weights(mode: str) -> None:
    network = DynamicsPredictor(
        PTv3Arch.tiny(), mode, head_init_scale=0.0, generator=torch.Generator().manual_seed(0)
    )
    again = DynamicsPredictor(
        PTv3Arch.tiny(), mode, head_init_scale=0.0, generator=torch.Generator().manual_seed(0)
    )
    for (name, one), other in zip(
        network.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other) and bool(torch.isfinite(one).all()), name
    assert float(network.dynamics_head[1].weight.detach().abs().max()) == 0
    assert torch.allclose(network.log_var_head[1].bias, torch.tensor(math.log(0.005**2)))
    conv = network.predictor_model.enc["enc2"]["block0"].cpe[0]
    assert (
        abs(float(conv.weight.detach().std()) - 0.02) < 5e-4
        and float(conv.bias.detach().abs().max()) == 0
    )


@MODES
def test_step_zero_is_now_and_shapes(mode: str, inputs: Inputs, generator: torch.Generator) -> None:
    network = lively(DynamicsPredictor(PTv3Arch.tiny(), mode), generator)
    pred, log_var = network(*cast(inputs, torch.float32))
    assert pred.shape == (2, 11, 120, 3) and log_var.shape == (2, 11, 120, 1)
    assert float(pred[:, 0].abs().max()) == 0 and float(log_var[:, 0].abs().max()) == 0
    assert float(pred[:, 1:].std()) > 0.1


@MODES
def test_gradients_equal_finite_differences(
    mode: str, inputs: Inputs, generator: torch.Generator
) -> None:
    network = lively(DynamicsPredictor(PTv3Arch.tiny(), mode).double(), generator).requires_grad_(
        True
    )
    feat, robot_feat = inputs[1].requires_grad_(True), inputs[4].requires_grad_(True)

    def loss() -> torch.Tensor:
        pred, log_var = network(*inputs)
        return pred.sin().mean() + log_var.cos().mean()

    values = [*network.parameters(), feat, robot_feat]
    gradients = torch.autograd.grad(loss(), values)
    directions = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in values]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    step = 1e-8
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for value, direction in zip(values, directions, strict=True):
                value += sign * step * direction
            ends.append(float(loss()))
    assert abs((ends[0] - ends[1]) / (2 * step) - slope) < 1e-4 * max(1.0, abs(slope))
    assert all(float(g.abs().max()) > 0 for g in gradients)


def test_training_reduces_a_loss(inputs: Inputs, generator: torch.Generator) -> None:
    network = DynamicsPredictor(PTv3Arch.tiny(), "stable", generator=generator).train()
    single = cast(inputs, torch.float32)
    target = (single[0] * 3).sin()[:, None].expand(-1, 11, -1, -1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        pred, _ = network(*single)
        loss = (pred[:, 1:] - target[:, 1:]).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]


@MODES
@pytest.mark.parametrize("empty", ["scene", "robot"])
def test_a_sample_may_lack_scene_or_robot(
    mode: str, empty: str, inputs: Inputs, generator: torch.Generator
) -> None:
    network = lively(DynamicsPredictor(PTv3Arch.tiny(), mode), generator)
    scene, feat, exists, robot, robot_feat, robot_exists = cast(inputs, torch.float32)
    exists, robot_exists = exists.clone(), robot_exists.clone()
    (exists if empty == "scene" else robot_exists)[0] = False
    pred, log_var = network(scene, feat, exists, robot, robot_feat, robot_exists)
    assert bool(torch.isfinite(pred).all()) and bool(torch.isfinite(log_var).all())


def test_no_robot_points_at_all(inputs: Inputs, generator: torch.Generator) -> None:
    network = lively(DynamicsPredictor(PTv3Arch.tiny()), generator)
    scene, feat, exists, robot, robot_feat, robot_exists = cast(inputs, torch.float32)
    pred, _ = network(
        scene, feat, exists, robot[:, :, :0], robot_feat[:, :, :0], robot_exists[:, :, :0]
    )
    assert bool(torch.isfinite(pred).all())


def test_robot_summary_ignores_padding_and_empty_samples() -> None:
    x = torch.tensor([[[-3.0], [-1.0], [5.0]], [[-2.0], [7.0], [1.0]]])
    exists = torch.tensor([[True, True, False], [False, False, False]])
    assert _masked_max(x, exists).flatten().tolist() == [-1.0, 0.0]
    assert _masked_max(x[:, :0], exists[:, :0]).flatten().tolist() == [0.0, 0.0]


def test_drop_path_zeroes_whole_tokens_and_keeps_the_mean(generator: torch.Generator) -> None:
    x = torch.ones(20_000, 2)
    dropped = drop_rows(x, 0.3, True, generator)
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert abs(float((dropped == 0).float().mean()) - 0.3) < 0.02
    assert abs(float(dropped.mean()) - 1) < 0.02
    assert drop_rows(x, 0.3, False, generator) is x and drop_rows(x, 0.0, True, generator) is x


def test_drop_path_rates_rise_with_depth() -> None:
    with torch.device("meta"):
        backbone = DynamicsPredictor(PTv3Arch.small(), "released").predictor_model
    rates = [
        block.drop_path
        for stage in backbone.enc.values()
        for name, block in stage.items()
        if "block" in name
    ]
    assert rates == pytest.approx(torch.linspace(0, 0.3, 14).tolist())
    assert backbone.dec["dec0"]["block0"].drop_path > backbone.dec["dec0"]["block1"].drop_path == 0


@MODES
def test_bfloat16_autocast_stays_close(
    mode: str, inputs: Inputs, generator: torch.Generator
) -> None:
    network = lively(DynamicsPredictor(PTv3Arch.tiny(), mode), generator).requires_grad_(True)
    single = cast(inputs, torch.float32)
    expected = network(*single)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = network(*single)[0]
    got.float().square().mean().backward()
    assert float((got.float() - expected).detach().square().mean().sqrt()) < 0.05 * float(
        expected.detach().std()
    )


@pytest.mark.rejects_input
def test_bad_input_is_refused(inputs: Inputs) -> None:
    network = DynamicsPredictor(PTv3Arch.tiny())
    good = dict(
        zip(
            (
                "scene_coord0",
                "scene_feat0",
                "scene_exists0",
                "robot_coord_seq",
                "robot_feat",
                "robot_exists",
            ),
            cast(inputs, torch.float32),
            strict=True,
        )
    )
    ten = good["robot_coord_seq"][:, :10]
    for name, value, message in (
        (
            "robot_coord_seq",
            ten,
            r"robot_coord_seq has shape \(2, 10, 12, 3\), expected \(2, 11, 12, 3\)",
        ),
        ("scene_feat0", good["scene_feat0"][..., :3], "scene_feat0"),
        ("scene_exists0", good["scene_exists0"].float(), "bool masks"),
        ("scene_coord0", good["scene_coord0"][0], "expected scene_coord0"),
    ):
        with pytest.raises(InputError, match=message):
            network(**{**good, name: value})
    nothing = {name: torch.zeros_like(good[name]) for name in ("scene_exists0", "robot_exists")}
    with pytest.raises(InputError, match="no token exists"):
        network(**{**good, **nothing})


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "exact"}, "unknown mode"),
        ({"duplicates": "sum"}, "duplicate rule"),
        ({"grid_size": 0.0}, "grid_size"),
        ({"num_steps": 1}, "steps"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DynamicsPredictor(PTv3Arch.tiny(), **change)  # type: ignore[arg-type]


def test_points_of_a_cluster_share_their_largest_and_mean(generator: torch.Generator) -> None:
    hidden = torch.randn(2, 30, 5, generator=generator)
    clusters = torch.randint(-1, 4, (2, 30), generator=generator)
    shared = _over_clusters(hidden, clusters)
    for row in range(2):
        for n in range(30):
            mine = hidden[row, clusters[row] == clusters[row, n]]
            expected = torch.cat([mine.amax(0), mine.mean(0)])
            if clusters[row, n] == -1:
                expected = torch.zeros(10)
            assert (shared[row, n] - expected).abs().max() < 1e-6
    order = torch.randperm(30, generator=generator)
    assert torch.equal(shared[:, order], _over_clusters(hidden[:, order], clusters[:, order]))


def test_guesses_add_trust_and_clusters_are_asked_for(inputs: Inputs) -> None:
    network = DynamicsPredictor(PTv3Arch.tiny(), together=True, guesses=2).eval()
    clusters = torch.zeros(2, 120, dtype=torch.int64)
    pred, log_var = network(*cast(inputs, torch.float32), clusters=clusters)
    assert pred.shape == (2, 11, 120, 5) and log_var.shape == (2, 11, 120, 1)
    apart, _ = network(*cast(inputs, torch.float32), clusters=torch.arange(120).expand(2, -1))
    assert not torch.allclose(pred, apart)
    with pytest.raises(InputError, match="pools over clusters"):
        network(*cast(inputs, torch.float32))
