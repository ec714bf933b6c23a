"""`pointworld doctor robot`: is an arm fit to be moved from here? Nothing is moved."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.capture import read_capture
from pointworld.cli.common import console, parse, stdout_json
from pointworld.control.backends.franka_sim import HOST, start_box
from pointworld.control.backends.mujoco_arm import MujocoArm
from pointworld.control.body import ArmBody
from pointworld.control.calibration import check_against_arm, read_calibration
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.limits import read_joint_limits
from pointworld.control.processes import end_process
from pointworld.control.protocols import Robot
from pointworld.control.rig_open import MODELS, RobotName, own_options
from pointworld.control.safety import FilterState, SafetyConfig, SafetyFilter, Target
from pointworld.control.serve import start_server
from pointworld.control.types import CameraFrame, ControlError, Reason, RobotState, SafetyMode
from pointworld.data.robot_tree import robot_tree
from pointworld.errors import InputError
from pointworld.plan.tasks import make_task
from pointworld.robot import RobotModel

#: A simulated control box may run slower than real time: its arm may lag, and its states be older, as in a run on it.
_BOX = SafetyConfig(watchdog=0.5, state_age=0.4, tracking=0.3)


@dataclass(frozen=True, kw_only=True)
class DoctorRobotArgs:
    """Check an arm, its connection and this machine: versions, state rate and age, limits, timing of the safety filter.

    With --calibration and --capture (frames with depth and joints, the arm in view) also: does the camera see the arm
    where its joints say it is? Exit code 0 when all is well, 2 when something is not.

    Example: pointworld doctor robot --robot franka --host 172.16.0.2
    """

    robot: RobotName = "fake"
    """Which arm. sim: an FR3 in MuJoCo in this process. fake: numbers. franka-sim: a simulated control box.
    own: yours, by --driver."""
    host: str | None = None
    """Its address."""
    model: str = ""
    """Bundled robot, or path of a URDF, with the arm's limits and shape; by default the one that goes with --robot."""
    python: Path | None = None
    """Python of the environment that has the vendor's SDK (for franka-sim: franky-sim too); default: this one."""
    driver: Path | None = None
    """Python file that makes an arm of your own (--robot own)."""
    seconds: float = 2.0
    """How long to listen."""
    rate: float = 100.0
    """Rate of the control loop to judge [1/s]."""
    calibration: Path | None = None
    """Calibration file of a camera."""
    capture: Path | None = None
    """Frames of that camera with joints, for the check of the calibration."""
    json: bool = False
    """Print the report as one JSON object on stdout."""


