"""Inverse kinematics of smooth tool paths by damped least squares on MuJoCo's Jacobians."""

from __future__ import annotations

from typing import Any

import numpy as np

from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import (
    ModelIndex,
    import_mujoco,
    index_model,
    robot_model,
    set_joints,
)

_DAMPING = 0.02


def rotation_error(R_target: np.ndarray, R: np.ndarray) -> np.ndarray:
    """Rotation vector (3,) in world axes that turns R into R_target [rad], for angles below pi."""
    delta = R_target @ R.T
    vector = 0.5 * np.array(
        [delta[2, 1] - delta[1, 2], delta[0, 2] - delta[2, 0], delta[1, 0] - delta[0, 1]]
    )
    sine, cosine = float(np.linalg.norm(vector)), float((np.trace(delta) - 1) / 2)
    if sine < 1e-9:
        return vector
    return vector * (np.arctan2(sine, cosine) / sine)


class ArmKinematics:
    """Tool poses and inverse kinematics of one robot; holds a compiled bare-robot model."""

    def __init__(self, tree: RobotTree) -> None:
        self.tree = tree
        self.model: Any = robot_model(tree)
        self.data: Any = import_mujoco().MjData(self.model)
        self.index: ModelIndex = index_model(self.model, tree)
        self.tool = int(self.model.body(tree.tool_link).id)
        self.arm_joints = len(tree.joint_names) - 1
        ids = [int(self.model.joint(name).id) for name in tree.joint_names]
        self.lower, self.upper = (self.model.jnt_range[ids, k].copy() for k in (0, 1))
        self.gripper_vertices = [
            (int(self.model.body(link).id), np.concatenate([s.vertices for s in solids]))
            for link in tree.gripper_links
            if (solids := (*tree.collision.get(link, ()), *tree.visual.get(link, ())))
        ]

        at_home = self.tool_pose(np.append(tree.home, 0.0))[:3, 3]
        # Rounded, so that an arm whose tool is straight ahead at home is exactly that.
        self._home_azimuth = round(float(np.arctan2(at_home[1], at_home[0])), 6) + 0.0

    def place(self, q: np.ndarray) -> None:
        """Set joint positions (joints,) and update body poses."""
        mujoco = import_mujoco()
        set_joints(self.data, self.index, q)
        mujoco.mj_kinematics(self.model, self.data)

    def tool_pose(self, q: np.ndarray) -> np.ndarray:
        """T_base_tool (4, 4)."""
        self.place(q)
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = self.data.xmat[self.tool].reshape(3, 3), self.data.xpos[self.tool]
        return T

    def lowest_gripper_point(self, q: np.ndarray) -> float:
        """Smallest z of the gripper's vertices [m]."""
        self.place(q)
        lowest = np.inf
        for body, vertices in self.gripper_vertices:
            z_axis = self.data.xmat[body].reshape(3, 3)[2]
            lowest = min(lowest, float((vertices @ z_axis).min() + self.data.xpos[body][2]))
        return lowest

    def solve(
        self, T_base_tool: np.ndarray, q_start: np.ndarray, *, iterations: int = 60
    ) -> np.ndarray | None:
        """Joint positions (joints,) reaching the pose within 0.5 mm and 3 mrad, or None.

        Gripper joints keep their values of `q_start`. Steps are clipped to the joint limits.
        """
        mujoco = import_mujoco()
        q = q_start.copy()
        n = self.arm_joints
        jac = np.zeros((6, self.model.nv))
        for _ in range(iterations):
            self.place(q)
            error = np.concatenate(
                [
                    T_base_tool[:3, 3] - self.data.xpos[self.tool],
                    rotation_error(T_base_tool[:3, :3], self.data.xmat[self.tool].reshape(3, 3)),
                ]
            )
            if np.linalg.norm(error[:3]) < 5e-4 and np.linalg.norm(error[3:]) < 3e-3:
                return q
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_jacBody(self.model, self.data, jac[:3], jac[3:], self.tool)
            J = jac[:, self.index.dofs[:n]]
            gram = J @ J.T + _DAMPING**2 * np.eye(6)
            posture = 0.05 * (self.tree.home - q[:n])
            step = posture + J.T @ np.linalg.solve(gram, error - J @ posture)
            step *= min(1.0, 0.3 / max(float(np.abs(step).max()), 1e-9))
            q[:n] = np.clip(q[:n] + step, self.lower[:n] + 0.02, self.upper[:n] - 0.02)
        return None

    def follow(self, poses: np.ndarray, widths: np.ndarray) -> np.ndarray | None:
        """Joint path (waypoints, joints) along tool poses (waypoints, 4, 4), or None where it cannot.

        widths: (waypoints,) commanded opening of the gripper [m].
        """
        fingers = self.tree.finger_position(widths)
        start = np.concatenate([self.tree.home, fingers[:1]])
        start[0] += np.arctan2(poses[0, 1, 3], poses[0, 0, 3]) - self._home_azimuth
        q = self.solve(poses[0], start, iterations=150)
        path = []
        for pose, finger in zip(poses, fingers, strict=True):
            if q is None:
                return None
            q = self.solve(pose, q, iterations=25)
            if q is None:
                return None
            q = q.copy()
            q[self.arm_joints :] = finger
            path.append(q)
        return np.stack(path)
