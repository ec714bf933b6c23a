"""`pointworld goal`: write goal.json, which says which points of a capture should go where."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pointworld.capture import read_capture
from pointworld.cli.common import console, parse, stdout_json
from pointworld.errors import InputError
from pointworld.plan.goal import (
    BoxSelection,
    ClickSelection,
    Goal,
    MaskSelection,
    ObjectSelection,
    PointSet,
    PointsGoal,
    PoseGoal,
    Selection,
    StillGoal,
    Target,
    TranslationGoal,
    read_goal,
    write_goal,
)
from pointworld.plan.goal_points import resolve_goal
from pointworld.scene import Workspace, build_scene
from pointworld.scene.base_pose import resolve_base_pose
from pointworld.view.goal_editor import GoalEditor, offered_frames
from pointworld.view.goal_page import GoalPage


@dataclass(frozen=True, kw_only=True)
class GoalArgs:
    """Choose points in a frame of a capture and say where they should go; each call adds one set to the file.

    With --page: by clicking on things and dragging them in a page of your browser. Without: choose by exactly one of
    --mask, --box, --click and --object-id; say where by one of --translation (with --turn for a pose), --points and
    --still.

    Example: pointworld goal --capture cap --page
    Example: pointworld goal --capture cap --camera front --frame 000000 --click 212.5,90.5 --translation 0.1,0,0
    Example: pointworld goal --capture cap --camera front --frame 000000 --name cup --box 40,60,90,120 --still
    """

    capture: Path
    """Capture in any supported layout."""
    page: bool = False
    """Choose in a page of the browser; nothing leaves this computer."""
    port: int = 0
    """Of --page; 0 = any that is free."""
    camera: str = ""
    """Camera in whose frame the points are chosen; with --page "" offers the first frame of every camera."""
    frame: str = ""
    """Name of the frame."""
    out: Path = Path("goal.json")
    """The file; sets of other names that are in it stay."""
    name: str = "object"
    """Name of the set."""
    mask: str | None = None
    """PNG beside the goal file, of the frame's size: chosen where it is not zero."""
    box: str | None = None
    """left,top,right,bottom [px]."""
    click: tuple[str, ...] = ()
    """u,v [px], once or several times."""
    radius: float = 0.03
    """Points this near to what is seen at a click [m]."""
    object_id: int | None = None
    """Id in the PNG of object ids, see --ids."""
    ids: str | None = None
    """PNG of object ids beside the goal file."""
    translation: str | None = None
    """x,y,z in the base frame [m]."""
    turn: str | None = None
    """w,x,y,z: turn about the set's centre, before --translation."""
    points: tuple[str, ...] = ()
    """x,y,z in the base frame [m], once or several times; with clicks one for each."""
    still: bool = False
    """The set should stay where it is."""
    weight: float = 1.0
    """Of the set among the costs."""
    base_pose: str | None = None
    """Where the robot stands, for captures that do not say: FILE, x,y,z,qw,qx,qy,qz or auto."""
    workspace: str | None = None
    """Box in the base frame: x0,y0,z0,x1,y1,z1 [m]."""
    json: bool = False
    """Print the sets and how many points they choose as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(GoalArgs, argv, prog="pointworld goal")
    counts = choose_in_page(args) if args.page else add_set(args)
    for name, count in counts.items():
        console.print(f"'{name}': {count} scene points")
    console.print(f"written to {args.out}" if counts else "nothing was written")
    if args.json:
        stdout_json({"goal": str(args.out), "points": counts})
    return 0


def choose_in_page(args: GoalArgs) -> dict[str, int]:
    """Serve the page until the person closes it. Returns: points of every set; empty when nothing was written.

    Raises:
        InputError: options of the other way were given, or there is nothing to choose in.
    """
    ways = (args.mask, args.box, args.object_id, args.translation, args.turn)
    if any(way is not None for way in ways) or args.click or args.points or args.still:
        raise InputError("with --page things are chosen and sent somewhere in the page only")
    capture = read_capture(args.capture)
    T, _ = resolve_base_pose(capture, args.base_pose)
    editor = GoalEditor(
        capture,
        offered_frames(capture, args.camera, args.frame),
        args.out,
        T_world_base=T,
        workspace=None if args.workspace is None else Workspace.parse(args.workspace),
    )
    page = GoalPage(editor, port=args.port)
    console.print(f"open {page.address}", soft_wrap=True)
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform != "linux":
        webbrowser.open(page.address)
    page.serve()
    return editor.written


def add_set(args: GoalArgs) -> dict[str, int]:
    """Add the set that the words describe. Returns: how many scene points every set of the file chooses.

    Raises:
        InputError: words that do not fit together, or a set that chooses nothing.
    """
    if not (args.camera and args.frame):
        raise InputError("name --camera and --frame, or choose in a page of the browser: --page")
    made = PointSet(
        name=args.name,
        camera=args.camera,
        frame=args.frame,
        select=selection(args),
        goal=target(args),
        weight=args.weight,
    )
    if args.out.exists():
        others = tuple(s for s in read_goal(args.out).sets if s.name != args.name)
    else:
        others = ()
    goal = Goal(sets=(*others, made), folder=args.out.parent)
    counts = check(goal, args)
    if all(isinstance(item.goal, StillGoal) for item in goal.sets):
        raise InputError("every set would stay still: first add one that has somewhere to go")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_goal(goal, args.out)
    return counts


def selection(args: GoalArgs) -> Selection:
    """Which points.

    Raises:
        InputError: none or several ways to choose, or numbers that cannot be read.
    """
    given = {
        "--mask": args.mask is not None,
        "--box": args.box is not None,
        "--click": bool(args.click),
        "--object-id": args.object_id is not None,
    }
    _one(given, "choose points")
    if args.mask is not None:
        return MaskSelection(file=args.mask)
    if args.box is not None:
        left, top, right, bottom = numbers(args.box, 4, "--box")
        return BoxSelection(pixels=(left, top, right, bottom))
    if args.object_id is not None:
        if args.ids is None:
            raise InputError("--object-id needs --ids, the PNG of object ids beside the goal file")
        return ObjectSelection(id=args.object_id, file=args.ids)
    pixels = tuple(numbers(text, 2, "--click") for text in args.click)
    return ClickSelection(pixels=tuple((p[0], p[1]) for p in pixels), radius=args.radius)


def target(args: GoalArgs) -> Target:
    """Where they should go.

    Raises:
        InputError: nowhere or several places, or numbers that cannot be read.
    """
    moved = args.translation is not None or args.turn is not None
    given = {"--translation": moved, "--points": bool(args.points), "--still": args.still}
    _one(given, "say where they go")
    if args.still:
        return StillGoal()
    if args.points:
        places = [numbers(text, 3, "--points") for text in args.points]
        return PointsGoal(points=tuple((p[0], p[1], p[2]) for p in places))
    x, y, z = numbers(args.translation or "0,0,0", 3, "--translation")
    if args.turn is None:
        return TranslationGoal(vector=(x, y, z))
    q = numbers(args.turn, 4, "--turn")
    return PoseGoal(vector=(x, y, z), quat_wxyz=(q[0], q[1], q[2], q[3]))


def check(goal: Goal, args: GoalArgs) -> dict[str, int]:
    """How many scene points every set chooses.

    Raises:
        InputError: a set chooses none, or names a frame that is not there.
    """
    capture = read_capture(args.capture)
    T, _ = resolve_base_pose(capture, args.base_pose)
    chosen = {(item.camera, item.frame) for item in goal.sets}
    frames = [f for f in capture.frames if (f.camera, f.name) in chosen]
    if not frames:
        known = ", ".join(sorted({f"{f.camera}/{f.name}" for f in capture.frames})[:8])
        raise InputError(f"no frame '{args.frame}' of camera '{args.camera}'; there are {known}")
    box = None if args.workspace is None else Workspace.parse(args.workspace)
    scene = build_scene(frames, T_world_base=T, workspace=box)
    resolved = resolve_goal(goal, scene, replace(capture, T_world_base=np.asarray(T)))
    return {item.name: len(item.index) for item in resolved.sets}


def numbers(text: str, count: int, option: str) -> tuple[float, ...]:
    """Numbers between commas.

    Raises:
        InputError: another count, or no finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not np.isfinite(values).all():
        raise InputError(f"{option} is '{text}', expected {count} numbers between commas")
    return values


def _one(given: dict[str, bool], purpose: str) -> None:
    named = [option for option, there in given.items() if there]
    if len(named) != 1:
        got = " and ".join(named) if named else "none"
        raise InputError(f"to {purpose} give exactly one of {', '.join(given)}; got {got}")
