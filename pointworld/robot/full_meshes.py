"""The makers' detailed visual meshes for the bundled robots, from packages of the extra `full-meshes`.

Nothing is downloaded; the packages must be installed. Their link frames are the same as ours for the arms and the
Franka Hand; the 2F-85 of airo-models opens along y and is given in millimetres, ours opens along x.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np

from pointworld.errors import AssetError, InputError, MissingExtraError
from pointworld.robot.mesh_files import build_geometry
from pointworld.robot.model import RobotModel, VisualMesh
from pointworld.robot.urdf import UrdfGeometry, parse_urdf

_PANDA = ("example-robot-data", "panda_description/urdf/panda.urdf")
_UR5E = ("airo-models", "arms/ur5e/ur5e.urdf")
_ROBOTIQ = ("airo-models", "robotiq_2f_85/urdf/robotiq_2f_85.urdf")
_ROBOTIQ_COLOR = (0.21, 0.22, 0.24, 1.0)
_SIDES = {"left": -np.pi / 2, "right": np.pi / 2}


def full_meshes(robot: RobotModel) -> RobotModel:
    """A bundled robot with detailed visual meshes; links without one keep ours.

    Args:
        robot: `fr3`, `panda_robotiq` or `ur5e_robotiq` (the FR3 is shown with the Panda's shells, whose frames and
            outlines are the same).

    Raises:
        MissingExtraError: the package with the meshes is not installed.
        InputError: not a bundled robot.
    """
    if robot.name == "fr3":
        detailed = _panda("fr3", hand=True)
    elif robot.name == "panda_robotiq":
        detailed = [*_panda("panda", hand=False), *_robotiq()]
    elif robot.name == "ur5e_robotiq":
        detailed = [*_ur5e(robot), *_robotiq()]
    else:
        raise InputError(
            f"full meshes are known for fr3, panda_robotiq and ur5e_robotiq only, not for '{robot.name}'"
        )
    replaced = {visual.link for visual in detailed}
    return robot.with_visuals([*detailed, *(v for v in robot.visuals if v.link not in replaced)])


def _panda(prefix: str, *, hand: bool) -> list[VisualMesh]:
    folder = _package_file(*_PANDA).parent.parent / "meshes" / "visual"
    files = {f"{prefix}_link{i}": f"link{i}.dae" for i in range(8)}
    if hand:
        files |= {f"{prefix}_hand": "hand.dae"}
        files |= {f"{prefix}_{side}finger": "finger.dae" for side in _SIDES}
    return [_visual(link, folder / name, np.eye(4)) for link, name in files.items()]


def _ur5e(robot: RobotModel) -> list[VisualMesh]:
    urdf = _package_file(*_UR5E)
    # That description shows its base with a cable hanging 0.35 m below it; the plain base lies beside it.
    plain = {"visual/base_cable_labels.obj": "visual/base.obj"}
    return [
        _visual(
            link.name,
            urdf.parent / plain.get(geometry.filename, geometry.filename),
            geometry.origin,
        )
        for link in parse_urdf(urdf).links
        for geometry in link.visuals
        if link.name in robot.link_names and geometry.kind == "mesh"
    ]


def _robotiq() -> list[VisualMesh]:
    folder = _package_file(*_ROBOTIQ).parent.parent / "meshes" / "visual"
    base = folder / "robotiq_arg2f_85_base_link.obj"
    color = _ROBOTIQ_COLOR
    result = [_visual("robotiq_85_base_link", base, _yaw(np.pi / 2), color=color)]
    for side, yaw in _SIDES.items():
        for part in ("outer_knuckle", "outer_finger", "inner_knuckle", "inner_finger"):
            file = folder / f"robotiq_arg2f_85_{part}.obj"
            result.append(_visual(f"{side}_{part}", file, _yaw(yaw), scale=0.001, color=color))
        pad = folder / "robotiq_arg2f_85_pad.obj"
        result.append(_visual(f"{side}_inner_finger", pad, _yaw(yaw), scale=0.001, color=color))
    return result


def _yaw(angle: float) -> np.ndarray:
    T = np.eye(4)
    T[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return T


def _visual(
    link: str,
    file: Path,
    T_link_mesh: np.ndarray,
    *,
    scale: float = 1.0,
    color: tuple[float, float, float, float] | None = None,
) -> VisualMesh:
    geometry = UrdfGeometry(
        kind="mesh",
        origin=T_link_mesh,
        size=(scale, scale, scale),
        filename=file.name,
        color=color,
    )
    mesh = build_geometry(geometry, file.parent / "robot.urdf", file.parent)
    return VisualMesh(link=link, filename=file.name, mesh=mesh)


def _package_file(package: str, ending: str) -> Path:
    """Where an installed package keeps the file whose path ends so."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError(package, "full-meshes", "detailed robot meshes") from error
    for file in files:
        if str(file).endswith(ending):
            return Path(str(file.locate())).resolve()
    raise AssetError(f"the installed package {package} holds no {ending}; another version may")
