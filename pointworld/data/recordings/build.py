"""Recordings to labelled clips: windows cut out, labelled, written; resumable, one process or several."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointworld.data.clip import clip_path
from pointworld.data.clip_header import LABELLED, read_header
from pointworld.data.recordings.label import Labels, label_points
from pointworld.data.recordings.labelled_clip import LabelledClip, write_labelled
from pointworld.data.recordings.resample import joints_at_steps, motions_at_steps
from pointworld.data.recordings.shots import prepare_shot
from pointworld.data.recordings.trajectories import Scene
from pointworld.data.recordings.windows import Recording, Window, find_windows, read_window
from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.robot import RobotModel
from pointworld.scene import ROBOT_MARGIN, Workspace, build_scene, mask_of_mesh, pose_robot
from pointworld.types import RGBDFrame
from pointworld.workers import unordered

FORMAT = "pointworld-labelled-clips-1"

_CLIPS = "[0-9][0-9][0-9][0-9]/[0-9]*.npz"
# One copy per process.
_robot = cache(RobotModel.load)


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How recordings become clips.

    num_steps, step_dt: of the model that is to be trained. stride: from one window's start to the next [s].
    max_skew: a frame may be this far from its moment [s]. workspace: x0,y0,z0,x1,y1,z1 in the base frame [m].
    """

    num_steps: int = 11
    step_dt: float = 0.1
    stride: float = 0.5
    max_skew: float = 0.02
    workspace: str = "0.2,-0.6,-0.15,0.95,0.6,0.8"
    voxel_size: float = 0.015
    robot_margin: float = ROBOT_MARGIN
    max_points: int = 12000
    seed: int = 0

    def __post_init__(self) -> None:
        positive = (self.step_dt, self.stride, self.max_skew, self.voxel_size)
        if self.num_steps < 2 or not all(np.isfinite(v) and v > 0 for v in positive):
            raise InputError(
                f"num_steps {self.num_steps} and step_dt, stride, max_skew, voxel_size {positive}: expected two steps "
                "at least and positive numbers"
            )
        Workspace.parse(self.workspace)


def label_window(
    recording: Recording, window: Window, robot_name: str, config: LabelConfig
) -> LabelledClip:
    """One labelled example.

    Args:
        robot_name: name or URDF, kept in the clip.

    Raises:
        InputError: no scene point is left, or frames cannot be read.
    """
    moments, times = read_window(recording, window)
    clip = label_moments(
        moments,
        times,
        recording.joints_at(times),
        robot_name,
        config,
        recording=recording.name,
        start=window.start,
    )
    return replace(clip, info={**clip.info, "robot_motion": recording.motion_name})


def label_moments(
    moments: Sequence[Sequence[RGBDFrame]],
    times: np.ndarray,
    joint_positions: np.ndarray,
    robot_name: str,
    config: LabelConfig,
    *,
    recording: str,
    start: float,
) -> LabelledClip:
    """Label frames of one window; the world is the robot's base.

    Args:
        moments: per moment one frame per camera. times: (moments,) [s]. joint_positions: (moments, joints) then.
        robot_name: name or URDF. recording, start: kept in the clip with it.
    """
    robot = _robot(robot_name)
    q = torch.from_numpy(np.ascontiguousarray(joint_positions))
    scene = build_scene(
        moments[0],
        T_world_base=np.eye(4),
        workspace=Workspace.parse(config.workspace),
        voxel_size=config.voxel_size,
        robot=robot,
        joint_positions=q[0],
        max_points=config.max_points,
        seed=config.seed,
        robot_margin=config.robot_margin,
    )
    shots = []
    for frames, joints in zip(moments, q, strict=True):
        caster = pose_robot(robot, joints)
        shots.append(
            tuple(
                prepare_shot(f, mask_of_mesh(f, caster, np.eye(4), config.robot_margin))
                for f in frames
            )
        )
    hand = robot.tool_pose(q).numpy()
    points, normals = (x.numpy().astype(np.float64) for x in (scene.points, scene.normals))
    images = Scene(moments=tuple(shots), hand=hand, rng=np.random.default_rng(config.seed))
    labels = label_points(points, normals, images, seed=config.seed)
    steps = start + config.step_dt * np.arange(config.num_steps)
    motions, known = motions_at_steps(labels, points, times, steps)
    return LabelledClip(
        frames=tuple(moments[0]),
        points=scene.points.numpy(),
        colors=(scene.colors.numpy() * 255).round().astype(np.uint8),
        normals=scene.normals.numpy(),
        motions=motions,
        motion_ids=labels.motion,
        known=known,
        joint_names=tuple(robot.joint_names),
        joint_positions=joints_at_steps(joint_positions, times, steps),
        step_dt=config.step_dt,
        robot=robot_name,
        recording=recording,
        start=start,
        info=_facts(labels, points, known),
    )


