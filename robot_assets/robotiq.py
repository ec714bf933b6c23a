"""Robotiq 2F-85: linkage frames and mimic signs as published with the ROS-Industrial description, own geometry.

Frames: z along the gripper, the fingers open along x. At joint value 0 the pads are 85 mm apart, at 0.8 rad they meet.
Masses are those of the published description.
"""

from __future__ import annotations

import numpy as np

from robot_assets.describe import Joint, Link
from robot_assets.parts import Part, box, drum, part

OUTER_PIVOT = (0.03060114, 0.0, 0.05490452)
INNER_PIVOT = (0.0127, 0.0, 0.06142)
KNUCKLE_TO_FINGER = (0.03152616, 0.0, -0.00376347)
FINGER_TO_TIP = (0.00563134, 0.0, 0.04718515)
STROKE = 0.085
CLOSED = 0.8
#: x of the pad's face in the inner finger's frame, so that the pads are 85 mm apart at joint value 0.
PAD_FACE = STROKE / 2 - OUTER_PIVOT[0] - KNUCKLE_TO_FINGER[0] - FINGER_TO_TIP[0]
#: Middle of the pad along the inner finger.
PAD_HEIGHT = 0.031
#: Between the pads when they are closed.
TCP_HEIGHT = 0.1428
BASE = "robotiq_85_base_link"
TCP = "robotiq_85_tcp"
JOINT = "finger_joint"


def links() -> list[Link]:
    """The base, four links per side, and the tool frame; visual meshes are one file per link."""
    result = [Link(BASE, _base(), 0.22652, mesh=BASE)]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for name, make, mass in (
            ("outer_knuckle", _outer_knuckle, 0.00853),
            ("outer_finger", _outer_finger, 0.02261),
            ("inner_knuckle", _inner_knuckle, 0.02712),
            ("inner_finger", _inner_finger, 0.01040),
        ):
            result.append(Link(f"{side}_{name}", make(sign), mass))
    return [*result, Link(TCP)]


def facts() -> dict[str, object]:
    """Tool, gripper links and pads for robot.json."""
    return {
        "tool_link": TCP,
        "gripper_links": [link.name for link in links() if link.parts],
        "gripper_joint": JOINT,
        "finger_pads": {
            "left_inner_finger": [round(PAD_FACE, 9), 0.0, PAD_HEIGHT],
            "right_inner_finger": [round(-PAD_FACE, 9), 0.0, PAD_HEIGHT],
        },
    }


def joints(parent: str, xyz: tuple[float, float, float], yaw: float) -> list[Joint]:
    """The gripper on `parent`; every joint turns about -y and follows `finger_joint` (+1 or -1)."""
    result = [Joint("robotiq_mount_joint", parent, BASE, xyz, (0.0, 0.0, yaw))]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        knuckle = JOINT if side == "left" else "right_outer_knuckle_joint"
        finger, outer = f"{side}_outer_finger", f"{side}_outer_knuckle"
        result += [
            _turning(knuckle, BASE, outer, OUTER_PIVOT, sign, 1.0),
            Joint(f"{finger}_joint", outer, finger, _mirrored(KNUCKLE_TO_FINGER, sign)),
            _turning(
                f"{side}_inner_knuckle_joint", BASE, f"{side}_inner_knuckle", INNER_PIVOT, sign, 1.0
            ),
            _turning(
                f"{side}_inner_finger_joint",
                finger,
                f"{side}_inner_finger",
                FINGER_TO_TIP,
                sign,
                -1.0,
            ),
        ]
    return [*result, Joint("robotiq_tcp_joint", BASE, TCP, (0.0, 0.0, TCP_HEIGHT))]


def _turning(
    name: str,
    parent: str,
    child: str,
    xyz: tuple[float, float, float],
    side: float,
    multiplier: float,
) -> Joint:
    sign = side * multiplier
    return Joint(
        name,
        parent,
        child,
        _mirrored(xyz, side),
        kind="revolute",
        axis=(0.0, -1.0, 0.0),
        limits=(0.0, CLOSED) if sign > 0 else (-CLOSED, 0.0),
        velocity=2.0,
        effort=50.0,
        mimic=None if name == JOINT else (JOINT, sign, 0.0),
    )


