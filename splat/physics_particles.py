"""The material inside a skin of Gaussians, and how the Gaussians hang on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from pointworld.errors import InputError
from pointworld.geometry import matrix_to_quat_wxyz, quat_wxyz_to_matrix
from splat.motion_neighbors import distance_weights, nearest_points
from splat.motion_rotate import rotate_sh, smallest_rotation
from splat.query import Plane
from splat.types import GaussianScene

Tensor = torch.Tensor

#: A principal stretch of a Gaussian stays between 1 / STRETCH and STRETCH: sand that flows apart draws no needles.
STRETCH = 3.0
#: Holes in the skin up to so many of its own spacings are closed.
HOLES = 1.5
#: A thing whose lowest points (this share of them may be strays) are farther than this above the support hangs [m].
LOWEST, HANGING = 0.01, 0.015
#: Particles are at most so many times as far apart as the Gaussians of the skin.
COARSEST = 8.0
#: They are not closer together than this share of that distance, and at least this share of them is used.
FINEST, FULL = 0.4, 0.8
#: The support is seen where Gaussians lie in its plane: in cells of this size [m], over gaps of so many cells.
PIECE, FOOT_GAP = 0.02, 3
#: Nothing on a support is taller [m], and fainter Gaussians are nothing.
TALLEST, OPAQUE = 0.6, 0.15
#: Cells of a skin are at most so many; a larger object is refused (it is not on a table).
CELLS = 8_000_000
#: Where the volume of a heap is measured: blur in spacings, empty cells round it.
BLUR, BORDER = 0.75, 8


def fill_skin(
    skin: np.ndarray, particles: int, *, hanging: float = HANGING
) -> tuple[np.ndarray, float]:
    """Fill the space between a skin and the support with a grid of at most `particles` points.

    Under every place where the skin is seen from above everything down to z = 0 is solid, so bowls stay open and
    handles become walls. What hangs above the support is filled down to its own lowest point.

    Args:
        skin: (n, 3) Gaussians of the object, the support at z = 0 [m].
        hanging: what begins higher than this hangs [m].

    Returns:
        (m, 3) points and their spacing [m]; each stands for a cube with this side.

    Raises:
        InputError: nothing of it is above the support, or it is too large.
    """
    skin = skin[skin[:, 2] > 0]
    if len(skin) < 4:
        raise InputError(
            f"only {len(skin)} of the chosen Gaussians are above the support; is its normal right?"
        )
    gap = float(np.median(nearest_distance(skin)))
    base = float(np.quantile(skin[:, 2], LOWEST)) - gap / 2
    if base > hanging:
        skin = skin[skin[:, 2] > base] - [0.0, 0.0, base]
    else:
        base = 0.0
    extent = np.maximum(np.ptp(skin, axis=0), gap)
    spacing, best = float((np.prod(extent) / particles) ** (1 / 3)), None
    for _ in range(12):
        spacing = max(spacing, FINEST * gap)
        points = _solid(skin, spacing, gap)
        share = len(points) / particles
        if share <= 1 and (best is None or spacing < best[1]):
            best = points, spacing
        if FULL <= share <= 1 or (share < 1 and spacing <= FINEST * gap):
            break
        spacing *= float(np.clip((share / (0.5 + 0.5 * FULL)) ** (1 / 3), 0.5, 2.0))
    if best is not None and best[1] <= COARSEST * gap:
        best[0][:, 2] += base
        return best
    raise InputError(
        f"the object spans {np.ptp(skin, axis=0).round(3).tolist()} m, too much for {particles} particles; allow more, "
        "or choose one object without strays"
    )


def nearest_distance(points: np.ndarray) -> np.ndarray:
    """(n,) distance of every point to its nearest other one [m]."""
    tensor = torch.from_numpy(points)
    found: np.ndarray = nearest_points(tensor, tensor, 2).distance[:, 1].numpy()
    return found


def filled_volume(points: np.ndarray, spacing: float) -> float:
    """Space [m^3] that a heap of particles (n, 3) on the support z = 0 fills, each a cube of side `spacing` [m].

    It is full where their density, blurred and mirrored in the support, is above half. The cells are a third of a
    spacing wide, wider where the particles have flown so far apart that there would be too many.
    """
    side = spacing / 3
    while True:
        low = np.floor(points.min(0) / side).astype(int) - BORDER
        low[2] = 0
        size = np.floor(points.max(0) / side).astype(int) + BORDER + 1 - low
        if float(np.prod(size.astype(float))) <= CELLS:
            break
        side *= 2
    cells = np.floor(points / side).astype(int) - low
    density = np.zeros(tuple(size))
    np.add.at(density, tuple(np.maximum(cells, 0).T), (spacing / side) ** 3)
    blurred = ndimage.gaussian_filter(
        density, BLUR * spacing / side, mode=("constant", "constant", "reflect"), truncate=3
    )
    return float((blurred > 0.5).sum() * side**3)


def _solid(skin: np.ndarray, spacing: float, gap: float) -> np.ndarray:
    """(m, 3) middles of the cells between the skin and the support."""
    reach = int(np.ceil(HOLES * gap / spacing))
    low = np.floor(skin[:, :2].min(0) / spacing).astype(int) - reach - 1
    high = np.floor(skin[:, :2].max(0) / spacing).astype(int) + reach + 2
    tall = int(np.floor(skin[:, 2].max() / spacing)) + 1
    if float(np.prod((high - low).astype(float))) * tall > CELLS:
        raise InputError(
            f"the object spans {np.ptp(skin, axis=0).round(2).tolist()} m, too much for particles {spacing:.4f} m "
            "apart; choose one object"
        )
    top = np.zeros(tuple(high - low), int)
    cells = np.floor(skin / spacing).astype(int)
    np.maximum.at(top, tuple((cells[:, :2] - low).T), cells[:, 2] + 1)
    top = ndimage.grey_closing(top, footprint=_disc(reach), mode="constant", cval=0)
    column, row = np.nonzero(top)
    heights = top[column, row]
    z = np.arange(heights.sum()) - np.repeat(np.cumsum(heights) - heights, heights)
    flat = np.repeat(np.stack([column, row], 1) + low, heights, axis=0)
    middles: np.ndarray = (np.concatenate([flat, z[:, None]], 1) + 0.5) * spacing
    return middles


def _disc(radius: int) -> np.ndarray:
    x, y = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc: np.ndarray = x * x + y * y <= radius * radius
    return disc


@dataclass(frozen=True, kw_only=True, eq=False)
class SkinBinding:
    """Which particles (n, K) every Gaussian follows, with weights (n, K) that add up to 1.

    offsets: (n, K, 3) from the particle to the Gaussian at time 0 [m].
    """

    index: Tensor
    weights: Tensor
    offsets: Tensor


def bind_skin(means: Tensor, rest: Tensor, count: int) -> SkinBinding:
    """Bind Gaussians (n, 3) to the `count` nearest particles (m, 3) at time 0."""
    near = nearest_points(means, rest, min(count, len(rest)))
    weights = distance_weights(near, reach=torch.inf)
    return SkinBinding(
        index=near.index,
        weights=weights / weights.sum(-1, keepdim=True),
        offsets=means.double()[:, None] - rest.double()[near.index],
    )


def deform_scene(
    scene: GaussianScene, binding: SkinBinding, positions: Tensor, deformations: Tensor
) -> GaussianScene:
    """The bound Gaussians after their particles went to `positions` (m, 3) with gradients F (m, 3, 3).

    A Gaussian goes where its particles' neighbourhoods take it; its covariance S becomes F S F^T; colours turn with
    the rotation in F.
    """
    F = deformations.double()[binding.index]
    weights = binding.weights[..., None]
    moved = positions.double()[binding.index] + (F @ binding.offsets[..., None])[..., 0]
    means = (weights * moved).sum(1)
    U, stretch, Vh = torch.linalg.svd((weights[..., None] * F).sum(1))
    sign = torch.linalg.det(U @ Vh).sign()
    U = torch.cat([U[..., :2], U[..., 2:] * sign[:, None, None]], -1)
    F = U @ torch.diag_embed(stretch.clamp(1 / STRETCH, STRETCH)) @ Vh
    axes = quat_wxyz_to_matrix(scene.quats_wxyz.double()) * scene.scales.double()[:, None]
    turn, scales, _ = torch.linalg.svd(F @ axes)
    flip = torch.linalg.det(turn).sign()
    turn = torch.cat([turn[..., :2], turn[..., 2:] * flip[:, None, None]], -1)
    like = scene.means
    return replace(
        scene,
        means=means.to(like),
        quats_wxyz=matrix_to_quat_wxyz(turn).to(like),
        log_scales=scales.clamp_min(1e-9).log().to(like),
        sh=rotate_sh(scene.sh, U @ Vh),
    )


def above_support(
    scene: GaussianScene, plane: Plane, *, near: Tensor | None = None, opacity: float = OPAQUE
) -> Tensor:
    """(N,) bool: everything that stands on the support, which is one connected piece of the plane.

    Args:
        near: (3,) a place over the piece that is meant; None for the largest piece.

    Raises:
        InputError: no Gaussians lie in the plane.
    """
    means = scene.means.detach().cpu().double().numpy()
    height = plane.height(means)
    seen = (scene.opacities > opacity).cpu().numpy()
    foot = means[(np.abs(height) <= plane.band) & seen]
    if len(foot) == 0:
        raise InputError(f"no Gaussians lie within {plane.band} m of the support plane")
    frame = SupportFrame.of(plane, torch.from_numpy(foot))
    flat = np.floor(frame.inward(means)[:, :2] / PIECE).astype(int)
    floor = np.floor(frame.inward(foot)[:, :2] / PIECE).astype(int)
    low = floor.min(0) - FOOT_GAP - 1
    size = floor.max(0) - low + FOOT_GAP + 2
    if float(np.prod(size.astype(float))) > CELLS:
        raise InputError("the support plane is too large; choose objects one by one")
    grid = np.zeros(tuple(size), bool)
    grid[tuple((floor - low).T)] = True
    grid = ndimage.binary_fill_holes(ndimage.binary_closing(grid, _disc(FOOT_GAP)))
    piece = _piece(grid, None if near is None else frame.inward(near.double().numpy()), low)
    cell = np.clip(flat - low, 0, size - 1)
    over = piece[tuple(cell.T)] & (cell == flat - low).all(1)
    return torch.from_numpy((height > plane.band) & (height < TALLEST) & over & seen)


def _piece(grid: np.ndarray, near: np.ndarray | None, low: np.ndarray) -> np.ndarray:
    """The connected part of grid under `near`, or the largest."""
    pieces, count = ndimage.label(grid)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    chosen = int(sizes.argmax())
    if near is not None:
        cells = np.argwhere(grid)
        wanted = near[:2] / PIECE - low - 0.5
        chosen = int(pieces[tuple(cells[((cells - wanted) ** 2).sum(1).argmin()])])
    found: np.ndarray = pieces == chosen
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class SupportFrame:
    """Axes in which the support is z = 0 and up is +z: p = R q + origin."""

    R: np.ndarray
    origin: np.ndarray

    @classmethod
    def of(cls, plane: Plane, points: Tensor) -> SupportFrame:
        """Axes of `plane`, the origin under the middle of points (n, 3)."""
        normal = np.asarray(plane.normal, np.float64)
        length = np.linalg.norm(normal)
        if not abs(length - 1) < 1e-3:
            raise InputError(f"the support's normal has length {length:.3g}, expected 1")
        up = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
        R = smallest_rotation(up, torch.from_numpy(normal)[None])[0].numpy()
        middle = points.double().mean(0).numpy()
        return cls(R=R, origin=middle - (middle @ normal - plane.offset) * normal)

    def inward(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the scene in these axes."""
        moved: np.ndarray = (points - self.origin) @ self.R
        return moved

    def outward(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in these axes, in the scene."""
        moved: np.ndarray = points @ self.R.T + self.origin
        return moved

    def turn_outward(self, F: np.ndarray) -> np.ndarray:
        """Deformation gradients (..., 3, 3) in these axes, in the scene."""
        turned: np.ndarray = self.R @ F @ self.R.T
        return turned