def _facts(labels: Labels, points: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """Shares of points labelled (`known`, (steps, points)), over all steps but the first."""
    known = known[1:]
    reach = np.linalg.norm(labels.positions - points, axis=-1).max(0)
    moving = reach > 0.01
    return {
        "points": len(points),
        "labelled": float(known.mean()),
        "moving_points": int(moving.sum()),
        "moving_labelled": float(known[:, moving].mean()) if moving.any() else None,
        "farthest_m": float(reach.max()),
    }


def label_recordings(
    recordings: Sequence[Recording],
    out: str | Path,
    robot: str,
    config: LabelConfig,
    *,
    workers: int = 1,
    advance: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Label every window of some recordings into the folder `out`, after the clips that it has already.

    Windows that are there, or are given twice, are not made again; a window without a usable scene is left out.

    Args:
        robot: name or URDF.
        advance: called with 1 for every window.

    Returns:
        Per new clip: its file, recording, start and what is labelled.

    Raises:
        InputError: a recording has no windows, or `out` was made with other settings, or from one of the recordings
            with other joints or another base pose.
    """
    root = Path(out)
    settings = json.loads(json.dumps({"robot": robot, **asdict(config)}))
    have = _present(root, settings)
    tasks = []
    for recording in recordings:
        _check_motion(root, recording, have)
        for window in windows_of(recording, config):
            place = (recording.name, round(window.start, 6))
            if place not in have:
                have[place] = recording.motion_name
                tasks.append((recording, window))
    first = max((int(path.stem) for path in root.glob(_CLIPS)), default=-1) + 1
    numbered = [(first + k, recording, window) for k, (recording, window) in enumerate(tasks)]
    write_json(root / "manifest.json", {"format": FORMAT, **settings})
    work = partial(_label_one, root=root, robot=robot, config=config)
    made = []
    for facts in _each(work, numbered, workers):
        if facts is not None:
            made.append(facts)
        if advance is not None:
            advance(1)
    return made


def windows_of(recording: Recording, config: LabelConfig) -> list[Window]:
    """The windows of a recording that these settings ask for.

    Raises:
        InputError: there are none.
    """
    return find_windows(
        recording,
        num_steps=config.num_steps,
        step_dt=config.step_dt,
        stride=config.stride,
        max_skew=config.max_skew,
    )


def _present(root: Path, settings: dict[str, Any]) -> dict[tuple[str, float], str | None]:
    """(recording, start) of every clip that the folder has, and how the robot moved in its recording."""
    manifest = root / "manifest.json"
    if manifest.is_file():
        found = json.loads(manifest.read_text())
        if found != {"format": FORMAT, **settings}:
            raise InputError(
                f"{root} holds clips that were made with other settings. Choose another --out."
            )
    have = {}
    for path in root.glob(_CLIPS):
        header = read_header(path)
        if header["format"] == LABELLED:
            place = (header["recording"], round(float(header["start"]), 6))
            # Older clips do not say.
            have[place] = header.get("info", {}).get("robot_motion")
    return have


def _check_motion(
    root: Path, recording: Recording, have: dict[tuple[str, float], str | None]
) -> None:
    """Clips of one recording must not differ in where the robot was: at most one of them can be right."""
    for (name, start), motion in have.items():
        if name == recording.name and motion not in (None, recording.motion_name):
            raise InputError(
                f"{recording.source}: its window at {start:g} s was labelled into {root} with other joints or another "
                "base pose. Choose another --out, or remove the clips of this recording."
            )


def _each(work: Callable[[Any], dict[str, Any] | None], tasks: Sequence[Any], workers: int) -> Any:
    processes = workers if min(workers, len(tasks)) > 1 else 0
    return unordered(work, tasks, processes, initializer=torch.set_num_threads, initargs=(1,))


def _label_one(
    task: tuple[int, Recording, Window], *, root: Path, robot: str, config: LabelConfig
) -> dict[str, Any] | None:
    number, recording, window = task
    try:
        clip = label_window(recording, window, robot, config)
    except InputError as error:
        if "no scene points" in str(error) or "no usable depth" in str(error):
            return None
        raise
    path = clip_path(root, number)
    write_labelled(clip, path)
    return {
        "file": str(path.relative_to(root)),
        "recording": str(recording.source),
        "start": window.start,
        **clip.info,
    }
