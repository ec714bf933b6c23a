"""Run by a Python that has pylibfranka: velocity limits as libfranka computes them from a URDF.

usage: python libfranka_limits.py URDF < configurations.json; prints [[lower, upper], ...]. libfranka's limits are not
part of its Python interface, so its shared library is called directly.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

CLASS = "_ZN{}6franka25JointVelocityLimitsConfig"


class StdString(ctypes.Structure):
    """std::string of libstdc++: pointer, length, and room for short texts."""

    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t), ("room", ctypes.c_char * 16)]


def main() -> None:
    spec = importlib.util.find_spec("pylibfranka")
    assert spec is not None and spec.origin is not None
    import pylibfranka  # noqa: F401 - loads the libraries that libfranka needs

    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("libfranka.so*"))))
    tree = ElementTree.parse(sys.argv[1]).getroot()
    # libfranka takes the gripper's finger_joint1 for joint1.
    for joint in [j for j in tree.findall("joint") if "finger" in j.attrib["name"]]:
        tree.remove(joint)
    text = ElementTree.tostring(tree)
    urdf = StdString(text, len(text), b"")
    config = ctypes.create_string_buffer(4096)
    getattr(
        library,
        CLASS.format("") + "13parseFromURDFERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    )(ctypes.byref(config), ctypes.byref(urdf))
    joints = ctypes.c_double * 7
    results = []
    for q in json.load(sys.stdin):
        row = []
        for side in ("Lower", "Upper"):
            # Returned in memory: the address of the result is the first argument.
            call = getattr(
                library, CLASS.format("K") + f"27get{side}JointVelocityLimitsERKSt5arrayIdLm7EE"
            )
            out = joints()
            call(ctypes.byref(out), ctypes.byref(config), ctypes.byref(joints(*q)))
            row.append(list(out))
        results.append(row)
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
