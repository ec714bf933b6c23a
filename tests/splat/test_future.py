"""Rendered futures: parts that move as commanded, points that move as predicted, and scores against later images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from splat.fill import surface_gaussians
from splat.fit.images import psnr
from splat.fit.optimise import render
from splat.future import (
    MarkedView,
    RigidParts,
    TrueFrame,
    bind_future,
    changed_pixels,
    compare_futures,
    future_scenes,
    part_owners,
    score_future,
    will_move,
)
from splat.raster import get_rasterizer
from splat.types import GaussianScene, concatenate

pytest.importorskip("numba", reason="needs the extra [splat]")

Tensor = torch.Tensor
STEPS, SIZE = 4, (64, 48)
K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
VIEWMAT = torch.eye(4)


def block(center: tuple[float, float, float], color: tuple[float, float, float]) -> GaussianScene:
    """An opaque square of 20 cm that faces the camera."""
    x, y = torch.meshgrid(
        torch.linspace(-0.1, 0.1, 12), torch.linspace(-0.1, 0.1, 12), indexing="ij"
    )
    points = torch.stack([x.flatten(), y.flatten(), torch.zeros(144)], 1) + torch.tensor(center)
    normals = torch.tensor([0.0, 0.0, -1.0]).expand(144, 3)
    return surface_gaussians(points, normals, torch.tensor(color).expand(144, 3), 0.018)


def motions(*, turn: float, shift: tuple[float, float, float]) -> Tensor:
    """(STEPS, 4, 4) that turn about z and shift, growing evenly."""
    T = torch.eye(4, dtype=torch.float64).repeat(STEPS, 1, 1)
    for step in range(STEPS):
        share = step / (STEPS - 1)
        c, s = math.cos(share * turn), math.sin(share * turn)
        T[step, :2, :2] = torch.tensor([[c, -s], [s, c]])
        T[step, :3, 3] = share * torch.tensor(shift, dtype=torch.float64)
    return T


def moved(points: Tensor, T: Tensor) -> Tensor:
    return (points.double() @ T[:3, :3].T + T[:3, 3]).float()


@pytest.fixture(scope="module")
def scene() -> GaussianScene:
    """Left a block that is a robot's, right one that is pushed, behind both a wall."""
    wall = surface_gaussians(
        torch.cartesian_prod(
            torch.linspace(-0.6, 0.6, 30), torch.linspace(-0.5, 0.5, 26), torch.tensor([1.2])
        ),
        torch.tensor([0.0, 0.0, -1.0]).expand(780, 3),
        torch.tensor([0.2, 0.3, 0.4]).expand(780, 3),
        0.035,
    )
    return concatenate(
        [block((-0.25, 0, 0.9), (0.9, 0.9, 0.9)), block((0.2, 0, 0.9), (0.9, 0.2, 0.1)), wall]
    )


def parts_of(scene: GaussianScene) -> RigidParts:
    T = torch.stack(
        [motions(turn=0.4, shift=(0.0, 0.1, 0.0)), motions(turn=0.0, shift=(9.0, 0, 0))], 1
    )
    return RigidParts(points=scene.means[:144], part=torch.zeros(144, dtype=torch.int64), motions=T)


def test_parts_move_exactly_and_points_move_the_rest(scene: GaussianScene) -> None:
    parts = parts_of(scene)
    points = torch.cat([scene.means[:288:3], scene.means[288::5]])
    push = torch.zeros(STEPS, len(points), 3)
    # The flow says that the robot's block goes up: its own motion wins.
    push[:, :96, 1] = torch.linspace(0, -0.3, STEPS)[:, None]
    scenes = future_scenes(bind_future(scene, points, parts=parts), push)
    for step in range(STEPS):
        wanted = moved(scene.means[:144], parts.motions[step, 0])
        assert (scenes[step].means[:144] - wanted).abs().max() < 1e-5
        shift = torch.tensor([0.0, -0.1 * step, 0.0])
        assert (scenes[step].means[144:288] - scene.means[144:288] - shift).abs().max() < 1e-5
    last = scenes[-1].moving
    assert last is not None and bool(last[:288].all()) and not bool(last[288:].any())
    assert torch.equal(scenes[-1].means[288:], scene.means[288:])
    assert scenes[0].moving is not None and not bool(scenes[0].moving.any())


def test_what_will_move(scene: GaussianScene) -> None:
    flow = torch.zeros(STEPS, len(scene), 3)
    flow[1, 144:288, 0] = 0.02
    flow[2, :144, 0] = 0.005
    binding = bind_future(scene, scene.means).binding
    moving = will_move(binding, flow)
    assert bool(moving[144:288].all()) and int(moving.sum()) == 144
    assert not bool(will_move(bind_future(scene, scene.means[:0]).binding, flow[:, :0]).any())


