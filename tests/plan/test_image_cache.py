"""Image features are turned into tokens once per scene, and reach the network in the right rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pointworld.model import ModelSpec, WorldModel
from pointworld.plan import Body, ModelDynamics, PlanState, ToolPathSpace
from pointworld.ptv3 import PTv3Arch
from pointworld.types import ScenePoints

Tensor = torch.Tensor
CHANNELS = 6


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    arch = PTv3Arch(
        name="toy",
        in_channels=16,
        enc_depths=(1, 1),
        enc_channels=(16, 32),
        enc_heads=(2, 4),
        dec_depths=(1,),
        dec_channels=(16,),
        dec_heads=(2,),
        patch_size=32,
        drop_path=0.0,
    )
    spec = ModelSpec(
        arch=arch,
        mode="stable",
        features="relative",
        image_channels=CHANNELS,
        encoder="rgb",
        step_dt=0.1,
        grippers=1,
    )
    made = WorldModel(spec)
    made.norm_stats_per_step_var.fill_(1e-4)
    return made.eval()


@pytest.fixture
def state(home: Tensor, body: Body) -> PlanState:
    generator = torch.Generator().manual_seed(0)
    tool = body.robot.tool_pose(home)[:3, 3].float()
    points = tool + 0.4 * torch.rand(300, 3, generator=generator) - 0.2
    normals = torch.nn.functional.normalize(torch.randn(300, 3, generator=generator), dim=1)
    scene = ScenePoints(
        points=points,
        colors=torch.rand(300, 3, generator=generator),
        normals=normals,
        features=torch.randn(300, CHANNELS, generator=generator),
    )
    return PlanState(scene=scene, joint_positions=home)


def test_images_are_encoded_once_and_used(
    model: WorldModel, state: PlanState, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    encode: Callable[[Tensor], Tensor | None] = model.encode_images

    def counted(features: Tensor) -> Tensor | None:
        calls.append(len(features))
        return encode(features)

    monkeypatch.setattr(model, "encode_images", counted)
    space = ToolPathSpace(body=body)
    plans = space.rest().repeat(5, 1, 1)
    plans[:, :, 0] = torch.linspace(0.02, 0.1, 5, dtype=torch.float64)[:, None]
    actions = space.decode(state.joint_positions, plans)
    dynamics = ModelDynamics(model=model, context=0, max_tokens=2000)
    first = dynamics.rollout(state, actions)
    assert torch.equal(dynamics.rollout(state, actions).positions, first.positions)
    assert len(calls) == 1
    moved = model.predict(state.scene, actions.robot_flow).displacements
    assert float((first.positions - state.scene.points - moved).abs().max()) < 1e-4
    assert float(moved.abs().max()) > 1e-3


def test_another_scene_is_encoded_anew(model: WorldModel, state: PlanState, body: Body) -> None:
    space = ToolPathSpace(body=body)
    actions = space.decode(state.joint_positions, space.rest()[None])
    dynamics = ModelDynamics(model=model, context=200)
    before = dynamics.rollout(state, actions).positions
    assert state.scene.features is not None
    scene = ScenePoints(
        points=state.scene.points,
        colors=state.scene.colors,
        normals=state.scene.normals,
        features=-state.scene.features,
    )
    other = PlanState(scene=scene, joint_positions=state.joint_positions)
    after = dynamics.rollout(other, actions).positions
    assert float((after - before).abs().max()) > 1e-4
    assert torch.equal(dynamics.rollout(state, actions).positions, before)


def test_points_out_of_view_stay_still(model: WorldModel, state: PlanState, body: Body) -> None:
    """A context of 50 of 300 points moves at most 50, the nearest to the gripper; task points come first."""
    space = ToolPathSpace(body=body)
    plan = space.rest()
    plan[:, 0] = 0.05
    actions = space.decode(state.joint_positions, plan[None])
    dynamics = ModelDynamics(model=model, context=50)
    moved = (dynamics.rollout(state, actions).positions[0, -1] - state.scene.points).norm(dim=1) > 0
    assert int(moved.sum()) == 50
    surface = actions.robot_flow.positions[0].reshape(-1, 3)
    reach = torch.cdist(state.scene.points, surface).amin(1)
    assert float(reach[moved].mean()) < float(reach[~moved].mean()) - 0.02
    edge = reach.sort().indices[50:60]
    aimed = PlanState(scene=state.scene, joint_positions=state.joint_positions, task_index=edge)
    now = (dynamics.rollout(aimed, actions).positions[0, -1] - state.scene.points).norm(dim=1) > 0
    assert int(now[edge].sum()) > int(moved[edge].sum())
