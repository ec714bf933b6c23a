"""Everything that evaluation compares, as functions from a clip to a forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from pointworld.data import ClipGenerator, DatasetSpec
from pointworld.model import WorldModel, collate
from pointworld.model.context import nearest_to_robot
from pointworld.model.spread import SpreadMap
from pointworld.train.baselines import no_motion, object_carry, rigid_carry
from pointworld.train.evaluation_clip import EvaluationClip
from pointworld.train.graph_model import GraphModel
from pointworld.train.wrong_physics import Replay, nominal_physics, prepare_replay
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor

#: Rows of an evaluation, in the order of its tables.
PREDICTORS = (
    "model",
    "no_motion",
    "rigid_carry",
    "object_carry",
    "gnn",
    "wrong_physics",
    "wrong_friction",
    "wrong_mass",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """What is predicted of a clip's points; index 0 = now.

    displacements: (steps, points, 3) [m]. sigma: (steps, points) per-axis standard deviation [m], or None.
    log_var: (steps, points) log variance of the normalised error, or None.
    looked_at: (points,) bool, points that the network looks at; None = all.
    """

    displacements: Tensor
    sigma: Tensor | None = None
    log_var: Tensor | None = None
    looked_at: Tensor | None = None


#: None: this predictor has nothing to say about this clip.
Predictor = Callable[[EvaluationClip], Forecast | None]


def carry_predictors(radius: float) -> dict[str, Predictor]:
    """No motion, rigid carry with the given radius [m], whole-object carry."""

    def still(clip: EvaluationClip) -> Forecast:
        steps = len(clip.sample.positions)
        return Forecast(displacements=no_motion(clip.sample.scene.points, steps))

    def rigid(clip: EvaluationClip) -> Forecast:
        points = clip.sample.scene.points
        return Forecast(displacements=rigid_carry(points, clip.hand, radius=radius))

    def whole(clip: EvaluationClip) -> Forecast:
        moved = object_carry(
            clip.sample.scene.points,
            clip.sample.body_ids,
            clip.objects,
            clip.hand,
            dense_points=clip.dense_points,
            dense_bodies=clip.dense_bodies,
        )
        return Forecast(displacements=moved)

    return {"no_motion": still, "rigid_carry": rigid, "object_carry": whole}


def looked_at(scene: ScenePoints, robot: RobotFlow, context: int) -> Tensor:
    """(points,) bool: the `context` points nearest to the robot's path; all when it is 0 or more than there are."""
    if not 0 < context < len(scene):
        return torch.ones(len(scene), dtype=torch.bool)
    chosen = torch.zeros(len(scene), dtype=torch.bool)
    # The nearest points are the same whatever hangs together; saying so saves looking for it.
    loose = replace(scene, clusters=torch.zeros(len(scene), dtype=torch.int64))
    chosen[nearest_to_robot(collate([(loose, robot)]), context)[0]] = True
    return chosen


def model_predictor(
    model: WorldModel, *, domain: str | None = None, spread: SpreadMap | None = None
) -> Predictor:
    """The world model, its spread corrected by `spread` where given."""
    row = 0 if domain is None else model.spec.domain_index(domain)
    scale = model.norm_stats_per_step_var[row].mean(-1).clamp_min(1e-6).sqrt().cpu()

    def predict(clip: EvaluationClip) -> Forecast:
        scene, robot = clip.sample.scene, clip.sample.robot
        flow = model.predict(scene, robot, domain=domain)
        log_var = flow.log_var[..., 0].nan_to_num().cpu()
        sigma = (log_var / 2).exp() * scale[:, None]
        if spread is not None:
            corrected = spread(sigma)
            log_var = log_var + 2 * (corrected / sigma).log()
            sigma = corrected
        return Forecast(
            displacements=flow.displacements.cpu(),
            sigma=sigma,
            log_var=log_var,
            looked_at=looked_at(scene, robot, model.spec.context_points),
        )

    return predict


def graph_predictor(model: GraphModel) -> Predictor:
    """The graph-network baseline."""

    def predict(clip: EvaluationClip) -> Forecast:
        scene, robot = clip.sample.scene, clip.sample.robot
        displacements, sigma = model.predict(scene, robot)
        near = looked_at(scene, robot, model.spec.context_points)
        return Forecast(displacements=displacements, sigma=sigma, looked_at=near)

    return predict


def simulator_predictors(
    generators: Sequence[tuple[DatasetSpec, ClipGenerator]],
) -> dict[str, Predictor]:
    """The simulator with nominal friction and mass, and with one of the two.

    They say nothing of clips without free objects, or with soft ones.

    Args:
        generators: what made the clips, one per data set; seed and robot tell which.
    """
    made = {(spec.seed, spec.robot): generator for spec, generator in generators}

    # All three see a clip before the next one comes.
    @lru_cache(maxsize=1)
    def replay_of(clip: EvaluationClip) -> Replay | None:
        return prepare_replay(made[clip.clip.seed, clip.clip.robot], clip.clip)

    def guessing(*, friction: bool, mass: bool) -> Predictor:
        def predict(clip: EvaluationClip) -> Forecast | None:
            replay = replay_of(clip)
            if replay is None:
                return None
            physics = nominal_physics(replay, friction=friction, mass=mass)
            sample = clip.sample
            moved = replay.displacements(sample.scene.points, sample.body_ids, physics)
            return Forecast(displacements=moved)

        return predict

    return {
        "wrong_physics": guessing(friction=True, mass=True),
        "wrong_friction": guessing(friction=True, mass=False),
        "wrong_mass": guessing(friction=False, mass=True),
    }
