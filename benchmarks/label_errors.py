"""How right the labels of recordings are, and how much they cover: simulated recordings, whose truth is known.

Measured 2026-11-21 on 2 shared cores of an x86-64 server, Python 3.11, NumPy 2, MuJoCo with Mesa EGL, 320x180, 10 Hz.
Points and steps that move more than 5 mm: share labelled; median, mean, 95th percentile of the labels' error [mm];
share of labels wrong by more than 1 cm. Then the same share for points at rest. About 2-6 s of CPU per clip.

    --seed 900 --recordings 20                       44 %   0.7   1.7    6.9   0.9 %   98 %   (two rules fewer)
    --seed 901 --recordings 12                       23 %   0.8   3.7   21.4    12 %   99 %   (one rule fewer)
    --seed 902 --recordings 16                       35 %   1.7   5.8   21.6    23 %   98 %
    --seed 902 --recordings 10 --noise               42 %   2.7   6.0   19.7    20 %   97 %
    --seed 901 --recordings 4 --families tool        60 %   0.6   1.2    3.2   0.9 %   97 %   (one rule fewer)
    --seed 901 --recordings 5 --families articulated 41 %   0.7   1.4    6.8   1.0 %   93 %   (one rule fewer)
    --seed 901 --recordings 4 --families clutter     26 %   0.8   3.9   14.4    10 %   95 %

Run: python benchmarks/label_errors.py --recordings 12 [--noise] [--families tabletop]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pointworld.data import DatasetSpec, SensorConfig, TabletopConfig, dataset_generator
from pointworld.data.recordings import LabelConfig, label_moments
from pointworld.data.recordings.simulated import SimulatedRecording, simulate_recording
from pointworld.data.sample import point_pixels, true_positions
from pointworld.data.tabletop import TABLETOP_WORKSPACE
from pointworld.geometry import transform_points, unproject
from pointworld.types import RGBDFrame

WORKSPACE = ",".join(str(value) for bound in TABLETOP_WORKSPACE for value in bound)


def moments_of(recording: SimulatedRecording) -> list[tuple[RGBDFrame, ...]]:
    """Frames of every step."""
    steps: dict[float, list[RGBDFrame]] = {}
    for frame in recording.capture.frames:
        steps.setdefault(round(frame.timestamp, 6), []).append(frame)
    return [tuple(steps[t]) for t in sorted(steps)]


def truth_of(
    recording: SimulatedRecording, first: Sequence[RGBDFrame], points: np.ndarray
) -> np.ndarray:
    """(steps, points, 3) true displacement [m] of points that were measured on the first frames."""
    clip = recording.clip
    kept = [int(frame.camera[3:]) for frame in first]
    seen = replace(
        clip,
        views=tuple(
            replace(clip.views[k], depth=frame.depth, T_world_cam=frame.T_world_cam)
            for k, frame in zip(kept, first, strict=True)
        ),
    )
    views, pixels = point_pixels(seen, points)
    clean = np.stack(
        [
            transform_points(v.T_world_cam, unproject(v.depth, v.K).reshape(-1, 3))
            for v in (clip.views[k] for k in kept)
        ]
    )[views, pixels]
    segmentation = np.stack([clip.views[k].segmentation.reshape(-1) for k in kept])
    bodies = segmentation[views, pixels].astype(np.int64) - 1
    moved = true_positions(clip, clean, bodies)
    return moved - moved[:1]


def measure(recording: SimulatedRecording, robot: str) -> dict[str, np.ndarray]:
    """Errors of labels and where they are known, of one recording."""
    moments = moments_of(recording)
    times = np.array([m[0].timestamp for m in moments])
    clip = label_moments(
        moments,
        times,
        recording.joints.joint_positions,
        robot,
        LabelConfig(workspace=WORKSPACE),
        recording="benchmark",
        start=0.0,
    )
    true = truth_of(recording, moments[0], clip.points.astype(np.float64))
    found = clip.positions() - clip.positions()[:1]
    moved = np.linalg.norm(true, axis=-1)[1:]
    return {
        "error": np.linalg.norm(found - true, axis=-1)[1:],
        "known": clip.known[1:],
        "moves": moved > 0.005,
        "rests": np.broadcast_to(moved.max(0) < 1e-3, moved.shape),
    }


def summary(rows: Sequence[dict[str, np.ndarray]], group: str) -> dict[str, float]:
    """Coverage and error [mm] of the labels of a group of (step, point)."""
    error = np.concatenate([r["error"][r[group] & r["known"]] for r in rows]) * 1e3
    total = sum(int(r[group].sum()) for r in rows)
    return {
        "labelled": len(error) / max(total, 1),
        "median_mm": float(np.median(error)) if len(error) else -1.0,
        "mean_mm": float(error.mean()) if len(error) else -1.0,
        "p95_mm": float(np.percentile(error, 95)) if len(error) else -1.0,
        "above_1cm": float((error > 10).mean()) if len(error) else -1.0,
        "count": total,
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recordings", type=int, default=12)
    parser.add_argument("--seed", type=int, default=900)
    parser.add_argument("--families", nargs="+", default=["tabletop"])
    parser.add_argument("--noise", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "egl")
    torch.set_num_threads(1)
    spec = DatasetSpec(
        clips=args.recordings,
        seed=args.seed,
        tabletop=TabletopConfig(families=tuple(args.families)),
    )
    generator = dataset_generator(spec)
    sensor = SensorConfig(min_cameras=2) if args.noise else None
    rows, seconds = [], 0.0
    for index in range(args.recordings):
        recording = simulate_recording(generator, args.seed, index, sensor=sensor)
        start = time.process_time()
        rows.append(measure(recording, spec.robot))
        seconds += time.process_time() - start
        sys.stderr.write(f"{index} {recording.clip.family} {summary(rows[-1:], 'moves')}\n")
    result = {name: summary(rows, name) for name in ("moves", "rests")}
    print(json.dumps(result | {"cpu_seconds_per_clip": seconds / len(rows)}, indent=1))


if __name__ == "__main__":
    main()
