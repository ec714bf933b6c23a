"""A driver file for an SO-101 that LeRobot drives; needs LeRobot in the environment given with --python.

pointworld doctor robot --robot own --driver examples/drivers/so101.py --host /dev/ttyACM0 --model so101.urdf \
    --python /opt/lerobot/bin/python
"""

from lerobot.robots.so101_follower import SO101Follower, SO101FollowerConfig

from pointworld.control.backends.lerobot import LeRobotArm
from pointworld.control.clock import Clock
from pointworld.control.protocols import Robot


def make_robot(clock: Clock, host: str = "/dev/ttyACM0") -> Robot:
    """The arm, not connected yet. `host` is what --host says: here the serial port."""
    # Torque stays on when the server leaves, so that the arm does not fall.
    config = SO101FollowerConfig(
        port=host, id="follower", use_degrees=True, disable_torque_on_disconnect=False
    )
    return LeRobotArm(
        SO101Follower(config),
        clock=clock,
        joints=("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"),
        gripper="gripper",
        max_width=0.07,
    )
