"""What a run looked like and what its planner thought, as a recording: frames at an even pace, plans, predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pointworld.capture import write_capture
from pointworld.control.backends.mujoco_arm import MujocoArm, MujocoCameras
from pointworld.control.clock import Clock
from pointworld.control.recording import Recorder, Recording
from pointworld.control.types import CameraFrame
from pointworld.data.render import SceneRenderer
from pointworld.data.tabletop import CameraSpec
from pointworld.plan.dynamics import Dynamics
from pointworld.plan.mpc import MpcStep
from pointworld.plan.tasks.seen import Seen

#: Time between two pictures of a recording [s]: the step of the world model, so that recordings become clips.
PICTURES = 0.1

#: Frames of one moment with their camera's pose (4, 4) in the base frame.
Moment = Sequence[tuple[CameraFrame, np.ndarray]]


class FilmedRecorder(Recorder):
    """A recorder of a simulated run that also takes pictures, every `PICTURES` seconds of the simulation's clock.

    Taking them costs the run nothing: the clock of the simulation stands meanwhile. On a real arm another thread films.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        joints: tuple[str, ...],
        robot_joints: tuple[str, ...],
        robot: str,
    ) -> None:
        """See `Recorder`."""
        super().__init__(folder, joints=joints, robot_joints=robot_joints, robot=robot)
        self._look: Callable[[], tuple[Moment, np.ndarray]] | None = None
        self._next = -np.inf

    def film(self, look: Callable[[], tuple[Moment, np.ndarray]]) -> None:
        """Take pictures from here on. Args: look: frames of now, and the joints (robot joints,)."""
        self._look = look

    def _ticked(self, now: float) -> None:
        """Take the pictures that are due."""
        if self._look is None or now < self._next - 1e-6:
            return
        # A clock that stood still (the first picture, a pause) begins a new even pace.
        late = now - self._next
        self._next = (self._next if late < PICTURES / 2 else now) + PICTURES
        moment, joints = self._look()
        for frame, T_base_cam in moment:
            self.frame(frame, T_base_cam, joints)


class Run(Protocol):
    """A `TaskWorld`, or anything else that is filmed."""

    @property
    def clock(self) -> Clock: ...

    def look(self) -> Seen:
        """The last observation."""
        ...


def film_simulation(
    recorder: FilmedRecorder,
    arm: MujocoArm,
    specs: Sequence[CameraSpec],
    renderer: SceneRenderer,
) -> None:
    """Let `recorder` take pictures through all cameras of a simulated scene, with the noise of a depth sensor."""
    cameras = MujocoCameras(arm, specs, renderer)

    def look() -> tuple[Moment, np.ndarray]:
        frames = cameras.frames()
        poses = [spec.T_world_cam for spec in specs]
        return list(zip(frames, poses, strict=True)), arm.data.qpos[arm.index.arm].copy()

    recorder.film(look)


def record_plans(recorder: Recorder, world: Run, dynamics: Dynamics) -> Callable[[MpcStep], None]:
    """What to call after every plan so that it is recorded."""

    def record(step: MpcStep) -> None:
        recorder.plan(world.clock.now(), plan_record(step, world.look(), dynamics))

    return record


def look_record(seen: Seen) -> dict[str, np.ndarray]:
    """A look without a plan, for `Recorder.plan`: keys points, colors, target, places and error of `plan_record`."""
    scene = seen.state.scene
    return {
        "points": scene.points.float().numpy(),
        "colors": scene.colors.float().numpy(),
        "target": np.asarray(seen.points, dtype=np.float32),
        "places": np.asarray(seen.places, dtype=np.float32),
        "error": np.asarray(seen.error),
    }


def plan_record(
    step: MpcStep, seen: Seen, dynamics: Dynamics, *, look_seconds: float = 0.0
) -> dict[str, np.ndarray]:
    """One plan as arrays for `Recorder.plan`: what was seen, what is meant to be done, and what it should lead to.

    Keys: points, colors (points, 3) of the scene; predicted (steps, points, 3) displacements [m]; joint_positions
    (steps, joints), tool (steps, 3), width (steps,); target, places (samples, 3): surface of what should move, and
    its goals; step, error, cost, nominal_cost, history, evaluations, plan_seconds, look_seconds.
    """
    with torch.no_grad():
        positions = dynamics.rollout(seen.state, step.actions).positions[0]
    actions, plan = step.actions, step.plan
    values = {
        "predicted": positions - positions[:1],
        "joint_positions": actions.joint_positions[0],
        "tool": actions.tool_poses[0, :, :3, 3],
        "width": actions.gripper_width[0],
    }
    return {
        **look_record(seen),
        **{key: value.detach().float().cpu().numpy() for key, value in values.items()},
        "step": np.asarray(step.step),
        "step_dt": np.asarray(actions.step_dt),
        "cost": np.asarray(plan.cost),
        "nominal_cost": np.asarray(plan.nominal_cost),
        "history": np.asarray(plan.history),
        "evaluations": np.asarray(plan.evaluations),
        "plan_seconds": np.asarray(step.plan_seconds),
        "look_seconds": np.asarray(look_seconds),
    }


def export_capture(recording: Recording, folder: str | Path) -> int:
    """Write the pictures of a recording as a capture over time, for `pointworld capture label` and `doctor capture`.

    Returns:
        How many frames there are.

    Raises:
        InputError: the recording holds no pictures.
    """
    capture = recording.capture()
    write_capture(capture, folder)
    return len(capture.frames)