@dataclass(kw_only=True)
class _Report:
    """facts: what was measured. problems: what is wrong, empty when all is well."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def expect(self, good: bool, problem: str) -> None:
        if not good:
            self.problems.append(problem)


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(DoctorRobotArgs, argv, prog="pointworld doctor robot")
    if not args.seconds > 0 or not 20 <= args.rate <= 500:
        raise InputError("--seconds must be above 0 and --rate 20 to 500")
    if (args.calibration is None) != (args.capture is None):
        raise InputError("--calibration and --capture go together")
    if (args.robot == "own") != (args.driver is not None):
        raise InputError("--robot own and --driver FILE.py go together")
    if not args.model and args.robot not in MODELS:
        raise InputError(f"--robot {args.robot} needs --model: a bundled robot or a URDF")
    model, report = RobotModel.load(args.model or MODELS[args.robot]), _Report()
    try:
        _examine_arm(args, model, report)
    except ControlError as error:
        report.problems.append(f"{error.reason.value}: {error}")
    if args.calibration is not None and args.capture is not None:
        _examine_camera(args.calibration, args.capture, model, report)
    for name, value in report.facts.items():
        console.print(f"{name}: {value}")
    for problem in report.problems:
        console.print(f"[red]problem[/red]: {problem}")
    if args.json:
        stdout_json({"ok": not report.problems, "problems": report.problems, **report.facts})
    return 2 if report.problems else 0


def _examine_arm(args: DoctorRobotArgs, model: RobotModel, report: _Report) -> None:
    arm_joints = tuple(
        n for n in model.joint_names if model.gripper is None or n != model.gripper.joint
    )
    config = replace(_BOX if args.robot == "franka-sim" else SafetyConfig(), period=1 / args.rate)
    with _connected(args, model, arm_joints) as robot:
        states = _listen(robot, args.seconds)
        report.facts["arm"] = robot.info.name
        report.facts["versions"] = robot.info.versions
        report.facts["tried_on_hardware"] = robot.info.tried_on_hardware
        _judge_states(states, report, oldest=config.state_age)
        if len(arm_joints) != len(robot.info.arm_joints):
            report.problems.append(
                f"the arm has {len(robot.info.arm_joints)} joints, model '{model.name}' has {len(arm_joints)}"
            )
            return
        _judge_filter(model, arm_joints, states[-1][1], config, robot, report)


@contextmanager
def _connected(
    args: DoctorRobotArgs, model: RobotModel, joints: tuple[str, ...]
) -> Iterator[Robot]:
    """The arm, with whatever has to run behind it; all of it ends afterwards.

    Raises:
        InputError: something is missing. ControlError: it does not answer.
    """
    with ExitStack() as ends:
        robot: Robot
        if args.robot == "sim":
            task = make_task("tissue_box", 0, robot_tree(model))
            robot = MujocoArm(
                task.model, task.tree, SystemClock(), data=task.restart(), period=1 / args.rate
            )
        else:
            if args.robot == "franka-sim" and args.host is None:
                box = start_box(args.python)
                ends.callback(end_process, box)
            kind, options = _behind_server(args, model, joints)
            server = start_server(kind, options, python=args.python or sys.executable)
            ends.callback(server.close)
            robot = RemoteRobot(server.address, server.token, SystemClock())
        ends.callback(robot.disconnect)
        robot.connect()
        yield robot


def _behind_server(
    args: DoctorRobotArgs, model: RobotModel, joints: tuple[str, ...]
) -> tuple[str, dict[str, Any]]:
    """Kind of the robot server's arm, and its options."""
    if args.robot == "fake":
        home = model.home[: len(joints)].tolist()
        return "fake", {"joints": list(joints), "home": home, "max_width": 0.08}
    if args.robot == "franka-sim":
        return "franka", {"host": args.host or HOST, "realtime": False, "gripper": False}
    if args.robot == "own":
        return "own", own_options(args.driver, args.host)
    if args.host is None:
        raise InputError(f"--robot {args.robot} needs --host with the arm's address")
    return args.robot, {"host": args.host}


def _listen(robot: Robot, seconds: float) -> list[tuple[float, RobotState]]:
    """Every 5 ms the time and the newest state."""
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        state = robot.get_state()
        seen.append((time.monotonic(), state))
        time.sleep(0.005)
    return seen


def _judge_states(seen: list[tuple[float, RobotState]], report: _Report, *, oldest: float) -> None:
    """What came in. Args: oldest: age at which an arm may not be armed any more [s]."""
    ages = np.array([now - state.time for now, state in seen])
    new = len({state.sequence for _, state in seen})
    span = seen[-1][0] - seen[0][0]
    last = seen[-1][1]
    report.facts["state_rate_hz"] = round(new / max(span, 1e-9), 1)
    report.facts["state_age_ms"] = {
        "median": round(1e3 * float(np.median(ages)), 2),
        "p99": round(1e3 * float(np.quantile(ages, 0.99)), 2),
        "worst": round(1e3 * float(ages.max()), 2),
    }
    report.facts["mode"] = last.mode.value
    report.facts["joint_positions"] = np.round(last.joint_positions, 4).tolist()
    report.facts["success_rate"] = last.success_rate
    report.expect(new / max(span, 1e-9) > 20, "the arm sends fewer than 20 states a second")
    report.expect(
        float(np.quantile(ages, 0.99)) < oldest,
        f"states are older than {1e3 * oldest:.0f} ms; the arm could not be armed",
    )
    report.expect(not last.errors, f"the arm reports: {', '.join(last.errors)}")
    poor = last.success_rate is not None and 0 < last.success_rate < 0.95
    report.expect(not poor, f"only {last.success_rate} of the commands reach the arm in time")


