"""From words to a rig: which arm, behind which processes, seen by which cameras, in which space."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pointworld.control.backends.fake import FakeRobot
from pointworld.control.backends.franka_sim import HOST, start_box
from pointworld.control.backends.mujoco_arm import MujocoArm, MujocoCameras
from pointworld.control.body import ArmBody, Space
from pointworld.control.cameras import (
    MountedCamera,
    read_calibrations,
    realsense_cameras,
    replay_cameras,
)
from pointworld.control.clock import ManualClock, SystemClock
from pointworld.control.filming import FilmedRecorder, film_simulation
from pointworld.control.limits import read_joint_limits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.processes import end_process
from pointworld.control.recording import CONTROL, Recorder
from pointworld.control.remote import RemoteController, start_controller
from pointworld.control.rig import Rig
from pointworld.control.rig_process import ProcessRig
from pointworld.control.rig_sim import SimRig
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.serve import start_server
from pointworld.control.task_setup import task_safety
from pointworld.control.twin import Twin
from pointworld.data.render import SceneRenderer
from pointworld.data.simulator import index_model
from pointworld.errors import InputError
from pointworld.plan.tasks import Task
from pointworld.robot import RobotModel
from pointworld.types import Capture

RobotName = Literal["sim", "fake", "franka-sim", "franka", "ur", "xarm", "own"]
#: An arm gives way at this share of the lag that is a fault; one in a simulation follows better, a simulated box lags
#: also where nothing is in its way.
_GIVE_WAY, _GIVE_WAY_SIM, _GIVE_WAY_BOX = 0.5, 0.3, 0.8
#: Arms that need an address.
VENDORS = ("franka", "ur", "xarm")
#: Descriptions that go with the arms; others are named with --model.
MODELS = {"sim": "fr3", "fake": "fr3", "franka-sim": "fr3", "franka": "fr3", "ur": "ur5e_robotiq"}


@dataclass(frozen=True, kw_only=True)
class RigConfig:
    """Which arm and cameras.

    model: bundled robot or URDF, "" for the usual one. host, python, driver: see bring_your_own_arm.md. cameras: "sim",
    "replay:DIR" or "realsense:SERIAL". calibrations: files. space: where the tool may be. speed: share of the arm's
    velocity and acceleration limits. planner_timeout: longest time without a new plan while armed [s].
    anywhere: real cameras may be without a calibration, and count as standing in the base frame. max_frame_age: oldest
    pictures from which one plans for an arm that stands [s].
    """

    robot: RobotName = "sim"
    model: str = ""
    host: str | None = None
    python: Path | None = None
    driver: Path | None = None
    cameras: tuple[str, ...] = ("sim",)
    calibrations: tuple[Path, ...] = ()
    space: Space | None = None
    speed: float = 0.3
    planner_timeout: float = 30.0
    anywhere: bool = False
    max_frame_age: float = 0.3

    def __post_init__(self) -> None:
        kinds = {spec.partition(":")[0] for spec in self.cameras}
        if len(kinds) != 1 or not kinds <= {"sim", "replay", "realsense"}:
            raise InputError(
                f"--camera is {' '.join(self.cameras)}, expected sim, replay:DIR or realsense:SERIAL (several of the "
                "same kind)"
            )
        bare = [spec for spec in self.cameras if self.kind != "sim" and not spec.partition(":")[2]]
        if bare or (self.kind != "realsense" and len(self.cameras) != 1):
            raise InputError(f"--camera is {' '.join(self.cameras)}: name one folder, or serials")
        if self.robot in VENDORS and self.host is None:
            raise InputError(f"--robot {self.robot} needs --host with the arm's address")
        if (self.robot == "own") != (self.driver is not None):
            raise InputError("--robot own and --driver FILE.py go together")
        if self.robot == "sim" and self.kind == "realsense":
            raise InputError("a real camera does not see a simulated arm: use --camera sim")
        if not self.model and self.robot not in MODELS:
            raise InputError(f"--robot {self.robot} needs --model: a bundled robot or a URDF")
        if not 0 < self.max_frame_age <= 5:
            raise InputError(
                f"--max-frame-age is {self.max_frame_age}, expected above 0 and at most 5 s"
            )
        if not 0 < self.speed <= 1:
            raise InputError(
                f"--speed is {self.speed}, expected a share of the arm's limits, 0 to 1"
            )

    @property
    def kind(self) -> str:
        """Of the cameras: sim, replay or realsense."""
        return self.cameras[0].partition(":")[0]

    @property
    def sources(self) -> list[str]:
        """What comes after the kind of every camera."""
        return [spec.partition(":")[2] for spec in self.cameras]

    @property
    def model_name(self) -> str:
        return self.model or MODELS[self.robot]


def _always() -> None:
    """A scene whose arm is the arm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenRig:
    """A rig that runs. safety: the rules of its filter. scene: the simulation that the cameras see, None for others.

    capture: that is replayed. follows: raises ControlError when the scene has lost an arm that is elsewhere.
    """

    rig: Rig
    safety: SafetyFilter
    scene: MujocoArm | None = None
    capture: Capture | None = None
    follows: Callable[[], None] = _always


