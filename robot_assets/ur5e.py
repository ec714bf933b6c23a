"""Universal Robots UR5e: joint frames from the published Denavit-Hartenberg table, own convex geometry.

Sources (facts only): Universal Robots, "DH parameters for calculations of kinematics and dynamics" (d1 .1625,
a2 -.425, a3 -.3922, d4 .1333, d5 .0997, d6 .0996) and the UR5e data sheet (limits, speeds, masses).
"""

from __future__ import annotations

import numpy as np

from robot_assets.describe import Joint, Link
from robot_assets.parts import Part, box, drum, part, ring

PI = float(np.pi)
O = (0.0, 0.0, 0.0)  # noqa: E741 - the origin of a link frame

LINKS = (
    "base_link_inertia",
    "shoulder_link",
    "upper_arm_link",
    "forearm_link",
    "wrist_1_link",
    "wrist_2_link",
    "wrist_3_link",
)
MASSES = (4.0, 3.761, 8.058, 2.846, 1.37, 1.3, 0.365)
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
ORIGINS = (
    ((0.0, 0.0, 0.1625), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (PI / 2, 0.0, 0.0)),
    ((-0.425, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ((-0.3922, 0.0, 0.1333), (0.0, 0.0, 0.0)),
    ((0.0, -0.0997, 0.0), (PI / 2, 0.0, 0.0)),
    ((0.0, 0.0996, 0.0), (-PI / 2, 0.0, 0.0)),
)
LIMITS = (2 * PI, 2 * PI, PI, 2 * PI, 2 * PI, 2 * PI)
EFFORTS = (150.0, 150.0, 150.0, 28.0, 28.0, 28.0)
COUPLING = 0.011


def links() -> list[Link]:
    """base_link (a frame), the seven bodies, and tool0 with the coupling plate of the gripper."""
    shapes = (_base(), _shoulder(), _upper_arm(), _forearm(), _wrist_1(), _wrist_2(), _wrist_3())
    bodies = [Link(n, s, m) for n, s, m in zip(LINKS, shapes, MASSES, strict=True)]
    plate = [part("dark", drum(O, "z", -0.001, COUPLING, 0.0375, dome=0.001))]
    return [Link("base_link"), *bodies, Link("tool0", plate, 0.1, mesh="coupling_plate")]


def joints() -> list[Joint]:
    """The fixed half turn of the base, six joints, and the flange."""
    result = [Joint("base_joint", "base_link", "base_link_inertia", rpy=(0.0, 0.0, PI))]
    for i, name in enumerate(JOINTS):
        result.append(
            Joint(
                f"{name}_joint",
                LINKS[i],
                LINKS[i + 1],
                *ORIGINS[i],
                kind="revolute",
                limits=(-LIMITS[i], LIMITS[i]),
                velocity=PI,
                effort=EFFORTS[i],
            )
        )
    return [*result, Joint("flange_joint", "wrist_3_link", "tool0")]


def _base() -> list[Part]:
    return [
        part("grey", drum(O, "z", 0.0, 0.022, 0.0755, dome=0.003)),
        part(
            "grey",
            ring((0, 0, 0.02), "z", 0.0715),
            ring((0, 0, 0.07), "z", 0.0595),
            ring((0, 0, 0.094), "z", 0.058),
        ),
        part("dark", drum(O, "z", 0.085, 0.0991, 0.0565)),
        part("dark", box((-0.014, -0.094, 0.008), (0.014, -0.060, 0.036), chamfer=0.003)),
    ]


def _shoulder() -> list[Part]:
    return [
        part("grey", drum(O, "z", -0.0600, 0.02, 0.058)),
        part("grey", drum(O, "y", 0.035, -0.0700, 0.058), drum(O, "z", 0.0, 0.0580, 0.030)),
        part("blue", drum(O, "y", 0.035, 0.060, 0.0560, dome=0.018)),
        part("dark", drum(O, "y", -0.05, -0.0744, 0.0565)),
        part("dark", drum(O, "z", -0.04, -0.0637, 0.0565)),
    ]


def _upper_arm() -> list[Part]:
    elbow = (-0.425, 0.0, 0.0)
    tube = (0.0, 0.0, 0.138)
    return [
        part("grey", drum(O, "z", 0.0780, 0.190, 0.0580), ring((-0.085, 0, 0.138), "x", 0.0480)),
        part(
            "grey", drum(elbow, "z", 0.0640, 0.190, 0.0570), ring((-0.340, 0, 0.138), "x", 0.0480)
        ),
        part("grey", drum(tube, "x", -0.05, -0.38, 0.043)),
        part("blue", drum(O, "z", 0.190, 0.2100, 0.0565, dome=0.014)),
        part("blue", drum(elbow, "z", 0.190, 0.2100, 0.0555, dome=0.014)),
        part("dark", drum(O, "z", 0.10, 0.0742, 0.0565)),
        part("dark", drum(elbow, "z", 0.10, 0.0602, 0.0555)),
    ]


def _forearm() -> list[Part]:
    wrist = (-0.3922, 0.0, 0.0)
    tube = (0.0, 0.0, 0.007)
    return [
        part("grey", drum(O, "z", -0.0280, 0.056, 0.0565), ring((-0.085, 0, 0.007), "x", 0.0420)),
        part("grey", drum(tube, "x", -0.05, -0.36, 0.038)),
        part(
            "grey", drum(wrist, "z", -0.0420, 0.0540, 0.0380), ring((-0.340, 0, 0.007), "x", 0.0378)
        ),
        part("blue", drum(O, "z", -0.0280, -0.0480, 0.0550, dome=0.014)),
        part("blue", drum(wrist, "z", -0.0420, -0.0495, 0.0365, dome=0.006)),
        part("dark", drum(O, "z", 0.03, 0.0600, 0.0555)),
        part("dark", drum(wrist, "z", 0.03, 0.0597, 0.0365)),
    ]


def _wrist_1() -> list[Part]:
    return [
        part("grey", drum(O, "z", -0.0690, 0.0200, 0.0375)),
        part("grey", drum(O, "y", 0.0470, -0.0500, 0.0375)),
        part("grey", drum(O, "z", 0.0, 0.0386, 0.0375, dome=0.016)),
        part("blue", drum(O, "y", 0.0470, 0.0560, 0.0365, dome=0.007)),
        part("dark", drum(O, "z", -0.05, -0.0735, 0.0365)),
        part("dark", drum(O, "y", -0.03, -0.0540, 0.0365)),
    ]


def _wrist_2() -> list[Part]:
    return [
        part("grey", drum(O, "z", -0.0410, 0.0200, 0.0375)),
        part("grey", drum(O, "y", -0.0480, 0.0490, 0.0375)),
        part("grey", drum(O, "z", 0.0, 0.0390, 0.0375, dome=0.016)),
        part("blue", drum(O, "y", -0.0480, -0.0567, 0.0365, dome=0.007)),
        part("dark", drum(O, "z", -0.02, -0.0456, 0.0365)),
        part("dark", drum(O, "y", 0.03, 0.0531, 0.0365)),
    ]


def _wrist_3() -> list[Part]:
    return [
        part("grey", drum(O, "z", -0.0420, -0.0080, 0.0375)),
        part("dark", drum(O, "z", -0.03, -0.0464, 0.0365)),
        part("steel", drum(O, "z", -0.02, 0.0, 0.0320)),
        part("dark", drum((0.0, 0.036, -0.028), "y", -0.01, 0.0075, 0.007, sections=14)),
    ]
