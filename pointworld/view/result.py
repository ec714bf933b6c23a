"""A prediction as it lies in a folder, with everything that can be drawn about it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.errors import InputError
from pointworld.files import atomic_path

TRUTH = "truth.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewedCamera:
    """A camera to be drawn as a frustum, in the robot base frame."""

    name: str
    K: np.ndarray
    T_base_cam: np.ndarray
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowResult:
    """A predicted flow to look at, in the robot base frame; index 0 = now.

    points, colors: (points, 3). displacements: (steps, points, 3) [m]. step_dt: [s].
    log_var: (steps, points, 1), or None. truth: like displacements, when known.
    robot_positions: (steps, surface, 3) [m], or None. robot, joint_positions: to draw the robot's mesh, or None.
    """

    points: np.ndarray
    colors: np.ndarray
    displacements: np.ndarray
    step_dt: float
    log_var: np.ndarray | None = None
    truth: np.ndarray | None = None
    robot_positions: np.ndarray | None = None
    robot: str | None = None
    joint_positions: np.ndarray | None = None
    cameras: tuple[ViewedCamera, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.points)
        wanted = (len(self.displacements), n, 3)
        if self.points.shape != (n, 3) or self.colors.shape != (n, 3):
            raise InputError(
                f"points {self.points.shape} and colors {self.colors.shape} must be (points, 3)"
            )
        for name in ("displacements", "truth"):
            value = getattr(self, name)
            if value is not None and value.shape != wanted:
                raise InputError(f"{name} is {value.shape}, expected {wanted}")

    @property
    def num_steps(self) -> int:
        return len(self.displacements)


def read_result(folder: str | Path) -> FlowResult:
    """Read what `pointworld predict` or `pointworld demo` wrote.

    Raises:
        InputError: no prediction.npz there, or it is damaged.
    """
    root = Path(folder)
    arrays = _read_npz(root / "prediction.npz")
    record = json.loads((root / "run.json").read_text()) if (root / "run.json").is_file() else {}
    truth = _read_npz(root / TRUTH)["displacements"] if (root / TRUTH).is_file() else None
    joints = record.get("joint_positions")
    try:
        return FlowResult(
            points=arrays["points"],
            colors=arrays["colors"],
            displacements=arrays["displacements"],
            step_dt=float(arrays["step_dt"]),
            log_var=arrays.get("log_var"),
            truth=truth,
            robot_positions=arrays.get("robot_positions"),
            robot=record.get("config", {}).get("robot"),
            joint_positions=None if joints is None else np.array(joints),
            cameras=tuple(_camera(entry) for entry in record.get("cameras", [])),
        )
    except KeyError as error:
        raise InputError(
            f"{root / 'prediction.npz'} lacks {error}; was it written by pointworld predict?"
        ) from error


def write_truth(folder: str | Path, displacements: np.ndarray) -> None:
    """Store the true displacements (steps, points, 3) [m] beside a prediction."""
    with atomic_path(Path(folder) / TRUTH) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, displacements=displacements.astype(np.float32))


def _camera(entry: dict[str, Any]) -> ViewedCamera:
    return ViewedCamera(
        name=entry["name"],
        K=np.array(entry["K"]),
        T_base_cam=np.array(entry["T_base_cam"]),
        width=entry["width"],
        height=entry["height"],
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist. Give the --out folder of pointworld predict or demo."
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}); run the prediction again") from error
