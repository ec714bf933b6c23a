"""Makes tests/golden/world_model.npz: one whole released-mode prediction, from images and points to metres.

Independent of the package: nothing of `pointworld` is imported. Everything is float64 NumPy, one point, token or voxel
at a time where the product is vectorised, written from the description of the release. Run it from the repository:

    python tests/golden/make_world_model_golden.py

See world_model.SOURCE.md for the seed, the tolerance and how it was checked against the public reference.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20260311
GRID = 0.015
THRESHOLD = 0.003
STEPS = 11
PATCH = 64
WIDTH, HEIGHT, CELL = 320, 180, 16
ARCH: dict[str, Any] = {
    "name": "golden",
    "in_channels": 16,
    "enc_depths": [4, 2, 1],
    "enc_channels": [16, 16, 32],
    "enc_heads": [2, 4, 4],
    "dec_depths": [2, 1],
    "dec_channels": [16, 16],
    "dec_heads": [4, 2],
    "patch_size": PATCH,
}
DOMAINS = ["behavior", "droid"]
ROW = 1
ENCODER_WIDTH, ENCODER_LAYERS = 8, 4
EPS = 1e-5

Weights = dict[str, np.ndarray]


# ---- elementary layers
def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def layer_norm(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + EPS) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def normalise(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    return (x - mean) / np.sqrt(np.maximum(var, 1e-6))


# ---- image features
def encode(image: np.ndarray, w: Weights) -> np.ndarray:
    """Tokens (rows, columns, layers * width) of a uint8 image: tanh of a linear map per layer, one shared LayerNorm."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rows, columns = HEIGHT // CELL, WIDTH // CELL
    out = np.zeros((rows, columns, ENCODER_LAYERS * ENCODER_WIDTH))
    for i in range(rows):
        for j in range(columns):
            patch = image[i * CELL : (i + 1) * CELL, j * CELL : (j + 1) * CELL].astype(np.float64)
            flat = np.moveaxis((patch / 255.0 - mean) / std, -1, 0).reshape(-1)
            parts = []
            for layer in range(ENCODER_LAYERS):
                state = np.tanh(linear(flat, w, f"encoder.layer{layer}"))
                parts.append(layer_norm(state, w, "encoder.norm"))
            out[i, j] = np.concatenate(parts)
    return out


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Value at column x, row y, samples at integers, zero outside."""
    x0, y0 = math.floor(x), math.floor(y)
    total = np.zeros(image.shape[2:])
    for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for xx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= yy < image.shape[0] and 0 <= xx < image.shape[1]:
                total = total + wx * wy * image[yy, xx]
    return total


def image_features(
    points: np.ndarray, cameras: list[dict[str, Any]], w: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """Average over the cameras that see a point; also how many do."""
    rows, columns = HEIGHT // CELL, WIDTH // CELL
    grids = [encode(camera["rgb"], w) for camera in cameras]
    features = np.zeros((len(points), ENCODER_LAYERS * ENCODER_WIDTH))
    counts = np.zeros(len(points), dtype=np.int64)
    for n, point in enumerate(points):
        for camera, grid in zip(cameras, grids, strict=True):
            pixel = camera["K"] @ (camera["T"][:3, :3] @ point + camera["T"][:3, 3])
            z = pixel[2]
            if not camera["exists"] or abs(z) <= 1e-6 or z <= 0:
                continue
            u, v = pixel[0] / z, pixel[1] / z
            if not (0 <= u < WIDTH and 0 <= v < HEIGHT):
                continue
            depth = float(bilinear(camera["depth"], u, v))
            margins = (abs(z - depth - THRESHOLD), abs(z - depth + 0.5 * THRESHOLD))
            assert min(margins) > 2e-6, "a point on the edge of visibility: change the seed"
            if not depth - 0.5 * THRESHOLD <= z <= depth + THRESHOLD:
                continue
            if not (u < columns * CELL and v < rows * CELL):
                continue
            x = min(max(min(u, columns * CELL - 1) / CELL - 0.5, 0), columns - 1)
            y = min(max(min(v, rows * CELL - 1) / CELL - 0.5, 0), rows - 1)
            features[n] += bilinear(grid, x, y)
            counts[n] += 1
        features[n] /= max(counts[n], 1)
    return features, counts


# ---- frame and thinning
def voxel_choice(points: np.ndarray) -> list[int]:
    """One point per voxel floor(p / grid), the nearest to the voxel's centre, sorted by voxel."""
    best: dict[tuple[int, ...], tuple[float, int]] = {}
    for n, point in enumerate(points):
        scaled = point / GRID
        assert np.abs(scaled - np.round(scaled)).min() > 1e-4, (
            "a point on a voxel face: change the seed"
        )
        cell = tuple(math.floor(c) for c in scaled)
        distance = float(((scaled - np.floor(scaled) - 0.5) ** 2).sum())
        if cell not in best or distance < best[cell][0]:
            best[cell] = (distance, n)
    return [best[cell][1] for cell in sorted(best)]


