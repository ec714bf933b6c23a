"""One point per voxel as the release picks it, and the random numbers that depend on a clip's name.

Source: sampling rules of the PointWorld release.
"""

from __future__ import annotations

import hashlib

import numpy as np

_FNV_OFFSET = np.uint64(14695981039346656037)
_FNV_PRIME = np.uint64(1099511628211)


def key_seed(*parts: object) -> int:
    """The release's 32-bit seed of a clip: first four bytes, little-endian, of the MD5 of the joined parts."""
    text = "".join(map(str, parts))
    digest = hashlib.md5(text.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "little")


def key_random(*parts: object) -> np.random.RandomState:
    """NumPy's legacy generator, which the release draws from, seeded by `key_seed`."""
    return np.random.RandomState(key_seed(*parts))


def voxel_hash(points: np.ndarray, size: float) -> np.ndarray:
    """(points,) uint64 FNV hash (multiply, then xor) of the cells of points (points, 3), counted from the least one."""
    cells = np.floor(points / size).astype(np.int64)
    cells = (cells - cells.min(0)).astype(np.uint64)
    value = np.full(len(points), _FNV_OFFSET)
    for axis in range(3):
        value = (value * _FNV_PRIME) ^ cells[:, axis]
    return value


def thin(points: np.ndarray, size: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Indices of one point per voxel, ordered by the voxels' hashes as in the release.

    Args:
        points: (points, 3) [m].
        rng: draws the representative; None takes the first of the voxel in the input's order. (The release takes the
            first after an unstable sort, so its choice depends on the processor; the voxels are the same.)
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    hashes = voxel_hash(points, size)
    order = np.argsort(hashes, kind="stable")
    _, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    if rng is None:
        return order[starts]
    return order[starts + rng.integers(0, counts.max(), len(counts)) % counts]


def cap(count: int, limit: int, rng: np.random.RandomState | np.random.Generator) -> np.ndarray:
    """Sorted indices of at most `limit` of `count` rows, drawn without replacement."""
    if count <= limit:
        return np.arange(count)
    return np.sort(rng.choice(count, limit, replace=False))
