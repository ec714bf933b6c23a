"""Franka Research 3 and Panda through franky (libfranka, the 1 kHz loop in its own C++ thread).

Run against franky-sim, a server of libfranka's protocol. Not yet tried on hardware.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from pointworld.control.backends.vendor import VendorArm, check_command, import_sdk
from pointworld.control.clock import Clock
from pointworld.control.types import (
    ControlError,
    JointCommand,
    Reason,
    RobotInfo,
    RobotMode,
    RobotState,
)

_MODES = {"Idle": RobotMode.READY, "Move": RobotMode.MOVING}
_GRIPPER_STEP = 0.004
STIFFNESS = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
DAMPING = (50.0, 50.0, 50.0, 20.0, 20.0, 20.0, 10.0)
#: What the controller may ask of each joint beside gravity [Nm]: the arm's own limits are 87 and, in the wrist, 12, and
#: beyond these it stops with a reflex. One that presses no harder than this does not leap either when what it presses
#: gives way, or when commands come late: the elbow is light, and would pass its limit of speed.
TORQUE = (25.0, 25.0, 25.0, 15.0, 8.0, 8.0, 5.0)


class FrankaRobot(VendorArm):
    """See `Robot`.

    Commands are references of a joint impedance controller, which is made for a stream of them: the arm gives way when
    it meets something, and holds the last reference when no more come. Whole position motions that replace each other
    100 times a second hardly start to move.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        host: str,
        model: str = "fr3",
        gripper: bool = True,
        stiffness: Sequence[float] = STIFFNESS,
        damping: Sequence[float] = DAMPING,
        torque: Sequence[float] = TORQUE,
        realtime: bool = True,
    ) -> None:
        """Args: stiffness [Nm/rad], damping [Nms/rad]: (7,) of the controller. torque: (7,) most that it may ask for
        [Nm]. realtime: insist on such a kernel.
        """
        super().__init__(clock)
        self._host, self._model, self._with_gripper = host, model, gripper
        self._stiffness, self._damping = np.array(stiffness), np.array(damping)
        self._torque = np.array(torque)
        self._realtime = realtime
        self._franky: Any = None
        self._robot: Any = None
        self._gripper: Any = None
        self._motion: Any = None
        self._width: float | None = None
        self._wanted: float | None = None
        self._over = threading.Event()

    @property
    def info(self) -> RobotInfo:
        return RobotInfo(
            name=f"franka {self._model}",
            arm_joints=tuple(f"{self._model}_joint{i}" for i in range(1, 8)),
            max_width=0.08 if self._gripper is not None else None,
            versions=self._versions,
        )

    @property
    def is_connected(self) -> bool:
        return self._robot is not None

    def connect(self) -> None:
        """See `Robot`."""
        franky = import_sdk("franky", "franky-control", "Moving a Franka arm")
        config = franky.RealtimeConfig.Enforce if self._realtime else franky.RealtimeConfig.Ignore
        try:
            self._robot = franky.Robot(self._host, realtime_config=config)
            if self._with_gripper:
                self._gripper = franky.Gripper(self._host)
                self._width = float(self._gripper.width)
        except Exception as error:  # libfranka's errors share no base class with each other
            self._robot = None
            raise ControlError(
                Reason.ROBOT_LINK,
                f"no Franka at {self._host}: {error}. Is FCI on, are the brakes open, and does the version fit?",
            ) from error
        self._franky = franky
        # What version the arm itself has, franky does not tell; without a hand there is none to ask.
        self._note_versions("franky-control", hand=lambda: self._gripper.server_version)
        if self._gripper is not None:
            threading.Thread(target=self._follow_width, name="gripper", daemon=True).start()

    def disconnect(self) -> None:
        """See `Robot`."""
        if self._robot is not None:
            self.stop()
        self._over.set()
        self._robot = None

    def get_state(self) -> RobotState:
        """See `Robot`."""
        if self._robot is None:
            return super().get_state()
        try:
            state = self._robot.state
        except Exception as error:
            raise ControlError(Reason.ROBOT_LINK, f"Franka: {error}") from error
        time, sequence = self._fresh(state.time.to_sec())
        mode = str(state.robot_mode).rsplit(".", 1)[-1]
        errors = _raised(state.current_errors)
        if mode not in _MODES:
            errors = (*errors, f"robot mode {mode}")
        stopped = RobotMode.STOPPED if self._stopped else _MODES.get(mode, RobotMode.ERROR)
        return RobotState(
            time=time,
            sequence=sequence,
            mode=RobotMode.ERROR if errors else stopped,
            joint_positions=np.array(state.q, dtype=np.float64),
            joint_velocities=np.array(state.dq, dtype=np.float64),
            gripper_width=self._width,
            errors=errors,
            success_rate=float(state.control_command_success_rate),
        )

    def send_action(self, command: JointCommand) -> JointCommand:
        """See `Robot`."""
        if self._robot is None:
            raise ControlError(Reason.ROBOT_LINK, "Franka: not connected")
        self._refuse_if_stopped()
        q = check_command(command, 7)
        v = np.asarray(command.joint_velocities, dtype=np.float64)
        self._wanted = command.gripper_width
        try:
            if self._motion is None:
                self._begin()
            else:
                self._robot.poll_motion()  # raises what ended it, if anything did
                if not self._robot.is_in_control:
                    raise RuntimeError("its controller has ended")
            state = self._robot.state
            q, v = soft_reference(
                q,
                v,
                np.array(state.q),
                np.array(state.dq),
                self._stiffness,
                self._damping,
                self._torque,
            )
            self._motion.set_reference(self._franky.JointReference(q=q, dq=v))
        except Exception as error:
            raise ControlError(Reason.ROBOT_ERROR, f"Franka: {error}") from error
        return dataclasses.replace(command, joint_positions=q, joint_velocities=v)

    def _begin(self) -> None:
        """Start the controller where the arm is."""
        motion = self._franky.JointImpedanceTrackingMotion(
            stiffness=self._stiffness, damping=self._damping
        )
        motion.set_reference(self._franky.JointReference(q=np.array(self._robot.state.q)))
        self._robot.move(motion, asynchronous=True)
        self._motion = motion

    def stop(self) -> None:
        """See `Robot`."""
        self._stopped = True
        robot, motion = self._robot, self._motion
        self._motion = None
        if robot is None or motion is None:
            return
        try:
            robot.move(self._franky.TorqueStopMotion(), asynchronous=True)
        except Exception:
            with contextlib.suppress(Exception):
                robot.stop()

    def recover(self) -> None:
        """See `Robot`."""
        if self._robot is None:
            raise ControlError(Reason.ROBOT_LINK, "Franka: not connected")
        try:
            # What ended the last motion is known already, and that a stop was refused in a reflex: another exception.
            with contextlib.suppress(Exception):
                self._robot.poll_motion()
            if self._robot.has_errors and not self._robot.recover_from_errors():
                raise ControlError(Reason.ROBOT_ERROR, "Franka: it does not leave its error")
        except ControlError:
            raise
        except Exception as error:
            raise ControlError(Reason.ROBOT_ERROR, f"Franka: {error}") from error
        self._stopped = False

    def _follow_width(self) -> None:
        """Read the width and send new ones, beside the arm: the hand answers slowly."""
        last = self._width
        while not self._over.wait(0.1):
            with contextlib.suppress(Exception):
                wanted = self._wanted
                new = wanted is not None and (last is None or abs(wanted - last) > _GRIPPER_STEP)
                if new and not self._stopped:
                    self._gripper.move(wanted, 0.1)
                    last = wanted
                self._width = float(self._gripper.width)


def soft_reference(
    q: np.ndarray,
    v: np.ndarray,
    measured_q: np.ndarray,
    measured_v: np.ndarray,
    stiffness: np.ndarray,
    damping: np.ndarray,
    torque: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The reference nearest to the wanted one for which an impedance controller asks for no more than `torque`.

    Args:
        q, v, measured_q, measured_v: (joints,) wanted and measured [rad, rad/s].
        stiffness, damping, torque: (joints,) [Nm/rad, Nms/rad, Nm].
    """
    slip = np.clip(damping * (v - measured_v), -torque, torque)
    pull = np.clip(stiffness * (q - measured_q), -torque - slip, torque - slip)
    return measured_q + pull / stiffness, measured_v + slip / damping


def _raised(errors: Any) -> tuple[str, ...]:
    """Names of the flags that are set."""
    return tuple(
        name
        for name in dir(errors)
        if not name.startswith("_")
        and isinstance(getattr(errors, name), bool)
        and getattr(errors, name)
    )