def thin(points: np.ndarray, robot: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
    """Centre, box, voxels, centre: the shift of the frame, kept scene points and kept robot points."""
    shift = np.concatenate([points, robot[0]]).mean(0)
    inside = [n for n in range(len(points)) if (np.abs(points[n] - shift) < 3.0).all()]
    kept = [inside[i] for i in voxel_choice(points[inside] - shift)]
    robot_kept = voxel_choice(robot[0] - shift)
    second = np.concatenate([points[kept] - shift, robot[0, robot_kept] - shift]).mean(0)
    return shift + second, kept, robot_kept


# ---- raw features
def difference(x: np.ndarray) -> np.ndarray:
    """Per step: forward at the first, central inside, backward at the last."""
    out = np.zeros_like(x)
    for t in range(len(x)):
        if t == 0:
            out[t] = x[1] - x[0]
        elif t == len(x) - 1:
            out[t] = x[t] - x[t - 1]
        else:
            out[t] = (x[t + 1] - x[t - 1]) / 2
    return out


def robot_raw(positions: np.ndarray, normals: np.ndarray, grip: np.ndarray) -> np.ndarray:
    velocity = difference(positions)
    acceleration = difference(velocity)
    rows = []
    for t in range(STEPS):
        for m in range(positions.shape[1]):
            rows.append(
                np.concatenate(
                    [
                        positions[t, m],
                        [1, 0, 1],
                        normals[t, m],
                        grip[t],
                        velocity[t, m],
                        acceleration[t, m],
                    ]
                )
            )
    return np.array(rows).reshape(STEPS, positions.shape[1], -1)


def scene_raw(
    points: np.ndarray, colors: np.ndarray, normals: np.ndarray, robot: np.ndarray, grip: np.ndarray
) -> np.ndarray:
    rows = []
    for n, point in enumerate(points):
        nearest = [min(math.dist(point, r) for r in robot[t]) for t in range(STEPS)]
        rows.append(np.concatenate([point, colors[n], normals[n], grip.reshape(-1), nearest]))
    return np.array(rows)


# ---- backbone
def interleave(x: int, y: int, z: int, depth: int) -> int:
    code = 0
    for bit in range(depth):
        code |= (
            ((x >> bit & 1) << (3 * bit + 2))
            | ((y >> bit & 1) << (3 * bit + 1))
            | ((z >> bit & 1) << 3 * bit)
        )
    return code


def hilbert(x: int, y: int, z: int, depth: int) -> int:
    """Skilling's transform, axes in the order x, y, z, most significant bit first."""
    axes = [x, y, z]
    for bit in range(depth - 1, -1, -1):
        low = (1 << bit) - 1
        for axis in range(3):
            if axes[axis] >> bit & 1:
                axes[0] ^= low
            else:
                swap = (axes[0] ^ axes[axis]) & low
                axes[0] ^= swap
                axes[axis] ^= swap
    gray, code = interleave(*axes, depth), 0
    running = 0
    for bit in range(3 * depth - 1, -1, -1):
        running ^= gray >> bit & 1
        code |= running << bit
    return code


def orders_of(grid: list[tuple[int, int, int]]) -> list[list[int]]:
    """Token order along z, transposed z, Hilbert and transposed Hilbert; ties keep their order."""
    depth = (max(max(cell) for cell in grid) + 1).bit_length()
    curves = (
        lambda x, y, z: interleave(x, y, z, depth),
        lambda x, y, z: interleave(y, x, z, depth),
        lambda x, y, z: hilbert(x, y, z, depth),
        lambda x, y, z: hilbert(y, x, z, depth),
    )
    return [sorted(range(len(grid)), key=lambda i, f=curve: f(*grid[i])) for curve in curves]


def convolution(
    x: np.ndarray, grid: list[tuple[int, int, int]], w: Weights, name: str
) -> np.ndarray:
    """3x3x3 on occupied voxels; of tokens that share one, the last is its winner (the CUDA kernel's rule)."""
    weight, winner = w[f"{name}.weight"], {}
    for i, cell in enumerate(grid):
        winner[cell] = i
    out = np.tile(w[f"{name}.bias"], (len(grid), 1)).astype(np.float64)
    for i, (cx, cy, cz) in enumerate(grid):
        for kx in range(3):
            for ky in range(3):
                for kz in range(3):
                    tap = (kx * 3 + ky) * 3 + kz
                    if tap == 13:
                        source = i
                    else:
                        source = winner.get((cx + kx - 1, cy + ky - 1, cz + kz - 1), -1)
                        if source < 0 or (tap > 13 and winner[cx, cy, cz] != i):
                            continue
                    out[i] += weight[:, kx, ky, kz, :] @ x[source]
    return out


def attention(x: np.ndarray, order: list[int], heads: int, w: Weights, name: str) -> np.ndarray:
    count, channels = x.shape
    size = channels // heads
    qkv = linear(x, w, f"{name}.qkv").reshape(count, 3, heads, size)
    out = np.zeros((count, channels))
    for start in range(0, count, PATCH):
        queries = order[start : start + PATCH]
        keys = (
            order[:] if count <= PATCH else (queries if len(queries) == PATCH else order[-PATCH:])
        )
        for head in range(heads):
            q, k, v = qkv[queries, 0, head], qkv[keys, 1, head], qkv[keys, 2, head]
            score = q @ k.T / math.sqrt(size)
            score = np.exp(score - score.max(-1, keepdims=True))
            out[queries, head * size : (head + 1) * size] = score / score.sum(-1, keepdims=True) @ v
    return linear(out, w, f"{name}.proj")


def block(
    x: np.ndarray,
    grid: list[tuple[int, int, int]],
    order: list[int],
    heads: int,
    w: Weights,
    name: str,
) -> np.ndarray:
    x = x + layer_norm(
        linear(convolution(x, grid, w, f"{name}.cpe.0"), w, f"{name}.cpe.1"), w, f"{name}.cpe.2"
    )
    x = x + attention(layer_norm(x, w, f"{name}.norm1.0"), order, heads, w, f"{name}.attn")
    hidden = gelu(linear(layer_norm(x, w, f"{name}.norm2.0"), w, f"{name}.mlp.0.fc1"))
    return x + linear(hidden, w, f"{name}.mlp.0.fc2")


def backbone(features: np.ndarray, coords: np.ndarray, w: Weights) -> np.ndarray:
    scaled = (coords - coords.min(0)) / float(np.float32(GRID))
    fraction = np.abs(scaled - np.round(scaled))
    assert fraction[scaled > 0].min() > 2e-5, "a token on a voxel face: change the seed"
    grid = [tuple(int(c) for c in row) for row in scaled]
    x = gelu(layer_norm(linear(features, w, "embedding.stem.linear"), w, "embedding.stem.norm"))
    levels: list[dict[str, Any]] = []
    for stage, (depth, heads) in enumerate(zip(ARCH["enc_depths"], ARCH["enc_heads"], strict=True)):
        if stage:
            parents = [(a // 2, b // 2, c // 2) for a, b, c in grid]
            cells = sorted(set(parents))
            place = {cell: i for i, cell in enumerate(cells)}
            projected = linear(x, w, f"enc.enc{stage}.down.proj")
            pooled = np.full((len(cells), projected.shape[1]), -np.inf)
            for i, parent in enumerate(parents):
                pooled[place[parent]] = np.maximum(pooled[place[parent]], projected[i])
            levels[-1]["cluster"] = [place[parent] for parent in parents]
            x, grid = gelu(layer_norm(pooled, w, f"enc.enc{stage}.down.norm.0")), cells
        orders = orders_of(grid)
        for i in range(depth):
            x = block(x, grid, orders[i % 4], heads, w, f"enc.enc{stage}.block{i}")
        levels.append({"x": x, "grid": grid, "orders": orders})
    for stage in range(len(ARCH["dec_depths"]) - 1, -1, -1):
        level, name = levels[stage], f"dec.dec{stage}.up"
        skip = gelu(
            layer_norm(linear(level["x"], w, f"{name}.proj_skip.0"), w, f"{name}.proj_skip.1")
        )
        below = gelu(layer_norm(linear(x, w, f"{name}.proj.0"), w, f"{name}.proj.1"))
        x = skip + below[level["cluster"]]
        for i in range(ARCH["dec_depths"][stage]):
            order = level["orders"][i % 4]
            x = block(
                x, level["grid"], order, ARCH["dec_heads"][stage], w, f"dec.dec{stage}.block{i}"
            )
    return x


def sub(w: Weights, prefix: str) -> Weights:
    return {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}


# ---- whole model
def time_codes(w: Weights) -> np.ndarray:
    c = ARCH["in_channels"]
    codes = []
    for t in w["time_steps"]:
        periods = [4e-3 * 1000.0 ** (k / (c // 2 - 1)) for k in range(c // 2)]
        angles = [2 * math.pi * float(t) / p for p in periods]
        codes.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    hidden = linear(np.array(codes), w, "time_embed.mlp.0")
    return linear(hidden / (1 + np.exp(-hidden)), w, "time_embed.mlp.2")


def predict(data: dict[str, Any], w: Weights) -> dict[str, np.ndarray]:
    shift, kept, robot_kept = thin(data["points"], data["robot_positions"])
    points = data["points"][kept] - shift
    robot = data["robot_positions"][:, robot_kept] - shift
    grip = data["gripper_open"]
    features, counts = image_features(data["points"][kept], data["cameras"], w)
    raw_scene = scene_raw(points, data["colors"][kept], data["normals"][kept], robot, grip)
    raw_robot = robot_raw(robot, data["robot_normals"][:, robot_kept], grip)
    norm_scene = normalise(raw_scene, w["scene_norm_mean"][ROW], w["scene_norm_var"][ROW])
    norm_robot = normalise(raw_robot, w["robot_norm_mean"][ROW], w["robot_norm_var"][ROW])
    p = "scene_feature_encoder"
    tokens = linear(
        np.concatenate(
            [
                layer_norm(
                    linear(features, w, f"{p}.scene_encoder.feat_proj"),
                    w,
                    f"{p}.scene_encoder_norm",
                ),
                layer_norm(
                    linear(norm_scene, w, f"{p}.scene_raw_feat_proj"), w, f"{p}.scene_raw_norm"
                ),
            ],
            -1,
        ),
        w,
        f"{p}.scene_proj",
    )
    robot_tokens = linear(gelu(linear(norm_robot, w, "robot_proj.fc1")), w, "robot_proj.fc2")
    robot_tokens = robot_tokens + time_codes(w)[:, None] + w["robot_type_emb"]
    d = sub(w, "dynamics_predictor.")
    out = backbone(
        np.concatenate([tokens, robot_tokens.reshape(-1, tokens.shape[1])]),
        np.concatenate([points, robot.reshape(-1, 3)]),
        sub(d, "predictor_model."),
    )
    hidden = out[: len(points)] + tokens * d["skip_film_gamma"][0, 0] + d["skip_film_beta"][0, 0]
    summary = out[len(points) :].max(0)
    hidden = hidden + summary * d["robot_film_gamma"][0, 0] + d["robot_film_beta"][0, 0]

    def head(name: str, size: int) -> np.ndarray:
        x = linear(gelu(linear(hidden, d, f"{name}.0.fc1")), d, f"{name}.0.fc2")
        steps = linear(x, d, f"{name}.1").reshape(len(points), STEPS - 1, size).transpose(1, 0, 2)
        return np.concatenate([np.zeros((1, len(points), size)), steps])

    pred, log_var = head("dynamics_head", 3), head("log_var_head", 1)
    scale = np.sqrt(np.maximum(w["norm_stats_per_step_var"][ROW], 1e-6))[:, None]
    displacements = pred * scale + w["norm_stats_per_step_mean"][ROW][:, None]
    displacements[0] = 0
    return {
        "shift": shift,
        "kept": np.array(kept),
        "robot_kept": np.array(robot_kept),
        "features": features,
        "view_count": counts,
        "scene_raw": raw_scene,
        "robot_raw": raw_robot,
        "scene_tokens": tokens,
        "robot_tokens": robot_tokens,
        "pred_norm": pred,
        "log_var": log_var,
        "displacements": displacements,
    }


# ---- inputs, weights
def make_inputs(rng: np.random.Generator) -> dict[str, Any]:
    """A table, a box on it and a shelf end seen by one camera; a second camera does not exist."""
    K = np.array([[210.0, 0, 159.3], [0, 211.0, 88.7], [0, 0, 1]])
    eye, target = np.array([0.15, -0.55, 0.6]), np.array([0.55, 0.02, 0.0])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, -R @ eye

    def cast(u: float, v: float) -> np.ndarray:
        ray = R.T @ np.linalg.inv(K) @ np.array([u, v, 1.0])
        best = -eye[2] / ray[2] if ray[2] < 0 else 50.0
        low, high = np.array([0.5, -0.02, 0.0]), np.array([0.62, 0.1, 0.09])
        near = np.max(np.minimum((low - eye) / ray, (high - eye) / ray))
        far = np.min(np.maximum((low - eye) / ray, (high - eye) / ray))
        return eye + ray * (near if 0 < near < far and near < best else best)

    depth = np.zeros((HEIGHT, WIDTH))
    for v in range(HEIGHT):
        for u in range(WIDTH):
            z = float((R @ (cast(u, v) - eye))[2])
            depth[v, u] = np.floor(z * 1000) / 1000 if 0.1 < z < 3.0 else 0.0
    depth[40:52, 100:130] = 0.0
    depth = depth.astype(np.float32)
    coarse = rng.integers(0, 256, (HEIGHT // 12, WIDTH // 16, 3)).astype(np.uint8)
    rgb = coarse.repeat(12, 0).repeat(16, 1)
    spread = [cast(*rng.uniform([2, 60], [318, 179])) for _ in range(110)]
    # In front of and behind the surface, on both sides of both visibility thresholds.
    for n, offset in enumerate((-0.004, -0.0022, -0.0008, 0.0018, 0.0026, 0.005) * 8):
        ray = (spread[n] - eye) / np.linalg.norm(spread[n] - eye)
        spread[n] = spread[n] + offset * ray
    dense = [cast(*rng.uniform([150, 80], [185, 110])) for _ in range(110)]
    hidden = [np.array([0.56, 0.04, 0.04]) + rng.normal(0, 0.02, 3) for _ in range(12)]
    outside = [np.array([0.4, -1.2, 0.1]) + rng.normal(0, 0.05, 3) for _ in range(6)]
    far = [np.array([0.5, 3.6, 0.2]), np.array([4.1, 0.2, 0.1])]
    points = np.array([*spread, *dense, *hidden, *outside, *far])
    points[:, :2] = np.where(
        np.abs(points[:, :2]) > 5, rng.uniform(0, 0.5, points[:, :2].shape), points[:, :2]
    )
    base = rng.uniform([-0.03, -0.04, 0], [0.03, 0.04, 0.07], (60, 3))
    path = np.array([0.45, -0.12, 0.1]) + np.maximum(np.arange(STEPS) - 2, 0)[:, None] * np.array(
        [0.012, 0.017, -0.004]
    )
    robot = base[None] + path[:, None]

    def unit(shape: tuple[int, ...]) -> np.ndarray:
        x = rng.normal(size=shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    grip = np.zeros((STEPS, 2))
    grip[:5, 0] = 1.0
    absent = {
        "rgb": np.zeros_like(rgb),
        "depth": np.zeros_like(depth),
        "K": K,
        "T": np.eye(4),
        "exists": False,
    }
    return {
        "points": points.astype(np.float32).astype(np.float64),
        "colors": (rng.integers(0, 256, points.shape) / 255.0)
        .astype(np.float32)
        .astype(np.float64),
        "normals": unit(points.shape).astype(np.float32).astype(np.float64),
        "robot_positions": robot.astype(np.float32).astype(np.float64),
        "robot_normals": np.broadcast_to(unit(base.shape), robot.shape)
        .astype(np.float32)
        .astype(np.float64),
        "gripper_open": grip,
        "cameras": [
            {"rgb": rgb, "depth": depth.astype(np.float64), "K": K, "T": T, "exists": True},
            absent,
        ],
    }


def weight_shapes() -> dict[str, tuple[int, ...]]:
    c, image = ARCH["in_channels"], ENCODER_LAYERS * ENCODER_WIDTH
    shapes: dict[str, tuple[int, ...]] = {"robot_type_emb": (1, c), "time_steps": (STEPS,)}
    for name, width in (("robot_norm", 17), ("scene_norm", 42)):
        shapes[f"{name}_mean"] = shapes[f"{name}_var"] = (len(DOMAINS), width)
    shapes["norm_stats_per_step_mean"] = shapes["norm_stats_per_step_var"] = (
        len(DOMAINS),
        STEPS,
        3,
    )

    def affine(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    affine("robot_proj.fc1", c, 17)
    affine("robot_proj.fc2", c, c)
    affine("time_embed.mlp.0", c, c)
    affine("time_embed.mlp.2", c, c)
    p = "scene_feature_encoder"
    affine(f"{p}.scene_encoder.feat_proj", c, image)
    affine(f"{p}.scene_raw_feat_proj", c, 42)
    norm(f"{p}.scene_encoder_norm", c)
    norm(f"{p}.scene_raw_norm", c)
    affine(f"{p}.scene_proj", c, 2 * c)
    d = "dynamics_predictor"
    for name in ("skip_film_gamma", "skip_film_beta", "robot_film_gamma", "robot_film_beta"):
        shapes[f"{d}.{name}"] = (1, 1, c)
    for name, out in (("dynamics_head", 30), ("log_var_head", 10)):
        affine(f"{d}.{name}.0.fc1", 128, c)
        affine(f"{d}.{name}.0.fc2", 128, 128)
        affine(f"{d}.{name}.1", out, 128)
    q = f"{d}.predictor_model"
    enc, dec = ARCH["enc_channels"], ARCH["dec_channels"]
    affine(f"{q}.embedding.stem.linear", enc[0], c)
    norm(f"{q}.embedding.stem.norm", enc[0])
    blocks = [
        (f"enc.enc{s}.block{i}", enc[s])
        for s in range(len(enc))
        for i in range(ARCH["enc_depths"][s])
    ]
    blocks += [
        (f"dec.dec{s}.block{i}", dec[s])
        for s in range(len(dec))
        for i in range(ARCH["dec_depths"][s])
    ]
    for name, k in blocks:
        b = f"{q}.{name}"
        shapes[f"{b}.cpe.0.weight"], shapes[f"{b}.cpe.0.bias"] = (k, 3, 3, 3, k), (k,)
        affine(f"{b}.cpe.1", k, k)
        affine(f"{b}.attn.qkv", 3 * k, k)
        affine(f"{b}.attn.proj", k, k)
        affine(f"{b}.mlp.0.fc1", 4 * k, k)
        affine(f"{b}.mlp.0.fc2", k, 4 * k)
        for part in ("cpe.2", "norm1.0", "norm2.0"):
            norm(f"{b}.{part}", k)
    for s in range(1, len(enc)):
        affine(f"{q}.enc.enc{s}.down.proj", enc[s], enc[s - 1])
        norm(f"{q}.enc.enc{s}.down.norm.0", enc[s])
    for s in range(len(dec)):
        below = dec[s + 1] if s + 1 < len(dec) else enc[-1]
        affine(f"{q}.dec.dec{s}.up.proj.0", dec[s], below)
        norm(f"{q}.dec.dec{s}.up.proj.1", dec[s])
        affine(f"{q}.dec.dec{s}.up.proj_skip.0", dec[s], enc[s])
        norm(f"{q}.dec.dec{s}.up.proj_skip.1", dec[s])
    for layer in range(ENCODER_LAYERS):
        affine(f"encoder.layer{layer}", ENCODER_WIDTH, 3 * CELL * CELL)
    norm("encoder.norm", ENCODER_WIDTH)
    return shapes


def make_weights(rng: np.random.Generator) -> Weights:
    weights = {}
    for name, shape in weight_shapes().items():
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
        value = rng.normal(size=shape) / math.sqrt(max(fan, 1))
        if name.endswith("_var"):
            value = rng.uniform(0.2, 2.0, shape) * (1e-3 if name.startswith("norm_stats") else 0.3)
        elif name.endswith("_mean"):
            value = 0.05 * rng.normal(size=shape)
        elif (
            "gamma" in name
            or ("norm" in name and name.endswith("weight"))
            or (".up." in name and len(shape) == 1)
        ):
            value = 1.0 + 0.2 * rng.normal(size=shape)
        elif name == "time_steps":
            value = np.linspace(0, 1, STEPS)
        weights[name] = value.astype(np.float32)
    weights["norm_stats_per_step_mean"][:, 0] = 0.0
    weights["robot_norm_var"][ROW, 4] = 0.0
    return weights


def main() -> None:
    for seed in range(SEED, SEED + 100):
        rng = np.random.default_rng(seed)
        data, stored = make_inputs(rng), make_weights(rng)
        try:
            result = predict(
                data, {name: value.astype(np.float64) for name, value in stored.items()}
            )
        except AssertionError:
            continue  # A number lies on a decision boundary, where float32 may decide otherwise.
        break
    arrays: dict[str, np.ndarray] = {f"w/{name}": value for name, value in stored.items()}
    for name, value in data.items():
        if name == "cameras":
            for i, camera in enumerate(value):
                arrays[f"in/cam{i}/rgb"] = camera["rgb"]
                arrays[f"in/cam{i}/depth"] = camera["depth"].astype(np.float32)
                arrays[f"in/cam{i}/K"], arrays[f"in/cam{i}/T_cam_base"] = camera["K"], camera["T"]
                arrays[f"in/cam{i}/exists"] = np.array(camera["exists"])
        else:
            arrays[f"in/{name}"] = value.astype(np.float32)
    arrays.update({f"out/{name}": value for name, value in result.items()})
    meta = {
        "arch": ARCH,
        "domains": DOMAINS,
        "row": ROW,
        "grid_size": GRID,
        "depth_threshold": THRESHOLD,
        "seed": seed,
    }
    arrays["meta_json"] = np.array(json.dumps(meta))
    np.savez_compressed(Path(__file__).with_name("world_model.npz"), **arrays)


if __name__ == "__main__":
    main()