def test_what_the_camera_sees_as_the_robot_is_the_robot(scene: GaussianScene) -> None:
    parts = parts_of(scene)
    # A fit has left some Gaussians of the robot 5 cm in front of it.
    strayed = scene.means.clone()
    strayed[:20, 2] -= 0.05
    fitted = replace(scene, means=strayed)
    assert int((part_owners(fitted, parts) >= 0).sum()) == 124
    mask = torch.zeros(SIZE[1], SIZE[0], dtype=torch.bool)
    mask[15:33, 6:24] = True
    view = MarkedView(mask=mask, viewmat=VIEWMAT, K=K)
    found = part_owners(fitted, parts, views=[view], rasterizer=get_rasterizer("cpu"))
    assert int((found[:144] == 0).sum()) == 144
    assert not bool((found[144:288] >= 0).any())


def test_the_true_motion_scores_best(scene: GaussianScene) -> None:
    points = scene.means
    flow = torch.zeros(STEPS, len(points), 3)
    flow[:, 144:288, 1] = torch.linspace(0, 0.2, STEPS)[:, None]
    bound = bind_future(scene, points)
    futures = {
        "true": future_scenes(bound, flow),
        "half": future_scenes(bound, 0.5 * flow),
        "still": future_scenes(bound, 0 * flow),
    }
    rasterizer = get_rasterizer("cpu")
    frames = []
    for step in (1, 3):
        now, later = (
            render(rasterizer, futures["true"][s], VIEWMAT, K, SIZE, "RGB")[0].clamp(0, 1)
            for s in (0, step)
        )
        zero = torch.zeros(SIZE[1], SIZE[0])
        moving = changed_pixels((now, later), (zero, zero), zero > 0)
        assert 0.01 < float(moving.float().mean()) < 0.4
        frames.append(TrueFrame(step=step, rgb=later, viewmat=VIEWMAT, K=K, moving=moving))
    found = compare_futures(futures, frames, rasterizer)
    assert found["true"]["psnr"] > 100
    assert found["true"]["psnr"] > found["half"]["psnr"] > found["still"]["psnr"]
    assert found["half"]["psnr_moving"] > found["still"]["psnr_moving"] + 0.5
    first, frame = futures["still"][1], frames[0]
    seen, _ = render(rasterizer, first, VIEWMAT, K, SIZE, "RGB")
    alone = score_future([first] * 2, [frame], rasterizer)
    assert alone["psnr_moving"] == pytest.approx(
        psnr(seen.clamp(0, 1), frame.rgb, frame.moving), 1e-4
    )
    # The error is where the motion is: all pixels together are better off.
    assert found["still"]["psnr"] > found["still"]["psnr_moving"] + 3
    quiet = [replace(frame, moving=torch.zeros_like(frame.moving)) for frame in frames]
    assert math.isnan(score_future(futures["still"], quiet, rasterizer)["psnr_moving"])


def test_changed_pixels_need_known_depth() -> None:
    rgb = torch.full((2, 4, 3), 0.5)
    other = rgb.clone()
    other[0, 0, 1] = 0.7
    near, far = torch.full((2, 4), 1.0), torch.full((2, 4), 1.0)
    far[1, 1], far[1, 2], near[1, 2] = 1.05, 2.0, 0.0
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    changed = changed_pixels((rgb, other), (near, far), nothing)
    assert changed.nonzero().tolist() == [[0, 0], [1, 1]]
    assert not changed_pixels((rgb, other), (near, far), ~nothing).any()


@pytest.mark.rejects_input
def test_refusals(scene: GaussianScene) -> None:
    parts = parts_of(scene)
    with pytest.raises(InputError, match="do not fit"):
        RigidParts(points=parts.points, part=parts.part + 2, motions=parts.motions)
    with pytest.raises(InputError, match="one per Gaussian"):
        bind_future(scene, scene.means, parts=parts, owner=torch.zeros(3, dtype=torch.int64))
    bound = bind_future(scene, scene.means, parts=parts)
    with pytest.raises(InputError, match="4 steps"):
        future_scenes(bound, torch.zeros(STEPS + 1, len(scene), 3))
    frame = TrueFrame(
        step=7, rgb=torch.zeros(48, 64, 3), viewmat=VIEWMAT, K=K, moving=torch.zeros(48, 64) > 0
    )
    with pytest.raises(InputError, match="4 steps"):
        score_future([scene] * STEPS, [frame], get_rasterizer("cpu"))
    assert np.isfinite(scene.means.numpy()).all()
