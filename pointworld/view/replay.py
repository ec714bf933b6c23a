"""A recorded run as a flow over its whole time: what was predicted, plan after plan, beside what cameras saw then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from pointworld.control.recording import Recording, read_recording
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.view.result import FlowResult, ViewedCamera

#: Scene points this near to the surface of the target at the start belong to it [m].
_NEAR = 0.012
#: A point's prediction is that of the nearest scene point of the plan, if there is one this near [m].
_MATCH = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class _Round:
    """A plan. start: when it was made [s]. target: (samples, 3). predicted: (steps, points, 3) or None: only a look."""

    start: float
    target: np.ndarray
    points: np.ndarray
    predicted: np.ndarray | None
    step_dt: float


def is_recording(folder: str | Path) -> bool:
    """Whether a run was recorded there."""
    return (Path(folder) / "events.jsonl").is_file()


def read_replay(folder: str | Path) -> FlowResult:
    """A recorded run to look at, in steps of its plans, in the robot base frame.

    The points are those of the first look. `displacements` joins the predictions: in every plan they start from where
    the target was seen then. `truth` is where it was seen, straight lines between the looks; other points stand.

    Raises:
        InputError: no recording, or one without plans or states of the arm.
    """
    recording = read_recording(folder)
    plans = list(recording.plans())
    if not plans or "predicted" not in plans[0]:
        raise InputError(f"{folder} is a recording without plans: nothing to show")
    if recording.robot is None or "time" not in recording.ticks:
        raise InputError(f"{folder} is a recording without states of the arm: nothing to show")
    first = plans[0]
    rounds = [_round(plan) for plan in plans]
    step_dt = rounds[0].step_dt
    end = max(rounds[-1].start, float(recording.ticks["time"][-1]))
    times = rounds[0].start + step_dt * np.arange(round((end - rounds[0].start) / step_dt) + 1)
    points = first["points"].astype(np.float64)
    distance, nearest = cKDTree(rounds[0].target).query(points)
    mine = distance < _NEAR
    seen = _seen(rounds, times) - rounds[0].target
    truth = np.where(mine[:, None], seen[:, nearest], 0.0)
    return FlowResult(
        points=first["points"],
        colors=first["colors"],
        displacements=_predicted(rounds, times, points, nearest, mine).astype(np.float32),
        step_dt=step_dt,
        truth=truth.astype(np.float32),
        robot=recording.robot,
        joint_positions=_joints(recording, plans, times),
        cameras=_cameras(recording),
    )


def _round(plan: dict[str, np.ndarray]) -> _Round:
    return _Round(
        start=float(plan["time"]),
        target=plan["target"].astype(np.float64),
        points=plan["points"].astype(np.float64),
        predicted=plan.get("predicted"),
        step_dt=float(plan.get("step_dt", 0.1)),
    )


def _seen(rounds: list[_Round], times: np.ndarray) -> np.ndarray:
    """(times, samples, 3) where the target was, linear between looks."""
    starts = np.array([r.start for r in rounds])
    stack = np.stack([r.target for r in rounds])
    after = np.clip(np.searchsorted(starts, times), 1, max(len(starts) - 1, 1))
    if len(starts) == 1:
        return np.repeat(stack, len(times), 0)
    low, high = starts[after - 1], starts[after]
    share = np.clip((times - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)[:, None, None]
    return np.asarray((1 - share) * stack[after - 1] + share * stack[after])


def _predicted(
    rounds: list[_Round],
    times: np.ndarray,
    points: np.ndarray,
    nearest: np.ndarray,
    mine: np.ndarray,
) -> np.ndarray:
    """(times, points, 3) displacement from the first look, as the plan of each time predicts it."""
    plans = [r for r in rounds if r.predicted is not None]
    starts = np.array([r.start for r in plans])
    moved = np.zeros((len(times), len(points), 3))
    owner = np.clip(np.searchsorted(starts, times + 1e-6) - 1, 0, len(plans) - 1)
    for k in np.unique(owner):
        plan = plans[k]
        assert plan.predicted is not None
        carried = (plan.target - rounds[0].target)[nearest]
        here = points + np.where(mine[:, None], carried, 0.0)
        gap, match = cKDTree(plan.points).query(here)
        known = gap < _MATCH
        for t in np.flatnonzero(owner == k):
            at = min(max((times[t] - plan.start) / plan.step_dt, 0.0), len(plan.predicted) - 1.0)
            low = min(int(at), len(plan.predicted) - 2)
            flow = (1 - at + low) * plan.predicted[low] + (at - low) * plan.predicted[low + 1]
            moved[t] = here - points + np.where(known[:, None], flow[match], 0.0)
    return moved


def _joints(
    recording: Recording, plans: list[dict[str, np.ndarray]], times: np.ndarray
) -> np.ndarray:
    """(times, joints) in the robot's order: the arm as measured, the fingers as planned."""
    robot = RobotModel.load(str(recording.robot))
    ticks = recording.ticks
    good = np.isfinite(ticks["measured"]).all(-1)
    if not good.any():
        raise InputError(f"{recording.folder}: the arm's state was never measured")
    planned = [p for p in plans if "joint_positions" in p]
    starts = np.array([float(p["time"]) for p in planned])
    nows = np.stack([p["joint_positions"][0] for p in planned])
    joints = np.stack([np.interp(times, starts, column) for column in nows.T], -1)
    for i, name in enumerate(recording.joints):
        measured = np.interp(times, ticks["time"][good], ticks["measured"][good, i])
        joints[:, robot.joint_names.index(name)] = measured
    return joints


def _cameras(recording: Recording) -> tuple[ViewedCamera, ...]:
    """Where every camera was at first."""
    found: dict[str, ViewedCamera] = {}
    for frame in recording.frames():
        if frame.camera in found:
            break
        found[frame.camera] = ViewedCamera(
            name=frame.camera,
            K=frame.K,
            T_base_cam=frame.T_world_cam,
            width=frame.width,
            height=frame.height,
        )
    return tuple(found.values())
