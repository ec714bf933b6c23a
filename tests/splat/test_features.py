"""Features lifted into Gaussians: transposed rendering, the basis, grids of cells, refinement."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from pointworld.geometry import invert
from splat.features import (
    COMPONENTS,
    MEAN,
    FeatureView,
    draw_features,
    feature_colors,
    feature_cosine,
    fit_basis,
    gather,
    pixel_features,
    read_basis,
    refine,
    rendered_grid,
    uplift,
)
from splat.raster import get_rasterizer
from splat.types import GaussianScene
from tests.splat.mesh_world import as_gaussians, make_world, ring_views

WIDTH, HEIGHT, STRIDE = 96, 64, 8


def cloud(generator: torch.Generator, count: int = 60) -> GaussianScene:
    """Gaussians in front of a camera at the origin."""
    places = torch.rand(count, 3, generator=generator) * torch.tensor([1.4, 1.0, 1.0])
    return GaussianScene(
        means=places + torch.tensor([-0.7, -0.5, 1.0]),
        quats_wxyz=torch.randn(count, 4, generator=generator),
        log_scales=torch.full((count, 3), math.log(0.06)),
        opacity_logits=torch.randn(count, generator=generator),
        sh=torch.zeros(count, 1, 3),
    )


def camera() -> tuple[torch.Tensor, torch.Tensor]:
    K = torch.tensor([[80.0, 0, WIDTH / 2], [0, 80.0, HEIGHT / 2], [0, 0, 1]])
    return torch.eye(4), K


def test_gather_is_the_transpose_of_drawing(generator: torch.Generator) -> None:
    scene, (viewmat, K), rasterizer = cloud(generator), camera(), get_rasterizer("cpu")
    values = torch.randn(len(scene), 3, generator=generator)
    image = torch.randn(HEIGHT, WIDTH, 3, generator=generator)
    mean, alpha = draw_features(scene, values, viewmat, K, (WIDTH, HEIGHT), rasterizer)
    drawn = mean * alpha.clamp_min(1e-6)[..., None]
    gathered = gather(scene, image, viewmat, K, rasterizer)
    assert float((drawn * image).sum()) == pytest.approx(float((values * gathered).sum()), rel=1e-3)
    # Ones gather the sum of blending weights, pixel by pixel the alpha.
    ones = gather(scene, torch.ones(HEIGHT, WIDTH, 1), viewmat, K, rasterizer)
    assert float(ones.sum()) == pytest.approx(float(alpha.sum()), rel=1e-4)


def test_pixel_features_are_bilinear_between_cell_centres() -> None:
    """A ramp over cells, whose centres lie at (j + 0.5) stride, is a ramp over pixels."""
    rows, columns = 4, 6
    ramp = torch.arange(columns).expand(1, rows, columns).float()
    image = pixel_features(ramp, STRIDE, columns * STRIDE + 3, rows * STRIDE)
    x = (torch.arange(columns * STRIDE + 3) + 0.5) / STRIDE - 0.5
    assert torch.allclose(image[5, :, 0], x.clamp(0, columns - 1), atol=1e-5)


def test_basis_keeps_what_has_few_dimensions(generator: torch.Generator) -> None:
    mixing = torch.randn(3, 20, generator=generator)
    grids = [torch.einsum("kc,kij->cij", mixing, torch.randn(3, 5, 7, generator=generator)) + 2]
    basis = fit_basis(grids, 3)
    cells = grids[0].permute(1, 2, 0)
    assert torch.allclose(basis.decode(basis.encode(cells)), cells, atol=1e-4)
    assert basis.explained == pytest.approx(1, abs=1e-6)
    assert torch.allclose(basis.components @ basis.components.T, torch.eye(3), atol=1e-5)
    assert fit_basis(grids, 64).components.shape == (20, 20)
    stored = read_basis(basis.tensors())
    assert torch.equal(stored.encode(cells), basis.encode(cells))


def world_views(seed: int) -> tuple[GaussianScene, list[FeatureView]]:
    """A table with objects; an encoder that sees which object a pixel shows, as four channels."""
    rings = ring_views(6, width=WIDTH, height=HEIGHT)
    scene = as_gaussians(make_world(seed), rings, spacing=0.006)
    assert scene.ids is not None
    hot = torch.nn.functional.one_hot(scene.ids, 4).float()
    views = []
    for ring in rings:
        viewmat, K = torch.from_numpy(invert(ring.T_world_cam)).float(), torch.from_numpy(ring.K)
        K = K.float()
        image, _ = draw_features(scene, hot, viewmat, K, (WIDTH, HEIGHT), get_rasterizer("cpu"))
        grid = torch.nn.functional.avg_pool2d(image.permute(2, 0, 1)[None], STRIDE)[0]
        views.append(
            FeatureView(grid=grid, stride=STRIDE, viewmat=viewmat, K=K, width=WIDTH, height=HEIGHT)
        )
    return scene, views


def test_lifted_features_look_like_the_encoder_from_a_new_view_and_refining_helps() -> None:
    scene, views = world_views(1)
    rasterizer = get_rasterizer("cpu")
    basis = fit_basis([view.grid for view in views[:5]], 4)
    lifted, weights = uplift(scene, views[:5], basis, rasterizer)
    assert lifted.features is not None and lifted.features.shape == (len(scene), 4)
    assert float((weights > 0).float().mean()) > 0.9
    before = feature_cosine(lifted, views[5:], basis, rasterizer)
    assert before["cosine"] > 0.9 and before["cosine_kept"] == pytest.approx(1, abs=1e-4)
    assert before["cosine_centered"] <= before["cosine"]

    def error(one: GaussianScene) -> float:
        total = 0.0
        for view in views[:5]:
            found, counted = rendered_grid(one, view, basis, rasterizer)
            total += float((found - view.grid.permute(1, 2, 0))[counted].square().mean())
        return total

    refined = refine(lifted, views[:5], basis, rasterizer, iterations=20, rate=0.5)
    assert error(refined) < 0.95 * error(lifted)


def test_what_hides_the_scene_gives_no_features() -> None:
    scene, views = world_views(1)
    view = views[0]
    hidden = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    nothing = FeatureView(
        grid=view.grid, stride=STRIDE, viewmat=view.viewmat, K=view.K, width=WIDTH, height=HEIGHT,
        shows_scene=hidden,
    )  # fmt: skip
    basis = fit_basis([view.grid], 2)
    lifted, weights = uplift(scene, [nothing], basis, get_rasterizer("cpu"))
    assert lifted.features is not None
    assert float(weights.max()) == 0 and float(lifted.features.abs().max()) == 0


def test_feature_colors_are_in_range(rng: np.random.Generator) -> None:
    colors = feature_colors(torch.from_numpy(rng.normal(size=(5, 6, 2))))
    assert colors.shape == (5, 6, 3) and float(colors.min()) >= 0 and float(colors.max()) <= 1


@pytest.mark.rejects_input
def test_refuses_missing_and_odd_decoders(generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="--features jepa"):
        read_basis({})
    with pytest.raises(InputError, match="decoder has shapes"):
        read_basis({MEAN: torch.zeros(3), COMPONENTS: torch.zeros(2, 4)})
    with pytest.raises(InputError, match="at least one view"):
        uplift(cloud(generator), [], fit_basis([torch.ones(2, 3, 3)], 1), get_rasterizer("cpu"))
    with pytest.raises(InputError, match="no features"):
        refine(
            cloud(generator),
            [],
            fit_basis([torch.ones(2, 3, 3)], 1),
            get_rasterizer("cpu"),
            iterations=1,
        )
    with pytest.raises(InputError, match="one encoder"):
        fit_basis([torch.zeros(2, 3, 3), torch.zeros(4, 3, 3)])
