"""A robot: its tree, geometry and gripper, and the flow of its surface along a joint path."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import trimesh

from pointworld.errors import InputError
from pointworld.robot.assets import (
    RobotFacts,
    RobotSource,
    locate_robot,
    read_facts,
    require_known,
)
from pointworld.robot.gripper import Gripper
from pointworld.robot.kinematics import TreeKinematics
from pointworld.robot.mesh_files import build_geometry
from pointworld.robot.surface import SurfacePoints, sample_by_area, sample_released
from pointworld.robot.tree import KinematicTree, check_tree
from pointworld.robot.urdf import UrdfJoint, UrdfLink, parse_urdf
from pointworld.types import RobotFlow

LIMIT_TOLERANCE = 1e-3
"""How far a joint may be beyond its limit before it is refused [rad or m]: rounding of recorded values."""

_RELEASED_WORDS = ("finger", "knuckle", "robotiq", "gripper")


@dataclass(frozen=True, kw_only=True, eq=False)
class VisualMesh:
    """One visual element: link, file name ('' for primitives) and triangles in the link frame."""

    link: str
    filename: str
    mesh: trimesh.Trimesh


class RobotModel:
    """A robot arm with its geometry. Made by `RobotModel.load`.

    Joint vectors are ordered by `joint_names`: the driven joints, mimic and fixed joints left out. Poses and points
    are in the robot's base frame (its root link).

    Attributes:
        name: bundled name or URDF stem. source: the URDF file.
        joint_names, lower, upper, velocity: driven joints and their limits [rad or m, and per second].
        link_names: parents before children. root_link, tool_link, gripper_links.
        joints: all joints with their frames, parents first.
        visuals: visual elements in link order.
        visual_meshes: link -> all its visual triangles. collision_meshes: link -> its collision bodies.
        home: a relaxed pose (joints,), the middle of the limits where the robot names none.
        device: default device of tensors made here.
    """

    def __init__(
        self,
        name: str,
        source: Path,
        tree: KinematicTree,
        facts: RobotFacts,
        visuals: Sequence[VisualMesh],
        collisions: Mapping[str, tuple[trimesh.Trimesh, ...]],
        device: torch.device,
    ) -> None:
        self.name, self.source, self.device = name, source, device
        self._tree = tree
        self._kinematics = TreeKinematics(tree)
        self.joint_names: tuple[str, ...] = tree.actuated
        driven = [tree.joint(joint) for joint in tree.actuated]
        self.lower = np.array([j.lower for j in driven])
        self.upper = np.array([j.upper for j in driven])
        self.velocity = np.array([j.velocity for j in driven])
        self.link_names: tuple[str, ...] = tree.link_names
        self.joints: tuple[UrdfJoint, ...] = tree.joints
        self.root_link = tree.root
        self.tool_link = facts.tool_link
        self.gripper_links: tuple[str, ...] = facts.gripper_links
        self.visuals: tuple[VisualMesh, ...] = tuple(visuals)
        self.visual_meshes: Mapping[str, trimesh.Trimesh] = MappingProxyType(_by_link(visuals))
        self.collision_meshes: Mapping[str, tuple[trimesh.Trimesh, ...]] = MappingProxyType(
            dict(collisions)
        )
        middle = np.where(np.isfinite(self.lower + self.upper), (self.lower + self.upper) / 2, 0.0)
        self.home = np.array(facts.home) if facts.home else middle
        self.gripper: Gripper | None = None
        if facts.gripper_joint is not None:
            self.gripper = Gripper.measure(facts, tree, self._kinematics)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        mesh_root: str | Path | None = None,
    ) -> RobotModel:
        """A bundled robot by name (fr3, panda_robotiq, ur5e_robotiq) or any robot from its URDF.

        Args:
            name_or_path: bundled name, or path of a URDF; a robot.json beside it names tool, gripper and pads.
            device: default device of surface points.
            mesh_root: folder meshes may come from, see `locate_robot`.

        Raises:
            AssetError: the description or a mesh is missing, broken or refused.
        """
        source = locate_robot(name_or_path, mesh_root=mesh_root)
        description = parse_urdf(source.urdf)
        tree = check_tree(description)
        links = {link.name: link for link in description.links}
        visuals = [v for name in tree.link_names for v in _visuals(links[name], source)]
        collisions = {
            name: tuple(build_geometry(g, source.urdf, source.root) for g in links[name].collisions)
            for name in tree.link_names
            if links[name].collisions
        }
        facts = read_facts(source, tree)
        where = torch.device(device)
        return cls(source.name, source.urdf, tree, facts, visuals, collisions, where)

    def with_visuals(self, visuals: Sequence[VisualMesh]) -> RobotModel:
        """The same robot with other visual geometry; kinematics, gripper and collision bodies are shared."""
        require_known((v.link for v in visuals), self.link_names, "link")
        order = {name: i for i, name in enumerate(self.link_names)}
        other = copy.copy(self)
        other.visuals = tuple(sorted(visuals, key=lambda v: order[v.link]))
        other.visual_meshes = MappingProxyType(_by_link(other.visuals))
        other.__dict__.pop("_merged", None)
        return other

    def __repr__(self) -> str:
        return f"RobotModel({self.name!r}, {len(self.joint_names)} joints, {len(self.link_names)} links)"

    def forward_kinematics(self, q: torch.Tensor) -> torch.Tensor:
        """T_base_link of every link.

        Args:
            q: (*batch, joints) floating, any device.

        Returns:
            (*batch, links, 4, 4) in the order of `link_names`; differentiable in q.
        """
        self._check_width(q)
        return self._kinematics.link_poses(q)

    def tool_pose(self, q: torch.Tensor) -> torch.Tensor:
        """T_base_tool (*batch, 4, 4) for q (*batch, joints)."""
        return self.forward_kinematics(q)[..., self.link_names.index(self.tool_link), :, :]

    def posed_mesh(self, q: torch.Tensor | np.ndarray) -> trimesh.Trimesh:
        """All visual geometry as one coloured mesh in the base frame, at q (joints,)."""
        pose = self.forward_kinematics(torch.as_tensor(q, dtype=torch.float64).reshape(-1))
        T = pose.cpu().numpy()
        vertices, link, faces, colors = self._merged
        R, t = T[link, :3, :3], T[link, :3, 3]
        mesh = trimesh.Trimesh(np.einsum("nij,nj->ni", R, vertices) + t, faces, process=False)
        mesh.visual.face_colors = colors
        return mesh

    @cached_property
    def _merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Vertices (v, 3) in link frames, their links (v,), faces (f, 3), face colours (f, 4)."""
        if not self.visual_meshes:
            raise InputError(f"robot '{self.name}' has no visual geometry")
        vertices, links, faces, colors, base = [], [], [], [], 0
        for name, mesh in self.visual_meshes.items():
            vertices.append(np.asarray(mesh.vertices))
            links.append(np.full(len(mesh.vertices), self.link_names.index(name)))
            faces.append(np.asarray(mesh.faces) + base)
            colors.append(np.asarray(mesh.visual.face_colors))
            base += len(mesh.vertices)
        return tuple(map(np.concatenate, (vertices, links, faces, colors)))  # type: ignore[return-value]

    def sample_surface(
        self, count: int, *, links: str | Sequence[str] = "gripper", seed: int
    ) -> SurfacePoints:
        """Points on the visual surface, by area, fixed to the links.

        Args:
            count: number of points over all chosen links together.
            links: "gripper", "all", or names of links.

        Raises:
            InputError: unknown links, or none of them has a surface.
        """
        chosen: Sequence[str]
        if links == "gripper":
            chosen = self.gripper_links
        elif links == "all":
            chosen = self.link_names
        else:
            chosen = (links,) if isinstance(links, str) else links
            require_known(chosen, self.link_names, "link")
        meshes = [
            (i, self.visual_meshes[name])
            for i, name in enumerate(self.link_names)
            if name in chosen and name in self.visual_meshes
        ]
        if not meshes:
            raise InputError(
                f"robot '{self.name}': none of the links {list(chosen)} has visual geometry to sample. Choose links "
                f"among {', '.join(self.visual_meshes)}, or 'all'"
            )
        return sample_by_area(meshes, count, seed).to(device=self.device)

    def sample_surface_released(self, count: int = 500, *, seed: int = 42) -> SurfacePoints:
        """Gripper points by the released model's rule: visual meshes whose file name says finger, knuckle, ..."""
        meshes = [
            (self.link_names.index(v.link), v.mesh)
            for v in self.visuals
            if any(word in Path(v.filename).name.lower() for word in _RELEASED_WORDS)
        ]
        return sample_released(meshes, count, seed).to(device=self.device)

    def flow(
        self, surface: SurfacePoints, joint_positions: torch.Tensor, *, step_dt: float
    ) -> RobotFlow:
        """Where surface points are along a joint path.

        Args:
            surface: from `sample_surface`.
            joint_positions: (*batch, steps, joints), index 0 = now.
            step_dt: [s] between steps.

        Returns:
            RobotFlow with positions and normals (*batch, steps, points, 3) in the base frame, the openness of the
            gripper (*batch, steps, 1; no entry for robots without one) and the tool's pose.
        """
        q = joint_positions
        poses = self.forward_kinematics(q)
        local = surface.to(device=q.device, dtype=q.dtype)
        links, owner = torch.unique(local.link_index, return_inverse=True)
        T = poses[..., links, :3, :]
        homogeneous = torch.cat([local.points, torch.ones_like(local.points[:, :1])], -1)
        return RobotFlow(
            positions=_move(T, homogeneous, owner),
            normals=_move(T[..., :3], local.normals, owner),
            gripper_open=self.gripper_open(q),
            step_dt=step_dt,
            gripper_pose=poses[..., self.link_names.index(self.tool_link), :, :],
        )

    @property
    def gripper_max_width(self) -> float:
        """Finger opening at the open end [m]."""
        return self._require_gripper().max_width

    def gripper_width(self, q: torch.Tensor) -> torch.Tensor:
        """Distance of the finger pads (*batch,) [m] for q (*batch, joints)."""
        self._check_width(q)
        gripper = self._require_gripper()
        return gripper.width(q[..., self.joint_names.index(gripper.joint)])

    def gripper_open(self, q: torch.Tensor) -> torch.Tensor:
        """Width over maximal width (*batch, 1) in [0, 1]; (*batch, 0) for robots without a known gripper."""
        if self.gripper is None:
            return q.new_zeros((*q.shape[:-1], 0))
        return (self.gripper_width(q) / self.gripper.max_width).clamp(0, 1)[..., None]

    def with_gripper_width(self, q: torch.Tensor, width: torch.Tensor | float) -> torch.Tensor:
        """q (*batch, joints) with the gripper's joint set so that it opens by `width` (*batch,) or one number [m].

        Raises:
            InputError: width below zero or above the maximum by more than 1 mm; less is clamped.
        """
        self._check_width(q)
        gripper = self._require_gripper()
        result = q.clone()
        values = torch.as_tensor(width, dtype=q.dtype, device=q.device)
        result[..., self.joint_names.index(gripper.joint)] = gripper.joint_value(values)
        return result

    def order_joints(
        self, values: np.ndarray, names: Sequence[str], *, source: str = "joint positions"
    ) -> np.ndarray:
        """Columns of values (..., named joints) in the robot's joint order (..., joints).

        Raises:
            InputError: unknown, repeated or missing names.
        """
        if np.shape(values)[-1] != len(names):
            raise InputError(
                f"{source}: {np.shape(values)[-1]} columns for {len(names)} joint names"
            )
        require_known(names, self.joint_names, f"{source}: joint")
        missing = [name for name in self.joint_names if name not in names]
        if missing or len(set(names)) != len(names):
            problem = f"lack {', '.join(missing)}" if missing else "repeat a name"
            raise InputError(
                f"{source}: joint names {problem}; the robot has {', '.join(self.joint_names)}"
            )
        return np.asarray(values)[..., [list(names).index(name) for name in self.joint_names]]

    def check_limits(
        self, joint_positions: np.ndarray | torch.Tensor, *, source: str = "joint positions"
    ) -> None:
        """Raise InputError where (..., joints) is NaN or beyond a limit by more than `LIMIT_TOLERANCE`."""
        q = np.asarray(torch.as_tensor(joint_positions).detach().cpu(), dtype=np.float64)
        self._check_width(torch.as_tensor(q))
        if not np.isfinite(q).all():
            raise InputError(f"{source}: contain NaN or infinity")
        excess = np.maximum(self.lower - q, q - self.upper).reshape(-1, len(self.joint_names))
        if excess.size == 0 or excess.max() <= LIMIT_TOLERANCE:
            return
        step, joint = np.unravel_index(int(excess.argmax()), excess.shape)
        value = q.reshape(excess.shape)[step, joint]
        raise InputError(
            f"{source}: {self.joint_names[joint]} is {value:.4f} at step {step}, outside its limits "
            f"{self.lower[joint]:.4f} .. {self.upper[joint]:.4f} [rad or m]. Are the values in degrees, or the "
            "joints in another order?"
        )

    def _check_width(self, q: torch.Tensor) -> None:
        if q.ndim < 1 or q.shape[-1] != len(self.joint_names):
            raise InputError(
                f"joint positions of shape {tuple(q.shape)}, expected (..., {len(self.joint_names)}) for "
                f"{', '.join(self.joint_names)}"
            )

    def _require_gripper(self) -> Gripper:
        if self.gripper is None:
            raise InputError(
                f"robot '{self.name}' has no known gripper. Write gripper_joint and finger_pads into a robot.json "
                f"beside {self.source.name}"
            )
        return self.gripper


