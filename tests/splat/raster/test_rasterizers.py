"""The CPU rasteriser against the oracle, the oracle against finite differences, and what both must refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.errors import InputError
from splat.raster import get_rasterizer
from splat.raster.projection import project
from splat.raster.protocol import ALPHA_MAX, ALPHA_MIN, FAR, NEAR, TRANSMITTANCE_MIN
from tests.splat.raster.scenes import LEARNED, case_for, gradients, random_case

Tensor = torch.Tensor
REFERENCE, CPU = get_rasterizer("reference"), get_rasterizer("cpu")


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("channels", [1, 3, 33])
def test_float64_equals_the_oracle(mode: str, channels: int) -> None:
    for seed in range(3):
        case = case_for(mode, seed, channels=channels)
        (a, ga), (b, gb) = gradients(REFERENCE, case, mode), gradients(CPU, case, mode)
        assert (a.colors - b.colors).abs().max() < 1e-9
        assert (a.alphas - b.alphas).abs().max() < 1e-9
        assert torch.equal(a.top_ids, b.top_ids)
        assert torch.equal(a.radii, b.radii)
        for name, expected in ga.items():
            assert (gb[name] - expected).abs().max() <= 1e-9 * max(1.0, float(expected.abs().max()))


def near_threshold(case: dict[str, Any]) -> Tensor:
    """(C, height, width) bool: a Gaussian's opacity, or what it leaves, is within 1e-3 (relative) of a threshold."""
    marks = []
    y, x = torch.meshgrid(torch.arange(case["height"]), torch.arange(case["width"]), indexing="ij")
    for viewmat, K in zip(case["viewmats"], case["Ks"], strict=True):
        view = project(
            *(case[name] for name in LEARNED[:4]), viewmat, K, case["width"], case["height"],
            near=NEAR, far=FAR,
        )  # fmt: skip
        ids = view.visible.nonzero()[:, 0]
        ids = ids[view.depths[ids].argsort(stable=True)]
        dx = view.means2d[ids, 0] - (x[..., None] + 0.5)
        dy = view.means2d[ids, 1] - (y[..., None] + 0.5)
        a, b, c = view.conics[ids].unbind(-1)
        alpha = case["opacities"][ids] * (-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy).exp()
        skip = (alpha / ALPHA_MIN - 1).abs() < 1e-3
        drawn = torch.where(alpha >= ALPHA_MIN, alpha.clamp_max(ALPHA_MAX), 0.0)
        stop = ((1 - drawn).cumprod(-1) / TRANSMITTANCE_MIN - 1).abs() < 1e-3
        marks.append((skip | stop).any(-1))
    return torch.stack(marks)


def test_float32_equals_the_oracle_outside_the_thresholds() -> None:
    """Only near the skip or stop threshold may float32 decide otherwise, which happens rarely and costs little."""
    differing, pixels = 0, 0
    for seed in range(20):
        case = case_for("RGB", 100 + seed, count=200, dtype=torch.float32)
        double = {k: v.double() if isinstance(v, Tensor) else v for k, v in case.items()}
        gap = (CPU(**case).colors.double() - REFERENCE(**double).colors).abs().amax(-1)
        assert gap[~near_threshold(double)].max() <= 1e-5
        assert gap.max() <= 5e-3
        differing += int((gap > 1e-5).sum())
        pixels += gap.numel()
    assert differing / pixels <= 1e-3


def test_float32_gradients_equal_those_of_float64() -> None:
    for seed in range(4):
        case = case_for("RGB+D", 300 + seed, channels=8)
        single = {k: v.float() if isinstance(v, Tensor) else v for k, v in case.items()}
        expected, found = gradients(CPU, case, "RGB+D")[1], gradients(CPU, single, "RGB+D")[1]
        for name, value in expected.items():
            assert (found[name] - value).norm() <= 2e-3 * value.norm(), name