def _mirrored(xyz: tuple[float, float, float], side: float) -> tuple[float, float, float]:
    return (side * xyz[0], xyz[1], xyz[2])


def _solid(side: float, *point_sets: np.ndarray) -> Part:
    """A dark convex part given for the left side (fingers open towards +x)."""
    return part("dark", *(points * [side, 1.0, 1.0] for points in point_sets))


def _base() -> list[Part]:
    def slab(z: float, x: float, y: float, cut: float) -> np.ndarray:
        corner = [(x - cut, y), (x, y - cut), (x - cut / 3, y - cut / 3)]
        flat = [(sx * a, sy * b, z) for a, b in corner for sx in (1, -1) for sy in (1, -1)]
        return np.array(flat, dtype=float)

    return [
        _solid(1.0, drum((0, 0, 0), "z", 0.0, 0.012, 0.0375, dome=0.002)),
        _solid(
            1.0,
            slab(0.010, 0.0385, 0.037, 0.014),
            slab(0.030, 0.0400, 0.0365, 0.012),
            slab(0.0499, 0.0420, 0.0288, 0.008),
        ),
        _solid(
            1.0,
            slab(0.0499, 0.0418, 0.0286, 0.008),
            slab(0.0623, 0.0400, 0.0230, 0.006),
            slab(0.0748, 0.0300, 0.0170, 0.005),
            slab(0.0900, 0.0175, 0.0100, 0.004),
        ),
    ]


def _pin(x: float, z: float, radius: float, half: float, middle: float = 0.0) -> np.ndarray:
    """A short cylinder along y."""
    return drum((x, middle, z), "y", -half, half, radius, sections=16)


def _outer_knuckle(side: float) -> list[Part]:
    x, z = KNUCKLE_TO_FINGER[0], KNUCKLE_TO_FINGER[2]
    return [
        _solid(side, _pin(0.0, 0.0, 0.0075, 0.0055), _pin(x, z, 0.0068, 0.0055)),
        _solid(side, box((0.019, -0.012, 0.0035), (0.0385, 0.012, 0.0125), chamfer=0.002)),
    ]


def _outer_finger(side: float) -> list[Part]:
    x, z = FINGER_TO_TIP[0], FINGER_TO_TIP[2]
    return [
        _solid(
            side,
            _pin(0.0, 0.0, 0.006, 0.012),
            _pin(0.0005, 0.012, 0.0062, 0.012),
            _pin(x, z - 0.006, 0.0062, 0.012),
            _pin(x, z, 0.0059, 0.0135),
        ),
    ]


def _inner_knuckle(side: float) -> list[Part]:
    x, z = 0.0371, 0.0434
    cheeks = [
        _solid(
            side,
            _pin(0.0, 0.0, 0.006, 0.0036, s * 0.0159),
            _pin(0.55 * x, 0.55 * z, 0.0058, 0.003, s * 0.014),
            _pin(x, z, 0.0058, 0.002, s * 0.0100),
        )
        for s in (1.0, -1.0)
    ]
    return [
        *cheeks,
        _solid(side, _pin(x, z, 0.0045, 0.0115)),
        _solid(side, _pin(0.6 * x, 0.6 * z, 0.004, 0.0130)),
    ]


def _inner_finger(side: float) -> list[Part]:
    face = PAD_FACE
    return [
        _solid(
            side,
            _pin(0.0, 0.0, 0.006, 0.0075),
            box((-0.0190, -0.0075, 0.0), (-0.0119, 0.0075, 0.0120)),
        ),
        _solid(
            side, box((face + 0.006, -0.0070, 0.0080), (-0.0119, 0.0070, 0.0445), chamfer=0.001)
        ),
        _solid(side, box((face, -0.0110, 0.0135), (face + 0.0062, 0.0110, 0.0485), chamfer=0.0006)),
    ]
