"""UFACTORY xArm through its Python SDK. Not yet tried on hardware."""

from __future__ import annotations

import contextlib
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

#: Online joint trajectory planning: the arm itself limits speed and acceleration towards a moving target. Mode 1
#: (servo) would follow at once and at any speed.
_ONLINE = 6
_STOP, _READY = 4, 0


class XArmRobot(VendorArm):
    """See `Robot`. All angles in radians; every return code is checked.

    The SDK asks the controller for every state and waits, so one that is silent is noticed: the answer is as old as
    the question. The answer has no time of its own, though. That the controller repeats an old state of an arm that
    moves is noticed by its age, of one that stands only when the arm seems not to follow (see `_answered`).
    """

    def __init__(
        self,
        *,
        clock: Clock,
        host: str,
        joints: int = 7,
        speed: float = 0.8,
        acceleration: float = 5.0,
    ) -> None:
        """Args: joints: of the arm, 5 to 7. speed [rad/s], acceleration [rad/s2]: the arm's own bounds."""
        super().__init__(clock)
        self._host, self._joints, self._speed, self._acceleration = (
            host,
            joints,
            speed,
            acceleration,
        )
        self._arm: Any = None

    @property
    def info(self) -> RobotInfo:
        return RobotInfo(
            name="xarm",
            arm_joints=tuple(f"joint{i}" for i in range(1, self._joints + 1)),
            versions=self._versions,
        )

    @property
    def is_connected(self) -> bool:
        return self._arm is not None

    def connect(self) -> None:
        """See `Robot`."""
        wrapper = import_sdk("xarm.wrapper", "xarm-python-sdk", "Moving an xArm")
        try:
            self._arm = wrapper.XArmAPI(self._host, is_radian=True)
            self._ready()
        except ControlError:
            self._arm = None
            raise
        except Exception as error:
            self._arm = None
            raise ControlError(Reason.ROBOT_LINK, f"no xArm at {self._host}: {error}") from error
        self._note_versions("xarm-python-sdk", controller=lambda: self._arm.version)

    def _ready(self) -> None:
        self._check(self._arm.motion_enable(enable=True), "motion_enable")
        self._check(self._arm.set_mode(_ONLINE), "set_mode")
        self._check(self._arm.set_state(_READY), "set_state")

    def _check(self, code: int, call: str) -> None:
        if code != 0:
            raise ControlError(
                Reason.ROBOT_ERROR,
                f"xArm: {call} returned {code} (error {self._arm.error_code}, warning {self._arm.warn_code})",
            )

    def disconnect(self) -> None:
        """See `Robot`."""
        if self._arm is not None:
            self.stop()
            with contextlib.suppress(Exception):
                self._arm.disconnect()
        self._arm = None

    def get_state(self) -> RobotState:
        """See `Robot`."""
        if self._arm is None:
            return super().get_state()
        asked = self._clock.now()
        code, states = self._arm.get_joint_states(is_radian=True)
        if code != 0 or not self._arm.connected:
            raise ControlError(Reason.ROBOT_LINK, f"xArm: get_joint_states returned {code}")
        q, v = (np.array(states[i][: self._joints], dtype=np.float64) for i in (0, 1))
        time, sequence = self._answered(asked, q, v)
        errors = () if self._arm.error_code == 0 else (f"error {self._arm.error_code}",)
        mode = RobotMode.MOVING if np.abs(v).max() > 1e-3 else RobotMode.READY
        if self._stopped:
            mode = RobotMode.STOPPED
        return RobotState(
            time=time,
            sequence=sequence,
            mode=RobotMode.ERROR if errors else mode,
            joint_positions=q,
            joint_velocities=v,
            errors=errors,
        )

    def send_action(self, command: JointCommand) -> JointCommand:
        """See `Robot`."""
        if self._arm is None:
            raise ControlError(Reason.ROBOT_LINK, "xArm: not connected")
        self._refuse_if_stopped()
        q = check_command(command, self._joints)
        code = self._arm.set_servo_angle(
            angle=q.tolist(),
            speed=self._speed,
            mvacc=self._acceleration,
            is_radian=True,
            wait=False,
        )
        self._check(code, "set_servo_angle")
        return command

    def stop(self) -> None:
        """See `Robot`."""
        self._stopped = True
        if self._arm is not None:
            with contextlib.suppress(Exception):
                self._arm.set_state(_STOP)

    def recover(self) -> None:
        """See `Robot`."""
        if self._arm is None:
            raise ControlError(Reason.ROBOT_LINK, "xArm: not connected")
        self._arm.clean_error()
        self._arm.clean_warn()
        self._ready()
        if self._arm.error_code != 0:
            raise ControlError(Reason.ROBOT_ERROR, f"xArm: error {self._arm.error_code} stays")
        self._stopped = False
