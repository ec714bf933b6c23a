"""Joint paths from files, resampled in joint space, and matched to a robot's joints."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.robot.assets import require_known
from pointworld.robot.model import RobotModel
from pointworld.types import JointPath

MAX_FILE_BYTES = 256_000_000
_CSV_EXTRAS = ("time", "step_dt", "gripper_width")
_WIDTH_AGREEMENT = 5e-3


def read_joint_path(path: str | Path) -> JointPath:
    """Read a joint path.

    .npz: `joint_positions` (steps, joints), `joint_names`, `step_dt` [s], optional `gripper_width` (steps,) [m].
    .csv: one column per joint, named in the header, one row per step; the time base is either a column `time` [s]
    (increasing; if not evenly spaced the path is resampled at the median step) or a column `step_dt` [s] (the same
    value in every row); optional column `gripper_width` [m].

    Raises:
        InputError: missing or damaged file, missing entries, wrong counts, NaN.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such joint path file")
    if file.suffix.lower() not in (".npz", ".csv"):
        raise InputError(f"{file}: joint paths are .npz or .csv files, got '{file.suffix}'")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise InputError(
            f"{file}: larger than {MAX_FILE_BYTES // 1_000_000} MB, too long for a joint path"
        )
    return _read_npz(file) if file.suffix.lower() == ".npz" else _read_csv(file)


def _read_npz(file: Path) -> JointPath:
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_FILE_BYTES:
                raise InputError(f"{file}: unpacks to more than {MAX_FILE_BYTES // 1_000_000} MB")
        with np.load(file, allow_pickle=False) as archive:
            entries = {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: not a readable .npz of plain arrays ({error})") from error
    for key in ("joint_positions", "joint_names", "step_dt"):
        if key not in entries:
            raise InputError(
                f"{file}: has no '{key}', expected joint_positions (steps, joints), joint_names and step_dt; "
                f"found {', '.join(entries) or 'nothing'}"
            )
    names = entries["joint_names"]
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise InputError(
            f"{file}: joint_names must be a list of strings, got {names.dtype} {names.shape}"
        )
    width = entries.get("gripper_width")
    return JointPath(
        joint_positions=_floats(entries["joint_positions"], file, "joint_positions"),
        joint_names=tuple(n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist()),
        step_dt=float(_floats(entries["step_dt"], file, "step_dt", size=1).reshape(())),
        gripper_width=None if width is None else _floats(width, file, "gripper_width"),
        source=str(file),
    )


def _floats(array: np.ndarray, file: Path, name: str, *, size: int | None = None) -> np.ndarray:
    if array.dtype.kind not in "fiu" or (size is not None and array.size != size):
        raise InputError(
            f"{file}: {name} must be numbers, got {array.dtype} of shape {array.shape}"
        )
    return np.asarray(array, dtype=np.float64)


def _read_csv(file: Path) -> JointPath:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as text ({error})") from error
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise InputError(f"{file}: expected a header with joint names and one row per step")
    header = [cell.strip() for cell in rows[0]]
    if len(set(header)) != len(header) or "" in header:
        raise InputError(f"{file}: column names must be distinct and not empty, got {header}")
    table = np.array([_csv_row(row, len(header), file, i + 2) for i, row in enumerate(rows[1:])])
    columns = {name: table[:, i] for i, name in enumerate(header)}
    joints = tuple(name for name in header if name not in _CSV_EXTRAS)
    positions = table[:, [header.index(name) for name in joints]]
    width = columns.get("gripper_width")
    if ("time" in columns) == ("step_dt" in columns):
        raise InputError(
            f"{file}: needs the time base: either a column 'time' [s] or a column 'step_dt' [s], not both"
        )
    if "time" in columns:
        return _evenly_timed(positions, joints, columns["time"], width, file)
    step = columns["step_dt"]
    if not np.ptp(step) <= 1e-9 * abs(step[0]):
        raise InputError(f"{file}: step_dt varies between rows; give a column 'time' instead")
    return JointPath(
        joint_positions=positions,
        joint_names=joints,
        step_dt=float(step[0]),
        gripper_width=width,
        source=str(file),
    )


def _csv_row(row: list[str], count: int, file: Path, line: int) -> list[float]:
    if len(row) != count:
        raise InputError(f"{file}: line {line} has {len(row)} values, the header names {count}")
    try:
        return [float(cell) for cell in row]
    except ValueError as error:
        raise InputError(
            f"{file}: line {line} holds something that is not a number ({error})"
        ) from error


def _evenly_timed(
    positions: np.ndarray,
    joints: tuple[str, ...],
    time: np.ndarray,
    width: np.ndarray | None,
    file: Path,
) -> JointPath:
    steps = np.diff(time)
    if not (np.isfinite(time).all() and (steps > 0).all() and len(steps)):
        raise InputError(f"{file}: the column 'time' must increase from row to row [s]")
    if not np.isfinite(positions).all():
        raise InputError(f"{file}: joint positions contain NaN or infinity")
    step_dt = float(np.median(steps))
    if np.abs(steps - step_dt).max() > 1e-3 * step_dt:
        grid = time[0] + step_dt * np.arange(_step_count(float(time[-1] - time[0]), step_dt))
        positions = _interpolate(positions, time, grid)
        width = None if width is None else np.interp(grid, time, width)
    return JointPath(
        joint_positions=positions,
        joint_names=joints,
        step_dt=step_dt,
        gripper_width=width,
        source=str(file),
    )


def resample_joint_path(path: JointPath, step_dt: float) -> JointPath:
    """The same motion at another step, linear in joint space.

    The first pose stays first. The number of steps covers the whole duration: where it is not a multiple of
    `step_dt`, the last step holds the last pose.

    Args:
        step_dt: [s], above zero.
    """
    if not (np.isfinite(step_dt) and step_dt > 0):
        raise InputError(f"step_dt is {step_dt}, expected seconds > 0")
    if abs(step_dt - path.step_dt) <= 1e-9:
        return path
    count = len(path.joint_positions)
    time = path.step_dt * np.arange(count)
    grid = step_dt * np.arange(_step_count(float(time[-1]), step_dt))
    width = path.gripper_width
    return JointPath(
        joint_positions=_interpolate(path.joint_positions, time, grid),
        joint_names=path.joint_names,
        step_dt=step_dt,
        gripper_width=None if width is None else np.interp(grid, time, width),
        source=path.source,
    )


def _step_count(duration: float, step_dt: float) -> int:
    """Steps that cover `duration`, the first at zero; at least two."""
    count = int(np.ceil(duration / step_dt - 1e-6)) + 1
    if count > 1_000_000:
        raise InputError(
            f"{duration:.0f} s at {step_dt:g} s per step are {count} steps, at most 1000000"
        )
    return max(count, 2)


def _interpolate(values: np.ndarray, time: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(grid, time, column) for column in values.T], axis=1)


