"""PointWorld Open: a 3D world model for robots.

The usual entry points are here; they import their parts on first use.

    import pointworld

    model = pointworld.load("tiny")
    capture = pointworld.read_capture("my_capture")
    prediction = model.predict(scene, robot_flow)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pointworld.capture import read_capture as read_capture
    from pointworld.model import ModelSpec as ModelSpec
    from pointworld.model import WorldModel as WorldModel
    from pointworld.model import load as load
    from pointworld.robot import RobotModel as RobotModel
    from pointworld.scene import build_scene as build_scene

_EXPORTS = {
    "load": "pointworld.model",
    "ModelSpec": "pointworld.model",
    "WorldModel": "pointworld.model",
    "RobotModel": "pointworld.robot",
    "build_scene": "pointworld.scene",
    "read_capture": "pointworld.capture",
}

__all__ = ["ModelSpec", "RobotModel", "WorldModel", "build_scene", "load", "read_capture"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'pointworld' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
