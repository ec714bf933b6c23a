"""Where robots come from: names of bundled robots, or a URDF file with an optional robot.json beside it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pointworld.errors import AssetError, InputError
from pointworld.robot.tree import KinematicTree

GRIPPER_PATTERN = re.compile(r"finger|knuckle|robotiq|gripper|hand(?!_?tcp)", re.IGNORECASE)
_TOOL_PATTERN = re.compile(r"(^|_)(tcp|tool0|ee|ee_link|grasp_site|flange)$", re.IGNORECASE)
_KEYS = ("urdf", "tool_link", "gripper_links", "gripper_joint", "finger_pads", "home")


@dataclass(frozen=True, kw_only=True)
class RobotFacts:
    """What a URDF does not say.

    tool_link: the tool centre point. gripper_links: links that touch objects. gripper_joint: the driven joint that
    opens it, or None. finger_pads: two links with the point (3,) [m] of their pad in the link frame; the gripper's
    width is the distance of the two points. home: a relaxed pose in the robot's joint order, or empty.
    """

    tool_link: str
    gripper_links: tuple[str, ...]
    gripper_joint: str | None = None
    finger_pads: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    home: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RobotSource:
    """A located robot: URDF file, the folder its meshes must lie in, and its robot.json, if any."""

    name: str
    urdf: Path
    root: Path
    facts: Path | None


def bundled_robots() -> tuple[str, ...]:
    """Names of the robots that ship with the package."""
    return tuple(sorted(p.parent.name for p in _assets_folder().glob("*/robot.json")))


def _assets_folder() -> Path:
    import robot_assets

    return Path(str(robot_assets.__file__)).parent


def locate_robot(name_or_path: str | Path, *, mesh_root: str | Path | None = None) -> RobotSource:
    """Find a robot by bundled name or URDF path.

    mesh_root: folder that meshes may come from; by default the URDF's folder, or its parent when that folder is
        called `urdf`, or the nearest folder above (three at most) that holds a package.xml.

    Raises:
        AssetError: neither a bundled name nor a file.
    """
    text = str(name_or_path)
    if text in bundled_robots():
        folder = _assets_folder() / text
        facts = folder / "robot.json"
        urdf = folder / str(_read_json(facts).get("urdf", f"{text}.urdf"))
        return RobotSource(name=text, urdf=urdf, root=folder, facts=facts)
    urdf = Path(text).expanduser()
    if not urdf.is_file():
        raise AssetError(
            f"'{text}' is neither a bundled robot ({', '.join(bundled_robots())}) nor a URDF file"
            f"{did_you_mean(text, bundled_robots())}"
        )
    sidecar = urdf.parent / "robot.json"
    return RobotSource(
        name=urdf.stem,
        urdf=urdf,
        root=Path(mesh_root) if mesh_root is not None else _mesh_root(urdf),
        facts=sidecar if sidecar.is_file() else None,
    )


def _mesh_root(urdf: Path) -> Path:
    folder = urdf.resolve().parent
    for candidate in (folder, *list(folder.parents)[:3]):
        if (candidate / "package.xml").is_file():
            return candidate
    return folder.parent if folder.name == "urdf" else folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise AssetError(f"{path}: expected one JSON object with the keys {', '.join(_KEYS)}")
    return value


def read_facts(source: RobotSource, tree: KinematicTree) -> RobotFacts:
    """The robot.json of a robot, checked against its tree; guessed from link names where there is none."""
    if source.facts is None:
        return _guess_facts(tree)
    where, value = source.facts, _read_json(source.facts)
    for key in value:
        if key not in _KEYS:
            raise AssetError(f"{where}: unknown key '{key}'{did_you_mean(key, _KEYS)}")
    guess = _guess_facts(tree)
    try:
        facts = RobotFacts(
            tool_link=str(value.get("tool_link", guess.tool_link)),
            gripper_links=tuple(map(str, value.get("gripper_links", guess.gripper_links))),
            gripper_joint=None
            if value.get("gripper_joint") is None
            else str(value["gripper_joint"]),
            finger_pads={
                str(k): (float(x), float(y), float(z))
                for k, (x, y, z) in dict(value.get("finger_pads", {})).items()
            },
            home=tuple(float(v) for v in value.get("home", ())),
        )
    except (TypeError, ValueError) as error:
        raise AssetError(f"{where}: a value has the wrong type ({error})") from error
    _check_facts(where, facts, tree)
    return facts


def _check_facts(where: Path, facts: RobotFacts, tree: KinematicTree) -> None:
    for link in (facts.tool_link, *facts.gripper_links, *facts.finger_pads):
        if link not in tree.link_names:
            raise AssetError(
                f"{where}: the URDF has no link '{link}'{did_you_mean(link, tree.link_names)}"
            )
    joint = facts.gripper_joint
    if joint is not None and joint not in tree.actuated:
        raise AssetError(
            f"{where}: gripper_joint '{joint}' is not a driven joint of the URDF{did_you_mean(joint, tree.actuated)}"
        )
    if len(facts.finger_pads) not in (0, 2) or (joint is None) != (len(facts.finger_pads) == 0):
        raise AssetError(
            f"{where}: a gripper needs gripper_joint and finger_pads of exactly two links (or neither), got "
            f"gripper_joint {joint} and {len(facts.finger_pads)} pads"
        )
    if facts.home and len(facts.home) != len(tree.actuated):
        raise AssetError(
            f"{where}: home has {len(facts.home)} values, expected {len(tree.actuated)}"
        )


def _guess_facts(tree: KinematicTree) -> RobotFacts:
    tools = [name for name in tree.link_names if _TOOL_PATTERN.search(name)]
    return RobotFacts(
        tool_link=tools[-1] if tools else tree.link_names[-1],
        gripper_links=tuple(n for n in tree.link_names if GRIPPER_PATTERN.search(n)),
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`. Did you mean 'x'?` for the closest known name, otherwise a list of the known ones (or nothing if none)."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f". Did you mean '{close[0]}'?"
    return f". Known: {', '.join(names)}" if names else ""


def require_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise InputError for the first name that is not known."""
    options = list(known)
    for name in names:
        if name not in options:
            raise InputError(
                f"{what} '{name}' is not part of the robot{did_you_mean(name, options)}"
            )
