"""A goal.json that grows choice by choice: what a page or a program asks while a person points at things."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pointworld.errors import InputError
from pointworld.geometry import invert
from pointworld.plan.goal import (
    Goal,
    PointSet,
    StillGoal,
    point_set_record,
    read_goal,
    read_point_set,
    write_goal,
)
from pointworld.plan.goal_points import resolve_goal
from pointworld.robot import RobotModel
from pointworld.scene import Workspace, build_scene
from pointworld.types import Capture, RGBDFrame, ScenePoints

#: More pictures than this are not offered at once.
MOST_FRAMES = 8


class GoalEditor:
    """Point sets over the frames of one moment. Sets are records as in goal.json.

    written: how many points each set chose when the file was written last; empty before.
    """

    def __init__(
        self,
        capture: Capture,
        frames: Sequence[RGBDFrame],
        out: Path,
        *,
        T_world_base: np.ndarray,
        workspace: Workspace | None = None,
    ) -> None:
        """Args:
            frames: of `capture`, offered for choosing. out: the file; sets that are in it stay.
            T_world_base: (4, 4) robot base to world [m]. workspace: box of the scene in the base frame.

        Raises:
            InputError: no depth in the frames or the box, or `out` is no goal file.
        """
        self.frames, self.out = tuple(frames), out
        self._capture = replace(capture, T_world_base=T_world_base)
        self._base = T_world_base
        self._scene = scene_of(capture, self.frames, T_world_base, workspace)
        self.written: dict[str, int] = {}
        self._sets: dict[str, PointSet] = {}
        if out.exists():
            self._sets = {item.name: item for item in read_goal(out).sets}

    @property
    def sets(self) -> tuple[PointSet, ...]:
        """As they would be written."""
        return tuple(self._sets.values())

    def describe(self) -> dict[str, Any]:
        """What a page needs: the frames with intrinsics and poses in the base frame, and the sets."""
        frames = [
            {
                "camera": frame.camera,
                "frame": frame.name,
                "width": frame.width,
                "height": frame.height,
                "K": np.asarray(frame.K).tolist(),
                "T_base_cam": (invert(self._base) @ frame.T_world_cam).tolist(),
            }
            for frame in self.frames
        ]
        return {"frames": frames, "sets": self.listed(), "file": str(self.out)}

    def listed(self) -> list[dict[str, Any]]:
        """Every set with the points it chooses, or `problem`: why it chooses none here."""
        entries = []
        for item in self.sets:
            entry: dict[str, Any] = {"set": point_set_record(item)}
            try:
                entry |= self.choose(point_set_record(item))
            except InputError as error:
                entry |= {"points": [], "problem": str(error)}
            entries.append(entry)
        return entries

    def picture(self, number: int) -> bytes:
        """A frame's image as PNG.

        Raises:
            InputError: there is no such frame.
        """
        if not 0 <= number < len(self.frames):
            raise InputError(f"there is no picture {number}; there are {len(self.frames)}")
        buffer = io.BytesIO()
        Image.fromarray(self.frames[number].rgb).save(buffer, format="PNG")
        return buffer.getvalue()

    def choose(self, record: object) -> dict[str, Any]:
        """The scene points (chosen, 3) of a set in the base frame [m], as lists.

        Raises:
            InputError: the record is no point set, or chooses nothing.
        """
        item = read_point_set(record, "the choice")
        goal = Goal(sets=(item,), folder=self.out.parent)
        index = resolve_goal(goal, self._scene, self._capture).sets[0].index
        return {"points": np.round(self._scene.points[index].numpy(), 5).tolist()}

    def put(self, record: object) -> None:
        """Add a set, or replace the one of that name.

        Raises:
            InputError: see `choose`.
        """
        self.choose(record)
        item = read_point_set(record, "the choice")
        self._sets[item.name] = item

    def remove(self, name: str) -> None:
        """Forget a set."""
        self._sets.pop(name, None)

    def write(self) -> dict[str, int]:
        """Write the file. Returns: how many scene points every set chooses.

        Raises:
            InputError: there is no set, none has anywhere to go, or one chooses nothing here.
        """
        if not self._sets:
            raise InputError("nothing has been chosen yet")
        if all(isinstance(item.goal, StillGoal) for item in self.sets):
            raise InputError("every set would stay still: at least one must go somewhere")
        counts = {
            item.name: len(self.choose(point_set_record(item))["points"]) for item in self.sets
        }
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_goal(Goal(sets=self.sets, folder=self.out.parent), self.out)
        self.written = counts
        return counts


def scene_of(
    capture: Capture,
    frames: Sequence[RGBDFrame],
    T_world_base: np.ndarray,
    workspace: Workspace | None,
) -> ScenePoints:
    """Scene points of some frames of a capture; the robot is left out where the capture says which it is."""
    frame = frames[0]
    if capture.robot is None or any(f.joint_positions is None for f in frames):
        return build_scene(frames, T_world_base=T_world_base, workspace=workspace)
    robot = RobotModel.load(capture.robot)
    joints = [
        robot.order_joints(np.asarray(f.joint_positions), capture.joint_names, source=frame.name)
        for f in frames
    ]
    return build_scene(
        frames,
        T_world_base=T_world_base,
        workspace=workspace,
        robot=robot,
        joint_positions=np.stack(joints),
    )


def offered_frames(capture: Capture, camera: str, frame: str) -> tuple[RGBDFrame, ...]:
    """The frames to choose in: those named, else the first one of every camera.

    Raises:
        InputError: no frame is named like that.
    """
    found = [
        f for f in capture.frames if f.camera == (camera or f.camera) and frame in ("", f.name)
    ]
    if not found:
        known = ", ".join(sorted({f"{f.camera}/{f.name}" for f in capture.frames})[:8])
        raise InputError(f"no frame '{frame}' of camera '{camera}'; there are {known}")
    first = {f.camera: f for f in reversed(found)}
    return tuple(first[name] for name in sorted(first))[:MOST_FRAMES]
