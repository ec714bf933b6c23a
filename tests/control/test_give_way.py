"""An arm that presses against what does not give way gives way itself, on every rig, and plans go on from there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pointworld.control.remote import RemoteController, start_controller
from pointworld.control.rig_process import ProcessRig
from pointworld.control.rig_world import RigWorld
from pointworld.control.safety import SafetyConfig
from pointworld.control.types import Chunk, SafetyMode
from pointworld.plan import ConstantMotion
from pointworld.robot import RobotModel
from tests.control.conftest import HOME
from tests.control.test_goal_view import Stage
from tests.control.test_rig import _blank, simulated_rig
from tests.control.test_server import NAMES, TOKEN, Served, eventually

pytest.importorskip("mujoco", reason="mujoco is not installed")


def test_a_simulated_arm_that_is_held_fast_gives_way_and_plans_from_where_it_stands() -> None:
    stage = Stage()
    opened, space = simulated_rig(stage)
    rig: Any = opened.rig
    seen = _blank(stage)
    world = RigWorld(rig, lambda look: seen, dynamics=ConstantMotion())
    plan = space.rest()
    plan[:, 1] = torch.linspace(0.05, 0.25, len(plan))

    def go(steps: int) -> bool:
        state = world.observe()
        blocked = world.look().blocked
        world.execute(space.decode(state.joint_positions, plan[None]), steps)
        return blocked

    assert not go(4) and rig.loop.status().gave_way == 0, "an arm in free air does not"
    assert opened.scene is not None
    # Every joint as if in thick mud: the arm hardly moves, whatever it is told.
    opened.scene.model.dof_damping[opened.scene.index.dofs] = 1e5
    go(10)
    status = rig.loop.status()
    assert status.mode is SafetyMode.ARMED and status.holding and status.gave_way == 1
    state = world.observe()
    assert world.look().blocked and world.gave_way == 1
    measured = torch.from_numpy(rig._measure()[:-1])
    assert float((state.joint_positions[:-1] - measured).abs().max()) <= 0.05 + 1e-9
    assert state.joint_velocities is not None and float(state.joint_velocities.abs().max()) < 1e-3
    world.observe()
    assert not world.look().blocked, "that is said once"
    rig.close()


def test_an_arm_behind_its_processes_gives_way(fr3: RobotModel) -> None:
    served = Served()
    # It takes commands, and stays where it is.
    served.arm.send_action = lambda command: command  # type: ignore[method-assign]
    config = SafetyConfig(ramp=0.0, period=0.02, watchdog=0.5, state_age=0.4)
    controller = start_controller(
        served.server.address, TOKEN, safety=config, give_way=0.06, check_space=False
    )
    try:
        link = RemoteController(controller.port, controller.token)
        rig = ProcessRig(link, NAMES, fr3, [])
        rig.arm(dry_run=False)
        path = np.repeat(HOME[None], 9, 0)
        path[:, 0] += np.linspace(0, 0.4, 9)
        rig.submit(Chunk(sequence=1, start_time=rig.clock.now(), joint_positions=path, step_dt=0.2))
        assert rig.look().gave_way == 0
        eventually(lambda: rig.look().gave_way == 1)
        status = link.status()
        assert status.fields["mode"] == SafetyMode.ARMED.value and status.fields["holding"]
        rig.wait(rig.clock.now() + 0.3)
        off = np.abs(link.status().arrays["commanded"] - HOME).max()
        assert off < 0.5 * 0.06, "it goes back to where the arm is, and does not go on pressing"
        rig.disarm()
        rig.close()
    finally:
        controller.close()
        served.over.set()
        served.thread.join(5)
