"""goal.json: which points of the scene should go where. docs/planning.md is its reference."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pointworld.errors import InputError
from pointworld.files import write_json

VERSION = 1
_MAX_BYTES = 4_000_000
Vector = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class MaskSelection:
    """Points seen where the image `file` (PNG beside goal.json, size of the frame) is not zero."""

    file: str


@dataclass(frozen=True, kw_only=True)
class BoxSelection:
    """Points seen inside a rectangle (left, top, right, bottom) [px]."""

    pixels: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class ClickSelection:
    """Points within `radius` [m] of what is seen at the clicked `pixels` (u, v)."""

    pixels: tuple[tuple[float, float], ...]
    radius: float = 0.03


@dataclass(frozen=True, kw_only=True)
class ObjectSelection:
    """Points seen where the image of object ids has `id`: `file` beside goal.json, or one the program hands in."""

    id: int
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class TranslationGoal:
    """Every point moves by `vector` in the base frame [m]."""

    vector: Vector


@dataclass(frozen=True, kw_only=True)
class PoseGoal:
    """The set turns about its centre by `quat_wxyz` and moves by `vector` in the base frame [m]."""

    vector: Vector
    quat_wxyz: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class PointsGoal:
    """The set should lie on `points` in the base frame [m]; with clicks, one point for every click."""

    points: tuple[Vector, ...]


@dataclass(frozen=True, kw_only=True)
class StillGoal:
    """The set should stay where it is."""


Selection = MaskSelection | BoxSelection | ClickSelection | ObjectSelection
Target = TranslationGoal | PoseGoal | PointsGoal | StillGoal


@dataclass(frozen=True, kw_only=True)
class PointSet:
    """A set of points chosen in frame `frame` of camera `camera`, and what should become of it."""

    name: str
    camera: str
    frame: str
    select: Selection
    goal: Target
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Goal:
    """All point sets of a task. folder: what file names are relative to."""

    sets: tuple[PointSet, ...]
    folder: Path = field(default=Path())


def read_goal(path: str | Path) -> Goal:
    """Read goal.json.

    Raises:
        InputError: no such file, not JSON, unknown or missing keys, values of the wrong kind. The message names the
            place in the file.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such goal file; make one with `pointworld goal`")
    if source.stat().st_size > _MAX_BYTES:
        raise InputError(
            f"{source}: larger than {_MAX_BYTES // 1_000_000} MB, which is no goal file"
        )
    try:
        record = json.loads(source.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid JSON ({error})") from error
    top = _Reader(record, str(source))
    top.keys(required=("version", "sets"))
    version = top.record["version"]
    if version != VERSION:
        raise InputError(f"{source}: version is {version!r}, this program reads {VERSION}")
    entries = top.record["sets"]
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{source}: sets must be a list with at least one point set")
    sets = tuple(read_point_set(e, f"{source}: sets[{i}]") for i, e in enumerate(entries))
    names = [item.name for item in sets]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{source}: two sets are named '{repeated[0]}'")
    if all(isinstance(item.goal, StillGoal) for item in sets):
        raise InputError(
            f"{source}: every set is to stay still; at least one needs somewhere to go"
        )
    return Goal(sets=sets, folder=source.parent)


def write_goal(goal: Goal, path: str | Path) -> None:
    """Write goal.json, atomically; `read_goal` gives the same sets back."""
    sets = [point_set_record(item) for item in goal.sets]
    write_json(path, {"version": VERSION, "sets": sets})


def point_set_record(item: PointSet) -> dict[str, Any]:
    """One entry of `sets` in goal.json; `read_point_set` gives the set back."""
    select, target = asdict(item.select), asdict(item.goal)
    return {
        "name": item.name,
        "camera": item.camera,
        "frame": item.frame,
        "select": {
            "kind": _kind(item.select, _SELECTIONS),
            **{k: _lists(v) for k, v in select.items() if v is not None},
        },
        "goal": {
            "kind": _kind(item.goal, _TARGETS),
            **{k: _lists(v) for k, v in target.items()},
        },
        "weight": item.weight,
    }


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


def read_point_set(record: object, where: str) -> PointSet:
    """One entry of `sets` in goal.json. Args: where: what errors call it.

    Raises:
        InputError: see `read_goal`.
    """
    return _point_set(_Reader(record, where))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


class _Reader:
    """One JSON object, with errors that name it."""

    def __init__(self, record: Any, where: str) -> None:
        if not isinstance(record, dict):
            raise InputError(f"{where}: expected an object {{...}}, got {type(record).__name__}")
        self.record: dict[str, Any] = record
        self.where = where

    def keys(self, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
        """Raise InputError on unknown or missing keys."""
        known = (*required, *optional)
        for key in self.record:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise InputError(
                    f"{self.where}: unknown key '{key}', expected {', '.join(known)}.{hint}"
                )
        missing = [key for key in required if key not in self.record]
        if missing:
            raise InputError(f"{self.where}: '{missing[0]}' is missing")

    def text(self, key: str) -> str:
        value = self.record[key]
        if not isinstance(value, str) or not value:
            raise InputError(f"{self.where}: '{key}' is {value!r}, expected a text")
        return value

    def number(self, key: str, *, least: float = -math.inf, above: bool = False) -> float:
        value = self.record[key]
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not (value > least if above else value >= least) or not math.isfinite(value):
            bound = f" {'above' if above else 'of at least'} {least:g}" if least > -math.inf else ""
            raise InputError(f"{self.where}: '{key}' is {value!r}, expected a number{bound}")
        return float(value)

    def vector(self, key: str, length: int) -> tuple[float, ...]:
        return _numbers(self.record[key], length, f"{self.where}: '{key}'")

    def vectors(self, key: str, length: int) -> tuple[tuple[float, ...], ...]:
        value = self.record[key]
        if not isinstance(value, list) or not value:
            raise InputError(f"{self.where}: '{key}' must be a list with at least one entry")
        return tuple(
            _numbers(v, length, f"{self.where}: '{key}'[{i}]") for i, v in enumerate(value)
        )


def _numbers(value: Any, length: int, where: str) -> tuple[float, ...]:
    good = isinstance(value, list) and len(value) == length
    if not good or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value
    ):
        raise InputError(f"{where} is {value!r}, expected {length} numbers")
    return tuple(float(v) for v in value)


def _point_set(reader: _Reader) -> PointSet:
    reader.keys(required=("name", "camera", "frame", "select", "goal"), optional=("weight",))
    return PointSet(
        name=reader.text("name"),
        camera=reader.text("camera"),
        frame=reader.text("frame"),
        select=_one_of(reader, "select", _SELECTIONS),
        goal=_one_of(reader, "goal", _TARGETS),
        weight=reader.number("weight", least=0.0) if "weight" in reader.record else 1.0,
    )


def _one_of(parent: _Reader, key: str, kinds: Mapping[str, tuple[type, _Parser]]) -> Any:
    reader = _Reader(parent.record[key], f"{parent.where}: {key}")
    kind = reader.record.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        near = difflib.get_close_matches(str(kind), kinds, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise InputError(
            f"{reader.where}: kind is {kind!r}, expected one of {', '.join(kinds)}.{hint}"
        )
    return kinds[kind][1](reader)


def _mask(reader: _Reader) -> MaskSelection:
    reader.keys(required=("kind", "file"))
    return MaskSelection(file=_file(reader))


def _box(reader: _Reader) -> BoxSelection:
    reader.keys(required=("kind", "pixels"))
    left, top, right, bottom = reader.vector("pixels", 4)
    if not (left < right and top < bottom):
        raise InputError(
            f"{reader.where}: 'pixels' is left {left:g}, top {top:g}, right {right:g}, bottom {bottom:g}; expected "
            "left < right and top < bottom"
        )
    return BoxSelection(pixels=(left, top, right, bottom))


def _click(reader: _Reader) -> ClickSelection:
    reader.keys(required=("kind", "pixels"), optional=("radius",))
    pixels = tuple((uv[0], uv[1]) for uv in reader.vectors("pixels", 2))
    if "radius" not in reader.record:
        return ClickSelection(pixels=pixels)
    return ClickSelection(pixels=pixels, radius=reader.number("radius", least=0.0, above=True))


def _object(reader: _Reader) -> ObjectSelection:
    reader.keys(required=("kind", "id"), optional=("file",))
    identity = reader.number("id", least=0.0)
    if identity != int(identity):
        raise InputError(f"{reader.where}: 'id' is {identity:g}, expected a whole number")
    return ObjectSelection(
        id=int(identity), file=_file(reader) if "file" in reader.record else None
    )


def _file(reader: _Reader) -> str:
    name = reader.text("file")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{reader.where}: 'file' is '{name}', expected a file beside goal.json")
    return name


def _translation(reader: _Reader) -> TranslationGoal:
    reader.keys(required=("kind", "vector"))
    x, y, z = reader.vector("vector", 3)
    return TranslationGoal(vector=(x, y, z))


def _pose(reader: _Reader) -> PoseGoal:
    reader.keys(required=("kind", "vector", "quat_wxyz"))
    x, y, z = reader.vector("vector", 3)
    a, b, c, d = reader.vector("quat_wxyz", 4)
    length = math.sqrt(a * a + b * b + c * c + d * d)
    if abs(length - 1) > 1e-3:
        raise InputError(f"{reader.where}: 'quat_wxyz' has length {length:.4g}, expected 1")
    return PoseGoal(vector=(x, y, z), quat_wxyz=(a / length, b / length, c / length, d / length))


def _points(reader: _Reader) -> PointsGoal:
    reader.keys(required=("kind", "points"))
    return PointsGoal(points=tuple((x, y, z) for x, y, z in reader.vectors("points", 3)))


def _still(reader: _Reader) -> StillGoal:
    reader.keys(required=("kind",))
    return StillGoal()


_Parser = Callable[[_Reader], Any]
_SELECTIONS: Mapping[str, tuple[type, _Parser]] = {
    "mask": (MaskSelection, _mask),
    "box": (BoxSelection, _box),
    "click": (ClickSelection, _click),
    "object": (ObjectSelection, _object),
}
_TARGETS: Mapping[str, tuple[type, _Parser]] = {
    "translation": (TranslationGoal, _translation),
    "pose": (PoseGoal, _pose),
    "points": (PointsGoal, _points),
    "still": (StillGoal, _still),
}


def _kind(value: object, kinds: Mapping[str, tuple[type, _Parser]]) -> str:
    return next(name for name, (cls, _) in kinds.items() if isinstance(value, cls))
