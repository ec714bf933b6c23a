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

#: `error`, `moved` and `tolerance` of a moment, as in `Verdict`.
Truth = Callable[[], dict[str, float]]


def task_truth(task: Task, scene: MujocoArm) -> Truth:
    """What the judge of a task says now: see `Verdict`."""
    judge = Judge(task)

    def truth() -> dict[str, float]:
        with scene.lock:
            import_mujoco().mj_forward(scene.model, scene.data)
            return asdict(judge(scene.data))

    return truth


class HeldTruth:
    """What the simulation says while the arm stands at the end of a run: the worst of it."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._seen: list[dict[str, float]] = []

    def begin(self) -> None:
        """The arm moves again: forget what was before."""
        self._seen.clear()

    def note(self) -> None:
        """Judge this moment too."""
        self._seen.append(self._truth())

    def __call__(self) -> dict[str, float]:
        """Of the moments since `begin`, or of now: that of the largest error, with the largest `moved`."""
        seen = self._seen or [self._truth()]
        largest = max(seen, key=lambda now: now["error"])
        return {**largest, "moved": max(now["moved"] for now in seen)}


class GoalTruth:
    """How far the chosen things really are from their goals, in a simulated scene."""

    def __init__(
        self, task: Task, scene: MujocoArm, tracker: GoalTracker, tolerance: float
    ) -> None:
        self._task, self._scene, self._tracker = task, scene, tracker
        self._tolerance = tolerance
        self._start: np.ndarray | None = None
        self._soft_start = np.zeros((0, 3))
        self._bodies: list[int] = []
        #: Of soft things: the vertex nearest to every point of the surface.
        self._anchors: dict[int, np.ndarray] = {}

    def begin(self) -> None:
        """Remember which body every thing is; once, when the goal has been resolved."""
        if self._start is not None:
            return
        model, data, bodies = self._scene.model, self._scene.data, self._movable()
        with self._scene.lock:
            self._start, self._soft_start = self._poses()
            places = [surface_of(model, data, b, _SAMPLES, self._task.seed) for b in bodies]
        tree = cKDTree(np.concatenate(places))
        owners = np.repeat(bodies, _SAMPLES)
        for number, surface in enumerate(self._tracker.surfaces):
            found = owners[tree.query(surface)[1]]
            body = int(np.bincount(found).argmax())
            self._bodies.append(body)
            if body >= model.nbody:
                self._anchors[number] = cKDTree(self._soft_start).query(surface)[1]

    def _movable(self) -> list[int]:
        """Bodies and soft things that can be moved."""
        return sorted({*self._task.still, *(target.body for target in self._task.targets)})

    def _poses(self) -> tuple[np.ndarray, np.ndarray]:
        """(bodies, 4, 4) of all bodies, and (vertices, 3) of soft things [m]."""
        import_mujoco().mj_forward(self._scene.model, self._scene.data)
        return body_poses(self._scene.data), np.array(self._scene.data.flexvert_xpos)

    def surfaces(self) -> list[np.ndarray]:
        """(samples, 3) where the surfaces of the tracker's things really are now [m]."""
        assert self._start is not None
        with self._scene.lock:
            now, soft = self._poses()
        places = []
        for number, (body, surface) in enumerate(
            zip(self._bodies, self._tracker.surfaces, strict=True)
        ):
            if number in self._anchors:
                vertex = self._anchors[number]
                places.append(surface + soft[vertex] - self._soft_start[vertex])
                continue
            places.append(transform_points(now[body] @ np.linalg.inv(self._start[body]), surface))
        return places

    def __call__(self) -> dict[str, float]:
        """error: mean distance of the things' surfaces to their goals [m]; moved: of everything else; tolerance."""
        if self._start is None:
            return {"error": -1.0, "moved": 0.0, "tolerance": self._tolerance}
        pairs = zip(self.surfaces(), self._tracker.surfaces, self._tracker.motions, strict=True)
        gaps = [np.linalg.norm(now - transform_points(M, s), axis=-1) for now, s, M in pairs]
        with self._scene.lock:
            now, soft = self._poses()
        rigid = len(self._start)
        others = [b for b in self._movable() if b not in self._bodies]
        loose = [b for b in others if b < rigid]
        away = [*np.linalg.norm(now[loose, :3, 3] - self._start[loose, :3, 3], axis=-1)]
        for flex in (b - rigid for b in others if b >= rigid):
            first = int(self._scene.model.flex_vertadr[flex])
            vertices = slice(first, first + int(self._scene.model.flex_vertnum[flex]))
            away.append(np.linalg.norm((soft - self._soft_start)[vertices], axis=-1).mean())
        return {
            "error": float(np.concatenate(gaps).mean()),
            "moved": float(max(away, default=0.0)),
            "tolerance": self._tolerance,
        }
