"""Taking over from a moving arm: a chunk is rehearsed before its time, and comes in time or not at all."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pointworld.control import rig_open, rig_runs
from pointworld.control.limits import JointLimits
from pointworld.control.rig_open import RigConfig
from pointworld.control.rig_process import ProcessRig
from pointworld.control.rig_world import RigWorld
from pointworld.control.task_runs import RunConfig
from pointworld.control.types import Chunk, ControlError, Reason, SafetyMode
from pointworld.control.wire import Message
from pointworld.data.render import make_renderer
from pointworld.data.robot_tree import robot_tree
from pointworld.plan import ConstantMotion
from pointworld.plan.tasks import make_task
from pointworld.robot import RobotModel
from tests.control.conftest import HOME
from tests.control.test_goal_view import Stage
from tests.control.test_loop import Scene
from tests.control.test_rig import _blank, simulated_rig


def _rig_whose_checks_take(seconds: list[float]) -> tuple[Any, RigWorld, Any, list[Chunk]]:
    """A rig whose clock goes on while a chunk is rehearsed; also gives what is handed over."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    stage = Stage()
    opened, space = simulated_rig(stage)
    rig: Any = opened.rig
    rig.real_time = True
    taken: list[Chunk] = []
    passes, submit = rig.passes, rig.submit

    def slowly(chunk: Chunk, length: float) -> bool:
        told = passes(chunk, length)
        rig.wait(rig.clock.now() + seconds.pop(0))
        return bool(told)

    def note(chunk: Chunk) -> None:
        assert abs(rig.clock.now() - chunk.start_time) < 0.03, "when its start is"
        taken.append(chunk)
        submit(chunk)

    rig.passes, rig.submit = slowly, note
    seen = _blank(stage)
    world = RigWorld(rig, lambda look: seen, dynamics=ConstantMotion())
    return rig, world, space, taken


def _act(world: RigWorld, space: Any, times: int) -> None:
    plan = space.rest()
    plan[:, 1] = torch.linspace(0.02, 0.1, len(plan))
    for _ in range(times):
        state = world.observe()
        world.execute(space.decode(state.joint_positions, plan[None]), 4)


def test_the_check_of_a_chunk_is_over_before_it_takes_over() -> None:
    rig, world, space, taken = _rig_whose_checks_take([0.1] * 4)
    _act(world, space, 4)
    rig.close()
    assert world.overlapped == 3 and world.late == 0 and len(taken) == 4
    starts = [chunk.start_time for chunk in taken]
    # The arm goes on without a stop: every chunk begins where the part of the last one ends.
    assert [b - a for a, b in itertools.pairwise(starts)] == pytest.approx([0.4] * 3)


def test_a_plan_that_comes_after_its_time_is_not_carried_out() -> None:
    rig, world, space, taken = _rig_whose_checks_take([0.1, 0.5, 0.1])
    _act(world, space, 3)
    rig.close()
    assert world.late == 1 and world.held == 0 and len(taken) == 2
    assert not world.look().blocked, "nothing was refused"
    assert taken[1].start_time > taken[0].start_time + 0.5


@pytest.mark.parametrize("moving", [True, False])
def test_an_arm_that_gave_way_while_a_plan_was_made_is_looked_at_again(moving: bool) -> None:
    """It is not where the chunk begins. One that was to stand there was moved by somebody, which is a fault."""
    rig, world, space, taken = _rig_whose_checks_take([0.1] * 3)
    submit, number = rig.submit, itertools.count()

    def refuse(chunk: Chunk) -> None:
        if next(number) == int(moving):
            away = chunk.joint_positions + 0.3
            rig.loop.submit(replace(chunk, joint_positions=away))
        submit(chunk)

    rig.submit = refuse
    if not moving:
        with pytest.raises(ControlError, match="from where the arm is now") as caught:
            _act(world, space, 1)
        assert caught.value.reason is Reason.COMMAND_JUMP
        rig.close()
        return
    _act(world, space, 3)
    rig.close()
    assert world.held == 1 and [chunk.sequence for chunk in taken] == [1, 3]
    assert taken[1].start_time > taken[0].start_time + 0.5, "from rest"


