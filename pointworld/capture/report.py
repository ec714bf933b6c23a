"""What the doctor found, for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.capture.residuals import PairResidual


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong. kind: depth_scale, inverted_poses, swapped_axes, focal_length,
    color_alignment, unexplained or no_overlap. message: for people. estimate: the value that would fit."""

    kind: str
    message: str
    estimate: float | None = None


@dataclass(frozen=True, kw_only=True)
class CaptureReport:
    """Result of `diagnose`.

    verdict: "good", "bad" (findings say why) or "unknown" (nothing to compare).
    geometric_residual: median over neighbouring pairs of the median |z - depth| [m]. relative_residual: the
    same divided by depth. photometric_residual: median over pairs of the mean colour difference (0-255).
    depth_range: 1st and 99th percentile [m]. median_depth: [m]. valid_share: pixels that carry depth.
    holes: valid pixels missing inside the area the depth sensor covers, as a share of that area.
    All residuals are None when no pair overlaps.
    """

    source: str
    format: str
    frames: int
    image_size: tuple[int, int]
    verdict: str
    findings: tuple[Finding, ...]
    geometric_residual: float | None
    relative_residual: float | None
    photometric_residual: float | None
    depth_range: tuple[float, float] | None
    median_depth: float | None
    valid_share: float
    holes: float
    pairs: tuple[PairResidual, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`; NaN becomes null."""
        return {
            "source": self.source,
            "format": self.format,
            "frames": self.frames,
            "image_size": list(self.image_size),
            "verdict": self.verdict,
            "findings": [
                {"kind": f.kind, "message": f.message, "estimate": f.estimate}
                for f in self.findings
            ],
            "geometric_residual_m": self.geometric_residual,
            "relative_residual": self.relative_residual,
            "photometric_residual": self.photometric_residual,
            "depth_range_m": None if self.depth_range is None else list(self.depth_range),
            "median_depth_m": self.median_depth,
            "valid_share": self.valid_share,
            "holes": self.holes,
            "pairs": [
                {
                    "first": p.first,
                    "second": p.second,
                    "geometric_m": _or_none(p.geometric),
                    "relative": _or_none(p.relative),
                    "photometric": _or_none(p.photometric),
                    "overlap": p.overlap,
                }
                for p in self.pairs
            ],
        }


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
