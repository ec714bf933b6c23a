"""Arms by name, as the robot server and the commands make them. Vendors' SDKs are imported on use, one per process."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.control.backends.fake import FakeRobot
from pointworld.control.clock import Clock
from pointworld.control.protocols import Robot
from pointworld.errors import InputError

#: Name -> module and class of arms that need a host's address.
VENDORS: dict[str, tuple[str, str]] = {
    "franka": ("franka", "FrankaRobot"),
    "ur": ("ur", "URRobot"),
    "xarm": ("xarm", "XArmRobot"),
}


def make_robot(kind: str, options: Mapping[str, Any], clock: Clock) -> Robot:
    """An arm that is not connected yet.

    Args:
        kind: fake, franka, ur, xarm or own.
        options: keyword arguments of the class: `host` for a vendor's arm; joints, home and max_width for the fake;
            `driver`, a Python file, for an arm of the user's own, and what its `make_robot` takes.

    Raises:
        InputError: unknown kind, options that do not fit it, or no such driver.
    """
    if kind == "own":
        return _own_robot(dict(options), clock)
    try:
        if kind == "fake":
            values = dict(options)
            return FakeRobot(
                tuple(values.pop("joints")), np.array(values.pop("home")), clock, **values
            )
        if kind in VENDORS:
            module, name = VENDORS[kind]
            vendor = importlib.import_module(f"pointworld.control.backends.{module}")
            robot: Robot = getattr(vendor, name)(clock=clock, **options)
            return robot
    except (KeyError, TypeError) as error:
        raise InputError(f"robot '{kind}' with options {sorted(options)}: {error}") from error
    raise InputError(f"robot is '{kind}', expected one of fake, own, {', '.join(VENDORS)}")


def _own_robot(options: dict[str, Any], clock: Clock) -> Robot:
    """What `make_robot(clock, **options)` of the Python file `driver` returns."""
    path = Path(options.pop("driver", ""))
    if not path.is_file():
        raise InputError(
            f"the driver {path} is not a file; expected Python with make_robot(clock, **options)"
        )
    spec = importlib.util.spec_from_file_location(f"pointworld_driver_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"the driver {path} is not Python: its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling inside the driver look their module up by its name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        robot: Robot = module.make_robot(clock, **options)
    except Exception as error:
        raise InputError(
            f"the driver {path} makes no robot with options {sorted(options)}: {type(error).__name__}: {error}. "
            "It must define make_robot(clock, **options), which returns an arm with the calls of "
            "pointworld.control.protocols.Robot"
        ) from error
    return robot