def joint_path_to_positions(robot: RobotModel, path: JointPath) -> np.ndarray:
    """The joint vectors of a path in the robot's own order, checked against its limits.

    Names are matched, not positions; mimic joints in the file are ignored. Where the gripper's joint is not among
    the names it follows `gripper_width`, and without that it stays open.

    Returns:
        (steps, joints) float64.

    Raises:
        InputError: unknown or missing joints, values out of limits, or a gripper joint that contradicts the width.
    """
    mimics = {j.name for j in robot.joints if j.mimic is not None}
    known = (*robot.joint_names, *mimics)
    require_known(path.joint_names, known, f"{path.source}: joint")
    keep = [i for i, name in enumerate(path.joint_names) if name in robot.joint_names]
    names = [path.joint_names[i] for i in keep]
    positions = np.asarray(path.joint_positions, dtype=np.float64)[:, keep]
    gripper = robot.gripper
    given = gripper is not None and gripper.joint in names
    if gripper is not None and not given:
        names.append(gripper.joint)
        positions = np.column_stack([positions, np.full(len(positions), gripper.open_value)])
    q = robot.order_joints(positions, names, source=path.source)
    robot.check_limits(q, source=path.source)
    if path.gripper_width is None or gripper is None:
        return q
    width = torch.from_numpy(np.asarray(path.gripper_width, dtype=np.float64))
    followed = robot.with_gripper_width(torch.from_numpy(q), width)
    if given:
        gap = float((robot.gripper_width(torch.from_numpy(q)) - width).abs().max())
        if gap > _WIDTH_AGREEMENT:
            raise InputError(
                f"{path.source}: the joint '{gripper.joint}' and gripper_width disagree by {gap * 1000:.0f} mm; "
                "leave one of them out"
            )
    return np.asarray(followed.numpy())
