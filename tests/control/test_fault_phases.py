"""Every fault in every phase of a real push in MuJoCo: standing, on the way, in contact, with the gripper closing."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.backends.mujoco_arm import MujocoArm
from pointworld.control.clock import ManualClock
from pointworld.control.controller import PlannerLink
from pointworld.control.loop import ControlLoop, LoopConfig, LoopStatus
from pointworld.control.planning import planning
from pointworld.control.recording import Recorder, read_recording
from pointworld.control.safety import SafetyFilter
from pointworld.control.task_setup import task_space
from pointworld.control.task_world import TaskWorld
from pointworld.control.types import Chunk, ControlError, Reason, RobotMode, SafetyMode
from pointworld.control.wire import Message
from pointworld.data.robot_tree import robot_tree
from pointworld.plan import ConstantMotion
from pointworld.plan.mpc import MpcSettings, run_mpc
from pointworld.plan.tasks import Task, make_task
from pointworld.plan.tasks.pushing import StraightPush
from pointworld.plan.tasks.seen import TrueView
from pointworld.robot import RobotModel
from tests.control.test_loop import ARM_FAULTS, Wrapped

pytest.importorskip("mujoco", reason="mujoco is not installed")

#: Standing means slower than this [rad/s]; servos tremble a little in contact.
STANDS = 0.02
TIMEOUT = 1.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Played:
    """A push as it was carried out. chunks: when each was handed over. contact: when the hand met the box [s]."""

    task: Task
    robot: RobotModel
    safety: SafetyFilter
    chunks: list[tuple[float, Chunk]]
    moving: float
    contact: float


@pytest.fixture(scope="module")
def played(fr3: RobotModel) -> Played:
    task = make_task("tissue_box", 1, robot_tree(fr3))
    world = TaskWorld(task, fr3, TrueView(task), recorder=None, dry_run=False)
    chunks: list[tuple[float, Chunk]] = []
    submit, tick = world.loop.submit, world.loop.tick
    contact: list[float] = []

    def note(chunk: Chunk) -> None:
        chunks.append((world.clock.now(), chunk))
        submit(chunk)

    def watch() -> object:
        if not contact and touches(task, world.arm):
            contact.append(world.clock.now())
        return tick()

    world.loop.submit, world.loop.tick = note, watch  # type: ignore[assignment, method-assign]
    space = task_space(task, fr3, safety=world.loop.safety)
    planner = StraightPush(space, world.look, task.scene.table_height)
    run_mpc(
        world,
        space,
        ConstantMotion(),
        planner,
        lambda state: lambda trajectory: trajectory.positions.sum((1, 2, 3)),
        lambda state: 1.0 if not contact or world.clock.now() < contact[0] + 1.0 else 0.0,
        settings=MpcSettings(execute=4, max_steps=100),
        seed=0,
    )
    assert contact, "the hand never came to the box"
    return Played(
        task=task,
        robot=fr3,
        safety=world.loop.safety,
        chunks=chunks,
        moving=chunks[0][0] + 0.4,
        contact=contact[0],
    )


def touches(task: Task, arm: MujocoArm) -> bool:
    """Whether the robot touches what should be pushed."""
    target, model, data = task.targets[0].body, arm.model, arm.data
    props = {target, *(t.body for t in task.targets)}
    for pair in data.contact.geom[: data.ncon]:
        bodies = {int(model.geom_bodyid[g]) for g in pair}
        names = [model.body(b).name for b in bodies - props]
        if bodies & props and any("finger" in n or "hand" in n or "link" in n for n in names):
            return True
    return False


class Push:
    """The same push again, recorded, up to a fault."""

    def __init__(self, played: Played, folder: Path) -> None:
        task = played.task
        self.played, self.clock = played, ManualClock()
        period = played.safety.config.period
        self.arm = MujocoArm(
            task.model, robot_tree(played.robot), self.clock, data=task.restart(), period=period
        )
        self.arm.connect()
        self.robot = Wrapped(self.arm, self.clock)  # type: ignore[arg-type]
        self.recorder = Recorder(folder, joints=self.arm.info.arm_joints)
        self.loop = ControlLoop(
            self.robot,  # type: ignore[arg-type]
            played.safety,
            self.clock,
            config=LoopConfig(planner_timeout=TIMEOUT),
            recorder=self.recorder,
        )
        self.loop.arm()
        self.left = list(played.chunks)
        self.silent = False

    def tick(self) -> None:
        due = self.clock.now() + 1e-9
        while self.left and not self.silent and self.left[0][0] < due:
            self.loop.submit(self.left.pop(0)[1])
        self.tick_alone()

    def tick_alone(self) -> None:
        """Without a planner."""
        self.clock.time += self.played.safety.config.period
        self.loop.tick()

    def go(self, until: float) -> None:
        while self.clock.now() < until - 1e-9:
            self.tick()
            status = self.loop.status()
            assert status.mode is SafetyMode.ARMED, (status.reason, status.message)

    def close_gripper(self) -> None:
        """In place of the push."""
        q = self.loop.status().commanded
        assert q is not None
        self.left = []
        start = self.clock.now()
        self.loop.submit(
            Chunk(
                sequence=1,
                start_time=start,
                joint_positions=np.repeat(q[None], 11, 0),
                step_dt=0.1,
                gripper_width=np.linspace(0.08, 0.02, 11),
            )
        )

    def speed(self) -> float:
        return float(np.abs(self.arm.data.qvel[self.arm.index.dofs]).max())


@pytest.fixture
def push(played: Played, tmp_path: Path) -> Iterator[Push]:
    scene = Push(played, tmp_path / "run")
    yield scene
    scene.recorder.close()


def _state(name: str) -> Callable[[Push], Reason]:
    make, reason = ARM_FAULTS[name]

    def happen(push: Push) -> Reason:
        push.robot.change = make(push.robot.get_state())
        return reason

    return happen


def _refused(push: Push) -> Reason:
    push.robot.refuse = Reason.ROBOT_LINK
    return Reason.ROBOT_LINK


def _silent(push: Push) -> Reason:
    push.silent = True
    return Reason.PLANNER_LATE


def _exception(push: Push) -> Reason:
    push.silent = True
    with (
        pytest.raises(ZeroDivisionError),
        planning(push.loop, push.clock, deadline=0.5),
    ):
        raise ZeroDivisionError("no candidates")
    return Reason.PLANNER_ERROR


def _nan(push: Push) -> Reason:
    """As it comes to the controller from a planner that does not look at its plans."""
    push.silent = True
    link = PlannerLink(push.loop, "a token of sixteen and more")
    link._listener.close()
    fields = {"sequence": 10_000, "start_time": push.clock.now(), "step_dt": 0.1}
    answer = link._answer(Message("chunk", fields, {"joint_positions": np.full((6, 7), np.nan)}))
    assert answer.kind == "refused"
    return Reason.CHUNK_INVALID


def _full_disk(push: Push) -> Reason:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        push.recorder.plan(push.clock.now(), {"large": np.zeros(100_000)})
        push.recorder._thread.join(timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert push.recorder.error is not None
    return Reason.RECORDING


def _jump(push: Push) -> Reason:
    push.silent = True
    push.clock.time += 3600.0
    return Reason.WATCHDOG


def _camera(push: Push) -> Reason:
    push.loop.stop(Reason.CAMERA_STALE, "the newest frame is 5 s old")
    return Reason.CAMERA_STALE


FAULTS: dict[str, Callable[[Push], Reason]] = {
    "frozen": _state("frozen"),
    "NaN": _state("NaN"),
    "numbers go back": _state("numbers go back"),
    "a reflex": _state("a reflex"),
    "refused": _refused,
    "silent planner": _silent,
    "planner exception": _exception,
    "planner NaN": _nan,
    "disk full": _full_disk,
    "clock": _jump,
    "camera": _camera,
}
PHASES = ("standing", "on the way", "contact", "gripper")
#: In contact everything is tried on every run of the tests; elsewhere these, and all in the slow ones.
OFTEN = ("frozen", "silent planner", "refused", "planner exception", "planner NaN", "disk full")
#: What cannot happen, and why.
NEVER = {("standing", "silent planner"): "nobody waits for a planner before its first chunk"}
CASES = [
    pytest.param(
        phase,
        fault,
        id=f"{phase}, {fault}",
        marks=() if phase == "contact" or fault in OFTEN else pytest.mark.slow,
    )
    for phase in PHASES
    for fault in FAULTS
    if (phase, fault) not in NEVER
]


@pytest.mark.parametrize(("phase", "fault"), CASES)
def test_every_fault_in_every_phase_ends_in_a_stop(
    played: Played, push: Push, phase: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    if phase == "gripper":
        push.close_gripper()
        push.go(0.4)
    elif phase == "standing":
        push.left = [(time + 10.0, chunk) for time, chunk in push.left]
        push.go(0.2)
    else:
        push.go(played.moving if phase == "on the way" else played.contact + 0.1)
        assert push.speed() > STANDS
    assert touches(played.task, push.arm) == (phase == "contact")
    width = push.arm.get_state().gripper_width
    reason = FAULTS[fault](push)
    begun = push.clock.now()
    stop_time, config = played.safety.stop_time, played.safety.config
    silence = {Reason.PLANNER_LATE: TIMEOUT, Reason.STATE_STALE: config.state_age}
    while push.loop.status().mode is not SafetyMode.FAULT:
        push.tick()
        assert push.clock.now() - begun < silence.get(reason, 0.0) + 2 * config.period
    status = push.loop.status()
    assert status.reason is reason and status.message
    end = push.clock.now() + stop_time + 0.1
    while push.clock.now() < end:
        push.tick_alone()
    push.robot.change, push.robot.refuse = lambda state: state, None
    assert push.speed() < STANDS
    here = push.arm.get_state().joint_positions
    for _ in range(50):
        push.tick_alone()
    assert np.abs(push.arm.get_state().joint_positions - here).max() < 2e-3
    assert push.arm.get_state().mode is RobotMode.STOPPED
    if phase == "gripper" and width is not None:
        assert (push.arm.get_state().gripper_width or 0.0) > 0.02, "it closes no further"
    check_for_good(push, played)
    assert f"fault ({reason.value}): {status.message}" in caplog.text
    check_record(push, status)


def check_record(push: Push, told: LoopStatus) -> None:
    """It tells of the one fault as the loop did; after a fault of its own it can be read up to there."""
    push.recorder.close()
    reading = read_recording(push.recorder.folder)
    assert reading.events[0]["event"] == "armed"
    faults = [(e["reason"], e["message"]) for e in reading.events if e["event"] == "fault"]
    if told.reason is Reason.RECORDING:
        assert not reading.complete and not faults
    else:
        assert reading.complete and faults == [(told.reason.value, told.message)]


def check_for_good(push: Push, played: Played) -> None:
    """Nothing lets it go on but a person."""
    sequence = 1 + max(chunk.sequence for _, chunk in played.chunks)
    chunk = replace(played.chunks[0][1], sequence=sequence, start_time=push.clock.now())
    with pytest.raises(ControlError):
        push.loop.submit(chunk)
    with pytest.raises(ControlError):
        push.loop.arm()
    with pytest.raises(ControlError):
        push.loop.recover(acknowledged=False)
    push.loop.recover(acknowledged=True)
    assert push.loop.status().mode is SafetyMode.DISARMED
