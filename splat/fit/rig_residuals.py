"""How far frames disagree under a rig, and how that changes with it: the inside of `splat.fit.rig_solve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from pointworld.geometry import invert
from splat.fit.rig import RIG, Rig
from splat.fit.views import FitView

Array = np.ndarray

#: Expected disagreement: brightness in 0-1, and depth as a share of the distance.
SIGMA_BRIGHTNESS, SIGMA_DEPTH = 0.05, 0.01
#: Neighbouring pixels err together: this share of the samples counts as independent.
INDEPENDENT = 0.05
#: Pairs with fewer common samples say nothing.
FEWEST = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Sampled points of the first frame of every pair, and the images they are compared with.

    pairs: (pairs, 2). points: (pairs, samples, 3) in the depth camera of the first [m]. viewmats: (frames, 4, 4).
    K: (3, 3). shades: (frames, height, width) in 0-1. depths: (frames, height, width), 0 = unknown [m].
    clear: (frames, height, width) where the scene is seen.
    """

    pairs: Array
    points: Array
    viewmats: Array
    K: Array
    shades: Array
    depths: Array
    clear: Array

    @staticmethod
    def of(
        views: Sequence[FitView], pairs: Array, samples: int, rng: np.random.Generator
    ) -> Problem:
        K = views[0].K.numpy().astype(np.float64)
        points = np.zeros((len(pairs), samples, 3))
        for row, (first, _) in enumerate(pairs):
            v, u = np.nonzero(views[first].valid.numpy())
            if not len(v):
                continue
            chosen = rng.integers(0, len(v), samples)
            z = views[first].depth.numpy()[v[chosen], u[chosen]].astype(np.float64)
            x = (u[chosen] + 0.5 - K[0, 2]) / K[0, 0] * z
            points[row] = np.stack([x, (v[chosen] + 0.5 - K[1, 2]) / K[1, 1] * z, z], -1)
        return Problem(
            pairs=pairs,
            points=points,
            viewmats=np.stack([v.viewmat.numpy().astype(np.float64) for v in views]),
            K=K,
            shades=np.stack([v.rgb.mean(-1).numpy() for v in views]).astype(np.float32),
            depths=np.stack([np.where(v.valid, v.depth, 0) for v in views]).astype(np.float32),
            clear=np.stack([v.shows_scene.numpy() for v in views]),
        )

    def blurred(self, sigma: float) -> Problem:
        """The same problem with smoother brightness."""
        return replace(self, shades=gaussian_filter(self.shades, (0, sigma, sigma)))

    def cost(self, rig: Rig, same: float) -> float:
        """Mean robust disagreement per sample that is seen by both frames."""
        total = count = 0.0
        for pair in range(len(self.pairs)):
            residuals = self._residuals(rig, pair, same)
            if residuals is not None:
                total += float(sum(np.log1p(r.value**2).sum() for r in residuals.terms))
                count += residuals.count
        return total / max(count, 1.0)

    def linearised(self, rig: Rig, same: float) -> tuple[float, Array, Array]:
        """Robust cost, Gauss-Newton matrix and gradient over all parameters (see `RIG`).

        Samples that no other frame sees cost as much as the mean of the others, so that looking away does not pay.
        """
        size = RIG + 6 * len(self.viewmats)
        hessian, gradient, total, seen = np.zeros((size, size)), np.zeros(size), 0.0, 0
        for pair, (i, j) in enumerate(self.pairs):
            residuals = self._residuals(rig, pair, same)
            if residuals is None:
                continue
            seen += residuals.count
            columns = np.concatenate(
                [np.arange(RIG), RIG + 6 * i + np.arange(6), RIG + 6 * j + np.arange(6)]
            )
            for term in residuals.terms:
                weight = 1 / (1 + term.value**2)
                total += 0.5 * float(np.log1p(term.value**2).sum())
                weighted = term.jacobian * weight[:, None]
                hessian[np.ix_(columns, columns)] += weighted.T @ term.jacobian
                gradient[columns] += weighted.T @ term.value
        scale = INDEPENDENT * self.points.shape[0] * self.points.shape[1] / max(seen, 1)
        return scale * total, scale * hessian, scale * gradient

    def _residuals(self, rig: Rig, pair: int, same: float) -> _Residuals | None:
        """Of one pair: brightness and depth, with derivatives for rig (13), first and second frame (6 each)."""
        i, j = self.pairs[pair]
        X = self.points[pair]
        T_i, T_j = (rig.depth_viewmat(self.viewmats[k], k) for k in (i, j))
        T_ji = T_j @ invert(T_i)
        Y = X @ T_ji[:3, :3].T + T_ji[:3, 3]
        height, width = self.depths.shape[1:]
        uv_depth = _project(Y, self.K, 1.0)
        near = (X[:, 2] > 0) & (Y[:, 2] > 0.05) & _inside(uv_depth, width, height)
        X, Y, uv_depth = X[near], Y[near], uv_depth[near]
        met, slope = _look_up(self.depths[j], uv_depth)
        E = rig.T_color_depth
        C_i, C_j = (P @ E[:3, :3].T + E[:3, 3] for P in (X, Y))
        uv_i, uv_j = (_project(P, self.K, rig.focal) for P in (C_i, C_j))
        kept = (np.abs(met - Y[:, 2]) < same * Y[:, 2]) & (np.abs(slope).max(1) < same * Y[:, 2])
        kept &= _inside(uv_i, width, height) & _inside(uv_j, width, height)
        kept &= (C_i[:, 2] > 0.05) & (C_j[:, 2] > 0.05)
        kept[kept] = _at(self.clear[j], uv_j[kept]) & _at(self.clear[i], uv_i[kept])
        if kept.sum() < FEWEST:
            return None
        X, Y, met, slope, C_i, C_j, uv_i, uv_j = (
            a[kept] for a in (X, Y, met, slope, C_i, C_j, uv_i, uv_j)
        )
        # How the second frame's point moves with either frame's own motion.
        by_j = _motion(Y)
        by_i = -np.einsum("ab,nbc->nac", T_ji[:3, :3], _motion(X))
        depth = self._depth_term(Y, met, slope, by_i, by_j)
        shade = self._shade_term(rig, (i, j), (C_i, C_j), (uv_i, uv_j), by_i, by_j)
        return _Residuals(terms=(depth, shade), count=int(kept.sum()))

    def _depth_term(self, Y: Array, met: Array, slope: Array, by_i: Array, by_j: Array) -> _Term:
        scale = 1 / (SIGMA_DEPTH * Y[:, 2])
        front = -np.einsum("na,nab->nb", slope, _projection_jacobian(Y, self.K, 1.0))
        front[:, 2] += 1
        d_i, d_j = (np.einsum("na,nab->nb", front * scale[:, None], by) for by in (by_i, by_j))
        rig = np.zeros((len(Y), RIG))
        rig[:, :6] = d_i + d_j
        return _Term(value=(Y[:, 2] - met) * scale, jacobian=np.concatenate([rig, d_i, d_j], 1))

    def _shade_term(
        self,
        rig: Rig,
        frames: tuple[int, int],
        points: tuple[Array, Array],
        uv: tuple[Array, Array],
        by_i: Array,
        by_j: Array,
    ) -> _Term:
        (shade_i, slope_i), (shade_j, slope_j) = (
            _look_up(self.shades[k], p) for k, p in zip(frames, uv, strict=True)
        )
        gain, bias = _exposure(shade_i, shade_j)
        value = (shade_j - gain * shade_i - bias) / SIGMA_BRIGHTNESS
        slope_i, slope_j = gain * slope_i / SIGMA_BRIGHTNESS, slope_j / SIGMA_BRIGHTNESS
        to_i, to_j = (
            np.einsum("na,nab->nb", s, _projection_jacobian(p, self.K, rig.focal))
            for s, p in zip((slope_i, slope_j), points, strict=True)
        )
        R = rig.T_color_depth[:3, :3]
        d_i, d_j = (np.einsum("na,ab,nbc->nc", to_j, R, by) for by in (by_i, by_j))
        columns = np.zeros((len(value), RIG))
        columns[:, :6] = d_i + d_j
        columns[:, 6:12] = np.einsum("na,nab->nb", to_j, _motion(points[1]))
        columns[:, 6:12] -= np.einsum("na,nab->nb", to_i, _motion(points[0]))
        centre = self.K[:2, 2]
        columns[:, 12] = (slope_j * (uv[1] - centre)).sum(1) - (slope_i * (uv[0] - centre)).sum(1)
        jacobian = np.concatenate([columns, d_i, d_j], 1)
        # The bias follows whatever brightens all samples alike.
        return _Term(value=value, jacobian=jacobian - jacobian.mean(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Term:
    """Residuals (n,) in standard deviations, and their derivatives (n, RIG + 12)."""

    value: Array
    jacobian: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class _Residuals:
    terms: tuple[_Term, _Term]
    count: int


def _project(points: Array, K: Array, focal: float) -> Array:
    z = np.maximum(points[:, 2:], 1e-6)
    return points[:, :2] / z * (focal * np.array([K[0, 0], K[1, 1]])) + K[:2, 2]


def _projection_jacobian(points: Array, K: Array, focal: float) -> Array:
    """(n, 2, 3) of pixels by point."""
    x, y, z = points.T
    jacobian = np.zeros((len(points), 2, 3))
    fx, fy = focal * K[0, 0], focal * K[1, 1]
    jacobian[:, 0, 0], jacobian[:, 1, 1] = fx / z, fy / z
    jacobian[:, 0, 2], jacobian[:, 1, 2] = -fx * x / z**2, -fy * y / z**2
    return jacobian


def _motion(points: Array) -> Array:
    """(n, 3, 6) of points by a small rotation and translation of their frame."""
    x, y, z = points.T
    jacobian = np.zeros((len(points), 3, 6))
    jacobian[:, 0, 1], jacobian[:, 0, 2] = z, -y
    jacobian[:, 1, 0], jacobian[:, 1, 2] = -z, x
    jacobian[:, 2, 0], jacobian[:, 2, 1] = y, -x
    jacobian[:, [0, 1, 2], [3, 4, 5]] = 1
    return jacobian


def _inside(uv: Array, width: int, height: int) -> Array:
    return (uv[:, 0] >= 1) & (uv[:, 0] < width - 1) & (uv[:, 1] >= 1) & (uv[:, 1] < height - 1)


def _at(image: Array, uv: Array) -> Array:
    return image[uv[:, 1].astype(np.int64), uv[:, 0].astype(np.int64)]


def _look_up(image: Array, uv: Array) -> tuple[Array, Array]:
    """Bilinear values (n,) and derivatives by pixel (n, 2) of an image (height, width)."""
    x, y = uv[:, 0] - 0.5, uv[:, 1] - 0.5
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - x0, y - y0
    a, b = image[y0, x0].astype(np.float64), image[y0, x0 + 1].astype(np.float64)
    c, d = image[y0 + 1, x0].astype(np.float64), image[y0 + 1, x0 + 1].astype(np.float64)
    top, bottom = a + fx * (b - a), c + fx * (d - c)
    across = (1 - fy) * (b - a) + fy * (d - c)
    return top + fy * (bottom - top), np.stack([across, bottom - top], 1)


def _exposure(first: Array, second: Array) -> tuple[float, float]:
    """Gain and bias that bring the first brightness to the second, from their medians and spreads."""
    middle, other = np.median(first), np.median(second)
    spread, wide = np.abs(first - middle).mean(), np.abs(second - other).mean()
    gain = float(np.clip(wide / max(spread, 1e-3), 0.5, 2.0))
    return gain, float(other - gain * middle)