def test_gradients_of_the_oracle_are_those_of_finite_differences() -> None:
    case = random_case(3, count=6, cameras=1, width=9, height=8)
    case["opacities"] = case["opacities"] * 0.4 + 0.3
    learned = [case[name].requires_grad_(True) for name in LEARNED[:6]]

    def render(*values: Tensor) -> Tensor:
        output = REFERENCE(
            **{**case, **dict(zip(LEARNED[:6], values, strict=True))}, render_mode="RGB+ED"
        )
        return torch.cat([output.colors, output.alphas], -1)

    assert torch.autograd.gradcheck(
        render, learned, eps=1e-7, atol=1e-4, nondet_tol=0.0, fast_mode=True
    )


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 80),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
    cameras=st.integers(1, 3),
    size=st.floats(-7, 4),
)
def test_any_scene_equals_the_oracle(
    seed: int, count: int, width: int, height: int, cameras: int, size: float
) -> None:
    """Sub-pixel to huge, none to many, behind and beside the camera."""
    case = random_case(seed, count=count, width=width, height=height, cameras=cameras, spread=3.0)
    case["scales"] = case["scales"] * torch.tensor(size, dtype=torch.float64).exp()
    case["means"][: count // 4, 2] -= 4.0
    a, b = REFERENCE(**case), CPU(**case)
    assert (a.colors - b.colors).abs().max() < 1e-9
    assert torch.equal(a.radii, b.radii)


def test_degenerate_gaussians_are_harmless() -> None:
    case = random_case(5, count=8, cameras=1)
    case["means"][0, 2] = 0.0
    case["scales"][1] = 0.0
    case["scales"][2] = 1e4
    case["scales"][3] = torch.tensor([1.0, 1e-9, 1e-9])
    case["opacities"][4] = 0.0
    case["opacities"][5] = 1.0
    case["means"][6] = 1e9
    for mode in ("RGB", "RGB+ED"):
        (a, ga), (b, gb) = gradients(REFERENCE, case, mode), gradients(CPU, case, mode)
        assert b.colors.isfinite().all()
        assert (a.colors - b.colors).abs().max() < 1e-8
        for name, expected in ga.items():
            assert gb[name].isfinite().all(), name
            assert (gb[name] - expected).abs().max() <= 1e-7 * max(1.0, float(expected.abs().max()))


def test_colors_per_camera_and_picking() -> None:
    case = random_case(6, cameras=2, count=30)
    per_camera = torch.stack([case["colors"], case["colors"] * 0])
    output = CPU(**{**case, "colors": per_camera, "backgrounds": None}, top_ids=True)
    assert output.colors[0].max() > 0.1 and not output.colors[1].any()
    assert output.top_ids is not None
    seen = output.top_ids >= 0
    assert torch.equal(seen, output.alphas[..., 0] >= ALPHA_MIN)
    alone = CPU(**{**case, "opacities": torch.zeros(30, dtype=torch.float64)}, top_ids=True)
    assert alone.top_ids is not None and (alone.top_ids == -1).all()


def test_values_no_image_has_room_for_are_harmless() -> None:
    """Infinite, not-a-number and absurdly large Gaussians are left out; the others are drawn as if alone."""
    case = random_case(8, count=24, cameras=1, dtype=torch.float32)
    bad = {"means": (1e30, torch.nan), "scales": (1e18, 1e30, torch.inf, torch.nan)}
    bad |= {"opacities": (torch.nan,), "quats_wxyz": (0.0, torch.nan)}
    rows = iter(range(24))
    for name, values in bad.items():
        for value in values:
            case[name][next(rows)] = value
    first = next(rows)
    case["scales"][2] = (
        torch.nan
    )  # where 1e18 stood: one that covers everything would hide the rest
    output, grads = gradients(CPU, case, "RGB+ED")
    alone = {k: v[first:] if k in LEARNED[:5] else v for k, v in case.items()}
    assert torch.equal(output.colors, CPU(**alone, render_mode="RGB+ED").colors)
    for name in ("means", "opacities", "colors", "viewmats"):
        assert grads[name].isfinite().all(), name


def test_a_huge_gaussian_fills_the_image() -> None:
    case = random_case(8, count=1, cameras=1, dtype=torch.float32)
    case["means"][0], case["scales"][0] = torch.tensor([0.0, 0.0, 2.0]), 1e8
    case["opacities"][0] = 0.5
    output = CPU(**case)
    assert (output.alphas - 0.5).abs().max() < 1e-4


def test_inputs_changed_before_the_backward_pass_are_noticed() -> None:
    case = random_case(1, cameras=1)
    means = case["means"].requires_grad_(True)
    output = CPU(**case)
    with torch.no_grad():
        means += 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.colors.sum().backward()


def test_second_derivatives_are_refused() -> None:
    case = random_case(1, cameras=1)
    means = case["means"].requires_grad_(True)
    (first,) = torch.autograd.grad(CPU(**case).colors.square().sum(), means, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.rejects_input
def test_tensors_elsewhere_are_refused() -> None:
    case = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in random_case(0).items()}
    with pytest.raises(InputError, match="main memory"):
        CPU(**case)


def test_threads_change_nothing() -> None:
    case = random_case(9, count=400, cameras=1, width=200, height=120, dtype=torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(gradients(CPU, case, "RGB+D"))
    finally:
        torch.set_num_threads(before)
    for output, grads in results[1:]:
        assert torch.equal(output.colors, results[0][0].colors)
        for name, value in grads.items():
            assert torch.equal(value, results[0][1][name]), name


FORKED = """
import os, torch
from splat.raster import get_rasterizer
from tests.splat.raster.scenes import LEARNED, case_for, gradients, random_case
torch.set_num_threads(2)
case = random_case(2)
render = lambda: float(get_rasterizer("cpu")(**case).colors.sum())
expected, child = render(), os.fork()
if child == 0:
    os._exit(0 if render() == expected else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_renders_too() -> None:
    """In an interpreter of its own: torch's own threads, once used, do not survive a fork."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], timeout=90, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == 0


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(60, 2, dtype=torch.float64)}, "means is"),
        ({"scales": torch.ones(59, 3, dtype=torch.float64)}, "scales is"),
        ({"colors": torch.ones(60, 3)}, "use one of each"),
        ({"render_mode": "RGBD"}, "render_mode"),
        ({"width": 0}, "pixels"),
        ({"backgrounds": torch.zeros(1, 3, dtype=torch.float64)}, "backgrounds is"),
        ({"viewmats": torch.eye(4, dtype=torch.float64)}, "viewmats is"),
    ],
)
@pytest.mark.parametrize("rasterizer", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_wrong_calls_are_refused(rasterizer: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rasterizer(**{**random_case(0), **change})


@pytest.mark.rejects_input
def test_unknown_and_absent_backends_say_so() -> None:
    with pytest.raises(InputError, match="expected one of"):
        get_rasterizer("vulkan")
    assert get_rasterizer().name == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="needs a CUDA GPU"):
            get_rasterizer("gsplat")
