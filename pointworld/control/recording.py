"""The record of a run: states, commands, plans, frames and events, written beside the loop and never slowing it.

The loop puts values into a bounded queue; a thread writes them. What does not fit into the queue is counted as lost.
Every file is complete or absent; `recording.json` comes last and says that the run ended in order.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.control.safety import Decision, FilterState, Target
from pointworld.control.types import CameraFrame, Chunk, Reason, RobotState
from pointworld.errors import InputError
from pointworld.files import atomic_path, write_json
from pointworld.types import Capture, RGBDFrame

FORMAT, VERSION = "pointworld-recording", 1
#: Folder of the controller's part, where it is a process of its own.
CONTROL = "control"
EVENTS = "events.jsonl"
_TICKS_PER_FILE = 500
_END = object()


def holds_recording(folder: Path) -> bool:
    """Whether something was recorded there, complete or not."""
    return (folder / "recording.json").exists() or (folder / EVENTS).exists()


class Recorder:
    """Writes a run into a folder. All calls return at once; after an error they do nothing and `error` says why."""

    def __init__(
        self,
        folder: str | Path,
        *,
        joints: tuple[str, ...],
        robot_joints: tuple[str, ...] | None = None,
        robot: str | None = None,
        queue_size: int = 4000,
    ) -> None:
        """Args:
            joints: of the arm, as in states and commands. robot_joints: all joints of the robot's model, gripper
                included, in the order that frames and plans carry them; None: the arm's. robot: name of the model.

        Raises:
            InputError: the folder holds a recording already.
        """
        self.folder = Path(folder)
        if holds_recording(self.folder):
            raise InputError(f"{self.folder} holds a recording already; choose a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.joints, self.robot = joints, robot
        self.robot_joints = joints if robot_joints is None else robot_joints
        self.error: str | None = None
        self.lost = 0
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=queue_size)
        self._rows: list[dict[str, Any]] = []
        self._counts = {"ticks": 0, "chunks": 0, "frames": 0, "plans": 0, "events": 0}
        self._files = 0
        self._place: os.stat_result
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def tick(
        self,
        now: float,
        state: FilterState,
        robot: RobotState | None,
        target: Target | None,
        decision: Decision,
    ) -> None:
        """One tick of the loop."""
        nothing = np.full(len(self.joints), np.nan)
        command = decision.command or decision.dry
        self._put(
            "tick",
            {
                "time": now,
                "mode": state.mode.value,
                "state_time": np.nan if robot is None else robot.time,
                "measured": nothing if robot is None else robot.joint_positions,
                "target": nothing if target is None else target.joint_positions,
                "commanded": nothing if command is None else command.joint_positions,
                "width": np.nan
                if command is None or command.gripper_width is None
                else command.gripper_width,
                "sent": decision.command is not None,
                "reference": nothing
                if robot is None or robot.reference is None
                else robot.reference,
            },
        )
        self._ticked(now)

    def _ticked(self, now: float) -> None:
        """After a tick was noted; for recorders that do more then."""

    def event(self, now: float, what: str, reason: Reason, message: str) -> None:
        """Something a person may want to read later."""
        entry = {"time": now, "event": what, "reason": reason.value, "message": message}
        self._put("event", entry)

    def chunk(self, chunk: Chunk, now: float) -> None:
        """A plan as it was taken over."""
        arrays = {"joint_positions": chunk.joint_positions}
        if chunk.gripper_width is not None:
            arrays["gripper_width"] = chunk.gripper_width
        scalars = {
            "accepted": now,
            "start_time": chunk.start_time,
            "step_dt": chunk.step_dt,
            "sequence": chunk.sequence,
        }
        self._put("chunk", {**arrays, **{k: np.asarray(v) for k, v in scalars.items()}})

    def plan(self, now: float, arrays: dict[str, np.ndarray]) -> None:
        """What a planner thought: predictions, costs, timings. No objects."""
        self._put("plan", {"time": np.asarray(now), **arrays})

    def frame(self, frame: CameraFrame, T_world_cam: np.ndarray, joints: np.ndarray) -> None:
        """An image with its pose and the arm's joints (joints,) at that time."""
        self._put(
            "frame",
            {
                "rgb": frame.rgb,
                "depth": frame.depth,
                "K": frame.K,
                "T_world_cam": T_world_cam,
                "joint_positions": joints,
                "time": np.asarray(frame.time),
                "sequence": np.asarray(frame.sequence),
                "camera": np.asarray(frame.camera),
            },
        )

    def close(self) -> None:
        """Write what is left and the closing `recording.json`. Safe to call twice."""
        if self._thread.is_alive():
            self._queue.put(_END)
            self._thread.join(timeout=30)

    def _put(self, kind: str, value: dict[str, Any]) -> None:
        if self.error is not None:
            return
        try:
            self._queue.put_nowait((kind, value))
        except queue.Full:
            self.lost += 1

    def _write(self) -> None:
        try:
            with (self.folder / EVENTS).open("a", encoding="utf-8") as events:
                self._place = os.fstat(events.fileno())
                while (item := self._queue.get()) is not _END:
                    kind, value = item
                    if kind == "event":
                        events.write(json.dumps(value) + "\n")
                        events.flush()
                        self._counts["events"] += 1
                    elif kind == "tick":
                        self._rows.append(value)
                        if len(self._rows) >= _TICKS_PER_FILE:
                            self._flush()
                    else:
                        self._save(kind, value)
            self._flush()
            self._check_place()
            write_json(
                self.folder / "recording.json",
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "joints": list(self.joints),
                    "robot_joints": list(self.robot_joints),
                    "robot": self.robot,
                    "lost": self.lost,
                    "counts": self._counts,
                },
            )
        except (OSError, ValueError) as error:
            self.error = str(error) or type(error).__name__

    def _check_place(self) -> None:
        """A folder that was removed or replaced takes no more files: they would start another record, elsewhere.

        Raises:
            OSError: it was.
        """
        if not os.path.samestat(self._place, (self.folder / EVENTS).stat()):
            raise FileNotFoundError(f"{self.folder} was replaced by another folder")

    def _flush(self) -> None:
        if not self._rows:
            return
        self._check_place()
        columns = {key: np.array([row[key] for row in self._rows]) for key in self._rows[0]}
        with atomic_path(self.folder / f"ticks-{self._files:06d}.npz") as path:
            np.savez(path, allow_pickle=False, **columns)
        self._files += 1
        self._counts["ticks"] += len(self._rows)
        self._rows = []

    def _save(self, kind: str, arrays: dict[str, Any]) -> None:
        self._check_place()
        count = self._counts[kind + "s"]
        with atomic_path(self.folder / f"{kind}-{count:06d}.npz") as path:
            np.savez(path, allow_pickle=False, **arrays)
        self._counts[kind + "s"] = count + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A run read back. ticks: column name -> array over ticks. complete: it ended in order.

    joints: of the arm, as in the ticks. robot_joints: as frames and plans carry them. robot: name of its model.
    """

    folder: Path
    joints: tuple[str, ...]
    robot_joints: tuple[str, ...]
    robot: str | None
    complete: bool
    ticks: dict[str, np.ndarray]
    events: tuple[dict[str, Any], ...]
    chunks: tuple[Chunk, ...]

    def frames(self) -> Iterator[RGBDFrame]:
        """The images in order, one at a time."""
        for path in sorted(self.folder.glob("frame-*.npz")):
            with np.load(path, allow_pickle=False) as data:
                depth = data["depth"].astype(np.float32)
                yield RGBDFrame(
                    rgb=data["rgb"],
                    depth=depth,
                    valid=np.isfinite(depth) & (depth > 0),
                    K=data["K"],
                    T_world_cam=data["T_world_cam"],
                    timestamp=float(data["time"]),
                    name=path.stem,
                    camera=str(data["camera"]),
                    joint_positions=data["joint_positions"],
                )

    def plans(self) -> Iterator[dict[str, np.ndarray]]:
        """What the planner thought, in order: see `plan_record`."""
        for path in sorted(self.folder.glob("plan-*.npz")):
            yield _load(path)

    def capture(self, *, robot: str | None = None) -> Capture:
        """The images as a capture, for the viewer, `write_capture` and training."""
        return Capture(
            frames=tuple(self.frames()),
            source=str(self.folder),
            T_world_base=np.eye(4),
            joint_names=self.robot_joints,
            robot=robot or self.robot,
        )


def read_recording(folder: str | Path) -> Recording:
    """Read a recording, also one that broke off.

    Where the planner and the controller are processes of their own, each records; the controller's part lies in the
    folder `control` and is read from there.

    Raises:
        InputError: there is none in the folder, or a file of it is damaged.
    """
    root = Path(folder)
    whole = _read_part(root)
    if (root / CONTROL / EVENTS).is_file():
        part = _read_part(root / CONTROL)
        whole = replace(
            whole,
            complete=whole.complete and part.complete,
            joints=part.joints,
            ticks=part.ticks,
            events=tuple(sorted((*whole.events, *part.events), key=lambda e: float(e["time"]))),
            chunks=part.chunks,
        )
    return whole


def _read_part(root: Path) -> Recording:
    log = root / EVENTS
    if not log.is_file():
        raise InputError(f"{root} holds no recording (no events.jsonl)")
    summary = root / "recording.json"
    try:
        closing = json.loads(summary.read_text()) if summary.is_file() else {}
        events = tuple(json.loads(line) for line in log.read_text().splitlines() if line)
        parts = [_load(path) for path in sorted(root.glob("ticks-*.npz"))]
        chunks = tuple(_chunk(_load(path)) for path in sorted(root.glob("chunk-*.npz")))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{root} is no readable recording: {error}") from error
    columns = parts[0] if parts else {}
    ticks = {key: np.concatenate([part[key] for part in parts]) for key in columns}
    return Recording(
        folder=root,
        joints=tuple(closing.get("joints", ())),
        robot_joints=tuple(closing.get("robot_joints", closing.get("joints", ()))),
        robot=closing.get("robot"),
        complete=bool(closing),
        ticks=ticks,
        events=events,
        chunks=chunks,
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def _chunk(data: dict[str, np.ndarray]) -> Chunk:
    return Chunk(
        sequence=int(data["sequence"]),
        start_time=float(data["start_time"]),
        joint_positions=data["joint_positions"],
        step_dt=float(data["step_dt"]),
        gripper_width=data.get("gripper_width"),
    )
