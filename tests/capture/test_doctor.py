"""The doctor's residuals against a plain loop, and its verdicts on injected mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pointworld.capture import diagnose, list_capture, pair_residual
from pointworld.capture.doctor import find_mistakes
from pointworld.capture.listing import DepthSensor, FrameEntry, load_frame
from pointworld.geometry import invert
from pointworld.types import Capture, RGBDFrame
from tests.capture.synthetic import make_capture, render

FrameEdit = Callable[[RGBDFrame], RGBDFrame]
EntryEdit = Callable[[FrameEntry], FrameEntry]


def scaled_focal(factor: float) -> FrameEdit:
    return lambda f: replace(f, K=f.K * np.array([[factor, factor, 1], [1, factor, 1], [1, 1, 1]]))


def scaled_depth(factor: float) -> FrameEdit:
    return lambda f: replace(f, depth=f.depth * np.float32(factor))


def turned_cameras(turn: np.ndarray) -> FrameEdit:
    return lambda f: replace(f, T_world_cam=f.T_world_cam @ turn)


def inverted_pose(f: RGBDFrame) -> RGBDFrame:
    return replace(f, T_world_cam=invert(f.T_world_cam))


OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
SWAPPED_XY = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
CYCLIC = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def synthetic() -> Capture:
    return make_capture(8)


def kinds(capture: Capture) -> list[str]:
    depths = np.concatenate([frame.depth[frame.valid] for frame in capture.frames])
    return [f.kind for f in find_mistakes(capture, median_depth=float(np.median(depths)))]


def edited(capture: Capture, edit: FrameEdit) -> Capture:
    return replace(capture, frames=tuple(edit(frame) for frame in capture.frames))


def test_residual_is_the_one_defined(synthetic: Capture) -> None:
    a, b = synthetic.frames[0], synthetic.frames[1]
    a = replace(a, valid=a.valid & (np.random.default_rng(0).random(a.valid.shape) < 0.1))
    errors, shades, landed = [], [], 0
    for v, u in zip(*np.nonzero(a.valid), strict=True):
        z = float(a.depth[v, u])
        ray = np.linalg.solve(a.K, [u + 0.5, v + 0.5, 1.0])
        p = np.linalg.inv(b.T_world_cam) @ a.T_world_cam @ [*(ray * z), 1.0]
        if p[2] <= 0:
            continue
        x, y, _ = b.K @ (p[:3] / p[2])
        if not (0 <= x < b.width and 0 <= y < b.height) or not b.valid[int(y), int(x)]:
            continue
        landed += 1
        met = float(b.depth[int(y), int(x)])
        errors.append(abs(p[2] - met))
        if errors[-1] < 0.02 * met:
            shades.append(np.abs(a.rgb[v, u].astype(float) - b.rgb[int(y), int(x)]).mean())
    ours = pair_residual(a, b)
    assert ours.geometric == pytest.approx(np.median(errors), rel=1e-6)
    assert ours.photometric == pytest.approx(np.mean(shades), rel=1e-6)
    assert ours.overlap == pytest.approx(landed / a.valid.sum())


def test_a_good_capture_is_good(synthetic: Capture) -> None:
    report = diagnose(synthetic)
    assert report.verdict == "good" and report.findings == ()
    assert report.geometric_residual is not None and report.geometric_residual < 0.003
    assert len(report.pairs) == 7 and report.frames == 8
    assert report.valid_share == pytest.approx(0.97, abs=0.01)
    assert diagnose(synthetic).as_json() == report.as_json()


@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (scaled_focal(1.1), "focal_length"),
        (scaled_focal(0.9), "focal_length"),
        (inverted_pose, "inverted_poses"),
        (turned_cameras(OPENGL), "swapped_axes"),
        (turned_cameras(SWAPPED_XY), "swapped_axes"),
        (turned_cameras(CYCLIC), "swapped_axes"),
        (scaled_depth(0.1), "depth_scale"),
        (scaled_depth(5.0), "depth_scale"),
        (scaled_depth(1000.0), "depth_scale"),
        (scaled_depth(0.001), "depth_scale"),
    ],
)
def test_the_first_finding_names_the_mistake(
    synthetic: Capture, edit: FrameEdit, kind: str
) -> None:
    assert kinds(edited(synthetic, edit))[:1] == [kind]


@pytest.mark.parametrize(("offset", "focal"), [(0.04, 1.0), (0.025, 0.85), (0.0, 1.15)])
def test_depth_not_moved_into_the_colour_camera(
    synthetic: Capture, offset: float, focal: float
) -> None:
    """Colour comes from a camera beside the depth camera, and nobody registered depth to it."""
    T_depth_color = np.eye(4)
    T_depth_color[0, 3] = offset

    def seen_from_beside(frame: RGBDFrame) -> RGBDFrame:
        K = scaled_focal(focal)(frame).K
        rgb, _ = render(K, frame.T_world_cam @ T_depth_color, (frame.height, frame.width))
        return replace(frame, rgb=rgb)

    assert "color_alignment" in kinds(edited(synthetic, seen_from_beside))


def test_wrong_poses_without_a_name_are_bad_too(
    synthetic: Capture, rng: np.random.Generator
) -> None:
    def shaken(frame: RGBDFrame) -> RGBDFrame:
        T = frame.T_world_cam.copy()
        T[:3, 3] += rng.normal(0, 0.15, 3)
        return replace(frame, T_world_cam=T)

    assert diagnose(edited(synthetic, shaken)).verdict == "bad"


def test_nothing_to_compare(synthetic: Capture) -> None:
    one = replace(synthetic, frames=synthetic.frames[:1])
    assert diagnose(one).verdict == "unknown"
    assert [f.kind for f in diagnose(edited(one, scaled_depth(1000.0))).findings] == ["depth_scale"]
    blind = edited(synthetic, lambda f: replace(f, valid=np.zeros_like(f.valid)))
    assert diagnose(blind).verdict == "bad"


def _as_identity(entry: FrameEntry) -> FrameEntry:
    """apc_shelf with the depth-to-colour transform left out."""
    assert entry.sensor is not None
    return replace(entry, sensor=DepthSensor(K=entry.sensor.K, T_color_depth=np.eye(4)))


def _unregistered(entry: FrameEntry) -> FrameEntry:
    """kitchen_table with depth taken as if it were registered to colour."""
    assert entry.sensor is not None
    return replace(entry, sensor=None, K=entry.sensor.K)


def _load(shared: Path, name: str, frames: range, edit: EntryEdit | None = None) -> Capture:
    entries = [list_capture(shared / "captures" / name).entries[i] for i in frames]
    if edit is not None:
        entries = [edit(entry) for entry in entries]
    return Capture(frames=tuple(load_frame(entry) for entry in entries), source=name)


@pytest.mark.needs_shared
def test_twenty_of_twenty_injected_mistakes_in_real_captures(shared_dir: Path) -> None:
    windows = (
        ("apc_shelf", range(0, 15), _as_identity),
        ("apc_shelf", range(0, 9), _as_identity),
        ("kitchen_table", range(0, 120, 12), _unregistered),
        ("kitchen_table", range(60, 70), _unregistered),
    )
    edits: tuple[tuple[str, tuple[FrameEdit, ...]], ...] = (
        (
            "focal_length",
            (scaled_focal(1.1), scaled_focal(0.9), scaled_focal(0.9), scaled_focal(1.1)),
        ),
        ("inverted_poses", (inverted_pose,) * 4),
        ("swapped_axes", tuple(turned_cameras(t) for t in (OPENGL, SWAPPED_XY, CYCLIC, OPENGL))),
        ("depth_scale", tuple(scaled_depth(s) for s in (10.0, 0.1, 5.0, 0.2))),
    )
    missed = []
    for index, (name, frames, unregister) in enumerate(windows):
        good = _load(shared_dir, name, frames)
        assert kinds(good) == [], f"{name} {frames} is calibrated"
        cases = [(kind, edited(good, each[index])) for kind, each in edits]
        cases.append(("color_alignment", _load(shared_dir, name, frames, unregister)))
        missed += [(kind, name, frames) for kind, capture in cases if kind not in kinds(capture)]
    assert missed == []