def open_rig(
    config: RigConfig,
    robot: RobotModel,
    *,
    task: Task | None,
    renderer: Callable[[Task], SceneRenderer],
    record: Path | None,
) -> tuple[OpenRig, Recorder | None]:
    """Start everything, disarmed. Also gives the recorder of the planner's part.

    Args:
        task: scene of simulated cameras. renderer: for its pictures. record: folder of the recording.

    Raises:
        InputError: something is missing. ControlError: an arm or a camera does not answer.
    """
    if config.robot == "sim" and config.kind == "sim":
        assert task is not None
        return _open_simulation(config, robot, task, renderer(task), record)
    if config.robot == "sim":
        return _open_replay(config, robot, record)
    return _open_processes(config, robot, task, renderer, record)


def _filter(robot: RobotModel, safety: SafetyConfig, joints: tuple[str, ...]) -> SafetyFilter:
    limits = read_joint_limits(robot.source, joints)
    return SafetyFilter(limits, safety, body=ArmBody.of(robot), max_width=robot.gripper_max_width)


def _scene_cameras(
    config: RigConfig, arm: MujocoArm, task: Task, renderer: SceneRenderer
) -> list[MountedCamera]:
    known = read_calibrations(config.calibrations)
    group = MujocoCameras(arm, task.cameras, renderer, seed=task.seed)
    return [
        MountedCamera(camera=c, calibration=known.get(c.name), fixed=spec.T_world_cam)
        for c, spec in zip(group.cameras(), task.cameras, strict=True)
    ]


def _open_simulation(
    config: RigConfig,
    robot: RobotModel,
    task: Task,
    renderer: SceneRenderer,
    record: Path | None,
) -> tuple[OpenRig, Recorder | None]:
    clock = ManualClock()
    safety = task_safety(task)
    arm = MujocoArm(task.model, task.tree, clock, data=task.restart(), period=safety.period)
    recorder = None
    if record is not None:
        recorder = FilmedRecorder(
            record,
            joints=arm.info.arm_joints,
            robot_joints=robot.joint_names,
            robot=robot.name,
        )
        film_simulation(recorder, arm, task.cameras, renderer)
    loop = ControlLoop(
        arm,
        _filter(robot, safety, arm.info.arm_joints),
        clock,
        config=LoopConfig(give_way=_GIVE_WAY_SIM * safety.tracking),
        recorder=recorder,
    )

    def measure() -> np.ndarray:
        return np.array(arm.data.qpos[arm.index.arm])

    rig = SimRig(loop, clock, robot, _scene_cameras(config, arm, task, renderer), measure=measure)
    return OpenRig(rig=rig, safety=loop.safety, scene=arm), recorder


def _open_replay(
    config: RigConfig, robot: RobotModel, record: Path | None
) -> tuple[OpenRig, Recorder | None]:
    """An arm of numbers that stands where the first picture's stood."""
    clock = ManualClock()
    cameras, capture = replay_cameras(
        Path(config.sources[0]), clock, read_calibrations(config.calibrations)
    )
    joints = _recorded_joints(capture, robot)
    names = robot.joint_names[:-1]
    arm = FakeRobot(names, joints[:-1], clock, max_width=robot.gripper_max_width)
    space = config.space or Space()
    recorder = None
    if record is not None:
        recorder = Recorder(record, joints=names, robot_joints=robot.joint_names, robot=robot.name)
    loop = ControlLoop(
        arm, _filter(robot, SafetyConfig(space=space), names), clock, recorder=recorder
    )

    rig = SimRig(loop, clock, robot, cameras, measure=lambda: joints)
    return OpenRig(rig=rig, safety=loop.safety, capture=capture), recorder


def _recorded_joints(capture: Capture, robot: RobotModel) -> np.ndarray:
    """(joints,) of the first frame that has them, else the robot's home."""
    for frame in capture.frames:
        if frame.joint_positions is not None:
            return robot.order_joints(
                np.asarray(frame.joint_positions, dtype=np.float64),
                capture.joint_names,
                source=frame.name,
            )
    return np.asarray(robot.home, dtype=np.float64)


