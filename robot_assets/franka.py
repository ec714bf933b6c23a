"""Franka arms and the Franka hand: joint frames from the published Denavit-Hartenberg table, own convex geometry.

Sources (facts only): Franka Control Interface documentation, "Denavit-Hartenberg parameters" and "Limits" of the
Panda and the Research 3; link masses as published with the manufacturer's robot descriptions.
"""

from __future__ import annotations

import numpy as np

from robot_assets.describe import Joint, Link
from robot_assets.parts import Part, box, drum, part, ring

PI = float(np.pi)
O = (0.0, 0.0, 0.0)  # noqa: E741 - the origin of a link frame

#: xyz, rpy of joints 1-7 in the parent link frame (modified DH: d1 .333, d3 .316, a4 .0825, d5 .384, a7 .088).
ORIGINS = (
    ((0.0, 0.0, 0.333), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (-PI / 2, 0.0, 0.0)),
    ((0.0, -0.316, 0.0), (PI / 2, 0.0, 0.0)),
    ((0.0825, 0.0, 0.0), (PI / 2, 0.0, 0.0)),
    ((-0.0825, 0.384, 0.0), (-PI / 2, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (PI / 2, 0.0, 0.0)),
    ((0.088, 0.0, 0.0), (PI / 2, 0.0, 0.0)),
)
EFFORTS = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)

FR3_LIMITS = (
    (-2.9007, 2.9007),
    (-1.8361, 1.8361),
    (-2.9007, 2.9007),
    (-3.077, -0.1169),
    (-2.8763, 2.8763),
    (0.4398, 4.6216),
    (-3.0508, 3.0508),
)
FR3_VELOCITIES = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
#: Velocity offset [rad/s] and deceleration [rad/s2] of the limits that shrink near the position limits.
FR3_BRAKING = (
    (0.652, 6.0),
    (0.25, 2.585),
    (0.2005, 3.5),
    (0.3542, 4.0),
    (0.5738, 17.0),
    (0.4885, 5.5),
    (0.4592, 17.0),
)
FR3_MASSES = (2.3966, 2.9275, 2.9355, 2.2449, 2.6156, 2.3271, 1.8170, 0.6271)

PANDA_LIMITS = (
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)
PANDA_VELOCITIES = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)
PANDA_MASSES = (2.8142, 2.3599, 2.3795, 2.6498, 2.6948, 2.9813, 1.1285, 0.4053)


def arm_joints(
    prefix: str,
    limits: tuple[tuple[float, float], ...],
    velocities: tuple[float, ...],
    braking: tuple[tuple[float, float], ...] | None = None,
) -> list[Joint]:
    """Joints 1-7 and the fixed flange joint 8 (0.107 m)."""
    joints = [
        Joint(
            f"{prefix}_joint{i + 1}",
            f"{prefix}_link{i}",
            f"{prefix}_link{i + 1}",
            *ORIGINS[i],
            kind="revolute",
            limits=limits[i],
            velocity=velocities[i],
            effort=EFFORTS[i],
            braking=None if braking is None else braking[i],
        )
        for i in range(7)
    ]
    flange = Joint(f"{prefix}_joint8", f"{prefix}_link7", f"{prefix}_link8", (0.0, 0.0, 0.107))
    return [*joints, flange]


def arm_links(prefix: str, masses: tuple[float, ...]) -> list[Link]:
    """Links 0-7 with geometry, and the flange frame link 8."""
    shapes = (_link0(), _link1(), _link2(), _link3(), _link4(), _link5(), _link6(), _link7())
    links = [Link(f"{prefix}_link{i}", shapes[i], masses[i]) for i in range(8)]
    return [*links, Link(f"{prefix}_link8")]


def _link0() -> list[Part]:
    foot = [drum((x, y, 0), "z", 0.0, 0.03, r) for x, y, r in _FOOT]
    rear = [drum((x, y, 0), "z", 0.02, z, 0.022, dome=0.01) for x, y, z in _REAR]
    return [
        part("white", ring(O, "z", 0.0712), ring((0, 0, 0.03), "z", 0.069), *foot),
        part("white", ring((0, 0, 0.02), "z", 0.0685), ring((0, 0, 0.14), "z", 0.0562)),
        part("white", *rear),
        part("dark", box((-0.155, -0.045, 0.006), (-0.12, 0.045, 0.042), chamfer=0.003)),
    ]


_FOOT = (
    (-0.02, 0.070, 0.0245),
    (-0.02, -0.070, 0.0245),
    (-0.12, 0.045, 0.026),
    (-0.12, -0.045, 0.026),
)
_REAR = ((-0.03, 0.04, 0.115), (-0.03, -0.04, 0.115), (-0.115, 0.04, 0.055), (-0.115, -0.04, 0.055))


def _link1() -> list[Part]:
    return [
        part(
            "white",
            ring((0, 0, -0.178), "z", 0.055),
            ring((0, 0, -0.11), "z", 0.055),
            drum(O, "y", -0.003, -0.1294, 0.055, dome=0.035),
        ),
        part("dark", drum(O, "z", -0.192, -0.170, 0.0535)),
        part("dark", drum(O, "y", -0.02, 0.0, 0.0535)),
    ]


def _link2() -> list[Part]:
    return [
        part(
            "white",
            ring((0, -0.180, 0), "y", 0.055),
            ring((0, -0.11, 0), "y", 0.055),
            drum(O, "z", 0.003, 0.1294, 0.055, dome=0.035),
        ),
        part("dark", drum(O, "y", -0.194, -0.172, 0.0535)),
        part("dark", drum(O, "z", 0.02, 0.0, 0.0535)),
    ]


