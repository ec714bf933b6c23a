"""A driver file as a user would write it: LeRobot's adapter about a stand-in for the object that drives the motors."""

from __future__ import annotations

from pointworld.control.backends.lerobot import LeRobotArm
from pointworld.control.clock import Clock
from pointworld.control.protocols import Robot


class Follower:
    """Motors that are at once where they are sent: two joints in degrees, a gripper in percent."""

    def __init__(self) -> None:
        self.is_connected = False
        self.values = {"pan.pos": 0.0, "lift.pos": 0.0, "hand.pos": 100.0}

    def connect(self) -> None:
        """See LeRobot."""
        self.is_connected = True

    def disconnect(self) -> None:
        """See LeRobot."""
        self.is_connected = False

    def get_observation(self) -> dict[str, float]:
        """See LeRobot."""
        return dict(self.values)

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        """See LeRobot."""
        self.values.update(action)
        return action


def make_robot(clock: Clock, host: str = "nowhere") -> Robot:
    """The arm; it answers only at the address `here`."""
    if host != "here":
        raise ConnectionError(f"no motors at {host}")
    return arm_of(Follower(), clock)


def arm_of(follower: Follower, clock: Clock) -> LeRobotArm:
    """The adapter about these motors."""
    return LeRobotArm(follower, clock=clock, joints=("pan", "lift"), gripper="hand", max_width=0.07)
