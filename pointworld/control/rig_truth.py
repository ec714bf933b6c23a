"""What a simulated scene knows of a run on a rig: how far things really are from their goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from scipy.spatial import cKDTree

from pointworld.control.backends.mujoco_arm import MujocoArm
from pointworld.control.goal_view import GoalTracker
from pointworld.data.simulator import import_mujoco
from pointworld.geometry import transform_points
from pointworld.plan.tasks import Judge, Task
from pointworld.plan.tasks.task import body_poses, surface_of

#: Points on every body, to tell which one a chosen thing is.
_SAMPLES = 200


def task_truth(task: Task, scene: MujocoArm) -> Callable[[], dict[str, float]]:
    """What the judge of a task says now: see `Verdict`."""
    judge = Judge(task)

    def truth() -> dict[str, float]:
        with scene.lock:
            import_mujoco().mj_forward(scene.model, scene.data)
            return asdict(judge(scene.data))

    return truth


class GoalTruth:
    """How far the chosen things really are from their goals, in a simulated scene of rigid things."""

    def __init__(
        self, task: Task, scene: MujocoArm, tracker: GoalTracker, tolerance: float
    ) -> None:
        self._task, self._scene, self._tracker = task, scene, tracker
        self._tolerance = tolerance
        self._start: np.ndarray | None = None
        self._bodies: list[int] = []

    def begin(self) -> None:
        """Remember which body every thing is; once, when the goal has been resolved."""
        if self._start is not None:
            return
        model, data = self._scene.model, self._scene.data
        with self._scene.lock:
            self._start = self._poses()
            places = [surface_of(model, data, b, _SAMPLES, self._task.seed) for b in self._rigid()]
        tree = cKDTree(np.concatenate(places))
        owners = np.repeat(self._rigid(), _SAMPLES)
        for surface in self._tracker.surfaces:
            found = owners[tree.query(surface)[1]]
            self._bodies.append(int(np.bincount(found).argmax()))

    def _rigid(self) -> list[int]:
        """Bodies that can be moved, without soft ones."""
        bodies = {*self._task.still, *(target.body for target in self._task.targets)}
        return sorted(b for b in bodies if b < self._scene.model.nbody)

    def _poses(self) -> np.ndarray:
        import_mujoco().mj_forward(self._scene.model, self._scene.data)
        return body_poses(self._scene.data)

    def __call__(self) -> dict[str, float]:
        """error: mean distance of the things' surfaces to their goals [m]; moved: of everything else; tolerance."""
        if self._start is None:
            return {"error": -1.0, "moved": 0.0, "tolerance": self._tolerance}
        with self._scene.lock:
            now = self._poses()
        moved = now @ np.linalg.inv(self._start)
        pairs = zip(self._bodies, self._tracker.surfaces, self._tracker.motions, strict=True)
        gaps = [
            np.linalg.norm(transform_points(moved[b], s) - transform_points(M, s), axis=-1)
            for b, s, M in pairs
        ]
        others = [b for b in self._rigid() if b not in self._bodies]
        away = np.linalg.norm(now[others, :3, 3] - self._start[others, :3, 3], axis=-1)
        return {
            "error": float(np.concatenate(gaps).mean()),
            "moved": float(away.max(initial=0.0)),
            "tolerance": self._tolerance,
        }
