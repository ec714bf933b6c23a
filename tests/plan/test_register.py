"""Known surfaces are found again: pushed far, beside other things, and on the way of a joint."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pointworld.geometry import transform_points
from pointworld.plan.tasks.register import (
    Background,
    JointTracker,
    find_again,
    register_pushed,
    screw,
)


def box(rng: np.random.Generator, half: tuple[float, float, float], count: int = 900) -> np.ndarray:
    """Points on the sides of a box."""
    points = rng.uniform(-1, 1, (count, 3))
    side = rng.integers(0, 3, count)
    points[np.arange(count), side] = np.sign(points[np.arange(count), side])
    return np.asarray(points * half)


def hinge(angle: float) -> np.ndarray:
    """A turn about a vertical axis through (0.2, 0.1)."""
    T, about = np.eye(4), np.array([0.2, 0.1, 0.0])
    T[:3, :3] = Rotation.from_euler("z", angle).as_matrix()
    T[:3, 3] = about - T[:3, :3] @ about
    return T


def test_the_parts_of_a_screw() -> None:
    assert np.allclose(screw(hinge(-1.2))(0.5), hinge(-0.6))
    assert np.allclose(screw(hinge(-1.2))(0.0), np.eye(4))
    slide = np.eye(4)
    slide[:3, 3] = 0.1, 0.0, 0.02
    assert np.allclose(screw(slide)(0.25)[:3, 3], (0.025, 0.0, 0.005))
    lift = hinge(0.8)
    lift[2, 3] = 0.1
    assert np.allclose(screw(lift)(1.0), lift)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9, 1.0])
def test_a_door_is_found_on_its_hinge_and_not_on_the_front(share: float) -> None:
    rng = np.random.default_rng(0)
    door = box(rng, (0.01, 0.12, 0.08)) + np.array([0.2, -0.02, 0.1])
    front = box(rng, (0.1, 0.14, 0.1), 1500) + np.array([0.33, 0.0, 0.1])
    front = front[front[:, 0] < 0.25]
    close = box(rng, (0.01, 0.12, 0.08), 8000) + np.array([0.2, -0.02, 0.1])
    tracker, background = JointTracker(close, hinge(1.2)), Background()
    tracker.find(background.without(np.concatenate([door, front]), door))
    now = transform_points(screw(hinge(1.2))(share), door)[::3] + 0.001 * rng.normal(0, 1, (300, 3))
    seen = background.without(np.concatenate([now, front + 0.001]), door)
    found = transform_points(tracker.find(seen), door)
    truth = transform_points(screw(hinge(1.2))(share), door)
    assert np.linalg.norm(found - truth, axis=-1).mean() < 0.004


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("hidden", [0.0, 0.9], ids=["in sight", "behind the hand"])
def test_a_drawer_is_not_taken_for_the_rim_that_it_closes(share: float, hidden: float) -> None:
    """The rim lies 10 mm behind the drawer's face and looks just like it; most of the face may be hidden."""
    rng = np.random.default_rng(1)
    face, rim = (0.005, 0.1, 0.04), (0.005, 0.12, 0.055)
    drawer = box(rng, face, 12000)
    plate = box(rng, rim, 4000) + np.array([0.01, 0.0, 0.0])
    plate = plate[(abs(plate[:, 1]) > face[1]) | (abs(plate[:, 2]) > face[2])]
    motion = np.eye(4)
    motion[0, 3] = -0.105
    tracker = JointTracker(drawer, motion)

    def look(share: float, hidden: float) -> np.ndarray:
        front = box(rng, face, 400)
        front = front[(front[:, 0] < 0.0) & (front[:, 1] > 0.2 * hidden - 0.1)]
        seen = np.concatenate([transform_points(screw(motion)(share), front), plate[::12]])
        return np.asarray(seen + 0.0007 * rng.normal(0, 1, seen.shape))

    assert abs(tracker.find(look(0.0, 0.0))[0, 3]) < 0.0011
    assert abs(tracker.find(look(share, hidden))[0, 3] + 0.105 * share) < 0.0016


def test_a_jointed_thing_that_nobody_sees_stays_where_it_was() -> None:
    rng = np.random.default_rng(2)
    drawer = box(rng, (0.005, 0.1, 0.04), 4000)
    motion = np.eye(4)
    motion[0, 3] = -0.1
    tracker = JointTracker(drawer, motion)
    tracker.find(drawer[::10])
    moved = transform_points(screw(motion)(0.5), drawer[::10])
    assert abs(tracker.find(moved)[0, 3] + 0.05) < 0.002
    hand = rng.uniform(-0.01, 0.01, (40, 3)) + np.array([-0.05, 0.4, 0.2])
    assert abs(tracker.find(hand)[0, 3] + 0.05) < 0.002


def test_a_thing_that_was_pushed_far_is_found_where_the_hand_went() -> None:
    rng = np.random.default_rng(0)
    surface = box(rng, (0.04, 0.03, 0.02))
    way = np.array([0.12, 0.03, 0.0])
    seen = surface[::4] + way + 0.001 * rng.normal(0, 1, (225, 3))
    found, count = register_pushed(surface, np.eye(4), seen, way[:2])
    assert np.allclose(found[:3, 3], way, atol=0.004) and count > 200
    still, _ = register_pushed(surface, np.eye(4), surface[::4], way[:2])
    assert np.allclose(still, np.eye(4), atol=0.01), "a hand that went without it"
    assert found[2, 3] == 0.0, "on the table"


def test_what_stood_there_before_is_not_taken_for_a_target() -> None:
    rng = np.random.default_rng(0)
    target, other = (
        box(rng, (0.03, 0.03, 0.03)),
        box(rng, (0.03, 0.03, 0.03)) + np.array([0.2, 0.0, 0.0]),
    )
    background = Background()
    assert len(background.without(np.concatenate([target, other]), target)) == len(target)
    pushed = target + np.array([0.1, 0.0, 0.0])
    left = background.without(np.concatenate([pushed, other + 0.002]), target)
    assert np.array_equal(left, pushed)


def test_a_thing_that_rolled_away_is_found_again() -> None:
    rng = np.random.default_rng(0)
    surface = box(rng, (0.03, 0.02, 0.02))
    seen = surface[::20] + np.array([0.21, -0.17, 0.0])
    crumbs = rng.uniform(-0.3, 0.3, (6, 3)) * np.array([1.0, 1.0, 0.05])
    found, count = find_again(surface, np.eye(4), np.concatenate([seen, crumbs]))
    assert count >= 40
    assert np.allclose(found[:2, 3], (0.21, -0.17), atol=0.005)
