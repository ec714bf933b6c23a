"""Arms by name, as the robot server and the commands make them. Vendors' SDKs are imported on use, one per process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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
        kind: fake, franka, ur or xarm.
        options: keyword arguments of the class: `host` for a vendor's arm; joints, home and max_width for the fake.

    Raises:
        InputError: unknown kind, or options that do not fit it.
    """
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
    raise InputError(f"robot is '{kind}', expected one of fake, {', '.join(VENDORS)}")
