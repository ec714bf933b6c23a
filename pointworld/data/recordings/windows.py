"""A recording over time: which frames and joints belong to each moment of a window."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pointworld.capture import list_capture, read_capture
from pointworld.capture.listing import Listing
from pointworld.errors import InputError
from pointworld.geometry import invert
from pointworld.robot import RobotModel, joint_path_to_positions, read_joint_path
from pointworld.scene.base_pose import resolve_base_pose
from pointworld.types import JointPath, RGBDFrame

#: Names under which the joint log is looked for in a recording's folder.
LOG_NAMES = ("joints.npz", "joints.csv")


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A capture over time with the robot's joints.

    source: folder. name: of the recording's contents, whatever its folder is called.
    cameras: per camera its frames' numbers in the capture and their times [s], in order of time.
    joint_times: (rows,) [s]. joint_positions: (rows, joints) in the robot's order [rad or m].
    T_world_base: (4, 4).
    """

    source: Path
    name: str
    cameras: dict[str, tuple[np.ndarray, np.ndarray]]
    joint_times: np.ndarray
    joint_positions: np.ndarray
    T_world_base: np.ndarray

    @property
    def motion_name(self) -> str:
        """16 hexadecimal digits of how the robot stood and moved: of its joint log and its base."""
        digest = hashlib.sha256()
        for values in (self.joint_times, self.joint_positions, self.T_world_base):
            # Adding zero makes a negative zero a positive one.
            digest.update((np.round(values, 6) + 0.0).astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    def joints_at(self, times: np.ndarray) -> np.ndarray:
        """(times, joints), linear between the rows of the log."""
        return np.stack(
            [np.interp(times, self.joint_times, column) for column in self.joint_positions.T], -1
        )


@dataclass(frozen=True, kw_only=True)
class Window:
    """Frames of one example. start: [s]. frames: per moment the frame numbers of the cameras, the same ones always."""

    start: float
    frames: tuple[tuple[int, ...], ...]


def open_recording(
    folder: str | Path,
    robot: RobotModel,
    *,
    joints: str | Path | None = None,
    joints_start: float | None = None,
    base_pose: str | None = None,
) -> Recording:
    """Look at a recording without reading its pixels (but for the first frame).

    Args:
        joints: log of the joints; None for `joints.npz` or `joints.csv` in the folder, or the joint positions that
            the capture's frames carry.
        joints_start: time of the log's first row on the frames' clock [s]; None: that of the first frame.
        base_pose: where the robot stands, as for `pointworld predict`; None for what the capture says.

    Raises:
        InputError: not a capture, no joints, no base pose, or frames that do not overlap with the log.
    """
    source = Path(folder)
    listing = list_capture(source)
    cameras: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in sorted({entry.camera for entry in listing.entries}):
        mine = [i for i, entry in enumerate(listing.entries) if entry.camera == name]
        times = np.array([listing.entries[i].timestamp for i in mine], dtype=np.float64)
        order = np.argsort(times, kind="stable")
        cameras[name] = np.array(mine)[order], times[order]
    first = min(times[0] for _, times in cameras.values())
    log_times, positions = _joints(source, listing, robot, joints, joints_start, first)
    T_world_base, _ = resolve_base_pose(read_capture(source, frames=[0]), base_pose)
    return Recording(
        source=source,
        name=recording_name(listing),
        cameras=cameras,
        joint_times=log_times,
        joint_positions=positions,
        T_world_base=T_world_base,
    )


def recording_name(listing: Listing) -> str:
    """16 hexadecimal digits that tell recordings apart: of times, cameras, poses, first and last image."""
    digest = hashlib.sha256()
    for entry in listing.entries:
        digest.update(f"{entry.camera} {entry.timestamp:.6f}\n".encode())
        digest.update(np.round(entry.T_world_cam, 6).tobytes())
    for entry in (listing.entries[0], listing.entries[-1]):
        digest.update(entry.rgb.read_bytes())
    return digest.hexdigest()[:16]


def _joints(
    source: Path,
    listing: Listing,
    robot: RobotModel,
    joints: str | Path | None,
    start: float | None,
    first: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Times (rows,) and positions (rows, joints) of the log."""
    found = joints or next((source / n for n in LOG_NAMES if (source / n).is_file()), None)
    if found is not None:
        path = read_joint_path(found)
        begin = first if start is None else start
        return begin + path.step_dt * np.arange(len(path.joint_positions)), joint_path_to_positions(
            robot, path
        )
    rows = {
        e.timestamp: e.joint_positions for e in listing.entries if e.joint_positions is not None
    }
    if len(rows) < 2:
        raise InputError(
            f"{source}: nothing says how the robot moved. Put its joint log beside the frames as "
            f"{' or '.join(LOG_NAMES)}, name it with --joints, or give every frame its joint_positions."
        )
    times = np.array(sorted(rows))
    path = JointPath(
        joint_positions=np.stack([rows[t] for t in times]),
        joint_names=listing.joint_names,
        step_dt=1.0,
        source=str(source),
    )
    return times, joint_path_to_positions(robot, path)


def find_windows(
    recording: Recording, *, num_steps: int, step_dt: float, stride: float, max_skew: float
) -> list[Window]:
    """Windows of a recording in which at least one camera has a frame near every moment.

    Args:
        stride: from the start of one window to that of the next [s].
        max_skew: a frame may be this far from its moment [s].

    Raises:
        InputError: there are none.
    """
    length = (num_steps - 1) * step_dt
    begin = max(min(t[0] for _, t in recording.cameras.values()), recording.joint_times[0])
    end = min(max(t[-1] for _, t in recording.cameras.values()), recording.joint_times[-1])
    windows = []
    for k in range(int(np.floor((end + max_skew - length - begin) / stride)) + 1):
        start = begin + k * stride
        moments = start + step_dt * np.arange(num_steps)
        chosen = [
            _nearest(frames, times, moments, max_skew)
            for frames, times in recording.cameras.values()
        ]
        complete = [row for row in chosen if row is not None]
        if complete:
            windows.append(Window(start=float(start), frames=tuple(zip(*complete, strict=True))))
    if not windows:
        raise InputError(
            f"{recording.source}: no camera has a frame within {max_skew:g} s of each of {num_steps} moments "
            f"{step_dt:g} s apart while the joints are known (from {begin:.3f} to {end:.3f} s). Are the frames' "
            "timestamps [s] on the clock of the joint log? --joints-start shifts the log, --label.max-skew allows more."
        )
    return windows


def _nearest(
    frames: np.ndarray, times: np.ndarray, moments: np.ndarray, most: float
) -> list[int] | None:
    """Numbers of the frames nearest to the moments, or None where one is too far or serves twice."""
    right = np.clip(np.searchsorted(times, moments), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    index = np.where(np.abs(times[left] - moments) <= np.abs(times[right] - moments), left, right)
    far = np.abs(times[index] - moments).max() > most + 1e-9
    return None if far or len(set(index.tolist())) < len(index) else [int(frames[i]) for i in index]


def read_window(
    recording: Recording, window: Window
) -> tuple[tuple[tuple[RGBDFrame, ...], ...], np.ndarray]:
    """Frames per moment, with the robot's base as world, and the mean time of each moment's frames (moments,)."""
    wanted: Sequence[int] = [i for moment in window.frames for i in moment]
    capture = read_capture(recording.source, frames=wanted)
    T_base_world = invert(recording.T_world_base)
    moved = [replace(f, T_world_cam=T_base_world @ f.T_world_cam) for f in capture.frames]
    count = len(window.frames[0])
    moments = tuple(tuple(moved[k * count : (k + 1) * count]) for k in range(len(window.frames)))
    times = np.array([np.mean([frame.timestamp for frame in moment]) for moment in moments])
    return moments, times
