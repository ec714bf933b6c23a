"""The robot in the image: its silhouette, its margin, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from pointworld.geometry import invert, pixel_grid
from pointworld.scene import MeshCaster, robot_mask
from pointworld.types import RGBDFrame
from tests.scene.world import RigidRobot, look_at

K = np.array([[200.0, 0.0, 81.0], [0.0, 200.0, 44.0], [0.0, 0.0, 1.0]])
WALL = 1.5


def sphere_at(z: float, radius: float = 0.1) -> trimesh.Trimesh:
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    mesh.apply_translation([0.0, 0.0, z])
    return mesh


def frame_of(depth: np.ndarray, valid: np.ndarray | None = None) -> RGBDFrame:
    usable = np.ones(depth.shape, bool) if valid is None else valid
    return RGBDFrame(
        rgb=np.zeros((*depth.shape, 3), np.uint8),
        depth=depth.astype(np.float32),
        valid=usable,
        K=K,
        T_world_cam=np.eye(4),
    )


def analytic_sphere_depth(z: float, radius: float, height: int, width: int) -> np.ndarray:
    """Depth of a sphere on the axis: the nearer root of |t d - c| = r with d = (x, y, 1)."""
    uv = pixel_grid(height, width)
    d = np.stack(
        [
            (uv[..., 0] - K[0, 2]) / K[0, 0],
            (uv[..., 1] - K[1, 2]) / K[1, 1],
            np.ones((height, width)),
        ],
        -1,
    )
    a, b = (d**2).sum(-1), d[..., 2] * z
    root = b**2 - a * (z**2 - radius**2)
    return np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def mesh_depth(mesh: trimesh.Trimesh, K: np.ndarray, height: int, width: int) -> np.ndarray:
    return MeshCaster(mesh.vertices, mesh.faces).depth(np.eye(4), K, height, width)


def test_mesh_depth_of_a_sphere() -> None:
    mesh = sphere_at(0.8)
    got = mesh_depth(mesh, K, 90, 160)
    want = analytic_sphere_depth(0.8, 0.1, 90, 160)
    both = np.isfinite(got) & np.isfinite(want)
    assert both.sum() > 1000
    assert (np.isfinite(got) != np.isfinite(want)).sum() < 0.02 * both.sum()
    inner = both & (want < 0.77)
    assert np.abs(got[inner] - want[inner]).max() < 1e-3


def test_mesh_depth_from_any_pose() -> None:
    """Moving the mesh in its own frame and the frame against the camera cancel."""
    T_cam_mesh = look_at([0.3, 0.2, -0.4], [1.0, 0.5, 0.7])
    mesh = sphere_at(0.8)
    want = mesh_depth(mesh, K, 90, 160)
    mesh.apply_transform(invert(T_cam_mesh))
    got = MeshCaster(mesh.vertices, mesh.faces).depth(T_cam_mesh, K, 90, 160)
    both = np.isfinite(got) & np.isfinite(want)
    assert both.sum() > 1000
    assert (np.isfinite(got) != np.isfinite(want)).sum() < 5
    assert np.abs(got[both] - want[both]).max() < 1e-4


def test_mesh_depth_partly_behind_the_camera() -> None:
    """A floor that passes under the camera is still seen in front of it."""
    floor = trimesh.creation.box((4.0, 0.02, 6.0))
    floor.apply_translation([0.0, 0.3, 0.0])
    depth = mesh_depth(floor, K, 90, 160)
    rows = pixel_grid(90, 160)[..., 1]
    seen = np.isfinite(depth)
    assert seen[80].all()
    assert not seen[rows < 44].any()
    assert np.allclose(depth[80], 0.29 / ((80.5 - 44) / 200), rtol=1e-4)


def test_mesh_behind_or_beside_the_camera_is_not_seen() -> None:
    for center in ([0.0, 0.0, -1.0], [9.0, 0.0, 1.0]):
        mesh = trimesh.creation.icosphere(radius=0.1)
        mesh.apply_translation(center)
        assert not np.isfinite(mesh_depth(mesh, K, 90, 160)).any()
        assert not robot_mask(
            frame_of(np.full((90, 160), WALL)), RigidRobot(mesh), [0.0], np.eye(4)
        ).any()


def test_silhouette_and_margin() -> None:
    """The sphere and its blurred rim go; the wall behind it, seen beside it, stays."""
    sphere = analytic_sphere_depth(0.8, 0.1, 90, 160)
    depth = np.where(np.isfinite(sphere), sphere, WALL)
    mask = robot_mask(frame_of(depth), RigidRobot(sphere_at(0.8)), [0.0], np.eye(4), margin=0.02)
    silhouette = np.isfinite(sphere)
    assert mask[silhouette].all()
    assert mask[~silhouette].mean() < 0.01
    rim = np.where(
        np.isfinite(analytic_sphere_depth(0.8, 0.115, 90, 160)) & ~silhouette, 0.785, depth
    )
    blurred = robot_mask(frame_of(rim), RigidRobot(sphere_at(0.8)), [0.0], np.eye(4), margin=0.02)
    assert blurred[rim < 1.0].all()
    assert blurred[rim >= 1.0].mean() < 0.01


def test_what_stands_in_front_stays() -> None:
    sphere = analytic_sphere_depth(0.8, 0.1, 90, 160)
    depth = np.where(np.isfinite(sphere), sphere, WALL)
    depth[:, 60:80] = 0.5
    mask = robot_mask(frame_of(depth), RigidRobot(sphere_at(0.8)), [0.0], np.eye(4))
    assert not mask[:, 60:80].any()
    assert mask[44, 82:100].all()


def test_seen_through_or_unknown_is_robot() -> None:
    """Inside the silhouette, depth behind the mesh or no depth at all counts as robot."""
    depth = np.full((90, 160), WALL)
    valid = np.ones((90, 160), bool)
    valid[:, :81] = False
    mask = robot_mask(frame_of(depth, valid), RigidRobot(sphere_at(0.8)), [0.0], np.eye(4))
    inner = np.isfinite(analytic_sphere_depth(0.8, 0.098, 90, 160))
    assert mask[inner].all()


def test_joints_and_base_pose_move_the_mask() -> None:
    """The joint slides the mesh along the base's z, and the base may stand anywhere."""
    T_world_base = np.eye(4)
    T_world_base[:3, 3] = [0.1, 0.0, 0.5]
    depth = np.full((90, 160), WALL)
    mask = robot_mask(frame_of(depth), RigidRobot(sphere_at(0.1)), [0.2], T_world_base)
    rows, columns = np.nonzero(mask)
    assert columns.mean() + 0.5 == pytest.approx(81 + 200 * 0.1 / 0.8, abs=0.7)
    assert rows.mean() + 0.5 == pytest.approx(44, abs=0.7)


