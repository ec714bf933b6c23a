"""Refitting what changed: a ball that moved, everything else untouched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.cli.splat_update import RIG_MOTIONS, stored_rig
from pointworld.errors import InputError
from splat.fit import FitConfig, FitView, fit, psnr, split_views, update
from splat.fit.optimise import render
from splat.fit.update import changed_pixels
from splat.io import read_native
from splat.io.native import NativeFile
from splat.raster import get_rasterizer
from splat.types import GaussianScene
from tests.splat.fit.room import BALL, room

WIDTH = 80
MOVED = BALL + np.array([-0.25, 0.45, 0.0])
CONFIG = FitConfig(gaussians=3000, iterations=60, grow=0.0)


@pytest.fixture(scope="module")
def old() -> GaussianScene:
    torch.set_num_threads(1)
    views, _ = split_views(room(), max_width=WIDTH, holdout=0)
    scene = fit(views, CONFIG).scene
    rows = torch.arange(len(scene))
    return replace(scene, features=rows[:, None] * torch.ones(1, 2), ids=rows % 3)


@pytest.fixture(scope="module")
def new() -> tuple[list[FitView], list[FitView]]:
    return split_views(room(ball=MOVED), max_width=WIDTH, holdout=4)


def changed_psnr(scene: GaussianScene, views: list[FitView], masks: list[torch.Tensor]) -> float:
    backend = get_rasterizer("cpu")
    values = []
    for view, mask in zip(views, masks, strict=True):
        size = (view.width, view.height)
        image, _ = render(backend, scene, view.viewmat, view.K, size, "RGB")
        values.append(psnr(image.clamp(0, 1), view.rgb, mask))
    return float(np.mean(values))


def test_only_what_moved_is_refitted(
    old: GaussianScene, new: tuple[list[FitView], list[FitView]]
) -> None:
    training, held = new
    done = update(old, training, replace(CONFIG, iterations=40))
    assert 0.8 * len(old) < len(done.kept) < 0.98 * len(old)
    for name in ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh", "features", "ids"):
        before, after = getattr(old, name)[done.kept], getattr(done.scene, name)
        assert torch.equal(before, after[: len(done.kept)]), name
    # Held-out frames, at the pixels where the ball was or is.
    still, _ = split_views(room(), max_width=WIDTH, holdout=0)
    masks = [
        (view.depth - next(s for s in still if s.name == view.name).depth).abs() > 0.02
        for view in held
    ]
    full = changed_psnr(fit(training, CONFIG).scene, held, masks)
    ours, stale = (changed_psnr(scene, held, masks) for scene in (done.scene, old))
    assert ours > full - 0.7 and ours > stale + 14, (ours, full, stale)
    assert len(done.scene) < 1.15 * len(old)


def test_changes_are_where_the_ball_was_and_is(
    old: GaussianScene, new: tuple[list[FitView], list[FitView]]
) -> None:
    still, _ = split_views(room(), max_width=WIDTH, holdout=0)
    backend = get_rasterizer("cpu")
    for view in new[0][:3]:
        before = next(s for s in still if s.name == view.name)
        true = (view.depth - before.depth).abs() > 0.05
        found = changed_pixels(backend, old, view)
        assert (found & true).sum() > 0.7 * true.sum()
        assert (found & ~true).sum() < 0.35 * true.sum()


def test_nothing_is_done_where_nothing_changed(old: GaussianScene) -> None:
    backend = get_rasterizer("cpu")
    views, _ = split_views(room(), max_width=WIDTH, holdout=0)
    shown = []
    for view in views[:3]:
        size = (view.width, view.height)
        images, _ = render(backend, old, view.viewmat, view.K, size, "RGB+ED")
        # Another exposure is no change.
        picture = (0.8 * images[..., :3] + 0.05).clamp(0, 1)
        shown.append(replace(view, rgb=picture, depth=images[..., 3]))
    done = update(old, shown, CONFIG)
    assert done.fitted is None and torch.equal(done.scene.means, old.means)


def test_the_command_updates_an_earlier_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_capture(room(), tmp_path / "before")
    write_capture(room(ball=MOVED), tmp_path / "after")
    size = ["--max-width", "64", "--json"]
    first = ["splat", "fit", str(tmp_path / "before"), "--out", str(tmp_path / "a"), *size]
    assert main([*first, "--fit.gaussians", "1200", "--fit.iterations", "25"]) == 0
    capsys.readouterr()
    second = ["splat", "fit", str(tmp_path / "after"), "--update", str(tmp_path / "a"), *size]
    out = tmp_path / "b"
    assert main([*second, "--out", str(out), "--update-iterations", "10"]) == 0
    report = json.loads(capsys.readouterr().out)
    old, new = (read_native(tmp_path / name / "scene.safetensors") for name in "ab")
    kept = report["gaussians_kept"]
    assert kept + report["gaussians_refitted"] == len(new.scene) and 0 < kept < len(old.scene)
    rows = {tuple(row) for row in old.scene.means.tolist()}
    assert all(tuple(row) in rows for row in new.scene.means[:kept].tolist())
    assert report["psnr_changed"] > 12 and 0 < report["changed_share"] < 0.5
    assert torch.equal(new.tensors["rig_motions"], old.tensors["rig_motions"])


@pytest.mark.rejects_input
def test_a_damaged_rig_is_refused(old: GaussianScene) -> None:
    broken = NativeFile(scene=old, tensors={RIG_MOTIONS: torch.zeros(3, 4, 4)})
    with pytest.raises(InputError, match="rig_motions"):
        stored_rig(broken, 1)


@pytest.mark.rejects_input
def test_no_views_are_refused(old: GaussianScene) -> None:
    with pytest.raises(InputError, match="no views"):
        update(old, [], CONFIG)
