"""Universal Robots e-Series and CB3 through ur_rtde. Not yet tried on hardware."""

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

JOINTS = (
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
)


class URRobot(VendorArm):
    """See `Robot`. servoJ with the arm's own watchdog: without commands the arm's program stops by itself."""

    def __init__(
        self,
        *,
        clock: Clock,
        host: str,
        period: float = 0.01,
        lookahead: float = 0.1,
        gain: float = 300.0,
        watchdog_hz: float = 10.0,
    ) -> None:
        """Args: lookahead [s], gain: of servoJ. watchdog_hz: slowest rate of commands the arm accepts."""
        super().__init__(clock)
        self._host, self._period = host, period
        self._lookahead, self._gain, self._watchdog = lookahead, gain, watchdog_hz
        self._control: Any = None
        self._receive: Any = None

    @property
    def info(self) -> RobotInfo:
        return RobotInfo(name="ur", arm_joints=JOINTS, versions=self._versions)

    @property
    def is_connected(self) -> bool:
        return self._control is not None

    def connect(self) -> None:
        """See `Robot`."""
        control = import_sdk("rtde_control", "ur_rtde", "Moving a UR arm")
        receive = import_sdk("rtde_receive", "ur_rtde", "Moving a UR arm")
        try:
            self._receive = receive.RTDEReceiveInterface(self._host)
            self._control = control.RTDEControlInterface(self._host)
            self._control.setWatchdog(self._watchdog)
        except Exception as error:
            self._control = self._receive = None
            raise ControlError(
                Reason.ROBOT_LINK,
                f"no UR arm at {self._host}: {error}. Is it in remote control, powered and with its brakes released?",
            ) from error
        self._note_versions("ur_rtde", polyscope=self._polyscope)

    def _polyscope(self) -> str:
        """Version of the arm's software, from its dashboard server; 2.5 s at most.

        Raises:
            Exception: there is no such server, as on PolyScope X, or it does not answer.
        """
        module = import_sdk("dashboard_client", "ur_rtde", "Asking a UR arm for its version")
        dashboard = module.DashboardClient(self._host)
        dashboard.connect()
        try:
            return str(dashboard.polyscopeVersion())
        finally:
            dashboard.disconnect()

    def disconnect(self) -> None:
        """See `Robot`."""
        if self._control is not None:
            self.stop()
            with contextlib.suppress(Exception):
                self._control.stopScript()
        self._control = self._receive = None

    def get_state(self) -> RobotState:
        """See `Robot`."""
        if self._receive is None:
            return super().get_state()
        try:
            if not self._receive.isConnected():
                raise RuntimeError("the connection is gone")
            time, sequence = self._fresh(float(self._receive.getTimestamp()))
            q = np.array(self._receive.getActualQ(), dtype=np.float64)
            v = np.array(self._receive.getActualQd(), dtype=np.float64)
            errors = self._errors()
        except Exception as error:
            raise ControlError(Reason.ROBOT_LINK, f"UR: {error}") from error
        ready = RobotMode.MOVING if np.abs(v).max() > 1e-3 else RobotMode.READY
        if self._stopped:
            ready = RobotMode.STOPPED
        return RobotState(
            time=time,
            sequence=sequence,
            mode=RobotMode.ERROR if errors else ready,
            joint_positions=q,
            joint_velocities=v,
            errors=errors,
        )

    def _errors(self) -> tuple[str, ...]:
        found = []
        if self._receive.isProtectiveStopped():
            found.append("protective stop")
        if self._receive.isEmergencyStopped():
            found.append("emergency stop")
        return tuple(found)

    def send_action(self, command: JointCommand) -> JointCommand:
        """See `Robot`."""
        if self._control is None:
            raise ControlError(Reason.ROBOT_LINK, "UR: not connected")
        self._refuse_if_stopped()
        q = check_command(command, 6)
        try:
            # Speed and acceleration are not used by servoJ.
            taken = self._control.servoJ(
                q.tolist(), 0.0, 0.0, self._period, self._lookahead, self._gain
            )
            self._control.kickWatchdog()
        except Exception as error:
            raise ControlError(Reason.ROBOT_LINK, f"UR: {error}") from error
        if taken is False:
            raise ControlError(
                Reason.ROBOT_ERROR, "UR: servoJ was refused; is the program running?"
            )
        return command

    def stop(self) -> None:
        """See `Robot`."""
        self._stopped = True
        if self._control is not None:
            with contextlib.suppress(Exception):
                self._control.servoStop(5.0)

    def recover(self) -> None:
        """See `Robot`. Protective and emergency stops are unlocked at the pendant, not from here."""
        if self._control is None:
            raise ControlError(Reason.ROBOT_LINK, "UR: not connected")
        errors = self._errors()
        if errors:
            raise ControlError(
                Reason.ROBOT_ERROR, f"UR: {', '.join(errors)}; unlock it at the teach pendant first"
            )
        with contextlib.suppress(Exception):
            if not self._control.isProgramRunning():
                self._control.reuploadScript()
        self._stopped = False