def test_wide_images_are_cast_at_a_fraction() -> None:
    """At 4x the size one ray per 4x4 pixels gives the same mask but for its outline."""
    big_K = np.diag([4.0, 4.0, 1.0]) @ K
    sphere = sphere_at(0.8)
    frame = RGBDFrame(
        rgb=np.zeros((360, 640, 3), np.uint8),
        depth=np.full((360, 640), WALL, np.float32),
        valid=np.ones((360, 640), bool),
        K=big_K,
        T_world_cam=np.eye(4),
    )
    mask = robot_mask(frame, RigidRobot(sphere), [0.0], np.eye(4))
    full = np.isfinite(mesh_depth(sphere, big_K, 360, 640))
    assert mask.shape == (360, 640)
    assert (mask != full).mean() < 0.01
    assert (mask & full).sum() > 0.97 * full.sum()


def test_a_real_robot() -> None:
    """The FR3 on a table: what is left of the scene keeps its distance to the arm, what is far stays."""
    from pointworld.robot import RobotModel
    from pointworld.scene import build_scene
    from tests.scene.world import frames, table_and_box

    robot = RobotModel.load("fr3")
    q = np.zeros(len(robot.joint_names))
    q[:7] = [0.0, -0.2, 0.0, -2.4, 0.0, 2.1, 0.8]
    arm = robot.posed_mesh(torch.from_numpy(q))
    views = frames(
        trimesh.util.concatenate([table_and_box(), arm]), width=320, height=180, focal=260.0
    )
    scene = build_scene(views, T_world_base=np.eye(4), robot=robot, joint_positions=q)
    surface, _ = trimesh.sample.sample_surface(arm, 8000, seed=0)
    above = scene.points[scene.points[:, 2] > 0.04]
    distance = torch.cdist(above, torch.from_numpy(surface).float()).amin(1)
    assert len(above) > 20
    assert (distance > 0.015).all()
    assert len(scene) > 3000
