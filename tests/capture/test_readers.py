"""Every layout, written the way its own tools write it, comes back as the same capture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.capture import list_capture, neighbour_residuals, read_capture, write_capture
from pointworld.capture.text import natural_key
from pointworld.geometry import invert
from pointworld.types import Capture
from tests.capture import formats
from tests.capture.synthetic import intrinsics, look_at, make_capture, render


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_capture(5, noise=0.0)


@pytest.mark.parametrize(
    ("write", "name", "depth_step"),
    [
        (formats.write_seven_scenes, "7-scenes", 0.001),
        (formats.write_tum, "tum", 0.0002),
        (formats.write_redwood, "redwood", 0.001),
        (formats.write_nerfstudio, "nerfstudio", 0.001),
        (write_capture, "pointworld", 0.0001),
    ],
)
def test_formats_round_trip(
    capture: Capture,
    tmp_path: Path,
    write: Callable[[Capture, Path], None],
    name: str,
    depth_step: float,
) -> None:
    write(capture, tmp_path / "c")
    back = read_capture(tmp_path / "c")
    assert back.format == name and len(back.frames) == len(capture.frames)
    for ours, theirs in zip(capture.frames, back.frames, strict=True):
        np.testing.assert_allclose(theirs.K, ours.K, atol=1e-6)
        np.testing.assert_allclose(theirs.T_world_cam, ours.T_world_cam, atol=1e-7)
        np.testing.assert_array_equal(theirs.rgb, ours.rgb)
        np.testing.assert_array_equal(theirs.valid, ours.valid)
        assert np.abs(theirs.depth - ours.depth).max() <= 0.51 * depth_step


def test_scannet_registers_depth_reduces_colour_and_skips_lost_frames(
    capture: Capture, tmp_path: Path
) -> None:
    formats.write_scannet(capture, tmp_path / "c")
    back = read_capture(tmp_path / "c")
    assert [frame.name for frame in back.frames] == ["0", "2", "3", "4"]
    first, ours = back.frames[0], capture.frames[0]
    np.testing.assert_allclose(first.K, ours.K, atol=1e-6)
    np.testing.assert_array_equal(first.rgb, ours.rgb)
    # Same camera, so registration is the identity.
    np.testing.assert_array_equal(first.valid, ours.valid)
    assert np.abs(first.depth - ours.depth).max() <= 0.00051


def test_npy_depth_keeps_every_bit(capture: Capture, tmp_path: Path) -> None:
    write_capture(capture, tmp_path / "c", depth_format="npy")
    back = read_capture(tmp_path / "c")
    np.testing.assert_array_equal(back.frames[1].depth, capture.frames[1].depth)


def test_own_layout_keeps_base_joints_and_robot(capture: Capture, tmp_path: Path) -> None:
    T = look_at(np.array([1.0, 0, 1]), np.zeros(3))
    frames = tuple(replace(f, joint_positions=np.array([0.1, -0.2])) for f in capture.frames)
    full = replace(capture, frames=frames, T_world_base=T, joint_names=("a", "b"), robot="fr3")
    write_capture(full, tmp_path / "c")
    back = read_capture(tmp_path / "c")
    assert back.T_world_base is not None and back.frames[2].joint_positions is not None
    np.testing.assert_allclose(back.T_world_base, T)
    np.testing.assert_allclose(back.frames[2].joint_positions, [0.1, -0.2])
    assert back.joint_names == ("a", "b") and back.robot == "fr3"
    assert back.frames[3].timestamp == pytest.approx(0.3)


def test_only_the_wanted_frames_are_read(capture: Capture, tmp_path: Path) -> None:
    write_capture(capture, tmp_path / "c")
    (tmp_path / "c" / "frame-000001.color.png").write_bytes(b"broken")
    assert [f.name for f in read_capture(tmp_path / "c", frames=[3, 0]).frames] == [
        "frame-000003",
        "frame-000000",
    ]


def test_a_separate_depth_sensor_is_registered_on_load(tmp_path: Path) -> None:
    """Depth from a camera 30 mm to the left, wider and turned a little, at integer pixel centres."""
    K_color, K_depth = intrinsics(), intrinsics(200, 150, 140.0)
    turn = look_at(np.zeros(3), np.array([0.02, 1.0, 0.01]))[:3, :3]
    straight = look_at(np.zeros(3), np.array([0.0, 1.0, 0.0]))[:3, :3]
    T_color_depth = np.eye(4)
    T_color_depth[:3, :3] = straight.T @ turn
    T_color_depth[:3, 3] = [-0.03, 0.002, 0.001]
    T_world_color = look_at(np.array([0.1, -0.7, 0.5]), np.zeros(3))
    rgb, true = render(K_color, T_world_color, (120, 160))
    _, raw = render(K_depth, T_world_color @ T_color_depth, (150, 200))
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(np.round(raw * 10_000).astype(np.uint16)).save(tmp_path / "a.depth.png")
    record = {
        "format": "pointworld-capture",
        "version": 1,
        "cameras": {
            "wrist": {
                "K": (K_color - formats.HALF).tolist(),
                "pixel_centers": 0.0,
                "T_world_cam": T_world_color.tolist(),
                "depth": {
                    "scale": 0.0001,
                    "K": (K_depth - formats.HALF).tolist(),
                    "T_color_depth": T_color_depth.tolist(),
                },
            }
        },
        "frames": [{"camera": "wrist", "rgb": "a.png", "depth": "a.depth.png"}],
    }
    (tmp_path / "capture.json").write_text(json.dumps(record))
    frame = read_capture(tmp_path).frames[0]
    np.testing.assert_allclose(frame.K, K_color)
    error = np.abs(frame.depth - true)[frame.valid]
    assert frame.valid.mean() > 0.93
    assert np.median(error) < 0.002
    record["cameras"]["wrist"]["depth"]["T_color_depth"] = np.eye(4).tolist()  # type: ignore[index]
    (tmp_path / "capture.json").write_text(json.dumps(record))
    frame = read_capture(tmp_path).frames[0]
    assert np.median(np.abs(frame.depth - true)[frame.valid]) > 0.004


def test_kinect_depth_of_seven_scenes_is_moved_into_the_colour_camera(tmp_path: Path) -> None:
    K_depth = np.array([[585.0, 0, 320], [0, 585.0, 240], [0, 0, 1]])
    T_world_depth = look_at(np.array([0.0, -0.9, 0.5]), np.zeros(3))
    T_depth_color = np.eye(4)
    T_depth_color[0, 3] = 0.025
    K_color = np.array([[525.0, 0, 320], [0, 525.0, 240], [0, 0, 1]])
    rgb, true = render(K_color, T_world_depth @ T_depth_color, (480, 640))
    _, raw = render(K_depth, T_world_depth, (480, 640))
    Image.fromarray(rgb).save(tmp_path / "frame-000000.color.png")
    Image.fromarray(np.round(raw * 1000).astype(np.uint16)).save(
        tmp_path / "frame-000000.depth.png"
    )
    np.savetxt(tmp_path / "frame-000000.pose.txt", T_world_depth)
    np.savetxt(tmp_path / "camera-intrinsics.txt", K_depth)
    frame = read_capture(tmp_path).frames[0]
    np.testing.assert_allclose(frame.T_world_cam, T_world_depth @ T_depth_color, atol=1e-12)
    np.testing.assert_allclose(frame.K, K_color)
    assert np.median(np.abs(frame.depth - true)[frame.valid]) < 0.001
    # Depth sees a narrower field than colour, and sits to its left.
    assert 0.7 < frame.valid.mean() < 0.85 and not frame.valid[:, -40:].any()


def test_tum_knows_the_published_sensors_by_name(capture: Capture, tmp_path: Path) -> None:
    folder = tmp_path / "rgbd_dataset_freiburg2_desk"
    formats.write_tum(capture, folder)
    (folder / "camera-intrinsics.txt").unlink()
    K = list_capture(folder).entries[0].K
    np.testing.assert_allclose([K[0, 0], K[0, 2]], [520.9, 325.6])


def test_tum_poses_are_interpolated(capture: Capture, tmp_path: Path) -> None:
    formats.write_tum(capture, tmp_path / "c")
    rows = [
        "0.0 0 0 0 0 0 0 1",
        "0.15 0.3 0 0 0 0 0.7071067811865476 0.7071067811865476",
        "1 0 0 0 0 0 0 1",
    ]
    (tmp_path / "c" / "groundtruth.txt").write_text("\n".join(rows))
    entries = list_capture(tmp_path / "c").entries
    # Only frames whose bracketing poses are at most 0.2 s apart are kept: 0.0 and 0.1 s.
    assert [entry.timestamp for entry in entries] == pytest.approx([0.0, 0.1])
    np.testing.assert_allclose(entries[1].T_world_cam[:3, 3], [0.2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(entries[1].T_world_cam[0, 0], np.cos(np.pi / 3), atol=1e-9)


@pytest.mark.needs_shared
def test_reference_captures_have_the_known_residuals(shared_dir: Path) -> None:
    for name, frames, limit in (
        ("kitchen_table", range(0, 40), 0.007),
        ("apc_shelf", None, 0.0053),
    ):
        capture = read_capture(shared_dir / "captures" / name, frames=frames)
        values = [pair.geometric for pair in neighbour_residuals(capture)]
        assert 0.5 * limit < np.median(values) < limit, name


@pytest.mark.needs_shared
def test_apc_shelf_needs_its_depth_to_colour_transform(shared_dir: Path) -> None:
    listing = list_capture(shared_dir / "captures" / "apc_shelf")
    sensor = listing.entries[0].sensor
    assert sensor is not None
    np.testing.assert_allclose(sensor.K[0], [477.584259, 0, 314.68808])
    np.testing.assert_allclose(invert(sensor.T_color_depth)[0, 3], -0.0257, atol=1e-4)


def test_names_of_any_kind_have_an_order() -> None:
    """Where names begin with letters and with numbers, as with the `._` files of a Mac, too."""
    names = ["frame10", "._2.jpg", "10.jpg", "frame2", "2.jpg", ""]
    wanted = ["", "2.jpg", "10.jpg", "._2.jpg", "frame2", "frame10"]
    assert sorted(names, key=natural_key) == wanted
