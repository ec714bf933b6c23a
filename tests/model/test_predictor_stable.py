"""Stable semantics: results do not depend on the order of the input, batch mates, padding or threads."""

from __future__ import annotations

import pytest
import torch

from pointworld.errors import InputError
from pointworld.model.predictor import DynamicsPredictor
from pointworld.ptv3.arch import PTv3Arch
from tests.model.predictor_inputs import Inputs, cast, lively, random_inputs

SMALL = PTv3Arch.small(32)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(scope="module")
def network() -> DynamicsPredictor:
    generator = torch.Generator().manual_seed(3)
    return lively(DynamicsPredictor(PTv3Arch.tiny(), "stable", generator=generator), generator)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return random_inputs(torch.Generator().manual_seed(4), channels=64)


def _scene(output: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
    """(existing points, steps, channels)."""
    return output.transpose(1, 2)[exists]


def _assert_same(
    got: tuple[torch.Tensor, ...],
    expected: tuple[torch.Tensor, ...],
    exists: torch.Tensor,
    dtype: torch.dtype,
) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(
            _scene(one, exists), _scene(other, exists), atol=TOLERANCE[dtype], rtol=0
        )


@BOTH
def test_permuting_inputs_permutes_outputs(
    dtype: torch.dtype, network: DynamicsPredictor, inputs: Inputs, generator: torch.Generator
) -> None:
    network, inputs = network.to(dtype), cast(inputs, dtype)
    scene, feat, exists, robot, robot_feat, robot_exists = inputs
    expected = network(*inputs)
    assert _scene(expected[0], exists).std() > 0.3
    by_point = torch.randperm(scene.shape[1], generator=generator)
    by_robot = torch.randperm(robot.shape[2], generator=generator)
    got = network(
        scene[:, by_point],
        feat[:, by_point],
        exists[:, by_point],
        robot[:, :, by_robot],
        robot_feat[:, :, by_robot],
        robot_exists[:, :, by_robot],
    )
    _assert_same(got, tuple(x[:, :, by_point] for x in expected), exists[:, by_point], dtype)


@BOTH
def test_batch_mates_change_nothing(
    dtype: torch.dtype, network: DynamicsPredictor, inputs: Inputs
) -> None:
    network, inputs = network.to(dtype), cast(inputs, dtype)
    together = network(*inputs)
    alone = [network(*(x[i : i + 1] for x in inputs)) for i in range(4)]
    stacked = tuple(torch.cat(parts) for parts in zip(*alone, strict=True))
    _assert_same(stacked, together, inputs[2], dtype)


@BOTH
def test_padding_changes_nothing(
    dtype: torch.dtype, network: DynamicsPredictor, inputs: Inputs
) -> None:
    network, inputs = network.to(dtype), cast(inputs, dtype)
    scene, feat, exists, robot, robot_feat, robot_exists = inputs

    def pad(x: torch.Tensor, dim: int, fill: float) -> torch.Tensor:
        shape = list(x.shape)
        shape[dim] = 37
        return torch.cat([x, torch.full(shape, fill, dtype=x.dtype)], dim)

    expected = network(*inputs)
    got = network(
        pad(scene, 1, 99.0),
        pad(feat, 1, 5.0),
        pad(exists, 1, 0),
        pad(robot, 2, -99.0),
        pad(robot_feat, 2, 5.0),
        pad(robot_exists, 2, 0),
    )
    _assert_same(tuple(x[:, :, : scene.shape[1]] for x in got), expected, exists, dtype)


@BOTH
def test_threads_agree(dtype: torch.dtype, network: DynamicsPredictor, inputs: Inputs) -> None:
    network, inputs = network.to(dtype), cast(inputs, dtype)
    outputs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        outputs.append(network(*inputs))
    _assert_same(outputs[0], outputs[1], inputs[2], dtype)


def test_released_arch_in_stable_mode(inputs: Inputs, generator: torch.Generator) -> None:
    network = lively(DynamicsPredictor(SMALL, "stable", generator=generator).double(), generator)
    inputs = tuple(x[..., :32] if x.shape[-1] == 64 else x for x in inputs)
    together = network(*inputs)
    alone = network(*(x[1:2] for x in inputs))
    _assert_same(alone, tuple(x[1:2] for x in together), inputs[2][1:2], torch.float64)


def test_robot_decides_about_the_scene(network: DynamicsPredictor, inputs: Inputs) -> None:
    network = network.double()
    scene, feat, exists, robot, robot_feat, robot_exists = inputs
    moved = network(scene, feat, exists, robot + 0.05, robot_feat, robot_exists)[0]
    still = network(*inputs)[0]
    assert (_scene(moved, exists) - _scene(still, exists)).abs().mean() > 1e-3


def test_translation_by_whole_coarse_voxels_keeps_the_grid_phase(inputs: Inputs) -> None:
    network = DynamicsPredictor(PTv3Arch.tiny(), "stable").double()
    coords = torch.cat([inputs[0], inputs[3].flatten(1, 2)], 1)
    padded = torch.zeros(coords.shape[0] * coords.shape[1], 64, dtype=torch.float64)
    exists = torch.ones(coords.shape[:2], dtype=torch.bool)
    shift = 8 * 0.015 * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    cells = (coords / 0.015 - (coords / 0.015).round()).abs()
    exists &= (cells > 1e-6).all(
        -1
    )  # not on a voxel border, where the shift's rounding could decide
    first, second = (
        network._pyramid(padded, network._tokens(x, exists, 500), 4, "identity", None)
        for x in (coords, coords + shift)
    )
    assert [len(a.grid) for a in first.levels] == [len(b.grid) for b in second.levels]
    assert torch.equal(first.levels[3].grid + torch.tensor([1, -2, 3]), second.levels[3].grid)


@pytest.mark.rejects_input
def test_tokens_outside_the_lattice_are_refused(network: DynamicsPredictor, inputs: Inputs) -> None:
    network = network.double()
    scene = inputs[0].clone()
    scene[0, :3] = 8.0
    with pytest.raises(InputError, match="fixed lattice"):
        network(scene, *inputs[1:])