def _open_processes(
    config: RigConfig,
    robot: RobotModel,
    task: Task | None,
    renderer: Callable[[Task], SceneRenderer],
    record: Path | None,
) -> tuple[OpenRig, Recorder | None]:
    ends: list[Callable[[], None]] = []
    try:
        return _start_processes(config, robot, task, renderer, record, ends)
    except BaseException:
        for end in ends:
            end()
        raise


def _start_processes(
    config: RigConfig,
    robot: RobotModel,
    task: Task | None,
    renderer: Callable[[Task], SceneRenderer],
    record: Path | None,
    ends: list[Callable[[], None]],
) -> tuple[OpenRig, Recorder | None]:
    """Args: ends: gets what to call when the rig is closed, in order."""
    names = robot.joint_names[:-1]
    if config.robot == "franka-sim" and config.host is None:
        box = start_box(config.python)
        ends.insert(0, lambda: end_process(box))
    kind, options = _server_options(config, robot, task)
    safety = _safety(config, task)
    server = start_server(
        kind, options, python=config.python or sys.executable, watchdog=safety.watchdog
    )
    ends.insert(0, server.close)
    controller = start_controller(
        server.address,
        server.token,
        model=config.model_name,
        safety=safety,
        planner_timeout=config.planner_timeout,
        give_way=safety.tracking * (_GIVE_WAY_BOX if config.robot == "franka-sim" else _GIVE_WAY),
        record=None if record is None else record / CONTROL,
    )
    ends.insert(0, controller.close)
    recorder = None
    if record is not None:
        recorder = Recorder(record, joints=names, robot_joints=robot.joint_names, robot=robot.name)
    link = RemoteController(controller.port, controller.token)
    ends.insert(0, link.close)
    cameras, scene, capture, width = list[MountedCamera](), None, None, None
    follows: Callable[[], None] = _always
    if config.kind == "sim":
        assert task is not None
        # A hand that the arm knows nothing of is as the scene has it.
        width = float(task.tree.finger_width(_joints(task)[-1]))
        probe = ProcessRig(link, names, robot, [], width=width)
        twin = Twin(task, probe.measured()[0])
        ends.insert(0, twin.close)
        twin.follow(probe.measured)
        scene, follows = twin.arm, twin.require
        cameras = _scene_cameras(config, scene, task, renderer(task))
    elif config.kind == "replay":
        cameras, capture = replay_cameras(
            Path(config.sources[0]), SystemClock(), read_calibrations(config.calibrations)
        )
    else:
        known = read_calibrations(config.calibrations)
        cameras = realsense_cameras(config.sources, SystemClock(), known, anywhere=config.anywhere)
    rig = ProcessRig(link, names, robot, cameras, recorder=recorder, ends=ends, width=width)
    return OpenRig(
        rig=rig,
        safety=_filter(robot, safety, names),
        scene=scene,
        capture=capture,
        follows=follows,
    ), recorder


def _joints(task: Task) -> np.ndarray:
    """(joints,) of a task's arm at the start, gripper last."""
    return np.array(task.restart().qpos[index_model(task.model, task.tree).arm])


def _server_options(
    config: RigConfig, robot: RobotModel, task: Task | None
) -> tuple[str, dict[str, Any]]:
    """Kind of the robot server's arm, and its options."""
    if config.robot == "fake":
        home = np.asarray(robot.home, dtype=np.float64)
        if task is not None:
            home = _joints(task)
        return "fake", {
            "joints": list(robot.joint_names[:-1]),
            "home": home[:-1].tolist(),
            "max_width": robot.gripper_max_width,
        }
    if config.robot == "franka-sim":
        return "franka", {"host": config.host or HOST, "realtime": False, "gripper": False}
    if config.robot == "own":
        return "own", own_options(config.driver, config.host)
    return config.robot, {"host": config.host}


def own_options(driver: Path | None, host: str | None) -> dict[str, Any]:
    """Options of a robot server for a driver of the user's own; the host only where one is given."""
    options = {"driver": str(Path(driver or "").absolute())}
    return options if host is None else options | {"host": host}


def _safety(config: RigConfig, task: Task | None) -> SafetyConfig:
    """Of an arm in real time. A simulated control box may run slower than that: its arm may lag, its states be old."""
    space = config.space
    if space is None:
        space = Space() if task is None else task_safety(task).space
    shares = {"velocity": config.speed, "acceleration": config.speed}
    if config.robot == "franka-sim":
        return SafetyConfig(
            period=0.02, watchdog=0.5, state_age=0.4, tracking=0.3, ramp=0.5, space=space, **shares
        )
    if config.robot == "fake":
        return SafetyConfig(jerk=0.3, watchdog=0.5, state_age=0.4, space=space, **shares)
    return SafetyConfig(space=space, **shares)
