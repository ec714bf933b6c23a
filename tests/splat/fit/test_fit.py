"""Fitting: image measures, camera corrections, relocation, and a small room seen from many sides."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.errors import InputError
from pointworld.types import Capture, RGBDFrame
from splat.fit import (
    FitConfig,
    fit,
    measure,
    psnr,
    show_views,
    split_views,
    ssim,
)
from splat.fit.cameras import CameraCorrections, fit_exposure, rotation_exp
from splat.fit.initialise import in_free_space, scene_from_depth
from splat.fit.relocate import relocate, shared_opacity_and_scale
from splat.fit.views import carried_by_camera, half_size
from splat.io import read_native
from tests.splat.fit.room import room


def test_psnr_and_ssim_of_known_images() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(40, 50, 3, generator=generator)
    assert psnr(image, image + 0.1) == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, image) == math.inf
    mask = torch.zeros(40, 50, dtype=torch.bool)
    mask[:10] = True
    changed = image.clone()
    changed[10:] = 0
    assert psnr(changed, image, mask) == math.inf
    assert float(ssim(image, image)) == pytest.approx(1.0, abs=1e-6)
    noise = torch.rand(40, 50, 3, generator=generator)
    assert float(ssim(image, noise)) < 0.1 < float(ssim(image, 0.9 * image + 0.1 * noise))


def test_ssim_equals_loops() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((13, 15, 3)), rng.random((13, 15, 3))
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets**2) / 4.5)
    window = np.outer(window, window) / window.sum() ** 2
    padded = [np.pad(x, ((5, 5), (5, 5), (0, 0))) for x in (a, b)]
    total = 0.0
    for y in range(13):
        for x in range(15):
            for c in range(3):
                p, q = (v[y : y + 11, x : x + 11, c] for v in padded)
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
                cov = (window * p * q).sum() - mp * mq
                total += ((2 * mp * mq + 1e-4) * (2 * cov + 9e-4)) / (
                    (mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)
                )
    ours = float(ssim(torch.from_numpy(a), torch.from_numpy(b)))
    assert ours == pytest.approx(total / a.size, rel=1e-9)


def test_rotations_and_their_gradient_at_zero() -> None:
    vector = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation_exp, vector)
    R = rotation_exp(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    turned = R @ torch.tensor([1.0, 0, 0], dtype=torch.float64)
    assert (turned - torch.tensor([0.0, 1, 0], dtype=torch.float64)).abs().max() < 1e-12


def test_exposure_fit_finds_gain_and_bias() -> None:
    target = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(4))
    image = (target - torch.tensor([0.1, 0.0, -0.05])) / torch.tensor([1.2, 0.8, 1.0])
    assert (fit_exposure(image, target) - target).abs().max() < 1e-5


def test_exposure_between_frames() -> None:
    cameras = CameraCorrections(3, poses=False, exposure=True)
    with torch.no_grad():
        cameras.log_gain.copy_(torch.tensor([0.0, 0.2, 0.6])[:, None].expand(3, 3))
        cameras.bias.copy_(torch.tensor([0.0, 0.1, 0.1])[:, None].expand(3, 3))
    positions, image = torch.tensor([1, 2, 6]), torch.ones(2, 2, 3)
    for position, gain, bias in (
        (0, 0.0, 0.0),
        (1, 0.0, 0.0),
        (2, 0.2, 0.1),
        (4, 0.4, 0.1),
        (9, 0.6, 0.1),
    ):
        shown = cameras.expose_between(image, positions, position)
        assert torch.allclose(shown, image * math.exp(gain) + bias), position


def test_copies_together_look_like_the_original() -> None:
    opacities = torch.tensor([0.3, 0.9, 0.6], dtype=torch.float64)
    copies = torch.tensor([1, 3, 8])
    shared, _ = shared_opacity_and_scale(opacities, torch.ones(3, 3).double(), copies)
    assert ((1 - (1 - shared) ** copies) - opacities).abs().max() < 1e-12
    same, scales = shared_opacity_and_scale(
        opacities, torch.ones(3, 3).double(), torch.ones(3).long()
    )
    assert torch.allclose(same, opacities) and torch.allclose(scales, torch.ones(3, 3).double())


def test_relocation_keeps_the_budget_and_the_picture() -> None:
    generator = torch.Generator().manual_seed(5)
    n = 200
    parameters = {
        "means": torch.randn(n, 3, generator=generator),
        "quats_wxyz": torch.randn(n, 4, generator=generator),
        "log_scales": torch.full((n, 3), -3.0),
        "opacity_logits": torch.where(torch.arange(n) < 40, -9.0, 1.0),
        "sh": torch.rand(n, 1, 3, generator=generator),
    }
    parameters = {k: v.requires_grad_() for k, v in parameters.items()}
    optimizer = torch.optim.Adam([{"params": [v], "lr": 0.1} for v in parameters.values()])
    sum(v.sum() for v in parameters.values()).backward()
    optimizer.step()
    after = relocate(dict(parameters), optimizer, grow=10, generator=generator)
    assert all(len(v) == n + 10 for v in after.values())
    assert (after["opacity_logits"].sigmoid() > 0.005).all()
    for group, value in zip(optimizer.param_groups, after.values(), strict=True):
        assert group["params"][0] is value
        assert optimizer.state[value]["exp_avg"].shape == value.shape


def test_points_in_free_space_are_found() -> None:
    training, _ = split_views(room(), max_width=80, holdout=0)
    surface = training[0]
    centre = torch.linalg.inv(surface.viewmat)[:3, 3].numpy()
    from pointworld.geometry import invert, transform_points, unproject

    T = invert(surface.viewmat.numpy().astype(np.float64))
    real = transform_points(
        T, unproject(surface.depth.numpy(), surface.K.numpy().astype(np.float64))
    )
    real = real[surface.valid.numpy()][::37]
    floating = centre + 0.6 * (real - centre)
    assert in_free_space(floating, training).mean() > 0.95
    assert in_free_space(real, training).mean() < 0.05


def test_a_view_of_half_the_size_sees_the_same() -> None:
    fine, coarse = (
        split_views(room(frames=5, width=w, height=h, focal=f), max_width=w, holdout=0)[0][1]
        for w, h, f in ((120, 88, 90.0), (60, 44, 45.0))
    )
    half = half_size(fine)
    assert (half.width, half.height) == (60, 44) and torch.allclose(half.K, coarse.K)
    both = half.valid & coarse.valid
    assert both.float().mean() > 0.9
    assert (half.depth - coarse.depth)[both].abs().median() < 2e-3
    assert psnr(half.rgb, coarse.rgb) > 33
    odd = {name: getattr(fine, name)[:45, :61] for name in ("rgb", "depth", "valid", "shows_scene")}
    assert half_size(replace(fine, **odd)).rgb.shape == (22, 30, 3)


def test_what_the_camera_carries_is_left_out() -> None:
    """A dark block without depth in one corner of every frame; none of it where the camera does not move."""
    block = np.random.default_rng(0).integers(20, 40, (15, 20, 3)).astype(np.uint8)
    frames = []
    for frame in room().frames:
        rgb, depth, valid = frame.rgb.copy(), frame.depth.copy(), frame.valid.copy()
        rgb[:15, :20], depth[:15, :20], valid[:15, :20] = block, 0, False
        frames.append(replace(frame, rgb=rgb, depth=depth, valid=valid))
    capture = Capture(frames=tuple(frames), source="arm")
    training, held = split_views(capture, max_width=80, holdout=4)
    for view in training + held:
        assert not view.shows_scene[:15, :20].any() and view.shows_scene[22:, 28:].all()
    same = tuple(replace(frames[0], name=f"frame{n}") for n in range(8))
    still = Capture(frames=same, source="still")
    assert not carried_by_camera(split_views(still, max_width=80, holdout=0)[0]).any()


def test_a_room_is_fitted_and_held_out_views_gain(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    training, held = split_views(room(), max_width=80, holdout=4)
    config = FitConfig(gaussians=2500, iterations=60, relocate_every=25)
    start = measure(show_views(fit(training, FitConfig(gaussians=2500, iterations=0)), held))
    fitted = fit(training, config)
    scores = measure(show_views(fitted, held))
    assert scores["psnr"] > start["psnr"] + 1.5 and scores["psnr"] > 19.5
    assert scores["depth_l1_m"] < 0.15  # a coarse room: walls of large Gaussians seen at a slant
    assert len(fitted.scene) <= 2500
    again = fit(training, config)
    assert torch.equal(again.scene.means, fitted.scene.means)


def test_what_no_gaussian_covers_has_a_colour_of_its_own() -> None:
    """Better than black where nothing is, on held-out views of a room with a corner that is left out of the fit."""
    torch.set_num_threads(1)
    training, held = split_views(room(), max_width=80, holdout=4)
    scores = []
    for background in (False, True):
        config = FitConfig(gaussians=1500, iterations=12, background=background)
        fitted = fit(training, config)
        colour = fitted.scene.background
        assert (colour is not None) == background
        if colour is not None:
            assert not colour.requires_grad and bool((colour > 0.1).all())
        left = fitted.scene.means[:, 0] < fitted.scene.means[:, 0].median()
        part = replace(fitted, scene=fitted.scene.select(left))
        scores.append(measure(show_views(part, held))["psnr"])
    assert scores[1] > scores[0] + 1.0
    again = fit(training, FitConfig(iterations=2, background=False), start=part.scene)
    assert torch.equal(again.scene.background, part.scene.background)  # type: ignore[arg-type]


def test_the_background_becomes_what_is_seen_past_everything() -> None:
    """Beyond a small ball all is blue and has no depth, and no Gaussians are put there."""
    torch.set_num_threads(1)
    training, _ = split_views(room(), max_width=80, holdout=0)
    blue, views = torch.tensor([0.1, 0.2, 0.9]), []
    for view in training:
        ball = view.depth < 0.7
        rgb = torch.where(ball[..., None], view.rgb, blue)
        views.append(replace(view, rgb=rgb, valid=view.valid & ball))
    start = scene_from_depth([replace(v, shows_scene=v.valid) for v in views], count=500, seed=0)
    fitted = fit(views, FitConfig(gaussians=500, iterations=150, grow=0.0), start=start)
    assert fitted.scene.background is not None
    assert (fitted.scene.background - blue).abs().max() < 0.1


def test_the_command_writes_scene_sheet_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_capture(room(), tmp_path / "room")
    out = tmp_path / "out"
    command = ["splat", "fit", str(tmp_path / "room"), "--out", str(out), "--json"]
    options = ["--max-width", "64", "--fit.gaussians", "800", "--fit.iterations", "10"]
    assert main([*command, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["held_out"] == 2 and report["psnr"] > 10 and report["gaussians"] <= 800
    stored = read_native(out / "scene.safetensors")
    assert len(stored.scene) == report["gaussians"]
    assert stored.tensors["camera_viewmats"].shape == (12, 4, 4)
    assert (out / "sheet.png").read_bytes()[:4] == b"\x89PNG" and (out / "run.json").is_file()


@pytest.mark.rejects_input
def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    capture = room()
    with pytest.raises(InputError, match="held out"):
        split_views(capture, max_width=64, holdout=1)
    with pytest.raises(InputError, match="do not exist"):
        split_views(capture, max_width=64, holdout=[99])
    with pytest.raises(InputError, match="sh_degree"):
        FitConfig(sh_degree=4)
    blind = [
        RGBDFrame(
            rgb=f.rgb,
            depth=np.zeros_like(f.depth),
            valid=np.zeros_like(f.valid),
            K=f.K,
            T_world_cam=f.T_world_cam,
            name=f.name,
        )
        for f in capture.frames
    ]
    views, _ = split_views(Capture(frames=tuple(blind), source="blind"), max_width=64, holdout=0)
    with pytest.raises(InputError, match="no frame has valid depth"):
        fit(views, FitConfig(iterations=1))