def _link3() -> list[Part]:
    elbow = (0.0825, 0.0, 0.0)
    return [
        part(
            "white",
            ring((0, 0, -0.108), "z", 0.0545),
            ring((0, 0, -0.065), "z", 0.0545),
            drum(elbow, "y", 0.003, 0.111, 0.055, dome=0.03),
        ),
        part("dark", drum(O, "z", -0.122, -0.100, 0.053)),
        part("dark", drum(elbow, "y", 0.02, 0.0, 0.0535)),
    ]


def _link4() -> list[Part]:
    wrist = (-0.0825, 0.0, 0.0)
    return [
        part(
            "white",
            ring((-0.0825, 0.110, 0), "y", 0.0545),
            ring((-0.0825, 0.065, 0), "y", 0.0545),
            drum(O, "z", 0.003, 0.111, 0.055, dome=0.03),
        ),
        part("dark", drum(wrist, "y", 0.124, 0.102, 0.053)),
        part("dark", drum(O, "z", 0.02, 0.0, 0.0535)),
    ]


def _link5() -> list[Part]:
    return [
        part("white", drum(O, "z", -0.246, -0.17, 0.0545, dome=0.02)),
        part(
            "white",
            ring((0, 0, -0.222), "z", 0.0535),
            ring((0, 0.035, -0.12), "z", 0.050),
            drum(O, "y", 0.050, 0.130, 0.051, dome=0.025),
        ),
        part("dark", drum(O, "z", -0.260, -0.238, 0.053)),
        part("dark", drum(O, "y", 0.06, 0.045, 0.0495)),
    ]


def _link6() -> list[Part]:
    tool = (0.088, 0.0, 0.0)
    return [
        part(
            "white",
            drum(O, "z", -0.02, 0.056, 0.048, dome=0.012),
            drum(O, "z", -0.02, -0.038, 0.046),
        ),
        part(
            "white",
            drum(O, "z", -0.03, 0.05, 0.042, dome=0.01),
            drum(tool, "y", -0.044, 0.081, 0.0445, dome=0.022),
        ),
        part("dark", drum(O, "z", -0.03, -0.045, 0.0455)),
        part("dark", drum(tool, "y", -0.03, -0.051, 0.0435)),
    ]


def _link7() -> list[Part]:
    lobe = (0.0575, 0.0575, 0.0)
    return [
        part("white", drum(O, "z", 0.056, 0.096, 0.0445, dome=0.004)),
        part(
            "white",
            ring((0.01, 0.01, 0.064), "z", 0.03),
            drum(lobe, "z", 0.080, 0.094, 0.0238, dome=0.003),
            ring((0, 0, 0.094), "z", 0.035),
        ),
        part("dark", drum(O, "z", 0.060, 0.052, 0.0430)),
        part("dark", drum(O, "z", 0.090, 0.107, 0.0315)),
    ]


def hand_links(prefix: str) -> list[Link]:
    """The hand (0.204 x 0.063 x 0.066 m), its two fingers (pads at y = 0, tips at z = 0.0538) and the tool frame."""
    body = [
        box((-0.0315, -0.100, 0.0), (0.0315, 0.096, 0.012), chamfer=0.008),
        box((-0.0225, -0.102, 0.02), (0.0225, 0.102, 0.060), chamfer=0.006),
    ]
    hand = [
        part("white", *body),
        part("white", box((-0.019, -0.104, -0.026), (0.019, -0.032, 0.02), chamfer=0.008)),
        part("dark", box((-0.0165, -0.096, 0.05), (0.0165, 0.096, 0.066), chamfer=0.002)),
        part("dark", drum(O, "z", 0.008, -0.001, 0.0315)),
    ]
    return [
        Link(f"{prefix}_hand", hand, 0.6544),
        Link(f"{prefix}_leftfinger", _finger(), 0.0291, mesh=f"{prefix}_finger"),
        Link(f"{prefix}_rightfinger", _finger(), 0.0291, mesh=f"{prefix}_finger"),
        Link(f"{prefix}_hand_tcp"),
    ]


def _finger() -> list[Part]:
    return [
        part("steel", box((-0.0105, 0.0026, 0.0002), (0.0105, 0.0264, 0.0190), chamfer=0.001)),
        part(
            "dark",
            box((-0.0095, 0.0125, 0.017), (0.0095, 0.0250, 0.0185)),
            box((-0.0088, 0.0040, 0.0400), (0.0088, 0.0140, 0.0410)),
        ),
        part("dark", box((-0.0088, 0.0, 0.0362), (0.0088, 0.0143, 0.0538), chamfer=0.0008)),
    ]


def hand_joints(prefix: str) -> list[Joint]:
    """Hand at -45 degrees on the flange, finger slides of 0-0.04 m each, tool frame at 0.1034 m."""
    finger = {
        "kind": "prismatic",
        "axis": (0.0, 1.0, 0.0),
        "limits": (0.0, 0.04),
        "velocity": 0.2,
        "effort": 100.0,
    }
    left, right = f"{prefix}_finger_joint1", f"{prefix}_finger_joint2"
    hand = f"{prefix}_hand"
    return [
        Joint(f"{hand}_joint", f"{prefix}_link8", hand, rpy=(0.0, 0.0, -PI / 4)),
        Joint(f"{hand}_tcp_joint", hand, f"{hand}_tcp", (0.0, 0.0, 0.1034)),
        Joint(left, hand, f"{prefix}_leftfinger", (0.0, 0.0, 0.0584), **finger),  # type: ignore[arg-type]
        Joint(
            right,
            hand,
            f"{prefix}_rightfinger",
            (0.0, 0.0, 0.0584),
            (0.0, 0.0, PI),
            mimic=(left, 1.0, 0.0),
            **finger,  # type: ignore[arg-type]
        ),
    ]
