"""Surface points and robot flow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from pointworld.robot import RobotModel
from tests.robot.conftest import oracle_poses, random_positions, to_tensor


def test_points_are_spread_by_area(robot: RobotModel) -> None:
    count = 4000
    surface = robot.sample_surface(count, links="all", seed=1)
    areas = {robot.link_names.index(n): m.area for n, m in robot.visual_meshes.items()}
    total = sum(areas.values())
    for link, area in areas.items():
        share = int((surface.link_index == link).sum())
        assert abs(share - count * area / total) <= 2


def test_points_lie_on_the_surface_with_its_normals(robot: RobotModel) -> None:
    surface = robot.sample_surface(6000, links="all", seed=2)
    assert torch.allclose(surface.normals.norm(dim=-1), torch.ones(6000), atol=1e-5)
    for link in torch.unique(surface.link_index).tolist():
        name, chosen = robot.link_names[link], surface.link_index == link
        points = surface.points[chosen].double().numpy()
        normals = surface.normals[chosen].double().numpy()
        bodies = robot.collision_meshes[name]
        assert np.abs(_height(points, bodies)).max() < 3e-5, name
        assert (_height(points + 1e-4 * normals, bodies) > 5e-5).mean() > 0.95, name


def _height(points: np.ndarray, bodies: object) -> np.ndarray:
    """Signed distance-like value to the union of convex bodies: negative inside one of them."""
    heights = []
    for body in bodies:  # type: ignore[attr-defined]
        normals = np.asarray(body.face_normals)
        offset = (normals * np.asarray(body.triangles)[:, 0]).sum(-1)
        heights.append((points @ normals.T - offset).max(1))
    return np.asarray(np.min(heights, axis=0))


def test_seed_decides(fr3: RobotModel) -> None:
    a, b, c = (fr3.sample_surface(300, seed=s) for s in (7, 7, 8))
    assert torch.equal(a.points, b.points)
    assert not torch.equal(a.points, c.points)


def test_choice_of_links(fr3: RobotModel) -> None:
    def links(choice: str | list[str]) -> set[str]:
        index = fr3.sample_surface(400, links=choice, seed=0).link_index
        return {fr3.link_names[i] for i in index.tolist()}

    assert links("gripper") == {"fr3_hand", "fr3_leftfinger", "fr3_rightfinger"}
    assert links(["fr3_link4"]) == links("fr3_link4") == {"fr3_link4"}
    assert links("all") == set(fr3.visual_meshes)


def test_flow_moves_points_with_their_links(robot: RobotModel) -> None:
    path = np.linspace(*random_positions(robot, 2, seed=9), 11)
    surface = robot.sample_surface(250, links="all", seed=3)
    flow = robot.flow(surface, to_tensor(path), step_dt=0.1)
    for step in (0, 4, 10):
        poses = oracle_poses(robot.source, dict(zip(robot.joint_names, path[step], strict=True)))
        T = np.stack([poses[robot.link_names[i]] for i in surface.link_index.tolist()])
        local = surface.points.double().numpy()
        expected = np.einsum("nij,nj->ni", T[:, :3, :3], local) + T[:, :3, 3]
        assert np.abs(flow.positions[step].numpy() - expected).max() < 1e-5
        turned = np.einsum("nij,nj->ni", T[:, :3, :3], surface.normals.double().numpy())
        assert np.abs(flow.normals[step].numpy() - turned).max() < 1e-5
        assert flow.gripper_pose is not None
        assert np.abs(flow.gripper_pose[step].numpy() - poses[robot.tool_link]).max() < 1e-5


def test_flow_of_a_batch_is_the_flow_of_each(fr3: RobotModel) -> None:
    paths = to_tensor(random_positions(fr3, 3 * 5, seed=10).reshape(3, 5, -1), torch.float32)
    surface = fr3.sample_surface(64, seed=4)
    batch = fr3.flow(surface, paths, step_dt=0.2)
    assert batch.positions.shape == (3, 5, 64, 3) and batch.positions.dtype == torch.float32
    assert batch.gripper_open.shape == (3, 5, 1)
    for i in range(3):
        single = fr3.flow(surface, paths[i], step_dt=0.2)
        assert torch.allclose(batch.positions[i], single.positions, atol=1e-6)
        assert torch.allclose(batch.gripper_open[i], single.gripper_open)


def test_gripper_open_runs_from_zero_to_one(fr3: RobotModel) -> None:
    q = to_tensor(np.stack([fr3.home] * 2))
    q[:, -1] = torch.tensor([0.0, 0.04])
    flow = fr3.flow(fr3.sample_surface(10, seed=0), q, step_dt=0.1)
    assert flow.gripper_open[:, 0].tolist() == pytest.approx([0.0, 1.0], abs=1e-5)


def test_posed_mesh_is_where_the_flow_is(robot: RobotModel) -> None:
    q = random_positions(robot, 1, seed=11)[0]
    mesh = robot.posed_mesh(q)
    flow = robot.flow(
        robot.sample_surface(300, links="all", seed=5), to_tensor(np.stack([q, q])), step_dt=0.1
    )
    points = flow.positions[0].numpy()
    assert (points >= mesh.bounds[0] - 1e-5).all() and (points <= mesh.bounds[1] + 1e-5).all()
    vertices = np.asarray(mesh.triangles)
    normals = np.asarray(mesh.face_normals)
    plane = np.abs(np.einsum("fj,pfj->pf", normals, points[:40, None] - vertices[None, :, 0]))
    assert plane.min(1).max() < 1e-5
    assert len(mesh.visual.face_colors) == len(mesh.faces)


@pytest.mark.rejects_input
def test_refused_requests(fr3: RobotModel) -> None:
    with pytest.raises(InputError, match="Did you mean 'fr3_hand'"):
        fr3.sample_surface(10, links=["fr3_hnd"], seed=0)
    with pytest.raises(InputError, match="visual geometry"):
        fr3.sample_surface(10, links=["fr3_hand_tcp"], seed=0)
    with pytest.raises(InputError, match="at least 1"):
        fr3.sample_surface(0, seed=0)
    with pytest.raises(InputError, match="gripper width"):
        fr3.with_gripper_width(torch.zeros(8), 0.2)
