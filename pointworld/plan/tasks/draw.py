"""The eight task families: from a seed to a cluttered scene with a goal at least 10 cm (30 degrees) away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from pointworld.data.families import REGISTRY
from pointworld.data.families.articulated import Articulated
from pointworld.data.families.base import box_part, draw_table_height, scatter
from pointworld.data.families.rigid import small_object
from pointworld.data.families.soft import Soft, soft_scene
from pointworld.data.families.tools import HeldTool
from pointworld.data.shapes import Shape, rotation_about
from pointworld.data.tabletop import (
    ObjectSpec,
    Rng,
    SceneSpec,
    TabletopConfig,
    draw_surface,
    furnish,
)
from pointworld.plan.tasks.task import Kind

#: The goal is at least this far from the start [m, rad].
FAR, FAR_ANGLE = 0.10, float(np.radians(30.0))
#: Goals are turned by at least and at most this, so that one straight push does not do [rad].
_TURN, _TURN_SOFT = (0.3, 0.6), (0.6, 0.9)
#: Swept things come from this far to this far beside the middle between them [m], from sides this far apart [rad].
_SWEEP_FROM, _SWEEP_TO, _SWEEP_APART = (0.145, 0.175), 0.035, (1.2, np.pi)


@dataclass(frozen=True, kw_only=True, eq=False)
class Draft:
    """A scene with a goal, not simulated yet.

    motions: T_world_world (4, 4) from start to goal by name of the body. joint: name of the joint, its way in its own
    unit, and whether it is a hinge. grip: box (lower, upper) in the fixture's frame, within which task points are for
    the hand.
    """

    scene: SceneSpec
    motions: Mapping[str, np.ndarray]
    kind: Kind
    joint: tuple[str, float, bool] | None = None
    grip: tuple[np.ndarray, np.ndarray] | None = None


def _moved(about: np.ndarray, yaw: float, way: np.ndarray) -> np.ndarray:
    """(4, 4) turn by `yaw` about the vertical through `about`, then a step `way` (3,)."""
    T = np.eye(4)
    T[:3, :3] = rotation_about(2, yaw)
    T[:3, 3] = about - T[:3, :3] @ about + way
    return T


def _push_goal(rng: Rng, spot: np.ndarray, far: tuple[float, float]) -> np.ndarray | None:
    """A step (3,) on the table from `spot` that stays in comfortable reach, None when the draw does not."""
    heading, length = rng.uniform(-np.pi, np.pi), rng.uniform(*far)
    way = length * np.array([np.cos(heading), np.sin(heading), 0.0])
    goal = spot + way
    inside = 0.40 < goal[0] < 0.64 and abs(goal[1]) < 0.24
    return way if inside else None


def _draw_turn(rng: Rng, limits: tuple[float, float]) -> float:
    return float(rng.uniform(*limits) * rng.choice([-1.0, 1.0]))


def _slab(rng: Rng, config: TabletopConfig, half: np.ndarray, density: float) -> Draft | None:
    """A box on the table between one to four other things, to be pushed and turned."""
    height = draw_table_height(rng)
    shape = Shape(
        name="box",
        parts=(box_part((0, 0, 0), (float(half[0]), float(half[1]), float(half[2]))),),
        rests=(np.eye(3),),
    )
    spot = np.array([rng.uniform(0.43, 0.60), rng.uniform(-0.18, 0.18), height + half[2] + 0.001])
    way = _push_goal(rng, spot, (0.11, 0.18))
    if way is None:
        return None
    item = ObjectSpec(
        shape=shape,
        rotation=rotation_about(2, rng.uniform(-np.pi, np.pi)),
        position=spot,
        density=density,
        friction=float(rng.uniform(0.3, 0.6)),
        surface=draw_surface(rng),
    )
    radius = float(np.hypot(half[0], half[1]))
    track = [(*(spot + share * way)[:2], radius + 0.01) for share in (0.0, 0.5, 1.0)]
    # The hand needs room behind the box.
    behind = spot - (radius + 0.03) * way / np.linalg.norm(way)
    keep_out = tuple((float(x), float(y), float(r)) for x, y, r in (*track, (*behind[:2], 0.05)))
    others = scatter(rng, config, height, int(rng.integers(1, 5)), keep_out=keep_out)
    if not others:
        return None
    scene = furnish(rng, (item, *others), height)
    goal = _moved(spot, _draw_turn(rng, _TURN), way)
    return Draft(scene=scene, motions={"object0": goal}, kind="rigid")


def _tissue_box(rng: Rng, config: TabletopConfig) -> Draft | None:
    half = np.array([rng.uniform(0.055, 0.08), rng.uniform(0.04, 0.055), rng.uniform(0.03, 0.045)])
    return _slab(rng, config, half, float(rng.uniform(100, 250)))


def _book(rng: Rng, config: TabletopConfig) -> Draft | None:
    half = np.array([rng.uniform(0.07, 0.1), rng.uniform(0.05, 0.07), rng.uniform(0.011, 0.018)])
    return _slab(rng, config, half, float(rng.uniform(300, 600)))


def _fixture(rng: Rng, config: TabletopConfig, family: str) -> tuple[SceneSpec, Articulated] | None:
    scene = REGISTRY[family].draw_scene(rng, config)
    if scene is None or not scene.objects:
        return None
    prop = scene.props[0]
    assert isinstance(prop, Articulated)
    return scene, prop


def _joint_draft(scene: SceneSpec, prop: Articulated, start: float, goal: float) -> Draft:
    prop = replace(prop, joint=replace(prop.joint, start=start))
    T = prop.T_world_fixture
    carry = prop.joint.transform(goal) @ np.linalg.inv(prop.joint.transform(start))
    return Draft(
        scene=replace(scene, props=(prop,)),
        motions={f"object_{prop.name}": T @ carry @ np.linalg.inv(T)},
        kind="articulated",
        joint=(f"{prop.name}_joint", goal - start, prop.joint.hinge),
    )


def _microwave(rng: Rng, config: TabletopConfig) -> Draft | None:
    """A door that stands open, to be closed."""
    drawn = _fixture(rng, config, "door")
    if drawn is None:
        return None
    return _joint_draft(*drawn, start=float(rng.uniform(0.8, 1.6)), goal=0.02)


def _drawer(rng: Rng, config: TabletopConfig) -> Draft | None:
    """A drawer to be pulled open, or pushed shut past a bottle right in front of its middle."""
    drawn = _fixture(rng, config, "drawer")
    if drawn is None or drawn[1].joint.upper < FAR + 0.025:
        return None
    scene, prop = drawn
    upper = prop.joint.upper
    if rng.random() < 0.5:
        start = float(rng.uniform(FAR + 0.012, upper))
        blocked = _in_front(rng, scene, prop, start)
        return None if blocked is None else _joint_draft(blocked, prop, start=start, goal=0.01)
    start = float(rng.uniform(0.0, 0.01))
    draft = _joint_draft(scene, prop, start=start, goal=start + FAR + 0.005)
    # What the hand acts on is the outermost part: the bar or lip of the handle, not what carries it.
    handle = min((part.support()[0][:, 0] for part in prop.moving), key=lambda x: float(x.min()))
    face = float(handle.max()) + 0.001
    lower, high = np.array([-9.0, -9.0, -9.0]), np.array([face - start, 9.0, 9.0])
    return replace(draft, grip=(lower, high))


def _in_front(rng: Rng, scene: SceneSpec, prop: Articulated, start: float) -> SceneSpec | None:
    """A bottle-like thing where a hand would come down to push the middle of an open drawer; None = no room."""
    bounds = np.concatenate([part.support()[0] for part in prop.moving])
    lower, upper = bounds.min(0), bounds.max(0)
    middle = (prop.T_world_fixture @ np.append((lower + upper) / 2, 1.0))[:3]
    place = np.array([lower[0] - start - 0.042, (lower[1] + upper[1]) / 2, 0.0, 1.0])
    # As high as the hand that pushes there, and a little more.
    half = (middle[2] + 0.03 - scene.table_height) / 2
    spot = (prop.T_world_fixture @ place)[:3]
    spot[2] = scene.table_height + half + 0.001
    if half < 0.02 or any(np.hypot(*(spot - o.position)[:2]) < 0.07 for o in scene.objects):
        return None
    wide = float(rng.uniform(0.014, 0.02))
    item = ObjectSpec(
        shape=Shape(
            name="box", parts=(box_part((0, 0, 0), (wide, wide, float(half))),), rests=(np.eye(3),)
        ),
        rotation=rotation_about(2, rng.uniform(-np.pi, np.pi)),
        position=spot,
        density=float(rng.uniform(300, 800)),
        friction=float(rng.uniform(0.3, 0.6)),
        surface=draw_surface(rng),
    )
    return replace(scene, objects=(*scene.objects, item))


def _sweep(rng: Rng, config: TabletopConfig, family: str) -> Draft | None:
    """Two small things among others, to be swept together from different sides with the tool in the hand."""
    drawn = REGISTRY[family].draw_scene(rng, config)
    if drawn is None:
        return None
    tool = drawn.props[0]
    assert isinstance(tool, HeldTool)
    height = drawn.table_height
    middle = np.array([rng.uniform(0.46, 0.60), rng.uniform(-0.14, 0.14), 0.0])
    first = float(rng.uniform(-np.pi, np.pi))
    sides = (first, first + float(rng.uniform(*_SWEEP_APART) * rng.choice([-1.0, 1.0])))
    items, motions, track = [], {}, []
    for k, side in enumerate(sides):
        item = small_object(rng, config.shapes, (0.012, 0.02))
        if item.shape.rolls:
            return None
        outward = np.array([np.cos(side), np.sin(side), 0.0])
        far = float(rng.uniform(*_SWEEP_FROM))
        spot = middle + far * outward
        spot[2] = height - float(item.shape.bounds(item.rotation)[0][2]) + 0.001
        items.append(replace(item, position=spot))
        motions[f"object{k}"] = _moved(spot, 0.0, (_SWEEP_TO - far) * outward)
        wide = tool.half_width + 0.02
        for share in (1.5, 1.0, 0.5, 0.0):
            x, y, _ = middle + share * far * outward
            track.append((float(x), float(y), wide))
    others = scatter(rng, config, height, int(rng.integers(1, 4)), keep_out=tuple(track))
    if not others:
        return None
    scene = replace(drawn, objects=(*items, *others))
    return Draft(scene=scene, motions=motions, kind="rigid")


def _soft(rng: Rng, scene: SceneSpec | None) -> Draft | None:
    """The scarf or pillow of a scene, to be moved and turned."""
    if scene is None or not scene.objects:
        return None
    prop = scene.props[0]
    assert isinstance(prop, Soft)
    way = _push_goal(rng, prop.centre, (0.105, 0.15))
    if way is None:
        return None
    goal = {f"object_{prop.name}": _moved(prop.centre, _draw_turn(rng, _TURN_SOFT), way)}
    return Draft(scene=scene, motions=goal, kind="deformable")


def _broom(rng: Rng, config: TabletopConfig) -> Draft | None:
    return _sweep(rng, config, "broom")


def _duster(rng: Rng, config: TabletopConfig) -> Draft | None:
    return _sweep(rng, config, "duster")


def _scarf(rng: Rng, config: TabletopConfig) -> Draft | None:
    # Cloths of the test set are round and of one colour: nobody can see how such a cloth is turned.
    return _soft(rng, soft_scene("scarf", rng, config, classes="train"))


def _pillow(rng: Rng, config: TabletopConfig) -> Draft | None:
    return _soft(rng, soft_scene("pillow", rng, config))


#: Every task family by name.
TASKS: Mapping[str, Callable[[Rng, TabletopConfig], Draft | None]] = MappingProxyType(
    {
        "tissue_box": _tissue_box,
        "book": _book,
        "scarf": _scarf,
        "pillow": _pillow,
        "microwave": _microwave,
        "drawer": _drawer,
        "duster": _duster,
        "broom": _broom,
    }
)
