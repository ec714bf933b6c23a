"""Judge a capture's calibration: residuals between neighbouring views, and the likely mistake when they are bad.

The verdict does not rest on one threshold: depth noise differs between sensors by a factor of ten. It asks
whether a known kind of mistake, undone, would make the views agree clearly better (see `hypotheses`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np

from pointworld.capture.depth import MAX_MEDIAN_DEPTH, MIN_MEDIAN_DEPTH
from pointworld.capture.hypotheses import Cost, Hypothesis, PairSamples, sample_pairs
from pointworld.capture.report import CaptureReport, Finding
from pointworld.capture.residuals import neighbour_residuals
from pointworld.geometry import invert
from pointworld.types import Capture

# A fitted value nearer to the given one than this is agreement; calibrated captures stay within a third of it.
FOCAL_TOLERANCE = 0.065
SCALE_TOLERANCE = 0.10
# Shift of colour against depth, as a share of the image width, that counts; the smaller one when the gain is large.
ALIGNMENT_SHARE = 0.03
CLEAR_ALIGNMENT_SHARE = 0.01
# Drop of the cost (sums of logarithms) that counts as "clearly better".
POSE_GAIN = 0.25
FOCAL_GAIN = 0.01
DEPTH_GAIN = 0.1
ALIGNMENT_GAIN = 0.15
CLEAR_ALIGNMENT_GAIN = 0.25
TEXTURE_CONTRAST = 0.05
UNEXPLAINED_RELATIVE = 0.03
LEAST_OVERLAP = 0.05

_FOCALS = tuple(np.exp(np.linspace(np.log(0.72), np.log(1.4), 17)))
_FINE_SCALES = tuple(np.exp(np.linspace(np.log(0.7), np.log(1.43), 15)))
_COARSE_SCALES = (
    1e-4,
    1e-3,
    0.01,
    0.0254,
    0.1,
    0.2,
    0.25,
    0.5,
    2.0,
    4.0,
    5.0,
    10.0,
    39.37,
    100.0,
    1e3,
    1e4,
)


def diagnose(
    capture: Capture, *, seed: int = 0, advance: Callable[[int], None] | None = None
) -> CaptureReport:
    """Measure the residuals of a capture and look for known mistakes in its calibration.

    Args:
        capture: at least one frame; with fewer than two the verdict is "unknown" unless depth is absurd.
        seed: of the sampling of pixels.
        advance: called with 1 after every pair of frames, for a progress bar.
    """
    pairs = neighbour_residuals(capture, advance=advance)
    median_depth, depth_range, valid_share, holes = _depth_statistics(capture)
    findings = find_mistakes(capture, median_depth=median_depth, seed=seed)
    comparable = any(pair.overlap > 0 for pair in pairs)
    verdict = "bad" if findings else ("good" if comparable else "unknown")
    return CaptureReport(
        source=capture.source,
        format=capture.format,
        frames=len(capture.frames),
        image_size=(capture.frames[0].width, capture.frames[0].height),
        verdict=verdict,
        findings=findings,
        geometric_residual=_median([pair.geometric for pair in pairs]),
        relative_residual=_median([pair.relative for pair in pairs]),
        photometric_residual=_median([pair.photometric for pair in pairs]),
        depth_range=depth_range,
        median_depth=median_depth,
        valid_share=valid_share,
        holes=holes,
        pairs=pairs,
    )


def find_mistakes(
    capture: Capture, *, median_depth: float | None, seed: int = 0
) -> tuple[Finding, ...]:
    """Known mistakes that explain disagreement between views, the most likely first; empty when there is none."""
    absurd = _absurd_depth(median_depth)
    samples = sample_pairs(capture, seed=seed)
    if samples is None:
        return absurd
    given = samples.cost(Hypothesis())
    structural = _structural(samples)
    if structural is not None:
        return (structural,)
    if absurd:
        return absurd
    if given.overlap < LEAST_OVERLAP:
        message = (
            f"neighbouring views share only {given.overlap:.1%} of their depth, under every reading of the "
            "poses tried: the calibration cannot be judged. Are these frames of one scene?"
        )
        return (Finding(kind="no_overlap", message=message),)
    found = [
        _focal(samples, given),
        _depth_focal(samples, given),
        _fine_scale(samples, given),
        _alignment(samples),
    ]
    present = [item for item in found if item is not None]
    findings = [finding for _, finding in sorted(present, key=lambda item: -item[0])]
    if not findings and given.geometric > UNEXPLAINED_RELATIVE:
        message = (
            f"neighbouring views disagree by {given.geometric:.1%} of the depth, and no known mistake explains "
            "it. Check the poses: are they of the same frames, in metres, and of the depth camera?"
        )
        findings.append(Finding(kind="unexplained", message=message))
    return tuple(findings)


def _absurd_depth(median: float | None) -> tuple[Finding, ...]:
    if median is None:
        return (Finding(kind="depth_scale", message="no frame carries any depth"),)
    if MIN_MEDIAN_DEPTH <= median <= MAX_MEDIAN_DEPTH:
        return ()
    factor = 0.001 if median > MAX_MEDIAN_DEPTH else 1000.0
    message = (
        f"the median depth is {median:.4g} m, expected {MIN_MEDIAN_DEPTH:g} to {MAX_MEDIAN_DEPTH:g} m: the depth "
        f"scale is wrong. Is the unit off by a factor of {factor:g}?"
    )
    return (Finding(kind="depth_scale", message=message, estimate=factor),)


def _structural(samples: PairSamples) -> Finding | None:
    """Poses read the wrong way, or depth in another unit: mistakes that leave hardly any agreement."""
    candidates = _pose_hypotheses()
    candidates += [(Hypothesis(depth_scale=s), _scale_finding(s)) for s in _COARSE_SCALES]
    samples = samples.thinned(4)
    given = samples.cost(Hypothesis())
    costs = [samples.cost(hypothesis).total for hypothesis, _ in candidates]
    best = int(np.argmin(costs))
    return candidates[best][1] if given.total - costs[best] > POSE_GAIN else None


def _pose_hypotheses() -> list[tuple[Hypothesis, Finding]]:
    inverted = Finding(
        kind="inverted_poses",
        message="the poses are inverted: they map world to camera. Give camera to world, or invert them.",
    )
    transposed = Finding(
        kind="inverted_poses",
        message="the rotations of the poses are transposed; the translations are not.",
    )
    found = [
        (Hypothesis(poses=invert), inverted),
        (Hypothesis(poses=_transpose_rotations), transposed),
    ]
    for axes, name in _camera_axes():
        message = (
            f"the camera axes are not OpenCV's (x right, y down, z forward): reading them as {name} makes the views "
            "agree. OpenGL and Blender poses need the y and z columns negated."
        )
        swapped = Finding(kind="swapped_axes", message=message)
        found.append((Hypothesis(poses=_rotate_cameras(axes)), swapped))
        both = Finding(kind="inverted_poses", message=f"the poses are inverted, and {message}")
        found.append((Hypothesis(poses=_rotate_cameras(axes, inverted=True)), both))
    return found


def _camera_axes() -> list[tuple[np.ndarray, str]]:
    """The 23 rotations, other than none, that map coordinate axes to coordinate axes, with a name each."""
    found = []
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        R = np.zeros((3, 3))
        R[list(order), range(3)] = signs
        if np.linalg.det(R) > 0 and not np.allclose(R, np.eye(3)):
            words = [("" if s > 0 else "-") + "xyz"[o] for o, s in zip(order, signs, strict=True)]
            found.append((R, f"({', '.join(words)})"))
    return found


def _rotate_cameras(R: np.ndarray, *, inverted: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    turn = np.eye(4)
    turn[:3, :3] = R

    def poses(Ts_world_cam: np.ndarray) -> np.ndarray:
        return (invert(Ts_world_cam) if inverted else Ts_world_cam) @ turn

    return poses


def _transpose_rotations(Ts_world_cam: np.ndarray) -> np.ndarray:
    swapped = Ts_world_cam.copy()
    swapped[:, :3, :3] = Ts_world_cam[:, :3, :3].swapaxes(-1, -2)
    return swapped


def _focal(samples: PairSamples, given: Cost) -> tuple[float, Finding] | None:
    """Another focal length for depth and colour together; colours decide where there is texture."""
    costs = [samples.cost(Hypothesis(focal=f)) for f in _FOCALS]
    shades = [cost.log_photometric for cost in costs]
    textured = min(shades[0], shades[-1]) - min(shades) > TEXTURE_CONTRAST
    values = shades if textured else [cost.total for cost in costs]
    factor, gain = _best(_FOCALS, values, given.log_photometric if textured else given.total)
    if abs(np.log(factor)) < np.log1p(FOCAL_TOLERANCE) or gain < FOCAL_GAIN:
        return None
    return gain, _focal_finding(samples, factor, "the focal length")


def _depth_focal(samples: PairSamples, given: Cost) -> tuple[float, Finding] | None:
    """Another focal length for the depth sensor alone."""
    costs = [samples.cost(Hypothesis(focal=f, color_focal=1 / f)).total for f in _FOCALS]
    factor, gain = _best(_FOCALS, costs, given.total)
    if abs(np.log(factor)) < np.log1p(FOCAL_TOLERANCE) or gain < DEPTH_GAIN:
        return None
    return gain, _focal_finding(samples, factor, "the depth camera's focal length")


def _focal_finding(samples: PairSamples, factor: float, what: str) -> Finding:
    fx = float(samples.K[0, 0, 0])
    message = (
        f"{what} does not fit: the views agree best with {factor:.2f} times the given one (as if {fx * factor:.0f} px "
        f"instead of {fx:.0f} px). Is K of another image size or another camera?"
    )
    return Finding(kind="focal_length", message=message, estimate=factor)


def _fine_scale(samples: PairSamples, given: Cost) -> tuple[float, Finding] | None:
    costs = [samples.cost(Hypothesis(depth_scale=s)).total for s in _FINE_SCALES]
    factor, gain = _best(_FINE_SCALES, costs, given.total)
    if abs(np.log(factor)) < np.log1p(SCALE_TOLERANCE) or gain < DEPTH_GAIN:
        return None
    return gain, _scale_finding(factor)


def _scale_finding(factor: float) -> Finding:
    message = (
        f"the depth scale is wrong: depth and poses agree best with depth times {factor:.3g}. Check the metres per "
        "unit of the depth images, and that the poses are in metres."
    )
    return Finding(kind="depth_scale", message=message, estimate=float(factor))


def _alignment(samples: PairSamples) -> tuple[float, Finding] | None:
    """Look for a colour camera that sits, or is focused, elsewhere than the depth image claims."""
    samples = samples.thinned(2)
    given = samples.cost(Hypothesis())
    best, offset, focal = given.log_photometric, (0.0, 0.0, 0.0), 1.0
    shifts = np.linspace(-0.06, 0.06, 11)
    focals = np.exp(np.linspace(np.log(0.76), np.log(1.32), 7))

    def consider(x: float, y: float, factor: float) -> None:
        nonlocal best, offset, focal
        hypothesis = Hypothesis(color_offset=(x, y, 0.0), color_focal=factor)
        cost = samples.cost(hypothesis).log_photometric
        if cost < best:
            best, offset, focal = cost, (x, y, 0.0), factor

    for x, factor in product(shifts, focals):
        consider(float(x), 0.0, float(factor))
    for y in shifts:
        consider(offset[0], float(y), focal)
    for step in (0.006, 0.006, 0.003):
        for sign in (-1.0, 1.0):
            consider(offset[0] + sign * step, offset[1], focal)
            consider(offset[0], offset[1] + sign * step, focal)
            consider(offset[0], offset[1], focal * float(np.exp(sign * 8 * step)))
    gain = given.log_photometric - best
    fx, width = float(samples.K[0, 0, 0]), float(samples.sizes[0, 0])
    pixels = float(np.hypot(*offset[:2])) * fx / float(np.median(samples.depth))
    share = CLEAR_ALIGNMENT_SHARE if gain > CLEAR_ALIGNMENT_GAIN else ALIGNMENT_SHARE
    moved = pixels > share * width or abs(np.log(focal)) > np.log1p(FOCAL_TOLERANCE)
    if gain < ALIGNMENT_GAIN or not moved:
        return None
    message = (
        f"depth is not aligned to colour: views agree best with colour moved by {pixels:.0f} px (an offset of "
        f"{offset[0] * 1000:.0f}, {offset[1] * 1000:.0f} mm) and a colour focal length of {focal:.2f} times the "
        "given one. Is the depth-to-colour transform missing, or K of the other camera?"
    )
    return gain, Finding(kind="color_alignment", message=message, estimate=pixels)


def _best(factors: tuple[float, ...], costs: list[float], given: float) -> tuple[float, float]:
    """Minimum of a sampled cost over log factors, and the gain over the given cost.

    The minimum is that of a parabola through the five samples round the lowest one.
    """
    i = int(np.argmin(costs))
    logs = np.log(factors)
    near = slice(max(i - 2, 0), i + 3)
    bend, slope, _ = np.polyfit(logs[near] - logs[i], np.asarray(costs[near]), 2)
    step = float(np.clip(-slope / (2 * bend), -0.05, 0.05)) if bend > 1e-9 else 0.0
    return float(np.exp(logs[i] + step)), given - costs[i]


def _depth_statistics(
    capture: Capture,
) -> tuple[float | None, tuple[float, float] | None, float, float]:
    """Median, range, share of valid pixels, and share of holes inside the covered rectangle."""
    depths, valid_count, covered, missing, total = [], 0, 0, 0, 0
    for frame in capture.frames:
        count = int(frame.valid.sum())
        total += frame.valid.size
        valid_count += count
        if count == 0:
            continue
        rows, columns = np.flatnonzero(frame.valid.any(1)), np.flatnonzero(frame.valid.any(0))
        area = int((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1))
        covered, missing = covered + area, missing + area - count
        depths.append(frame.depth[frame.valid][:: max(1, count // 20_000)])
    if not depths:
        return None, None, 0.0, 1.0
    values = np.concatenate(depths)
    low, median, high = (float(v) for v in np.percentile(values, (1, 50, 99)))
    return median, (low, high), valid_count / total, missing / covered


def _median(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else None
