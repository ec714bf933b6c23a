"""What image features are good for on simulated scenes: one number per question, by command.

    python benchmarks/splat_features.py probe  --train CLIPS --test CLIPS [--encoders rgb,xfeat,jepa:untrained,jepa]
    python benchmarks/splat_features.py lift   --test CLIPS --work DIR [--features jepa]
    python benchmarks/splat_features.py click  --test CLIPS --work DIR [--features jepa]

probe: a linear layer on patch features tells table, robot, object and the rest apart; mean IoU over held-out clips.
lift:  scenes of three views; features lifted from two. Cosine with the encoder's own output in the third view, and
       the linear probe on rendered features there.
click: one click on an object, in the view that shows it best; IoU of the selected Gaussians' pixels with the object's
       true pixels over all views.

Scenes are fitted once (60,000 Gaussians, 60 iterations) and kept in --work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import distance_transform_edt

from pointworld.data.clip import Clip, ClipView, list_clips, read_clip
from pointworld.data.sample import clip_to_capture
from pointworld.encoders import ImageEncoder, LeJEPAEncoder, frame_to_tensor, load_encoder
from pointworld.encoders.lejepa import PatchViT, load_lejepa, shipped_folder
from pointworld.geometry import invert
from splat.features import (
    FeatureView,
    draw_features,
    feature_cosine,
    fit_basis,
    pixel_features,
    rendered_grid,
    uplift,
)
from splat.fit import FitConfig, fit, split_views
from splat.io import read_native, write_native
from splat.query import QueryConfig, seeds_from_pixels, select_object
from splat.raster import get_rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

CLASSES = ("rest", "table", "robot", "object")
#: Objects of fewer pixels in every view are not asked for.
SMALLEST = 100


def log(text: str) -> None:
    """Progress for people; the result goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def truth(clip: Clip, view: ClipView) -> Tensor:
    """(h, w) int64 class of every pixel: table; robot with its pedestal; object; everything else."""
    table = np.zeros(256, np.int64)
    for index, (name, kind) in enumerate(zip(clip.body_names, clip.body_kinds, strict=True)):
        if kind == "object":
            table[index + 1] = 3
        elif kind == "robot" or name == "pedestal":
            table[index + 1] = 2
        elif name == "table":
            table[index + 1] = 1
    return torch.from_numpy(table[view.segmentation])


def encoder_named(spec: str, seed: int) -> ImageEncoder:
    """An encoder; "jepa:untrained" is the shipped network's architecture with random weights."""
    if not spec.endswith(":untrained"):
        return load_encoder(spec)
    folder = spec.removeprefix("jepa").removesuffix(":untrained").removeprefix(":")
    torch.manual_seed(seed)
    network = PatchViT(load_lejepa(Path(folder) if folder else shipped_folder()).spec)
    return LeJEPAEncoder(network, name=spec)


