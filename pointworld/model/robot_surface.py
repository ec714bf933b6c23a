"""The points of a robot's surface that a model sees, in training, evaluation and use."""

from __future__ import annotations

from collections.abc import Sequence

from pointworld.robot import RobotModel, SurfacePoints


def seen_surface(
    robot: RobotModel, links: Sequence[str] | str, count: int, *, released: bool, seed: int
) -> tuple[SurfacePoints, tuple[str, ...]]:
    """Points on the links that a model was trained on, or on the robot's gripper where it lacks some of them.

    Args:
        links: as `ModelSpec.robot_links_of` names them. count: of points.
        released: choose points by the released rule, which takes its own links.
        seed: draws the points; the released rule has its own.

    Returns:
        The points, and the names of links that the robot lacks.
    """
    absent = () if isinstance(links, str) else tuple(sorted(set(links) - set(robot.link_names)))
    if absent:
        return robot.sample_surface(count, links="gripper", seed=seed), absent
    if released:
        return robot.sample_surface_released(count), ()
    return robot.sample_surface(count, links=links, seed=seed), ()