def _judge_filter(
    model: RobotModel,
    joints: tuple[str, ...],
    state: RobotState,
    config: SafetyConfig,
    robot: Robot,
    report: _Report,
) -> None:
    """Limits at the present posture, and the filter's time per tick in a dry run that holds the place."""
    limits = read_joint_limits(model.source, joints)
    q = state.joint_positions
    slowest, fastest = limits.velocity_range(q)
    report.facts["velocity_limits_here"] = {
        name: [round(float(a), 3), round(float(b), 3)]
        for name, a, b in zip(joints, slowest, fastest, strict=True)
    }
    safety = SafetyFilter(limits, config, body=ArmBody.of(model), max_width=robot.info.max_width)
    report.facts["stop_time_s"] = round(safety.stop_time, 3)
    clock = SystemClock()
    try:
        filter_state = safety.arm(FilterState(), robot.get_state(), clock.now(), dry_run=True)
    except ControlError as error:
        report.problems.append(str(error))
        return
    spent, late, due = [], [], clock.now()
    for _ in range(round(1 / config.period)):
        due += config.period
        clock.sleep_until(due)
        late.append(clock.now() - due)
        target = Target(joint_positions=q, joint_velocities=np.zeros_like(q))
        # First the state: one that is later than the tick would be from the future.
        measured = robot.get_state()
        begun = clock.now()
        filter_state, _ = safety.step(filter_state, begun, measured, target)
        spent.append(clock.now() - begun)
    for name, values in (("filter_ms", spent), ("loop_late_ms", late)):
        report.facts[name] = {
            "median": round(1e3 * float(np.median(values)), 3),
            "worst": round(1e3 * float(np.max(values)), 3),
        }
    report.expect(
        float(np.median(spent)) < config.period / 2,
        f"this machine is too slow or too busy for a loop of {1 / config.period:g} Hz",
    )
    report.expect(
        filter_state.mode is not SafetyMode.FAULT,
        f"a dry run that only holds the place ended in {filter_state.reason.value}: {filter_state.message}",
    )


def _examine_camera(file: Path, folder: Path, model: RobotModel, report: _Report) -> None:
    """Whether the camera sees the arm where the joints say it is."""
    calibration = read_calibration(file)
    capture = read_capture(folder, check_unit=False)
    results = []
    for k, frame in enumerate(capture.frames):
        if frame.camera != calibration.camera or frame.joint_positions is None:
            continue
        q = model.order_joints(frame.joint_positions, capture.joint_names, source=frame.name)
        tool = model.tool_pose(_tensor(q)).numpy()
        depth = np.where(frame.valid, frame.depth, 0).astype(np.float32)
        seen = CameraFrame(
            camera=frame.camera,
            rgb=frame.rgb,
            depth=depth,
            K=frame.K,
            time=frame.timestamp,
            sequence=k,
        )
        results.append(check_against_arm(seen, model, q, calibration.T_base_cam(tool)))
    if not results:
        report.problems.append(
            f"{folder} has no frame of camera '{calibration.camera}' with joints"
        )
        return
    report.facts["arm_seen"] = {
        "frames": len(results),
        "agreeing": round(float(np.median([r.agreeing for r in results])), 3),
        "median_mm": round(1e3 * float(np.median([min(r.median, 9.0) for r in results])), 1),
    }
    bad = sum(r.reason is not Reason.NONE for r in results)
    report.expect(
        bad <= len(results) // 2,
        f"in {bad} of {len(results)} frames camera '{calibration.camera}' does not see the arm where its joints say it "
        "is: calibrate again",
    )


def _tensor(q: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.asarray(q, dtype=np.float64))