class Probe:
    """Linear softmax regression on standardised features, by L-BFGS, to the share of every class in a cell."""

    def __init__(self, features: Tensor, shares: Tensor, *, decay: float = 1e-4) -> None:
        self.mean, self.std = features.mean(0), features.std(0).clamp_min(1e-6)
        x = (features - self.mean) / self.std
        self.weight = torch.zeros(x.shape[1], shares.shape[1], requires_grad=True)
        self.bias = torch.zeros(shares.shape[1], requires_grad=True)
        # Classes count alike, as in their mean IoU.
        balance = shares.sum().clamp_min(1) / (shares.shape[1] * shares.sum(0).clamp_min(1))
        balance = balance.sqrt()
        optimizer = torch.optim.LBFGS(
            [self.weight, self.bias], max_iter=150, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            scores = (x @ self.weight + self.bias).log_softmax(1)
            loss = -(shares * balance * scores).sum(1).mean() + decay * self.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """(..., classes) scores."""
        return ((features - self.mean) / self.std) @ self.weight + self.bias


def cell_shares(labels: Tensor, stride: int) -> Tensor:
    """(rows, columns, classes) share of every class in a cell."""
    hot = F.one_hot(labels, len(CLASSES)).float().permute(2, 0, 1)
    return F.avg_pool2d(hot[None], stride)[0].permute(1, 2, 0)


def iou_rows(confusion: Tensor) -> dict[str, float]:
    """IoU per class and their mean, from a confusion matrix (truth, found)."""
    both = confusion.diag()
    union = confusion.sum(0) + confusion.sum(1) - both
    values = both / union.clamp_min(1)
    return {"miou": float(values.mean())} | {
        name: float(value) for name, value in zip(CLASSES, values, strict=True)
    }


def views_of(folder: Path, first: int, count: int) -> Iterator[tuple[Clip, ClipView]]:
    """The first view of `count` clips."""
    for path in list_clips(folder)[first : first + count]:
        clip = read_clip(path)
        yield clip, clip.views[0]


def probe(args: argparse.Namespace) -> dict[str, object]:
    """Linear probes of all encoders on the same images."""
    results: dict[str, object] = {"classes": CLASSES, "train": args.images, "test": args.images}
    for spec in args.encoders.split(","):
        try:
            encoder = encoder_named(spec, args.seed)
        except ImportError as error:
            log(f"{spec}: left out ({error})")
            continue
        began = time.perf_counter()
        stride = max(encoder.stride, 8)  # pictures themselves are averaged over the same cells
        features, shares = [], []
        for clip, view in views_of(args.train, 0, args.images):
            grid = grid_of(encoder, view, stride)
            share = cell_shares(truth(clip, view), stride)
            features.append(grid.flatten(1).T)
            shares.append(share[: grid.shape[1], : grid.shape[2]].flatten(0, 1))
        fitted = Probe(torch.cat(features), torch.cat(shares))
        confusion = torch.zeros(len(CLASSES), len(CLASSES))
        for clip, view in views_of(args.test, 0, args.images):
            grid = grid_of(encoder, view, stride)
            scores = fitted(grid.permute(1, 2, 0)).permute(2, 0, 1)
            labels = truth(clip, view)
            found = pixel_features(scores, stride, labels.shape[1], labels.shape[0]).argmax(-1)
            index = labels.flatten() * len(CLASSES) + found.flatten()
            confusion += index.bincount(minlength=len(CLASSES) ** 2).view_as(confusion)
        row = iou_rows(confusion)
        results[spec] = row | {"channels": grid.shape[0]}
        log(f"{spec}: mIoU {row['miou']:.3f} {row} ({time.perf_counter() - began:.0f} s)")
    return results


def grid_of(encoder: ImageEncoder, view: ClipView, stride: int) -> Tensor:
    """(channels, rows, columns) of one image, at cells of `stride` pixels."""
    grid = encoder.encode(frame_to_tensor(view.rgb)[None])[0]
    return F.avg_pool2d(grid[None], stride // encoder.stride)[0]


def three_view_clips(args: argparse.Namespace) -> Iterator[Clip]:
    """Clips of three views in which some object is large enough to be clicked at."""
    made = 0
    for path in list_clips(args.test)[args.first :]:
        clip = read_clip(path)
        if len(clip.views) < 3 or not clickable(clip):
            continue
        yield clip
        made += 1
        if made == args.scenes:
            return


def clickable(clip: Clip) -> list[int]:
    """Objects with enough pixels in some view."""
    return [
        body
        for body in clip.bodies_of_kind("object")
        if max(int((view.segmentation == body + 1).sum()) for view in clip.views) >= SMALLEST
    ]


def scene_of(clip: Clip, work: Path) -> GaussianScene:
    """The clip's Gaussians, fitted to all its views, once."""
    path = work / f"{clip.index:06d}.safetensors"
    if not path.is_file():
        training, _ = split_views(clip_to_capture(clip), max_width=320, holdout=0)
        config = FitConfig(gaussians=60_000, iterations=60, grow=0.0, relocate_every=1000)
        work.mkdir(parents=True, exist_ok=True)
        write_native(fit(training, config).scene, path)
    return read_native(path).scene


def feature_view(encoder: ImageEncoder, view: ClipView) -> FeatureView:
    """A clip's view as the encoder sees it."""
    return FeatureView(
        grid=encoder.encode(frame_to_tensor(view.rgb)[None])[0],
        stride=encoder.stride,
        viewmat=torch.from_numpy(invert(view.T_world_cam)).float(),
        K=torch.from_numpy(view.K).float(),
        width=view.rgb.shape[1],
        height=view.rgb.shape[0],
    )


def lift(args: argparse.Namespace) -> dict[str, object]:
    """Features of two views, seen from the third."""
    encoder, rasterizer = encoder_named(args.features, args.seed), get_rasterizer()
    rows, rendered, own, shares = [], [], [], []
    for number, clip in enumerate(three_view_clips(args)):
        views = [feature_view(encoder, view) for view in clip.views[:3]]
        basis = fit_basis([view.grid for view in views[:2]], args.channels)
        scene, _ = uplift(scene_of(clip, args.work), views[:2], basis, rasterizer)
        row = feature_cosine(scene, views[2:], basis, rasterizer)
        rows.append(row)
        grid, counted = rendered_grid(scene, views[2], basis, rasterizer)
        rendered.append(grid[counted])
        own.append(views[2].grid.permute(1, 2, 0)[counted])
        share = cell_shares(truth(clip, clip.views[2]), encoder.stride)
        shares.append(share[: grid.shape[0], : grid.shape[1]][counted])
        log(f"scene {number} (clip {clip.index}): {row}")
    result: dict[str, object] = {
        name: float(np.mean([row[name] for row in rows])) for name in rows[0]
    }
    half = len(rows) // 2
    for name, cells in (("rendered", rendered), ("encoder", own)):
        fitted = Probe(torch.cat(cells[:half]), torch.cat(shares[:half]))
        found = fitted(torch.cat(cells[half:])).argmax(1)
        labels = torch.cat(shares[half:]).argmax(1)
        index = labels * len(CLASSES) + found
        confusion = index.bincount(minlength=len(CLASSES) ** 2).view(len(CLASSES), -1).float()
        result[f"probe_{name}"] = iou_rows(confusion)
    return result | {"features": args.features, "scenes": len(rows), "classes": CLASSES}


def click(args: argparse.Namespace) -> dict[str, object]:
    """One click on one object per scene."""
    rasterizer = get_rasterizer()
    encoder = None if args.features == "none" else encoder_named(args.features, args.seed)
    values, seconds, pictures = [], [], []
    for clip in three_view_clips(args):
        scene = scene_of(clip, args.work)
        choices = clickable(clip)
        body = choices[int(np.random.default_rng([args.seed, clip.index]).integers(len(choices)))]
        sizes = [int((view.segmentation == body + 1).sum()) for view in clip.views]
        view = clip.views[int(np.argmax(sizes))]
        inside = distance_transform_edt(np.pad(view.segmentation == body + 1, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(inside.argmax()), inside.shape)
        if encoder is not None:
            views = [feature_view(encoder, one) for one in clip.views]
            basis = fit_basis([one.grid for one in views], args.channels)
            scene, _ = uplift(scene, views, basis, rasterizer)
        began = time.perf_counter()
        mask = clicked(scene, view, int(row), int(column))
        seconds.append(time.perf_counter() - began)
        value, picture = overlap(scene, mask, clip, body)
        values.append(value)
        pictures.append(picture)
        log(
            f"scene {len(values)} (clip {clip.index}): IoU {value:.3f}, {int(mask.sum())} Gaussians"
        )
    if args.picture:
        Image.fromarray(np.concatenate(pictures[:12])).save(args.picture)
    return {
        "features": args.features,
        "scenes": len(values),
        "iou": float(np.mean(values)),
        "iou_standard_error": float(np.std(values) / np.sqrt(len(values))),
        "iou_median": float(np.median(values)),
        "below_half": float(np.mean(np.array(values) < 0.5)),
        "seconds": float(np.mean(seconds)),
    }


def clicked(scene: GaussianScene, view: ClipView, row: int, column: int) -> Tensor:
    """(N,) the Gaussians that a click selects; none where the query finds nothing."""
    pixel = torch.zeros(view.rgb.shape[:2])
    pixel[row, column] = 1
    viewmat = torch.from_numpy(invert(view.T_world_cam)).float()
    K = torch.from_numpy(view.K).float()
    seeds = seeds_from_pixels(scene, pixel, viewmat, K, get_rasterizer())
    eye = torch.from_numpy(view.T_world_cam[:3, 3])
    return select_object(scene, seeds, QueryConfig(), eye=eye).mask


def overlap(scene: GaussianScene, mask: Tensor, clip: Clip, body: int) -> tuple[float, np.ndarray]:
    """IoU over the pixels of all views, and a picture: green = both, red = too much, blue = missed."""
    both = either = 0
    tiles = []
    for view in clip.views:
        viewmat = torch.from_numpy(invert(view.T_world_cam)).float()
        K = torch.from_numpy(view.K).float()
        size = (view.rgb.shape[1], view.rgb.shape[0])
        share, alpha = draw_features(
            scene, mask.float()[:, None], viewmat, K, size, get_rasterizer()
        )
        found = ((share[..., 0] > 0.5) & (alpha > 0.5)).numpy()
        true = view.segmentation == body + 1
        both += int((found & true).sum())
        either += int((found | true).sum())
        tile = view.rgb // 2
        for where, color in (
            (found & true, (0, 255, 0)),
            (found & ~true, (255, 0, 0)),
            (true & ~found, (0, 0, 255)),
        ):
            tile[where] = tile[where] // 2 + np.array(color, np.uint8) // 2
        tiles.append(tile)
    return both / max(either, 1), np.concatenate(tiles[:3], 1)


def main() -> None:
    """Run one command and print its result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("probe", "lift", "click"))
    parser.add_argument("--train", type=Path, help="clips that probes learn from")
    parser.add_argument("--test", type=Path, required=True, help="clips of another seed")
    parser.add_argument("--work", type=Path, default=Path("out/feature_scenes"))
    parser.add_argument("--encoders", default="rgb,xfeat,jepa:untrained,jepa")
    parser.add_argument(
        "--features", default="jepa", help="encoder; none = colour and geometry alone"
    )
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--images", type=int, default=150, help="of a probe, train and test each")
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="clip of the test set to begin with")
    parser.add_argument("--picture", type=Path, help="PNG of the first clicks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    began = time.perf_counter()
    result = {"probe": probe, "lift": lift, "click": click}[args.command](args)
    print(json.dumps(result | {"command_seconds": round(time.perf_counter() - began, 1)}, indent=2))


if __name__ == "__main__":
    main()
