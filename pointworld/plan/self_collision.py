"""Distance of a robot to itself, from spheres that cover its links."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from scipy.cluster.vq import kmeans2

from pointworld.robot import RobotModel

Tensor = torch.Tensor

SPHERES = 6
_SURFACE_POINTS = 600


@dataclass(frozen=True, kw_only=True, eq=False)
class SelfCollision:
    """Spheres on the links and the pairs of spheres that are watched.

    links: (spheres,) index into the robot's link_names. centres: (spheres, 3) in the link frame [m].
    allowance: (spheres, spheres) sum of the radii of two watched spheres, minus infinity for pairs not watched.
    """

    links: Tensor
    centres: Tensor
    allowance: Tensor

    @staticmethod
    def of(robot: RobotModel, *, spheres: int = SPHERES) -> SelfCollision:
        """Cover the collision bodies (else the visible ones) of every link.

        Pairs of links are watched unless at most two moving joints lie between them (their own limits keep them
        apart) or their spheres already overlap in the home posture (the cover is coarser than the robot).
        """
        parts = [
            (index, *_cover(meshes, spheres))
            for index, link in enumerate(robot.link_names)
            if (meshes := _bodies(robot, link))
        ]
        links = torch.cat([torch.full((len(radii),), i) for i, _, radii in parts])
        centres = torch.from_numpy(np.concatenate([c for _, c, _ in parts]))
        radii = torch.from_numpy(np.concatenate([r for _, _, r in parts]))
        depth = _joints_from_base(robot)
        poses = robot.forward_kinematics(torch.from_numpy(robot.home))
        places = _place(poses, links, centres)
        sums = radii[:, None] + radii
        gap = torch.cdist(places, places) - sums
        allowance = torch.full_like(sums, -torch.inf)
        for a, b in itertools.combinations([i for i, _, _ in parts], 2):
            pair = (links == a)[:, None] & (links == b)
            if abs(depth[a] - depth[b]) > 2 and float(gap[pair].min()) > 0:
                allowance[pair] = sums[pair]
        return SelfCollision(links=links, centres=centres, allowance=allowance)

    def clearance(self, poses: Tensor) -> Tensor:
        """Least distance between watched spheres (*batch,) [m], negative where they overlap.

        Args:
            poses: T_base_link (*batch, links, 4, 4). Infinite where no pair is watched.
        """
        places = _place(poses.float(), self.links.to(poses.device), self.centres.to(poses.device))
        gap = torch.cdist(places, places) - self.allowance.to(places)
        return gap.flatten(-2).amin(-1).to(poses)


def _joints_from_base(robot: RobotModel) -> list[int]:
    """How many moving joints lie between the root and each link, in the order of `link_names`."""
    depth = {robot.root_link: 0}
    for joint in robot.joints:
        depth[joint.child] = depth[joint.parent] + (joint.kind != "fixed")
    return [depth[link] for link in robot.link_names]


def _place(poses: Tensor, links: Tensor, centres: Tensor) -> Tensor:
    chosen = poses[..., links, :, :]
    return (chosen[..., :3, :3] @ centres.to(poses)[..., None])[..., 0] + chosen[..., :3, 3]


def _bodies(robot: RobotModel, link: str) -> tuple[trimesh.Trimesh, ...]:
    if robot.collision_meshes.get(link):
        return robot.collision_meshes[link]
    return (robot.visual_meshes[link],) if link in robot.visual_meshes else ()


def _cover(meshes: tuple[trimesh.Trimesh, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (count, 3) and radii (count,) of spheres that together hold points spread over the surface."""
    whole = trimesh.util.concatenate([m.copy() for m in meshes])
    points, _ = trimesh.sample.sample_surface(whole, _SURFACE_POINTS, seed=0)
    points = np.concatenate([np.asarray(points), np.asarray(whole.vertices)[:_SURFACE_POINTS]])
    centres, labels = kmeans2(points, count, minit="++", rng=np.random.default_rng(0))
    used = np.unique(labels)
    radii = [
        float(np.linalg.norm(points[labels == i] - centres[i], axis=1).max(initial=0.0))
        for i in used
    ]
    return centres[used], np.array(radii)
