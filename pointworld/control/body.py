"""Where an arm's tool, gripper and links are, fast enough for every tick of the safety filter (NumPy, many poses)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pointworld.control.types import Reason
from pointworld.errors import InputError
from pointworld.plan.arm_chain import ArmChain
from pointworld.plan.self_collision import SelfCollision
from pointworld.robot import RobotModel


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where the arm may be, in its base frame [m], and how fast its tool [m/s].

    lower, upper: box of the tool point. table: height of the plane that gripper and arm stay above by
    `table_clearance`, None without one. self_clearance: least distance of the arm to itself.
    """

    lower: tuple[float, float, float] = (0.20, -0.50, -0.02)
    upper: tuple[float, float, float] = (0.85, 0.50, 0.75)
    table: float | None = 0.0
    table_clearance: float = 0.002
    self_clearance: float = 0.01
    tool_speed: float = 0.5

    def __post_init__(self) -> None:
        if not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise InputError(f"workspace {self.lower} .. {self.upper}: lower must be below upper")
        if not 0 < self.tool_speed < np.inf:
            raise InputError(f"tool speed limit is {self.tool_speed}, expected m/s > 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmBody:
    """An arm as a chain of joints with spheres and gripper points. Made by `ArmBody.of`; frame 0 is the base.

    origins, axes, turns: (joints, 4, 4), (joints, 3), (joints,) as in `ArmChain`. tool: (3,) in the last frame.
    spheres: (spheres, 3) centres, sphere_frames: (spheres,), radii: (spheres,).
    pairs: (pairs, 2) spheres that must stay apart, reach: (pairs,) sums of their radii.
    gripper_points: (points, 3) hull of the gripper at its widest and closed, in the last frame.
    """

    origins: np.ndarray
    axes: np.ndarray
    turns: np.ndarray
    tool: np.ndarray
    spheres: np.ndarray
    sphere_frames: np.ndarray
    radii: np.ndarray
    pairs: np.ndarray
    reach: np.ndarray
    gripper_points: np.ndarray

    @staticmethod
    def of(robot: RobotModel, *, self_collision: bool = True) -> ArmBody:
        """The body of `robot`. Args: self_collision: watch the distance of the arm to itself."""
        chain = ArmChain.of(robot)
        columns = list(chain.columns)
        frames, local = _rigid_parts(robot, chain, robot.home)
        cover = SelfCollision.of(robot)
        links = cover.links.numpy()
        centres = np.concatenate([cover.centres.numpy(), np.ones((len(links), 1))], 1)
        placed = np.einsum("sij,sj->si", local[links], centres)[:, :3]
        pairs = np.argwhere(np.triu(np.isfinite(cover.allowance.numpy())))
        pairs = pairs if self_collision else pairs[:0]
        return ArmBody(
            origins=chain.origins.numpy(),
            axes=chain.axes.numpy(),
            turns=np.array(chain.revolute),
            tool=chain.tail.numpy()[:3, 3],
            spheres=placed,
            sphere_frames=frames[links],
            radii=_radii(robot, cover),
            pairs=pairs,
            reach=cover.allowance.numpy()[pairs[:, 0], pairs[:, 1]],
            gripper_points=_gripper_points(robot, chain, len(columns)),
        )

    def frames(self, q: np.ndarray) -> np.ndarray:
        """T_base_frame (poses, joints + 1, 4, 4) at q (poses, joints)."""
        count = len(q)
        T = np.broadcast_to(np.eye(4), (count, 4, 4))
        out = np.empty((count, len(self.axes) + 1, 4, 4))
        out[:, 0] = T
        sine, cosine = np.sin(q), np.cos(q)
        for j, (origin, axis) in enumerate(zip(self.origins, self.axes, strict=True)):
            step = np.zeros((count, 4, 4))
            step[:, 3, 3] = 1.0
            if self.turns[j]:
                step[:, :3, :3] = _turn(axis, sine[:, j], cosine[:, j])
            else:
                step[:, :3, :3] = np.eye(3)
                step[:, :3, 3] = q[:, j, None] * axis
            T = T @ origin @ step
            out[:, j + 1] = T
        return out

    def tool_points(self, frames: np.ndarray) -> np.ndarray:
        """(poses, 3) tool points in the base frame."""
        return frames[:, -1, :3, :3] @ self.tool + frames[:, -1, :3, 3]

    def clearance(self, frames: np.ndarray, *, enough: float = np.inf) -> float:
        """Least distance of the arm to itself over all poses [m]; infinite where nothing is watched.

        Args:
            enough: pairs that cannot come closer than this on the way are not measured; then the result may be larger.
        """
        if len(self.pairs) == 0:
            return np.inf
        places = self._sphere_places(frames)
        first, second = self.pairs[:, 0], self.pairs[:, 1]
        start = places[0, first] - places[0, second]
        gap = np.sqrt((start * start).sum(-1)) - self.reach
        moved = places - places[:1]
        travel = np.sqrt((moved * moved).sum(-1).max(0))
        near = gap - travel[first] - travel[second] < enough
        if not near.any():
            return np.inf
        between = places[:, first[near]] - places[:, second[near]]
        return float((np.sqrt((between * between).sum(-1)) - self.reach[near]).min())

    def clearances(self, frames: np.ndarray) -> np.ndarray:
        """(poses,) least distance of the arm to itself in each pose [m]; infinite where nothing is watched."""
        if len(self.pairs) == 0:
            return np.full(len(frames), np.inf)
        places = self._sphere_places(frames)
        between = places[:, self.pairs[:, 0]] - places[:, self.pairs[:, 1]]
        return np.asarray((np.sqrt((between * between).sum(-1)) - self.reach).min(1))

    def heights(self, frames: np.ndarray) -> np.ndarray:
        """(poses,) lowest point of gripper and upper arm [m]; the first two frames stand on the table."""
        T = frames[:, -1]
        low = (self.gripper_points @ T[:, 2, :3].T + T[:, 2, 3]).min(0)
        last = len(self.axes)
        arm = (self.sphere_frames > 2) & (self.sphere_frames < last)
        if arm.any():
            heights = self._sphere_places(frames)[:, arm, 2] - self.radii[arm]
            low = np.minimum(low, heights.min(1))
        return np.asarray(low)

    def lowest(self, frames: np.ndarray) -> float:
        """Lowest point of gripper and upper arm over all poses [m]."""
        return float(self.heights(frames).min())

    def _sphere_places(self, frames: np.ndarray) -> np.ndarray:
        T = frames[:, self.sphere_frames]
        return np.asarray((T[..., :3, :3] @ self.spheres[..., None])[..., 0] + T[..., :3, 3])

    def check(self, q: np.ndarray, space: Space, dt: float) -> Reason:
        """First thing that is wrong with a path q (poses, joints) sampled every dt, or NONE."""
        frames = self.frames(q)
        tool = self.tool_points(frames)
        if (tool < space.lower).any() or (tool > space.upper).any():
            return Reason.WORKSPACE
        steps = np.diff(tool, axis=0)
        if len(steps) and float((steps * steps).sum(-1).max()) > (space.tool_speed * dt) ** 2:
            return Reason.TOOL_SPEED
        if space.table is not None and self.lowest(frames) < space.table + space.table_clearance:
            return Reason.TABLE
        if self.clearance(frames, enough=space.self_clearance) < space.self_clearance:
            return Reason.SELF_COLLISION
        return Reason.NONE


def _turn(axis: np.ndarray, sine: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """Rotations (poses, 3, 3) about a unit axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    along = np.outer(axis, axis)
    return cosine[:, None, None] * (np.eye(3) - along) + sine[:, None, None] * cross + along


def _arm_frames(chain: ArmChain, q: np.ndarray) -> np.ndarray:
    """T_base_frame (joints + 1, 4, 4) at arm joints q, by the chain itself."""
    T, out = np.eye(4), [np.eye(4)]
    for j, turns in enumerate(chain.revolute):
        step = np.eye(4)
        axis = chain.axes[j].numpy()
        if turns:
            step[:3, :3] = _turn(axis, np.sin(q[j : j + 1]), np.cos(q[j : j + 1]))[0]
        else:
            step[:3, 3] = q[j] * axis
        T = T @ chain.origins[j].numpy() @ step
        out.append(T)
    return np.stack(out)


def _rigid_parts(
    robot: RobotModel, chain: ArmChain, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For every link the arm frame it is fixed to (links,) and its pose there (links, 4, 4), gripper as in `joints`."""
    parent = {joint.child: joint for joint in robot.joints}
    arm = [robot.joint_names[c] for c in chain.columns]
    owner = []
    for link in robot.link_names:
        while link in parent and parent[link].name not in arm:
            link = parent[link].parent
        owner.append(arm.index(parent[link].name) + 1 if link in parent else 0)
    frames = np.array(owner)
    q = np.asarray(joints, dtype=np.float64)
    poses = robot.forward_kinematics(torch.from_numpy(q)).numpy()
    bases = _arm_frames(chain, q[list(chain.columns)])
    return frames, np.linalg.inv(bases[frames]) @ poses


def _radii(robot: RobotModel, cover: SelfCollision) -> np.ndarray:
    """Radii of the cover's spheres: how far a link's vertices are from the nearest of its centres, at most."""
    radii = np.zeros(len(cover.links))
    for index in np.unique(cover.links.numpy()):
        chosen = np.flatnonzero(cover.links.numpy() == index)
        link = robot.link_names[int(index)]
        meshes = robot.collision_meshes.get(link) or (robot.visual_meshes[link],)
        points = np.concatenate([np.asarray(m.vertices) for m in meshes])
        gaps = np.linalg.norm(points[:, None] - cover.centres.numpy()[chosen], axis=-1)
        nearest = gaps.argmin(1)
        for k, sphere in enumerate(chosen):
            radii[sphere] = gaps[nearest == k, k].max(initial=0.0)
    return radii


def _gripper_points(robot: RobotModel, chain: ArmChain, last: int) -> np.ndarray:
    """Corners of the gripper's hull in the last arm frame, open and closed, at most a few hundred."""
    home = torch.from_numpy(np.asarray(robot.home, dtype=np.float64))
    postures = [home]
    if robot.gripper is not None:
        postures = [robot.with_gripper_width(home, w) for w in (0.0, robot.gripper_max_width)]
    clouds = [chain.tail.numpy()[None, :3, 3]]
    for posture in postures:
        frames, local = _rigid_parts(robot, chain, posture.numpy())
        for link in robot.gripper_links:
            index = robot.link_names.index(link)
            if frames[index] != last:
                continue
            meshes = robot.collision_meshes.get(link) or (
                (robot.visual_meshes[link],) if link in robot.visual_meshes else ()
            )
            for mesh in meshes:
                corners = np.asarray(mesh.convex_hull.vertices)
                clouds.append(corners @ local[index, :3, :3].T + local[index, :3, 3])
    return np.concatenate(clouds)