def test_a_task_is_seen_in_the_pictures_of_the_rigs_cameras(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    moments: list[float] = []
    make = rig_runs.scene_renderer

    def counting(*words: Any) -> Any:
        renderer = make(*words)
        render = renderer.render

        def count(model: Any, data: Any, cameras: Any) -> Any:
            moments.append(float(data.time))
            return render(model, data, cameras)

        renderer.render = count
        return renderer

    monkeypatch.setattr(rig_runs, "scene_renderer", counting)
    config = RunConfig(
        task="tissue_box", dynamics="none", planner="straight", execute=8, max_steps=16
    )
    result = rig_runs.run_rig(rig_runs.RigRun(run=config, rig=RigConfig()), 1)
    assert result["plans"] == 2 and result["truth"]["error"] > 0
    assert len(moments) >= 3 and len(set(moments)) == len(moments), "no moment is rendered twice"


def test_what_starts_later_is_rehearsed_from_where_the_arm_will_be_then(
    fr3_limits: JointLimits,
) -> None:
    scene = Scene(fr3_limits)
    scene.loop.submit(scene.chunk(speed=0.5))
    first = scene.chunk(start=0.6, speed=0.5)
    path = first.joint_positions.copy()
    path[:, 0] += 0.5 * 0.6
    later = replace(first, joint_positions=path)
    # From here it would be a jump; from there the arm goes on as it does.
    with pytest.raises(ControlError, match="rad from where the arm is now"):
        scene.loop.rehearse(replace(later, start_time=scene.clock.now()), 0.5)
    assert scene.loop.rehearse(later, 0.5) == (Reason.NONE, "")
    scene.go(0.6)
    scene.loop.submit(later)
    scene.go(0.5)
    assert scene.loop.status().mode is SafetyMode.ARMED
    commanded = scene.loop.status().commanded
    assert commanded is not None and commanded[0] == pytest.approx(HOME[0] + 0.5 * 1.1, abs=0.02)


class _NoGripper:
    """A controller of an arm that says nothing of a gripper, or how far it is open."""

    def __init__(self, width: float | None) -> None:
        self.width = width

    def status(self) -> Message:
        arrays = {"joint_positions": HOME, "joint_velocities": np.zeros(7)}
        return Message("status", {"time": 1.0, "gripper_width": self.width}, arrays)


@pytest.mark.parametrize(
    ("told", "given", "width"), [(None, None, 0.08), (None, 0.0, 0.0), (0.03, 0.0, 0.03)]
)
def test_a_gripper_that_the_arm_does_not_report_is_as_it_is_said_to_be(
    fr3: RobotModel, told: float | None, given: float | None, width: float
) -> None:
    controller: Any = _NoGripper(told)
    rig = ProcessRig(controller, fr3.joint_names[:-1], fr3, [], width=given)
    assert rig.grips == (told is not None)
    finger = float(rig.measured()[0][-1])
    assert robot_tree(fr3).finger_width(finger) == pytest.approx(width, abs=1e-3)


def test_the_hand_of_an_arm_without_gripper_is_as_the_scene_has_it(
    fr3: RobotModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    options = rig_open._server_options

    def without(*words: Any) -> tuple[str, dict[str, Any]]:
        kind, more = options(*words)
        return kind, more | {"max_width": None}

    monkeypatch.setattr(rig_open, "_server_options", without)
    task = make_task("tissue_box", 1, robot_tree(fr3))
    opened, _ = rig_open.open_rig(
        RigConfig(robot="fake"),
        fr3,
        task=task,
        renderer=lambda task: make_renderer("rays", *task.image),
        record=None,
    )
    try:
        rig: Any = opened.rig
        assert not rig.grips and opened.scene is not None
        with opened.scene.lock:
            there = opened.scene.data.qpos[opened.scene.index.arm].copy()
        # These tasks push with closed fingers; at home they are open.
        assert task.tree.finger_width(float(there[-1])) < 0.01 < task.tree.max_width
        assert rig.measured()[0] == pytest.approx(there, abs=2e-3)
    finally:
        opened.rig.close()
