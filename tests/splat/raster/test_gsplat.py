"""gsplat on CUDA against the CPU rasteriser: the one thing that this package cannot check without a GPU.

    pytest -m gpu tests/splat

Images within 1e-3 (mean absolute, depth as a share of its mean), gradients within 1e-2 (relative, by norm).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splat.fit import FitConfig, fit, measure, show_views, split_views
from splat.raster import get_rasterizer
from tests.splat.fit.room import room
from tests.splat.raster.scenes import case_for, gradients

Tensor = torch.Tensor

pytestmark = pytest.mark.gpu
IMAGE, GRADIENT = 1e-3, 1e-2


@pytest.fixture(scope="module")
def gsplat() -> Any:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    pytest.importorskip("gsplat")
    return get_rasterizer("gsplat")


def on_gpu(case: dict[str, Any]) -> dict[str, Any]:
    return {k: v.cuda() if isinstance(v, Tensor) else v for k, v in case.items()}


def assert_images_agree(theirs: Any, ours: Any, depths: int) -> None:
    """Colour channels, depth (the last `depths` channels) as a share of its mean, and alpha."""
    gap = (theirs.colors.cpu() - ours.colors).abs()
    colors = gap.shape[-1] - depths
    if colors:
        assert gap[..., :colors].mean() <= IMAGE
    if depths:
        assert gap[..., colors:].mean() <= IMAGE * max(1.0, float(ours.colors[..., colors:].mean()))
    assert (theirs.alphas.cpu() - ours.alphas).abs().mean() <= IMAGE


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("channels", [1, 3, 33, 64])
def test_images_and_gradients_agree(gsplat: Any, mode: str, channels: int) -> None:
    """Three cameras, colours and features of more channels than gsplat draws in one pass, backgrounds."""
    case = case_for(
        mode, 11, count=2000, cameras=3, channels=channels, width=160, height=120,
        dtype=torch.float32,
    )  # fmt: skip
    case["Ks"][:, :2] *= 3
    case["scales"] = case["scales"] / 4
    theirs, their_grads = gradients(gsplat, on_gpu(case), mode, top_ids=False)
    ours, our_grads = gradients(get_rasterizer("cpu"), case, mode, top_ids=False)
    assert theirs.colors.shape == ours.colors.shape
    assert_images_agree(theirs, ours, 0 if mode == "RGB" else 1)
    visible = [(image.radii.cpu() > 0).all(-1) for image in (theirs, ours)]
    assert (visible[0] == visible[1]).float().mean() > 0.99
    for name, expected in our_grads.items():
        gap = (their_grads[name].cpu() - expected).norm()
        assert gap <= GRADIENT * max(float(expected.norm()), 1e-6), name


def test_colors_per_camera_agree(gsplat: Any) -> None:
    case = case_for("RGB", 12, count=500, cameras=2, dtype=torch.float32)
    case["colors"] = torch.stack([case["colors"], 1 - case["colors"]])
    assert_images_agree(gsplat(**on_gpu(case)), get_rasterizer("cpu")(**case), 0)


@pytest.mark.parametrize("size", [-6.0, 3.0])
def test_sub_pixel_and_huge_gaussians_agree(gsplat: Any, size: float) -> None:
    case = case_for("RGB", 13, count=300, dtype=torch.float32, spread=3.0)
    case["scales"] = case["scales"] * torch.tensor(size).exp()
    case["means"][:75, 2] -= 4.0
    assert_images_agree(gsplat(**on_gpu(case)), get_rasterizer("cpu")(**case), 0)


def test_tensors_in_main_memory_come_back_there(gsplat: Any) -> None:
    case = case_for("RGB+ED", 14, count=200, dtype=torch.float32)
    theirs, their_grads = gradients(gsplat, case, "RGB+ED", top_ids=False)
    ours, our_grads = gradients(get_rasterizer("cpu"), case, "RGB+ED", top_ids=False)
    assert theirs.colors.device.type == theirs.radii.device.type == "cpu"
    assert_images_agree(theirs, ours, 1)
    for name, expected in our_grads.items():
        gap = (their_grads[name] - expected).norm()
        assert gap <= GRADIENT * max(float(expected.norm()), 1e-6), name


def test_a_room_is_fitted_as_well_as_on_the_cpu(gsplat: Any) -> None:
    training, held = split_views(room(), max_width=80, holdout=4)
    scores = []
    for backend in ("gsplat", "cpu"):
        config = FitConfig(gaussians=1500, iterations=60, relocate_every=25, backend=backend)
        scores.append(measure(show_views(fit(training, config), held, backend=backend))["psnr"])
    assert abs(scores[0] - scores[1]) < 0.5, scores
