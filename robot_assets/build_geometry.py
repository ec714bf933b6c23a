"""Build the bundled robots: `python -m robot_assets.build_geometry [folder]` rewrites their URDFs and meshes.

Deterministic; joint frames, limits and dimensions are in `franka.py`, `robotiq.py` and `ur5e.py`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from robot_assets import franka, robotiq, ur5e
from robot_assets.describe import Joint, Link, Robot, write_robot


def fr3() -> Robot:
    """Franka Research 3 with the Franka hand."""
    return Robot(
        "fr3",
        "Franka Research 3 with Franka Hand",
        [*franka.arm_links("fr3", franka.FR3_MASSES), *franka.hand_links("fr3")],
        [
            *franka.arm_joints("fr3", franka.FR3_LIMITS, franka.FR3_VELOCITIES, franka.FR3_BRAKING),
            *franka.hand_joints("fr3"),
        ],
        {
            "urdf": "fr3.urdf",
            "tool_link": "fr3_hand_tcp",
            "gripper_links": ["fr3_hand", "fr3_leftfinger", "fr3_rightfinger"],
            "gripper_joint": "fr3_finger_joint1",
            "finger_pads": {
                "fr3_leftfinger": [0.0, 0.0, 0.045],
                "fr3_rightfinger": [0.0, 0.0, 0.045],
            },
            "home": [0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785, 0.04],
        },
    )


def panda_robotiq() -> Robot:
    """Franka Panda with a Robotiq 2F-85 as in DROID: on the flange, turned by 1.57 rad."""
    return Robot(
        "panda_robotiq",
        "Franka Panda with Robotiq 2F-85 (DROID set-up)",
        [
            *franka.arm_links("panda", franka.PANDA_MASSES),
            Link("camera_mount_link"),
            *robotiq.links(),
        ],
        [
            *franka.arm_joints("panda", franka.PANDA_LIMITS, franka.PANDA_VELOCITIES),
            Joint("camera_mount_joint", "panda_link8", "camera_mount_link", rpy=(0.0, 0.0, 1.57)),
            *robotiq.joints("camera_mount_link", (0.0, 0.0, 0.0), 0.0),
        ],
        {
            "urdf": "panda_robotiq.urdf",
            **robotiq.facts(),
            "home": [0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.0, 0.0],
        },
    )


def ur5e_robotiq() -> Robot:
    """Universal Robots UR5e with a Robotiq 2F-85 on an 11 mm coupling plate."""
    return Robot(
        "ur5e_robotiq",
        "Universal Robots UR5e with Robotiq 2F-85",
        [*ur5e.links(), *robotiq.links()],
        [*ur5e.joints(), *robotiq.joints("tool0", (0.0, 0.0, ur5e.COUPLING), 0.0)],
        {
            "urdf": "ur5e_robotiq.urdf",
            **robotiq.facts(),
            "home": [0.0, -1.57, 1.57, -1.57, -1.57, 0.0, 0.0],
        },
    )


ROBOTS = {"fr3": fr3, "panda_robotiq": panda_robotiq, "ur5e_robotiq": ur5e_robotiq}


def main(folder: Path) -> None:
    """Write every robot below `folder`; files other than the URDF, robot.json and meshes/ are left alone."""
    for name, make in ROBOTS.items():
        target = folder / name
        shutil.rmtree(target / "meshes", ignore_errors=True)
        target.mkdir(parents=True, exist_ok=True)
        robot = make()
        write_robot(robot, target)
        (target / "robot.json").write_text(json.dumps(robot.facts, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
