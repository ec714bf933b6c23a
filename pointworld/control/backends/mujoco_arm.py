"""An arm and its cameras in a MuJoCo scene, behind the same protocols as real ones.

The simulation runs up to the clock whenever somebody looks or commands: in real time on the machine's clock, and
exactly as fast as the test wants on a clock moved by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from pointworld.control.backends.plugged import PluggedCamera
from pointworld.control.backends.vendor import check_command
from pointworld.control.clock import Clock
from pointworld.control.types import (
    CameraFrame,
    ControlError,
    JointCommand,
    Observation,
    Reason,
    RobotInfo,
    RobotMode,
    RobotState,
)
from pointworld.data.render import RenderedView, SceneRenderer
from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import ModelIndex, import_mujoco, index_model, servo_lag, set_joints
from pointworld.data.tabletop import CameraSpec

#: Longest time simulated in one go [s]; what the machine cannot keep up with is left out.
_MOST = 1.0


class MujocoArm:
    """See `Robot`. The scene's model comes from pointworld.data.scene_model; `data` may be read by others (truth)."""

    def __init__(
        self,
        model: Any,
        tree: RobotTree,
        clock: Clock,
        *,
        joints: np.ndarray | None = None,
        data: Any = None,
        period: float = 0.01,
    ) -> None:
        """Args:
        joints: (joints,) start of all driven joints, gripper last; default as `data` has them, else the home pose.
        data: MjData to go on from; default: a fresh one. period: of the commands [s].
        """
        mujoco = import_mujoco()
        self.model, self.tree = model, tree
        fresh = data is None
        self.data = mujoco.MjData(model) if fresh else data
        self.index: ModelIndex = index_model(model, tree)
        if joints is None and fresh:
            joints = np.append(tree.home, tree.finger_position(tree.max_width))
        if joints is not None:
            set_joints(self.data, self.index, joints)
        mujoco.mj_forward(model, self.data)
        self.clock, self._period, self._lag = clock, period, servo_lag(tree)
        self.lock = threading.RLock()
        here = self.data.qpos[self.index.arm].copy()
        self._from = self._to = here
        self._speed = np.zeros_like(here)
        self._since = self._origin = clock.now()
        self._start = float(self.data.time)
        self._stopped, self._connected = False, False
        self.data.ctrl[:] = here

    @property
    def info(self) -> RobotInfo:
        return RobotInfo(
            name="mujoco",
            arm_joints=self.tree.joint_names[:-1],
            max_width=self.tree.max_width,
            versions={"mujoco": str(import_mujoco().__version__)},
        )

    @property
    def is_connected(self) -> bool:
        return self._connected

    def connect(self) -> None:
        """See `Robot`."""
        self._connected = True

    def disconnect(self) -> None:
        """See `Robot`."""
        if self._connected:
            self.stop()
        self._connected = False

    def catch_up(self) -> None:
        """Simulate up to the clock."""
        mujoco = import_mujoco()
        step = float(self.model.opt.timestep)
        with self.lock:
            now = self.clock.now()
            due = self._start + now - self._origin
            if not 0 <= due - self.data.time <= _MOST:
                self._origin, self._start = now, float(self.data.time)
                due = self._start
            while self.data.time + 0.5 * step < due:
                at = self._origin + float(self.data.time) - self._start
                share = min(max((at - self._since) / self._period, 0.0), 1.0)
                speed = self._speed if share < 1 else 0.0
                self.data.ctrl[:] = self._from + share * (self._to - self._from) + self._lag * speed
                mujoco.mj_step(self.model, self.data)

    def get_state(self) -> RobotState:
        """See `Robot`."""
        if not self._connected:
            raise ControlError(Reason.ROBOT_LINK, "the simulated arm is not connected")
        with self.lock:
            self.catch_up()
            q = self.data.qpos[self.index.arm].copy()
            v = self.data.qvel[self.index.dofs].copy()
            moving = bool(np.abs(v[:-1]).max() > 1e-3)
            mode = RobotMode.MOVING if moving else RobotMode.READY
            return RobotState(
                time=self.clock.now(),
                sequence=round(self.data.time / float(self.model.opt.timestep)),
                mode=RobotMode.STOPPED if self._stopped else mode,
                joint_positions=q[:-1],
                joint_velocities=v[:-1],
                gripper_width=float(self.tree.finger_width(q[-1])),
            )

    def get_observation(self) -> Observation:
        """See `Robot`. Cameras are objects of their own."""
        return Observation(state=self.get_state())

    def send_action(self, command: JointCommand) -> JointCommand:
        """See `Robot`."""
        if not self._connected:
            raise ControlError(Reason.ROBOT_LINK, "the simulated arm is not connected")
        if self._stopped:
            raise ControlError(Reason.ROBOT_ERROR, "the simulated arm is stopped; recover it first")
        q = check_command(command, len(self._to) - 1)
        with self.lock:
            self.catch_up()
            self._from, finger = self._to.copy(), self._to[-1]
            if command.gripper_width is not None:
                finger = float(self.tree.finger_position(command.gripper_width))
            self._to = np.append(q, finger)
            self._speed = np.append(command.joint_velocities, 0.0)
            self._since = self.clock.now()
        return command

    def stop(self) -> None:
        """See `Robot`. The servos hold the last target."""
        with self.lock:
            self._from = self._to
            self._speed = np.zeros_like(self._to)
            self._stopped = True

    def recover(self) -> None:
        """See `Robot`. The targets become where the arm is."""
        with self.lock:
            self.catch_up()
            here = self.data.qpos[self.index.arm].copy()
            here[-1] = self._to[-1]
            self._from = self._to = here
            self._stopped = False


