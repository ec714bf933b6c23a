"""Random tabletop scenes as plain values: objects, table, lights, cameras. No simulator in here.

The world frame is the robot's base frame: x forward, y left, z up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from pointworld.data.mesh_shapes import MESH_SETS, OBJECTS, make_mesh_shape
from pointworld.data.robot_tree import RobotTree
from pointworld.data.shape_classes import TALL_SHAPES, TEST_SHAPES, TRAIN_SHAPES, make_shape
from pointworld.data.shapes import Shape
from pointworld.data.shapes import rotation_about as rotation_about
from pointworld.errors import InputError

Rng = np.random.Generator

#: Box in the base frame in which objects live and from which scene points are taken: (lower, upper) [m].
TABLETOP_WORKSPACE = ((0.25, -0.40, -0.08), (0.85, 0.40, 0.50))

SHAPE_SETS: dict[str, tuple[str, ...]] = {
    "train": TRAIN_SHAPES,
    "test": TEST_SHAPES,
    "all": TRAIN_SHAPES + TEST_SHAPES,
}

#: Candidates too close to others after which the directions of a clip's cameras are drawn anew. So many that it happens
#: only where there is no room left: one in 250 clips of four cameras needs more than a hundred, and must not change.
_AZIMUTH_REJECTIONS = 10_000

FAMILIES = ("push", "nudge", "grasp_lift", "topple", "near_miss", "empty")


@dataclass(frozen=True, kw_only=True)
class TabletopConfig:
    """What the generator draws from."""

    shapes: Literal["train", "test", "all"] = "train"
    """Shape classes: those of training, those never seen in training, or all."""
    meshes: bool = False
    """Draw objects from the meshes of the package metaworld too, which must be installed."""
    min_objects: int = 1
    """Fewest rigid objects on the table."""
    max_objects: int = 5
    """Most rigid objects on the table."""
    family_weights: tuple[float, ...] = (0.34, 0.11, 0.16, 0.17, 0.11, 0.11)
    """Relative frequency of push, nudge, grasp_lift, topple, near_miss, empty."""
    families: tuple[str, ...] = ("tabletop",)
    """Kinds of clips: families or groups, optionally with a relative frequency: tabletop=0.6 drawer=0.1. Groups:
    tabletop (in the shares of family_weights), articulated, tool, clutter, deformable, all."""
    height: int = 180
    """Image height [px]."""
    width: int = 320
    """Image width [px]."""
    min_cameras: int = 2
    """Fewest calibrated views per clip."""
    max_cameras: int = 3
    """Most calibrated views per clip."""
    step_dt: float = 0.1
    """Seconds between recorded steps."""
    horizon: int = 10
    """Recorded steps after now."""
    timestep: float = 0.0025
    """Simulator step [s]; step_dt must be a multiple of it."""

    def __post_init__(self) -> None:
        if self.shapes not in SHAPE_SETS:
            raise InputError(f"shapes is '{self.shapes}', expected one of {', '.join(SHAPE_SETS)}")
        if not 1 <= self.min_objects <= self.max_objects <= 8:
            raise InputError(
                f"objects per clip {self.min_objects}..{self.max_objects}, expected 1 <= min <= max <= 8"
            )
        if not 1 <= self.min_cameras <= self.max_cameras <= 4:
            raise InputError(
                f"cameras per clip {self.min_cameras}..{self.max_cameras}, expected 1 <= min <= max <= 4"
            )
        if min(self.height, self.width) < 16 or max(self.height, self.width) > 2048:
            raise InputError(
                f"images of {self.width}x{self.height}, expected 16 to 2048 pixels each way"
            )
        ratio = self.step_dt / self.timestep if self.timestep > 0 else 0.0
        if (
            self.horizon < 1
            or ratio < 1
            or abs(ratio - round(ratio)) > 1e-6
            or self.timestep > 0.005
        ):
            raise InputError(
                f"step_dt {self.step_dt} s, timestep {self.timestep} s, horizon {self.horizon}: expected a timestep of "
                "at most 0.005 s, a step_dt that is a multiple of it, and a horizon of at least 1"
            )
        weights = self.family_weights
        if len(weights) != len(FAMILIES) or min(weights) < 0 or sum(weights) <= 0:
            raise InputError(
                f"family_weights has {len(weights)} values {weights}, expected {len(FAMILIES)} that are not "
                f"negative, in the order {', '.join(FAMILIES)}"
            )

    @property
    def object_classes(self) -> tuple[str, ...]:
        """Names of the classes that free rigid objects are drawn from."""
        return SHAPE_SETS[self.shapes] + (MESH_SETS[self.shapes] if self.meshes else ())


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """Look of a body. rgb: base colour. pattern: flat, checker, gradient or speckle. rgb2: second colour."""

    rgb: tuple[float, float, float]
    rgb2: tuple[float, float, float]
    pattern: str
    shininess: float = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectSpec:
    """One object on the table: shape, rotation (3, 3) and position (3,) in the base frame, physics and look."""

    shape: Shape
    rotation: np.ndarray
    position: np.ndarray
    density: float
    friction: float
    surface: Surface

    @property
    def lower(self) -> np.ndarray:
        return self.shape.bounds(self.rotation)[0] + self.position

    @property
    def upper(self) -> np.ndarray:
        return self.shape.bounds(self.rotation)[1] + self.position


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraSpec:
    """A pinhole camera: K (3, 3) [px], T_world_cam (4, 4) with OpenCV axes [m]."""

    K: np.ndarray
    T_world_cam: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneSpec:
    """Everything but the robot's motion. objects[target] is what the motion aims at.

    props: what is no free rigid object. target_name: the body or flex aimed at instead of objects[target].
    """

    objects: tuple[ObjectSpec, ...]
    target: int
    table_height: float
    table_size: tuple[float, float]
    table_surface: Surface
    table_texture: np.ndarray
    floor_surface: Surface
    lights: tuple[tuple[float, float, float], ...]
    light_strength: float
    ambient: float
    props: tuple[Prop, ...] = ()
    target_name: str = ""


class Prop(Protocol):
    """Something in a scene that is no free rigid object: a cabinet with a drawer, a tool in the hand, a cloth.

    Names of its bodies begin with `object` where they can move and with `fixture` where they cannot.
    """

    @property
    def shapes(self) -> Mapping[str, str]:
        """Kind of every body or flex of it that can move, by name."""

    @property
    def deformable(self) -> bool:
        """It contains a flex, which needs another integrator."""

    def add(self, spec: Any, tree: RobotTree) -> None:
        """Add its bodies to an MjSpec that already holds the robot and the table."""

    def finish(self, model: Any) -> None:
        """Set what can only be set in the compiled model."""


def _color(rng: Rng) -> tuple[float, float, float]:
    hue, saturation, value = rng.uniform(0, 6), rng.uniform(0.05, 0.95), rng.uniform(0.2, 0.98)
    k = (np.array([5.0, 3.0, 1.0]) + hue) % 6
    rgb = value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return float(rgb[0]), float(rgb[1]), float(rgb[2])


def draw_surface(rng: Rng) -> Surface:
    """A random colour and pattern."""
    pattern = str(rng.choice(["flat", "checker", "gradient", "speckle"], p=[0.4, 0.2, 0.2, 0.2]))
    return Surface(
        rgb=_color(rng), rgb2=_color(rng), pattern=pattern, shininess=float(rng.uniform(0, 0.5))
    )


def _table_texture(rng: Rng, surface: Surface, size: int = 128) -> np.ndarray:
    """(size, size, 3) uint8: flat, wood-like stripes, tiles or cloudy noise between two colours."""
    y, x = np.mgrid[0:size, 0:size] / size
    cloud = np.zeros((size, size))
    for octave in (2, 4, 8, 16):
        phase, angle = rng.uniform(0, 2 * np.pi, 2)
        wave = np.cos(angle) * x + np.sin(angle) * y
        cloud += np.sin(2 * np.pi * octave * wave + phase + cloud) / octave
    kind = rng.integers(4)
    if kind == 0:
        mix = np.zeros_like(x)
    elif kind == 1:
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * rng.integers(4, 16) * y + 2 * cloud)
    elif kind == 2:
        tiles = rng.integers(3, 12)
        mix = ((np.floor(x * tiles) + np.floor(y * tiles)) % 2).astype(float)
    else:
        mix = 0.5 + 0.5 * np.tanh(2 * cloud)
    mix = mix * rng.uniform(0.3, 1.0)
    rgb = np.array(surface.rgb) * (1 - mix[..., None]) + np.array(surface.rgb2) * mix[..., None]
    rgb = rgb + rng.normal(0, rng.uniform(0, 0.05), (size, size, 1))
    return (255 * np.clip(rgb, 0, 1)).astype(np.uint8)


def draw_object(rng: Rng, names: tuple[str, ...], family: str | None) -> ObjectSpec:
    """An object at the origin; `family` asks for one that suits the motion aimed at it (None: any)."""
    tall = family == "topple" or (family is None and rng.random() < 0.15)
    pool = [n for n in names if n in TALL_SHAPES] if tall else list(names)
    if family == "grasp_lift":
        # The fingers close on the middle of the bounding box, where these have nothing.
        pool = [n for n in pool if n != "bowl" and n not in OBJECTS]
    name = str(rng.choice(pool))
    shape = make_mesh_shape(name, rng) if name in OBJECTS else make_shape(name, rng, tall=tall)
    rest = shape.rests[rng.integers(len(shape.rests))]
    rotation = rotation_about(2, rng.uniform(-np.pi, np.pi)) @ rest
    friction = rng.uniform(0.5, 1.0) if family == "topple" else rng.uniform(0.15, 0.9)
    return ObjectSpec(
        shape=shape,
        rotation=rotation,
        position=np.zeros(3),
        density=float(np.exp(rng.uniform(np.log(150), np.log(1400)))),
        friction=float(friction),
        surface=draw_surface(rng),
    )


def _footprint(spec: ObjectSpec) -> float:
    lower, upper = spec.shape.bounds(spec.rotation)
    return float(np.hypot(*np.maximum(np.abs(lower[:2]), np.abs(upper[:2]))))


def _place(
    rng: Rng, spec: ObjectSpec, placed: list[ObjectSpec], table_height: float
) -> ObjectSpec | None:
    """`spec` 1 mm above the table at a free spot, next to an object already there in 40 % of draws."""
    radius = _footprint(spec)
    lower = spec.shape.bounds(spec.rotation)[0]
    for _ in range(30):
        if placed and rng.random() < 0.4:
            neighbour = placed[rng.integers(len(placed))]
            angle = rng.uniform(-np.pi, np.pi)
            gap = radius + _footprint(neighbour) + rng.uniform(0.001, 0.02)
            xy = neighbour.position[:2] + gap * np.array([np.cos(angle), np.sin(angle)])
        else:
            xy = np.array([rng.uniform(0.36, 0.72), rng.uniform(-0.28, 0.28)])
        inside = 0.32 < xy[0] < 0.76 and abs(xy[1]) < 0.33
        free = all(
            float(np.hypot(*(xy - other.position[:2]))) > radius + _footprint(other)
            for other in placed
        )
        if inside and free:
            position = np.array([xy[0], xy[1], table_height - lower[2] + 0.001])
            return ObjectSpec(
                shape=spec.shape,
                rotation=spec.rotation,
                position=position,
                density=spec.density,
                friction=spec.friction,
                surface=spec.surface,
            )
    return None


def graspable_yaw(spec: ObjectSpec, *, max_width: float = 0.066) -> tuple[float, float] | None:
    """Finger direction (yaw about z [rad]) across the narrowest side and its width, or None when too wide."""
    best: tuple[float, float] | None = None
    for yaw in np.linspace(0, np.pi, 24, endpoint=False):
        direction = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        low, high = spec.shape.width_along(spec.rotation, direction)
        if best is None or high - low < best[1]:
            best = (float(yaw), high - low)
    return best if best is not None and best[1] < max_width else None


def draw_scene(rng: Rng, config: TabletopConfig, family: str) -> SceneSpec:
    """A random scene whose object 0 suits a motion of `family`."""
    names = config.object_classes
    table_height = float(rng.uniform(-0.05, 0.0))
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    objects: list[ObjectSpec] = []
    for index in range(count):
        spec = draw_object(rng, names, family if index == 0 else None)
        if index == 0 and family == "grasp_lift":
            for _ in range(30):
                if graspable_yaw(spec) is not None:
                    break
                spec = draw_object(rng, names, family)
        placed = _place(rng, spec, objects, table_height)
        if placed is not None:
            objects.append(placed)
    return furnish(rng, tuple(objects), table_height)


def furnish(
    rng: Rng,
    objects: tuple[ObjectSpec, ...],
    table_height: float,
    *,
    props: tuple[Prop, ...] = (),
    target_name: str = "",
) -> SceneSpec:
    """A scene of the given contents with a random table, floor and lights."""
    surface = draw_surface(rng)
    lights = tuple(
        (float(rng.uniform(-0.6, 1.6)), float(rng.uniform(-1.2, 1.2)), float(rng.uniform(1.2, 2.2)))
        for _ in range(rng.integers(1, 3))
    )
    return SceneSpec(
        objects=objects,
        target=0,
        table_height=table_height,
        table_size=(float(rng.uniform(0.45, 0.7)), float(rng.uniform(0.5, 0.9))),
        table_surface=surface,
        table_texture=_table_texture(rng, surface),
        floor_surface=draw_surface(rng),
        lights=lights,
        light_strength=float(rng.uniform(0.3, 0.7)),
        ambient=float(rng.uniform(0.2, 0.45)),
        props=props,
        target_name=target_name,
    )


def look_at(eye: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """T_world_cam (4, 4) of a camera (OpenCV axes) at `eye` looking at `target`, upright but for `roll` [rad]."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, down, forward], -1) @ rotation_about(2, roll)
    T[:3, 3] = eye
    return T


