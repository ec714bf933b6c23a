"""Pictures are posed where the arm was when they were taken, and never planned from when they are old and it moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pointworld.control.rig import Look
from pointworld.control.rig_world import AGAIN, FRESH, NEVER, RigWorld
from pointworld.control.track import Track
from pointworld.control.types import ControlError, Reason
from pointworld.plan import ConstantMotion
from pointworld.plan.tasks.seen import Seen
from tests.control.test_goal_view import Stage
from tests.control.test_rig import _blank, simulated_rig


def test_the_place_of_a_moment_lies_between_its_neighbours() -> None:
    track = Track()
    with pytest.raises(ValueError, match="nothing"):
        track.at(0.0)
    for moment in np.arange(0.0, 5.0, 0.02):
        track.add(float(moment), np.array([moment, -2 * moment]))
    track.add(4.0, np.array([99.0, 99.0]))
    assert np.allclose(track.at(4.331), [4.331, -8.662])
    assert np.allclose(track.at(9.0), [4.98, -9.96]), "the last one, after it"
    assert track.at(0.0)[0] == pytest.approx(4.98 - 2.0, abs=0.03), "older ones are forgotten"


def test_old_pictures_of_a_moving_arm_are_taken_again() -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    stage = Stage()
    opened, space = simulated_rig(stage)
    rig: Any = opened.rig
    # Its clock goes on while one looks, as a real one does.
    rig.real_time = True
    seen, takes = _blank(stage), iter([0.02, 0.02, 0.02, 0.5, 0.02, 0.02])
    looks: list[float] = []

    def perceive(look: Look) -> Seen:
        looks.append(look.time)
        rig.wait(rig.clock.now() + next(takes))
        return seen

    world = RigWorld(rig, perceive, dynamics=ConstantMotion())
    plan = space.rest()
    plan[:, 1] = torch.linspace(0.02, 0.1, len(plan))
    for _ in range(4):
        state = world.observe()
        world.execute(space.decode(state.joint_positions, plan[None]), 4)
    rig.close()
    assert len(looks) == 5 and world.stale == 1
    assert looks[4] - looks[3] > 0.5, "the arm was waited for"
    assert world.overlapped == 2 and max(world.frame_ages) <= FRESH


def test_old_pictures_of_a_standing_arm_are_taken_again_where_newer_can_be_had() -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    stage = Stage()
    rig: Any = simulated_rig(stage)[0].rig
    rig.real_time = True
    seen, takes = _blank(stage), iter([0.02, 0.5, 0.02, *[0.4] * (AGAIN + 1)])
    taken: list[float] = []

    def perceive(look: Look) -> Seen:
        taken.append(next(takes))
        rig.wait(rig.clock.now() + taken[-1])
        return seen

    world = RigWorld(rig, perceive, dynamics=ConstantMotion())
    ages = []
    for _ in range(2):
        world.observe()
        ages.append(world.frame_age)
    with pytest.raises(ControlError, match=r"0\.40 s old after 60 more looks") as caught:
        world.observe()
    assert rig.loop.status().reason is Reason.CAMERA_STALE, (
        "the arm is stopped, and its log says why"
    )
    rig.close()
    # The first in time; the second once more, and then in time; the third so often as it is tried, to no avail.
    assert caught.value.reason is Reason.CAMERA_STALE
    assert len(taken) == 4 + AGAIN and world.stale == 1 + AGAIN
    assert ages == pytest.approx([0.02, 0.02], abs=0.02)


@pytest.mark.parametrize("oldest", [0.3, 1.0])
def test_where_looking_always_takes_long_one_plans_only_if_told_to(oldest: float) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    stage = Stage()
    rig: Any = simulated_rig(stage)[0].rig
    rig.real_time = True
    seen, taken = _blank(stage), list[float]()

    def perceive(look: Look) -> Seen:
        taken.append(look.time)
        rig.wait(rig.clock.now() + 0.5)
        return seen

    world = RigWorld(rig, perceive, dynamics=ConstantMotion(), oldest=oldest)
    if oldest < 0.5:
        with pytest.raises(
            ControlError, match=r"never newer than 0\.50 s.*--max-frame-age"
        ) as caught:
            world.observe()
        assert caught.value.reason is Reason.CAMERA_STALE
        assert len(taken) == 1 + NEVER, "the first ones might only have been warming up"
        rig.close()
        return
    for _ in range(3):
        world.observe()
        assert world.frame_age == pytest.approx(0.5, abs=0.02)
    rig.close()
    assert len(taken) == 3 and world.stale == 0
