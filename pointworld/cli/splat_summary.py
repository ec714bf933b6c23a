"""The keys that every `pointworld splat` command prints with --json, and where they come from."""

from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Of held-out frames, as `splat fit` measured them: PSNR [dB], SSIM, depth L1 [m].
QUALITY = ("psnr", "ssim", "depth_l1_m")


def held_out_quality(scene: Path) -> dict[str, float | None]:
    """What `splat fit` measured for a scene, its folder or its file; all None where nothing was held out or is known.

    Commands that do not change what the scene looks like hand it on in their own run.json.
    """
    run = (scene if scene.is_dir() else scene.parent) / "run.json"
    record = json.loads(run.read_text()) if run.is_file() else {}
    found = record.get("report") or record.get("summary") or {}
    return {name: found.get(name) for name in QUALITY}


def stable_summary(
    *,
    quality: Mapping[str, float | None] | None,
    gaussians: int,
    seconds: float,
    out: Path,
    **about: Any,
) -> dict[str, Any]:
    """One JSON object: the keys that all commands share, then what the command is about.

    Args:
        quality: of `held_out_quality`; None where the command changed the scene, so that it does not hold any more.
    """
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        **{name: None if quality is None else _number(quality.get(name)) for name in QUALITY},
        "gaussians": gaussians,
        "seconds": round(seconds, 2),
        "peak_memory_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1),
        "out": str(out),
        **about,
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def without_nan(scores: Mapping[str, float]) -> dict[str, float | None]:
    """The same numbers with None for what JSON cannot hold."""
    return {name: _number(value) for name, value in scores.items()}