def _draw_azimuths(rng: Rng, count: int) -> list[float]:
    """Directions [rad] at least 0.8 apart."""
    azimuths: list[float] = []
    rejected = 0
    while len(azimuths) < count:
        candidate = float(rng.uniform(-2.3, 2.3))
        if all(abs(candidate - other) > 0.8 for other in azimuths):
            azimuths.append(candidate)
        elif (rejected := rejected + 1) > _AZIMUTH_REJECTIONS:
            # Three can stand so that no fourth one finds room.
            azimuths, rejected = [], 0
    return azimuths


def draw_cameras(rng: Rng, config: TabletopConfig, table_height: float) -> tuple[CameraSpec, ...]:
    """2-3 views of the workspace from well separated directions, never from behind the robot."""
    count = int(rng.integers(config.min_cameras, config.max_cameras + 1))
    azimuths = _draw_azimuths(rng, count)
    cameras = []
    for azimuth in azimuths:
        elevation, distance = rng.uniform(0.45, 1.15), rng.uniform(0.75, 1.15)
        target = np.array(
            [rng.uniform(0.48, 0.6), rng.uniform(-0.07, 0.07), table_height + rng.uniform(0, 0.08)]
        )
        direction = np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            ]
        )
        focal = config.height / 2 / np.tan(rng.uniform(0.75, 1.0) / 2)
        K = np.array([[focal, 0, config.width / 2], [0, focal, config.height / 2], [0, 0, 1.0]])
        T = look_at(target + distance * direction, target, float(rng.normal(0, 0.03)))
        cameras.append(CameraSpec(K=K, T_world_cam=T))
    return tuple(cameras)
