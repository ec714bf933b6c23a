"""Numba kernels: projection of Gaussians and its gradient. Plain loops over Gaussians; the caller splits the range.

Same formulas as `splat.raster.projection`, gradient written by hand.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


@njit(cache=True, nogil=True, inline="always")
def _rotation(w, x, y, z):  # type: ignore[no-untyped-def]
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@njit(cache=True, nogil=True)
def project_range(  # type: ignore[no-untyped-def]
    first,
    last,
    means,
    quats,
    scales,
    opacities,
    viewmat,
    camera,
    limits,
    means2d,
    depths,
    conics,
    radii,
):
    """Fill means2d (N, 2), depths (N,), conics (N, 3), radii (N, 2) for Gaussians first..last-1; radius 0 = culled.

    camera: fx, fy, cx, cy, width, height, near, far. limits: eps2d, extent, alpha_min, jacobian margin.
    """
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    width, height, near, far = camera[4], camera[5], camera[6], camera[7]
    eps2d, extent, alpha_min, margin = limits[0], limits[1], limits[2], limits[3]
    half, one, two = means.dtype.type(0.5), means.dtype.type(1), means.dtype.type(2)
    left = -(cx / fx + margin * half * width / fx)
    right = (width - cx) / fx + margin * half * width / fx
    top = -(cy / fy + margin * half * height / fy)
    bottom = (height - cy) / fy + margin * half * height / fy
    A = np.empty((3, 3), means.dtype)
    for i in range(first, last):
        radii[i, 0] = 0
        radii[i, 1] = 0
        m0, m1, m2 = means[i, 0], means[i, 1], means[i, 2]
        x = viewmat[0, 0] * m0 + viewmat[0, 1] * m1 + viewmat[0, 2] * m2 + viewmat[0, 3]
        y = viewmat[1, 0] * m0 + viewmat[1, 1] * m1 + viewmat[1, 2] * m2 + viewmat[1, 3]
        z = viewmat[2, 0] * m0 + viewmat[2, 1] * m1 + viewmat[2, 2] * m2 + viewmat[2, 3]
        depths[i] = z
        if not (z >= near and z <= far) or not opacities[i] >= alpha_min:
            continue
        qw, qx, qy, qz = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        length = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        if not length > 0:
            continue
        scale = one / length
        Q = _rotation(qw * scale, qx * scale, qy * scale, qz * scale)
        for r in range(3):
            for k in range(3):
                total = viewmat[r, 0] * Q[0][k] + viewmat[r, 1] * Q[1][k] + viewmat[r, 2] * Q[2][k]
                A[r, k] = total * scales[i, k]
        u, v = x / z, y / z
        cu, cv = min(max(u, left), right), min(max(v, top), bottom)
        j00, j02, j11, j12 = fx / z, -fx * cu / z, fy / z, -fy * cv / z
        a, b, c = eps2d, means.dtype.type(0), eps2d
        for k in range(3):
            b0 = j00 * A[0, k] + j02 * A[2, k]
            b1 = j11 * A[1, k] + j12 * A[2, k]
            a += b0 * b0
            b += b0 * b1
            c += b1 * b1
        det = a * c - b * b
        if not det > 0:
            continue
        px, py = fx * u + cx, fy * v + cy
        reach = min(extent, math.sqrt(two * math.log(opacities[i] / alpha_min)))
        rx, ry = math.ceil(reach * math.sqrt(a)), math.ceil(reach * math.sqrt(c))
        if rx <= 0 or ry <= 0:
            continue
        if not (px + rx > 0 and px - rx < width and py + ry > 0 and py - ry < height):
            continue
        means2d[i, 0], means2d[i, 1] = px, py
        conics[i, 0], conics[i, 1], conics[i, 2] = c / det, -b / det, a / det
        radii[i, 0], radii[i, 1] = rx, ry


@njit(cache=True, nogil=True)
def project_backward_range(  # type: ignore[no-untyped-def]
    first,
    last,
    means,
    quats,
    scales,
    viewmat,
    camera,
    limits,
    conics,
    radii,
    g_means2d,
    g_depths,
    g_conics,
    g_means,
    g_quats,
    g_scales,
    g_viewmat,
):
    """Add the gradients of Gaussians first..last-1 to g_means, g_quats, g_scales and g_viewmat."""
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    width, height = camera[4], camera[5]
    margin = limits[3]
    half, one, two = means.dtype.type(0.5), means.dtype.type(1), means.dtype.type(2)
    left = -(cx / fx + margin * half * width / fx)
    right = (width - cx) / fx + margin * half * width / fx
    top = -(cy / fy + margin * half * height / fy)
    bottom = (height - cy) / fy + margin * half * height / fy
    A = np.empty((3, 3), means.dtype)
    RQ = np.empty((3, 3), means.dtype)
    gA = np.empty((3, 3), means.dtype)
    gQ = np.empty((3, 3), means.dtype)
    for i in range(first, last):
        if radii[i, 0] <= 0:
            continue
        m0, m1, m2 = means[i, 0], means[i, 1], means[i, 2]
        x = viewmat[0, 0] * m0 + viewmat[0, 1] * m1 + viewmat[0, 2] * m2 + viewmat[0, 3]
        y = viewmat[1, 0] * m0 + viewmat[1, 1] * m1 + viewmat[1, 2] * m2 + viewmat[1, 3]
        z = viewmat[2, 0] * m0 + viewmat[2, 1] * m1 + viewmat[2, 2] * m2 + viewmat[2, 3]
        qw, qx, qy, qz = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        norm = one / math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        qw, qx, qy, qz = qw * norm, qx * norm, qy * norm, qz * norm
        Q = _rotation(qw, qx, qy, qz)
        for r in range(3):
            for k in range(3):
                RQ[r, k] = (
                    viewmat[r, 0] * Q[0][k] + viewmat[r, 1] * Q[1][k] + viewmat[r, 2] * Q[2][k]
                )
                A[r, k] = RQ[r, k] * scales[i, k]
        u, v = x / z, y / z
        cu, cv = min(max(u, left), right), min(max(v, top), bottom)
        j00, j02, j11, j12 = fx / z, -fx * cu / z, fy / z, -fy * cv / z
        # d cov = -conic d conic^-1 conic, with conic = (k0 k1; k1 k2).
        k0, k1, k2 = conics[i, 0], conics[i, 1], conics[i, 2]
        h0, h1, h2 = g_conics[i, 0], half * g_conics[i, 1], g_conics[i, 2]
        s00, s01 = k0 * h0 + k1 * h1, k0 * h1 + k1 * h2
        s10, s11 = k1 * h0 + k2 * h1, k1 * h1 + k2 * h2
        c00 = -(s00 * k0 + s01 * k1)
        c01 = -(s00 * k1 + s01 * k2)
        c11 = -(s10 * k1 + s11 * k2)
        gj00 = gj02 = gj11 = gj12 = means.dtype.type(0)
        for k in range(3):
            b0 = j00 * A[0, k] + j02 * A[2, k]
            b1 = j11 * A[1, k] + j12 * A[2, k]
            gb0 = two * (c00 * b0 + c01 * b1)
            gb1 = two * (c01 * b0 + c11 * b1)
            gj00 += gb0 * A[0, k]
            gj02 += gb0 * A[2, k]
            gj11 += gb1 * A[1, k]
            gj12 += gb1 * A[2, k]
            gA[0, k] = j00 * gb0
            gA[1, k] = j11 * gb1
            gA[2, k] = j02 * gb0 + j12 * gb1
        gx = g_means2d[i, 0] * fx / z
        gy = g_means2d[i, 1] * fy / z
        gz = g_depths[i] - (g_means2d[i, 0] * fx * u + g_means2d[i, 1] * fy * v) / z
        gz += (-gj00 * fx - gj11 * fy + gj02 * fx * cu + gj12 * fy * cv) / (z * z)
        gu, gv = -gj02 * fx / z, -gj12 * fy / z
        if left < u < right:
            gx += gu / z
            gz -= gu * u / z
        if top < v < bottom:
            gy += gv / z
            gz -= gv * v / z
        g_means[i, 0] += viewmat[0, 0] * gx + viewmat[1, 0] * gy + viewmat[2, 0] * gz
        g_means[i, 1] += viewmat[0, 1] * gx + viewmat[1, 1] * gy + viewmat[2, 1] * gz
        g_means[i, 2] += viewmat[0, 2] * gx + viewmat[1, 2] * gy + viewmat[2, 2] * gz
        for r in range(3):
            gp = gx if r == 0 else (gy if r == 1 else gz)
            g_viewmat[r, 0] += gp * m0
            g_viewmat[r, 1] += gp * m1
            g_viewmat[r, 2] += gp * m2
            g_viewmat[r, 3] += gp
            for k in range(3):
                for c in range(3):
                    g_viewmat[r, c] += gA[r, k] * Q[c][k] * scales[i, k]
        for k in range(3):
            g_scales[i, k] += gA[0, k] * RQ[0, k] + gA[1, k] * RQ[1, k] + gA[2, k] * RQ[2, k]
            for r in range(3):
                total = (
                    viewmat[0, r] * gA[0, k] + viewmat[1, r] * gA[1, k] + viewmat[2, r] * gA[2, k]
                )
                gQ[r, k] = total * scales[i, k]
        gw = two * (
            qx * (gQ[2, 1] - gQ[1, 2]) + qy * (gQ[0, 2] - gQ[2, 0]) + qz * (gQ[1, 0] - gQ[0, 1])
        )
        gqx = two * (
            -two * qx * (gQ[1, 1] + gQ[2, 2])
            + qy * (gQ[1, 0] + gQ[0, 1])
            + qz * (gQ[2, 0] + gQ[0, 2])
            + qw * (gQ[2, 1] - gQ[1, 2])
        )
        gqy = two * (
            qx * (gQ[1, 0] + gQ[0, 1])
            - two * qy * (gQ[0, 0] + gQ[2, 2])
            + qz * (gQ[2, 1] + gQ[1, 2])
            + qw * (gQ[0, 2] - gQ[2, 0])
        )
        gqz = two * (
            qx * (gQ[2, 0] + gQ[0, 2])
            + qy * (gQ[2, 1] + gQ[1, 2])
            - two * qz * (gQ[0, 0] + gQ[1, 1])
            + qw * (gQ[1, 0] - gQ[0, 1])
        )
        along = gw * qw + gqx * qx + gqy * qy + gqz * qz
        g_quats[i, 0] += (gw - along * qw) * norm
        g_quats[i, 1] += (gqx - along * qx) * norm
        g_quats[i, 2] += (gqy - along * qy) * norm
        g_quats[i, 3] += (gqz - along * qz) * norm