class MujocoCameras:
    """The cameras of a scene: rendered together when the simulation has moved on, with the noise of a depth sensor."""

    def __init__(
        self,
        arm: MujocoArm,
        specs: Sequence[CameraSpec],
        renderer: SceneRenderer,
        *,
        depth_noise: float = 0.0015,
        seed: int = 0,
    ) -> None:
        """Args: depth_noise: standard deviation at 1 m, growing with the square of the distance [m]."""
        self.arm, self.specs, self._renderer = arm, tuple(specs), renderer
        self._noise, self._rng = depth_noise, np.random.default_rng(seed)
        self._at, self._count = -np.inf, 0
        self._frames: tuple[CameraFrame, ...] = ()

    def cameras(self) -> tuple[MujocoCamera, ...]:
        """One `Camera` each, named cam0, cam1, ..."""
        return tuple(MujocoCamera(self, i) for i in range(len(self.specs)))

    def frames(
        self, *, newer_than: int | None = None, max_age_s: float = 0.0
    ) -> tuple[CameraFrame, ...]:
        """What the cameras see now.

        Args:
            newer_than: pictures with a higher number will do if they are at most `max_age_s` old: where time goes
                on, the cameras of a look share one moment, and each is rendered once.
        """
        with self.arm.lock:
            now = self.arm.clock.now()
            fresh = newer_than is not None and self._count > newer_than
            if fresh and 0 <= now - self._at <= max_age_s:
                return self._frames
            self.arm.catch_up()
            now = self.arm.clock.now()
            if now != self._at:
                views = self._renderer.render(self.arm.model, self.arm.data, self.specs)
                self._at, self._count = now, self._count + 1
                self._frames = tuple(self._frame(i, view) for i, view in enumerate(views))
            return self._frames

    def _frame(self, index: int, view: RenderedView) -> CameraFrame:
        depth = view.depth.astype(np.float64)
        noise = self._noise * depth**2 * self._rng.standard_normal(depth.shape)
        seen = np.where(depth > 0, np.maximum(depth + noise, 1e-3), 0.0)
        return CameraFrame(
            camera=f"cam{index}",
            rgb=view.rgb,
            depth=seen.astype(np.float32),
            K=self.specs[index].K,
            time=self._at,
            sequence=self._count,
        )


class MujocoCamera(PluggedCamera):
    """See `Camera`."""

    def __init__(self, group: MujocoCameras, index: int) -> None:
        super().__init__(f"cam{index}")
        self._group, self._index, self._given = group, index, 0

    def _newest(self, max_age_s: float) -> CameraFrame:
        """What was rendered last, if another camera asked for it just now; else of now."""
        frames = self._group.frames(newer_than=self._given, max_age_s=max_age_s)
        self._given = frames[self._index].sequence
        return frames[self._index]
