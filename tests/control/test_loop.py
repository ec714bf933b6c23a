"""The loop with a fake arm and a clock moved by hand: every fault ends in a stop in time, with a reason, for good."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.backends import FakeRobot
from pointworld.control.clock import ManualClock
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.planning import planning
from pointworld.control.protocols import Robot
from pointworld.control.recording import Recorder, read_recording
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.types import (
    CameraFrame,
    Chunk,
    ControlError,
    JointCommand,
    Reason,
    RobotMode,
    RobotState,
    SafetyMode,
)
from pointworld.errors import InputError
from tests.control.conftest import HOME

DT = 0.01
CONFIG = SafetyConfig(ramp=0.0)


class Scene:
    """An armed loop round a fake arm."""

    def __init__(
        self,
        limits: JointLimits,
        *,
        recorder: Recorder | None = None,
        config: SafetyConfig = CONFIG,
        wrap: Callable[[FakeRobot, ManualClock], Robot] = lambda robot, clock: robot,
        dry_run: bool = False,
        give_way: float = float("inf"),
    ) -> None:
        self.clock = ManualClock(50.0)
        self.arm = FakeRobot(limits.names, HOME, self.clock, max_width=0.08)
        self.safety = SafetyFilter(limits, config, body=None, max_width=0.08)
        self.loop = ControlLoop(
            wrap(self.arm, self.clock),
            self.safety,
            self.clock,
            config=LoopConfig(planner_timeout=2.0, give_way=give_way),
            recorder=recorder,
        )
        self.arm.connect()
        self.sequence = 0
        self.places: list[np.ndarray] = []
        self.loop.arm(dry_run=dry_run)

    def chunk(
        self,
        *,
        start: float = 0.0,
        seconds: float = 1.0,
        sequence: int | None = None,
        speed: float = 0.2,
    ) -> Chunk:
        """A turn of the first joint [rad/s] from where the arm is commanded."""
        self.sequence += 1
        q = self.loop.status().commanded
        assert q is not None
        path = np.repeat(q[None], 11, 0)
        path[:, 0] += speed * seconds * np.linspace(0, 1, 11)
        return Chunk(
            sequence=self.sequence if sequence is None else sequence,
            start_time=self.clock.now() + start,
            joint_positions=path,
            step_dt=seconds / 10,
        )

    def go(self, seconds: float) -> None:
        for _ in range(round(seconds / DT)):
            self.clock.time += DT
            self.loop.tick()
            q, _ = self.arm._place()
            self.places.append(q.copy())

    def until_fault(self, longest: float = 3.0) -> float:
        """Seconds until the fault."""
        begun = self.clock.now()
        while self.loop.status().mode is not SafetyMode.FAULT:
            assert self.clock.now() - begun < longest, "no fault came"
            self.go(DT)
        return self.clock.now() - begun

    def check_stopped(self, reason: Reason) -> None:
        """In FAULT for this reason, standing in time, for good, until a person acknowledges it."""
        status = self.loop.status()
        assert (status.mode, status.reason) == (SafetyMode.FAULT, reason)
        assert status.message
        self.go(self.safety.stop_time + 0.02)
        here = self.places[-1]
        with pytest.raises(ControlError):
            self.loop.submit(self.chunk())
        self.go(0.5)
        assert np.array_equal(self.places[-1], here)
        with pytest.raises(ControlError):
            self.loop.arm()
        with pytest.raises(ControlError):
            self.loop.recover(acknowledged=False)


@pytest.fixture
def scene(fr3_limits: JointLimits) -> Scene:
    return Scene(fr3_limits)


def test_a_chunk_is_carried_out_and_the_arm_holds_after_it(scene: Scene) -> None:
    scene.loop.submit(scene.chunk())
    scene.go(0.5)
    assert not scene.loop.status().holding
    scene.go(0.8)
    assert scene.loop.status().holding and scene.loop.status().mode is SafetyMode.ARMED
    end = scene.places[-1]
    assert end[0] == pytest.approx(0.2, abs=0.03)
    scene.go(0.3)
    assert np.array_equal(scene.places[-1], end)
    assert scene.loop.status().worst_gap == pytest.approx(DT)


class Stuck(FakeRobot):
    """An arm that is held fast and stays where it is."""

    def send_action(self, command: JointCommand) -> JointCommand:
        return command


def test_an_arm_that_is_held_back_gives_way_and_takes_the_next_chunk(
    fr3_limits: JointLimits,
) -> None:
    def hold(robot: FakeRobot, clock: ManualClock) -> Robot:
        stuck = Stuck(fr3_limits.names, HOME, clock, max_width=0.08)
        stuck.connect()
        return stuck

    scene = Scene(fr3_limits, wrap=hold, give_way=0.05)
    scene.loop.submit(scene.chunk())
    scene.go(0.8)
    status = scene.loop.status()
    assert status.mode is SafetyMode.ARMED and status.holding and status.gave_way == 1
    assert status.commanded is not None and status.commanded[0] < HOME[0] + 0.09
    scene.go(1.0)
    assert scene.loop.status().gave_way == 1, "it presses no more"
    back = scene.loop.status().commanded
    assert back is not None and abs(back[0] - HOME[0]) < 0.005, "it is sent to where it is"
    scene.loop.submit(scene.chunk(speed=-0.1))
    scene.go(0.4)
    away = scene.loop.status()
    assert not away.holding and away.gave_way == 1, "another way is taken"
    assert away.commanded is not None and away.commanded[0] < HOME[0] - 0.01
    scene.loop.submit(scene.chunk())
    scene.go(0.8)
    assert scene.loop.status().gave_way == 2

    for _ in range(12):
        scene.loop.submit(scene.chunk(speed=0.05))
        scene.go(0.4)
    stuck = scene.loop.status()
    assert stuck.mode is SafetyMode.ARMED and stuck.commanded is not None
    assert stuck.commanded[0] < HOME[0] + 0.08, "chunk after chunk does not press it further"

    pressing = Scene(fr3_limits, wrap=hold)
    pressing.loop.submit(pressing.chunk())
    pressing.go(0.8)
    assert not pressing.loop.status().holding and pressing.loop.status().gave_way == 0


def test_chunks_follow_each_other_smoothly(scene: Scene) -> None:
    scene.loop.submit(scene.chunk())
    scene.go(0.5)
    for _ in range(6):
        scene.loop.submit(scene.chunk())
        scene.go(0.25)
    assert scene.loop.status().mode is SafetyMode.ARMED
    speed = np.diff(np.stack(scene.places), axis=0)[60:, 0] / DT
    assert speed.min() > 0.1 and speed.max() < 0.3


def test_recovery_leads_to_disarmed_and_a_new_start(scene: Scene) -> None:
    scene.loop.submit(scene.chunk())
    scene.go(0.3)
    scene.loop.stop()
    scene.check_stopped(Reason.OPERATOR)
    scene.loop.recover(acknowledged=True)
    assert scene.loop.status().mode is SafetyMode.DISARMED
    scene.go(0.1)
    scene.loop.arm()
    with pytest.raises(ControlError) as caught:
        scene.loop.submit(scene.chunk(sequence=1))
    assert caught.value.reason is Reason.CHUNK_OLD, "a chunk from before the stop"
    scene.loop.submit(scene.chunk(sequence=99))
    scene.go(0.5)
    assert scene.loop.status().mode is SafetyMode.ARMED


def test_dry_runs_move_nothing(fr3_limits: JointLimits) -> None:
    scene = Scene(fr3_limits, dry_run=True)
    scene.loop.submit(scene.chunk())
    scene.go(1.5)
    assert all(np.array_equal(q, HOME) for q in scene.places)
    commanded = scene.loop.status().commanded
    assert commanded is not None and commanded[0] > 0.1


def test_a_silent_planner_stops_the_run(scene: Scene) -> None:
    scene.loop.submit(scene.chunk(seconds=0.5))
    assert scene.until_fault() == pytest.approx(2.0, abs=2 * DT)
    scene.check_stopped(Reason.PLANNER_LATE)


def test_a_planner_that_hangs_after_it_let_the_arm_rest_is_missed_too(scene: Scene) -> None:
    scene.loop.submit(scene.chunk())
    for _ in range(4):
        scene.go(0.8)
        scene.loop.hold()
    assert scene.loop.status().mode is SafetyMode.ARMED, "one that goes on saying so is there"
    scene.go(2.3)
    scene.check_stopped(Reason.PLANNER_LATE)


class Wrapped:
    """A fake arm whose answers can be changed."""

    def __init__(self, arm: FakeRobot, clock: ManualClock) -> None:
        self.arm, self.clock = arm, clock
        self.change: Callable[[RobotState], RobotState] = lambda state: state
        self.refuse: Reason | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.arm, name)

    def get_state(self) -> RobotState:
        return self.change(self.arm.get_state())

    def send_action(self, command: JointCommand) -> JointCommand:
        if self.refuse is not None:
            raise ControlError(self.refuse, "refused by the test")
        return self.arm.send_action(command)


def _frozen(state: RobotState) -> Callable[[RobotState], RobotState]:
    return lambda _: state


ARM_FAULTS: dict[str, tuple[Callable[[RobotState], Callable[[RobotState], RobotState]], Reason]] = {
    "frozen": (_frozen, Reason.STATE_STALE),
    "repeated number": (
        lambda first: lambda s: dataclasses.replace(s, sequence=first.sequence),
        Reason.STATE_STALE,
    ),
    "numbers go back": (
        lambda first: lambda s: dataclasses.replace(s, sequence=2 * first.sequence - s.sequence),
        Reason.STATE_STALE,
    ),
    "fixed pose under fresh numbers": (
        lambda first: lambda s: dataclasses.replace(s, joint_positions=first.joint_positions),
        Reason.TRACKING,
    ),
    "NaN": (
        lambda first: lambda s: dataclasses.replace(s, joint_positions=np.full(7, np.nan)),
        Reason.STATE_INVALID,
    ),
    "an hour ahead": (
        lambda first: lambda s: dataclasses.replace(s, time=s.time + 3600),
        Reason.CLOCK,
    ),
    "an hour behind": (
        lambda first: lambda s: dataclasses.replace(s, time=s.time - 3600),
        Reason.STATE_STALE,
    ),
    "a reflex": (
        lambda first: lambda s: dataclasses.replace(s, mode=RobotMode.ERROR, errors=("reflex",)),
        Reason.ROBOT_ERROR,
    ),
}


@pytest.mark.parametrize("name", ARM_FAULTS)
@pytest.mark.parametrize("phase", [0.05, 0.6])
def test_faults_of_the_arm(fr3_limits: JointLimits, name: str, phase: float) -> None:
    make, reason = ARM_FAULTS[name]
    scene = Scene(fr3_limits, wrap=Wrapped)  # type: ignore[arg-type]
    scene.loop.submit(scene.chunk(seconds=2.0))
    scene.go(phase)
    robot = scene.loop.robot
    assert isinstance(robot, Wrapped)
    robot.change = make(robot.get_state())
    taken = scene.until_fault()
    assert taken <= (1.0 if reason is Reason.TRACKING else CONFIG.state_age + 2 * DT)
    robot.change = lambda state: state
    scene.check_stopped(reason)


@pytest.mark.parametrize("reason", [Reason.ROBOT_ERROR, Reason.ROBOT_LINK])
def test_an_arm_that_takes_no_commands(fr3_limits: JointLimits, reason: Reason) -> None:
    scene = Scene(fr3_limits, wrap=Wrapped)  # type: ignore[arg-type]
    scene.loop.submit(scene.chunk())
    scene.go(0.3)
    scene.loop.robot.refuse = reason  # type: ignore[attr-defined]
    assert scene.until_fault() <= 2 * DT
    scene.check_stopped(reason)
    assert scene.arm.get_state().mode is RobotMode.STOPPED


@pytest.mark.parametrize("hours,reason", [(1, Reason.WATCHDOG), (-1, Reason.CLOCK)])
def test_jumps_of_the_clock(scene: Scene, hours: int, reason: Reason) -> None:
    scene.loop.submit(scene.chunk())
    scene.go(0.3)
    scene.clock.time += 3600.0 * hours
    scene.loop.tick()
    assert scene.arm.get_state().mode is RobotMode.STOPPED, "at once"
    scene.check_stopped(reason)


def _record(folder: Path) -> Recorder:
    return Recorder(folder, joints=tuple(f"fr3_joint{i}" for i in range(1, 8)))


def test_a_run_is_recorded_and_read_back(fr3_limits: JointLimits, tmp_path: Path) -> None:
    recorder = _record(tmp_path / "run")
    scene = Scene(fr3_limits, recorder=recorder)
    scene.loop.submit(scene.chunk())
    scene.go(1.5)
    depth = np.full((6, 8), 0.7, np.float32)
    depth[0, 0] = np.nan
    frame = CameraFrame(
        camera="left",
        rgb=np.zeros((6, 8, 3), np.uint8),
        depth=depth,
        K=np.array([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]]),
        time=51.0,
        sequence=4,
    )
    recorder.frame(frame, np.eye(4), HOME)
    recorder.plan(51.0, {"costs": np.arange(3.0)})
    scene.loop.stop(message="enough")
    scene.go(0.6)
    recorder.close()
    read = read_recording(tmp_path / "run")
    assert read.complete and recorder.lost == 0 and recorder.error is None
    assert len(read.ticks["time"]) == 210
    sent = read.ticks["sent"]
    assert np.allclose(read.ticks["commanded"][sent][100], scene.places[101])
    assert len(read.chunks) == 1 and read.chunks[0].sequence == 1
    assert [e["event"] for e in read.events] == ["armed", "holding", "fault"]
    assert read.events[-1]["reason"] == "operator" and read.events[-1]["message"] == "enough"
    capture = read.capture(robot="fr3")
    assert capture.frames[0].camera == "left" and not capture.frames[0].valid[0, 0]


def test_a_full_disk_stops_the_run(fr3_limits: JointLimits, tmp_path: Path) -> None:
    recorder = _record(tmp_path / "run")
    scene = Scene(fr3_limits, recorder=recorder)
    scene.loop.submit(scene.chunk(seconds=2.0))
    scene.go(0.3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        recorder.plan(50.3, {"large": np.zeros(100_000)})
        recorder._thread.join(timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert recorder.error is not None
    assert scene.until_fault() <= 2 * DT
    scene.check_stopped(Reason.RECORDING)
    assert not read_recording(tmp_path / "run").complete
    assert not list((tmp_path / "run").glob("plan*"))


def test_a_slow_disk_loses_entries_and_not_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", joints=("a",), queue_size=1)
    for k in range(2000):
        recorder.plan(float(k), {"x": np.zeros(1000)})
    recorder.close()
    assert recorder.lost > 0 and recorder.error is None


@pytest.mark.rejects_input
def test_a_folder_is_not_recorded_into_twice(tmp_path: Path) -> None:
    _record(tmp_path / "run").close()
    with pytest.raises(InputError, match="already"):
        _record(tmp_path / "run")
    with pytest.raises(InputError, match="no recording"):
        read_recording(tmp_path)


def test_a_planner_that_fails_stops_the_run(scene: Scene) -> None:
    scene.loop.submit(scene.chunk(seconds=2.0))
    scene.go(0.3)
    with (
        pytest.raises(ZeroDivisionError),
        planning(scene.loop, scene.clock, deadline=0.1),
    ):
        raise ZeroDivisionError("no candidates")
    assert "no candidates" in scene.loop.status().message
    scene.check_stopped(Reason.PLANNER_ERROR)


def test_a_planner_ten_times_over_its_deadline_stops_the_run(scene: Scene) -> None:
    scene.loop.submit(scene.chunk(seconds=4.0))
    with planning(scene.loop, scene.clock, deadline=0.1):
        scene.go(0.9)
    assert scene.loop.status().mode is SafetyMode.ARMED
    with planning(scene.loop, scene.clock, deadline=0.1):
        scene.go(1.1)
    scene.check_stopped(Reason.PLANNER_LATE)


@pytest.mark.rejects_input
def test_a_plan_of_nan_is_refused_and_the_arm_ends_in_a_hold(scene: Scene) -> None:
    scene.loop.submit(scene.chunk(seconds=0.5))
    scene.go(0.2)
    with (
        pytest.raises(ControlError) as caught,
        planning(scene.loop, scene.clock, deadline=0.1),
    ):
        scene.loop.submit(
            Chunk(
                sequence=9,
                start_time=scene.clock.now(),
                joint_positions=np.full((5, 7), np.nan),
                step_dt=0.1,
            )
        )
    assert caught.value.reason is Reason.CHUNK_INVALID
    scene.go(0.8)
    assert scene.loop.status().holding
    assert np.array_equal(scene.places[-1], scene.places[-10])


def test_an_error_in_the_loop_itself_stops_the_arm(fr3_limits: JointLimits) -> None:
    scene = Scene(fr3_limits, wrap=Wrapped)  # type: ignore[arg-type]
    scene.loop.submit(scene.chunk())

    def broken(state: RobotState) -> RobotState:
        if scene.clock.now() > 50.3:
            raise KeyError("a mistake in a driver")
        return state

    scene.loop.robot.change = broken  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        scene.loop.run(lambda: False)
    assert scene.arm.get_state().mode is RobotMode.STOPPED
    assert scene.loop.status().reason is Reason.WATCHDOG
