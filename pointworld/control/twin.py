"""A simulated scene that follows an arm elsewhere: its hand pushes things, cameras see them, a judge knows the truth.

The arm may be a simulated control box, a fake, or a real one on an empty table. Its measured joints are the targets of
the scene's arm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from pointworld.control.backends.mujoco_arm import MujocoArm
from pointworld.control.clock import SystemClock
from pointworld.control.types import ControlError, JointCommand
from pointworld.data.simulator import set_joints
from pointworld.plan.tasks import Task

PERIOD = 0.02
#: A twin that was put aside by the system for a while catches up at this speed [rad/s], and knocks nothing over.
_FASTEST = 1.5

#: Joints and speeds (joints,) of the arm, gripper last.
Measure = Callable[[], tuple[np.ndarray, np.ndarray]]


class Twin:
    """The scene of a task in real time. `arm.data` is its state; hold `arm.lock` to read it."""

    def __init__(self, task: Task, joints: np.ndarray) -> None:
        """Args: joints: (joints,) where the other arm stands now, gripper last."""
        data = task.restart()
        self.task = task
        self.arm = MujocoArm(task.model, task.tree, SystemClock(), data=data, period=PERIOD)
        set_joints(data, self.arm.index, joints)
        self.arm.connect()
        self.arm.recover()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost: ControlError | None = None
        self._at = joints[:-1].copy()

    def follow(self, measure: Measure) -> None:
        """Follow the other arm from here on, in a thread."""
        self._thread = threading.Thread(target=self._run, args=(measure,), daemon=True)
        self._thread.start()

    def _run(self, measure: Measure) -> None:
        while not self._over.wait(PERIOD):
            try:
                joints, speeds = measure()
                self.step(joints, speeds)
            except ControlError as error:
                self._lost = error
                return

    def require(self) -> None:
        """See that the scene follows.

        Raises:
            ControlError: it has lost the other arm, and shows and judges a moment that has passed.
        """
        if self._lost is not None:
            raise ControlError(
                self._lost.reason, f"the simulated scene no longer follows the arm: {self._lost}"
            )

    def step(self, joints: np.ndarray, speeds: np.ndarray) -> None:
        """Let the scene's arm go where the other one is. Args: joints, speeds: (joints,), gripper last."""
        width = float(self.task.tree.finger_width(joints[-1]))
        most = _FASTEST * PERIOD
        self._at = np.clip(joints[:-1], self._at - most, self._at + most)
        self.arm.send_action(
            JointCommand(
                joint_positions=self._at, joint_velocities=speeds[:-1], gripper_width=width
            )
        )

    def close(self) -> None:
        """Follow no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
        self.arm.disconnect()