def _move(T: torch.Tensor, vectors: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Each vector moved by the transform of its link.

    One product of all transforms side by side with a matrix that holds each vector in its link's rows and zeros
    elsewhere: many small products, or gathered transforms per point, are several times slower.

    Args:
        T: (*batch, links, 3, k). vectors: (n, k). owner: (n,) index into links.

    Returns:
        (*batch, n, 3).
    """
    *batch, links, _, k = T.shape
    n = len(vectors)
    blocks = vectors.new_zeros(links, n, k)
    blocks[owner, torch.arange(n, device=owner.device)] = vectors
    columns = blocks.transpose(1, 2).reshape(links * k, n)
    rows = T.transpose(-3, -2).reshape(-1, links * k)
    return (rows @ columns).reshape(*batch, 3, n).transpose(-1, -2).contiguous()


def _visuals(link: UrdfLink, source: RobotSource) -> list[VisualMesh]:
    return [
        VisualMesh(
            link=link.name,
            filename=geometry.filename,
            mesh=build_geometry(geometry, source.urdf, source.root),
        )
        for geometry in link.visuals
    ]


def _by_link(visuals: Sequence[VisualMesh]) -> dict[str, trimesh.Trimesh]:
    """One mesh per link, in link order."""
    groups: dict[str, list[trimesh.Trimesh]] = {}
    for visual in visuals:
        groups.setdefault(visual.link, []).append(visual.mesh)
    return {
        link: meshes[0] if len(meshes) == 1 else trimesh.util.concatenate(meshes)
        for link, meshes in groups.items()
    }
