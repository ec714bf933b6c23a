"""Fit Gaussians to the views of a capture by gradient descent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from pointworld.errors import InputError
from splat.fit.cameras import CameraCorrections
from splat.fit.images import ssim
from splat.fit.initialise import scene_from_depth
from splat.fit.relocate import relocate
from splat.fit.views import FitView, half_size
from splat.raster import Rasterizer, RenderMode, get_rasterizer
from splat.types import SH_COUNTS, GaussianScene, concatenate

Tensor = torch.Tensor

LEARNED = ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh")
#: Gaussians nearer to a camera than this are not drawn [m].
NEAR = 0.1
#: Depth counts where at least this much of the pixel is covered.
COVERED = 0.5
#: A colour channel from here on may stand for anything brighter.
SATURATED = 0.98


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a scene is fitted.

    gaussians: budget. iterations: one view each. sh_degree: 0 to 3.
    means_rate [m], quats_rate, scales_rate, opacity_rate, color_rate: of Adam; all fall to a tenth.
    camera_rate: of poses [rad, m]. exposure_rate: of gains (logarithm) and biases.
    ssim_weight: share of 1 - SSIM beside L1. depth_weight: of the mean depth error [1/m].
    scale_weight: of the mean scale [1/m]; opacity_weight: of the mean opacity. Both clear away what is not needed.
    coarse: share of the iterations, the first ones, that look at images of half the size.
    relocate_every: iterations; grow: share of the budget that starts as copies.
    poses, exposure: camera corrections that are learned (see `CameraCorrections`).
    background: what no Gaussian covers has a colour that is learned too, at first the images' mean; else it is black.
    """

    gaussians: int = 60_000
    iterations: int = 3000
    sh_degree: int = 0
    means_rate: float = 3e-4
    quats_rate: float = 2e-3
    scales_rate: float = 1e-2
    opacity_rate: float = 3e-2
    color_rate: float = 1e-2
    camera_rate: float = 5e-4
    exposure_rate: float = 1e-2
    ssim_weight: float = 0.2
    depth_weight: float = 0.2
    scale_weight: float = 0.01
    opacity_weight: float = 0.002
    coarse: float = 0.4
    relocate_every: int = 100
    grow: float = 0.25
    poses: bool = False
    exposure: bool = False
    background: bool = True
    backend: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sh_degree < len(SH_COUNTS):
            raise InputError(f"sh_degree is {self.sh_degree}, expected 0 to 3")
        shares = 0 <= self.grow < 1 and 0 <= self.coarse <= 1
        if self.gaussians < 1 or self.iterations < 0 or not shares:
            raise InputError(
                f"gaussians {self.gaussians}, iterations {self.iterations}, grow {self.grow}, coarse {self.coarse}: "
                "expected at least 1, at least 0, 0 <= grow < 1 and 0 <= coarse <= 1"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted scene, its camera corrections, how long it took, and the places of its training frames."""

    scene: GaussianScene
    cameras: CameraCorrections
    seconds: float
    iterations: int
    loss: float
    positions: Tensor


def fit(
    views: Sequence[FitView],
    config: FitConfig,
    *,
    start: GaussianScene | None = None,
    fixed: GaussianScene | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Fitted:
    """Fit Gaussians to training views.

    Args:
        start: Gaussians to begin with; from the views' depth when absent. A background that they have is kept.
        fixed: further Gaussians that are seen too and stay as they are; the result does not hold them.
        on_step: called after every iteration with its number.

    Raises:
        InputError: there are no views, or none has valid depth.
    """
    if not views:
        raise InputError("fit was given no views")
    began = time.perf_counter()
    cameras = CameraCorrections(len(views), poses=config.poses, exposure=config.exposure)
    if start is None:
        first = round(config.gaussians * (1 - config.grow))
        start = scene_from_depth(views, count=first, seed=config.seed)
    loop = _Fit(views, config, cameras, start, fixed)
    for step in range(config.iterations):
        loop.step(step)
        if on_step is not None:
            on_step(step + 1)
    return Fitted(
        scene=loop.scene().detach(),
        cameras=cameras.requires_grad_(False),
        seconds=time.perf_counter() - began,
        iterations=config.iterations,
        loss=loop.loss,
        positions=torch.tensor([view.position for view in views]),
    )


class _Fit:
    def __init__(
        self,
        views: Sequence[FitView],
        config: FitConfig,
        cameras: CameraCorrections,
        start: GaussianScene,
        fixed: GaussianScene | None,
    ) -> None:
        self.fixed = None if fixed is None else fixed.detach()
        self.views, self.config, self.cameras = views, config, cameras
        self.coarse_steps = round(config.coarse * config.iterations)
        self.coarse_views = [half_size(view) for view in views] if self.coarse_steps else []
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rasterizer: Rasterizer = get_rasterizer(config.backend)
        extra = SH_COUNTS[config.sh_degree] - start.sh.shape[1]
        if extra > 0:
            zeros = start.sh.new_zeros(len(start), extra, 3)
            start = replace(start, sh=torch.cat([start.sh, zeros], 1))
        self.background, learned = start.background, []
        if self.background is None and config.background:
            self.background = mean_color(views).requires_grad_()
            learned = [{"params": [self.background], "lr": config.color_rate}]
        self.parameters = {name: getattr(start, name).clone().requires_grad_() for name in LEARNED}
        rates = (
            config.means_rate,
            config.quats_rate,
            config.scales_rate,
            config.opacity_rate,
            config.color_rate,
        )
        groups = [
            {"params": [value], "lr": rate, "rate": rate}
            for value, rate in zip(self.parameters.values(), rates, strict=True)
        ]
        self.optimizer = torch.optim.Adam(groups, eps=1e-15, betas=(0.9, 0.99))
        exposures = {"log_gain", "bias"}
        moving = [
            {
                "params": [value],
                "lr": config.exposure_rate if name in exposures else config.camera_rate,
            }
            for name, value in cameras.named_parameters()
            if value.requires_grad
        ]
        moving += learned
        for group in moving:
            group["rate"] = group["lr"]
        self.camera_optimizer = torch.optim.Adam(moving, betas=(0.9, 0.99)) if moving else None
        self.queue: list[int] = []
        self.loss = float("nan")

    def scene(self) -> GaussianScene:
        return GaussianScene(**self.parameters, background=self.background)

    def _next_view(self) -> int:
        """Every view once, in a new random order each round."""
        if not self.queue:
            self.queue = torch.randperm(len(self.views), generator=self.generator).tolist()
        return self.queue.pop()

    def step(self, step: int) -> None:
        config, index = self.config, self._next_view()
        progress = step / max(config.iterations, 1)
        views = self.coarse_views if step < self.coarse_steps else self.views
        loss = self._loss(index, views[index])
        self.optimizer.zero_grad(set_to_none=True)
        if self.camera_optimizer is not None:
            self.camera_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * 0.1**progress
        self.optimizer.step()
        if self.camera_optimizer is not None:
            for group in self.camera_optimizer.param_groups:
                group["lr"] = group["rate"] * 0.1**progress
            self.camera_optimizer.step()
        self.loss = float(loss.detach())
        if step and step % config.relocate_every == 0 and progress < 0.8:
            missing = config.gaussians - len(self.parameters["means"])
            share = max(1, config.gaussians // 20)
            self.parameters = relocate(
                self.parameters,
                self.optimizer,
                grow=max(0, min(missing, share)),
                generator=self.generator,
            )

    def _loss(self, index: int, view: FitView) -> Tensor:
        config, scene = self.config, self.scene()
        pose = self.cameras.viewmat(view.viewmat, index)
        size = (view.width, view.height)
        seen_scene = scene if self.fixed is None else concatenate([self.fixed, scene])
        images, alphas = render(self.rasterizer, seen_scene, pose, view.K, size, "RGB+ED")
        # Where the scene is hidden the image is compared with itself, and so is what is brighter than the sensor tells.
        picture = self.cameras.expose(images[..., :3], index)
        too_bright = (view.rgb >= SATURATED) & (picture > view.rgb)
        picture = torch.where(view.shows_scene[..., None] & ~too_bright, picture, view.rgb)
        loss = (1 - config.ssim_weight) * (picture - view.rgb).abs().mean()
        loss = loss + config.ssim_weight * (1 - ssim(picture, view.rgb))
        seen = view.valid & (alphas.detach() > COVERED)
        if config.depth_weight > 0 and bool(seen.any()):
            gap = (images[..., -1] - view.depth)[seen].abs()
            loss = loss + config.depth_weight * gap.clamp_max(0.2).mean()
        loss = loss + config.scale_weight * scene.scales.mean()
        return loss + config.opacity_weight * scene.opacities.mean()


def mean_color(views: Sequence[FitView]) -> Tensor:
    """(3,) mean colour of what the views show of the scene; grey where they show none."""
    shown = torch.cat([view.rgb[view.shows_scene] for view in views])
    return shown.mean(0) if len(shown) else torch.full((3,), 0.5)


def render(
    rasterizer: Rasterizer,
    scene: GaussianScene,
    viewmat: Tensor,
    K: Tensor,
    size: tuple[int, int],
    mode: RenderMode,
) -> tuple[Tensor, Tensor]:
    """(height, width, channels) and (height, width) of a scene before its background, from `viewmat` (4, 4); size:
    width, height."""
    with torch.no_grad():
        centre = torch.linalg.solve(viewmat[:3, :3], -viewmat[:3, 3])
    background = None
    if scene.background is not None and mode.startswith("RGB"):
        background = scene.background[None].to(scene.means)
    output = rasterizer(
        scene.means,
        scene.quats_wxyz,
        scene.scales,
        scene.opacities,
        scene.colors_from(centre),
        viewmat[None],
        K[None],
        *size,
        near=NEAR,
        render_mode=mode,
        backgrounds=background,
    )
    return output.colors[0], output.alphas[0, ..., 0]
