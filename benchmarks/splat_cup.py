"""Take the white cup away from a fitted scene of the kitchen table, and measure what is left of it.

    pointworld splat fit CAPTURE --out out/kitchen ...
    python benchmarks/splat_cup.py --scene out/kitchen [--picture cup.png]

The cup is clicked in one frame and removed; four frames with hand-made masks are rendered before and after.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_dilation

from pointworld.cli.splat_edit import HIDING_CAMERAS, best_cameras
from pointworld.cli.splat_fit import check_scene_folder
from pointworld.cli.splat_query import camera_index, view_of_camera
from splat.edit import hidden_by, remove
from splat.features import gather
from splat.fit.optimise import render
from splat.io import NativeFile, read_native
from splat.query import QueryConfig, seeds_from_pixels, select_object
from splat.raster import get_rasterizer

Tensor = torch.Tensor

MASKS = Path(__file__).resolve().parents[1] / "tests" / "splat" / "cup_masks"
CLICK = ("frame-000240", 121, 164)
#: A pixel has changed when a channel differs by more than this; pixels this near to the cup are left out of the rest.
CHANGE, MARGIN = 0.1, 10


def cup_of(stored: NativeFile, config: QueryConfig) -> Tensor:
    """(N,) bool: what one click on the cup selects."""
    frame, x, y = CLICK
    viewmat, K, (width, height) = view_of_camera(stored, camera_index(stored, frame))
    pixel = torch.zeros(height, width)
    pixel[y, x] = 1
    seeds = seeds_from_pixels(stored.scene, pixel, viewmat, K, get_rasterizer())
    return select_object(stored.scene, seeds, config, eye=torch.linalg.inv(viewmat)[:3, 3]).mask


@torch.no_grad()
def measure(stored: NativeFile, mask: Tensor) -> tuple[dict[str, float], np.ndarray]:
    """What the issue asks for, and rows of: before, after, changed pixels.

    The cup's Gaussians are those that contribute more to the masks than to the rest of the four frames.
    """
    rasterizer = get_rasterizer()
    seen = [view_of_camera(stored, i) for i in best_cameras(stored, mask, "auto")[:HIDING_CAMERAS]]
    hidden = hidden_by(stored.scene, mask, seen, rasterizer)
    after = remove(stored.scene, mask | hidden)
    inside, whole = torch.zeros(len(mask)), torch.zeros(len(mask))
    counts = np.zeros(4)
    rows = []
    for path in sorted(MASKS.glob("*.png")):
        cup = np.asarray(Image.open(path)).astype(bool)
        viewmat, K, size = view_of_camera(stored, camera_index(stored, path.stem))
        layers = torch.stack([torch.from_numpy(cup.copy()).float(), torch.ones(cup.shape)], -1)
        gathered = gather(stored.scene, layers, viewmat, K, rasterizer)
        inside, whole = inside + gathered[:, 0], whole + gathered[:, 1]
        images = [
            render(rasterizer, scene, viewmat, K, size, "RGB")[0].clamp(0, 1)
            for scene in (stored.scene, after)
        ]
        changed = ((images[0] - images[1]).abs().amax(-1) > CHANGE).numpy()
        rest = ~binary_dilation(cup, iterations=MARGIN)
        counts += [(changed & cup).sum(), cup.sum(), (changed & rest).sum(), rest.sum()]
        white = torch.from_numpy(changed).float()[..., None].expand(-1, -1, 3)
        rows.append((torch.cat([*images, white], 1) * 255).round().to(torch.uint8).numpy())
    own = (inside > 0.5) & (inside > 0.5 * whole)
    left = own & ~mask
    return {
        "selected": int(mask.sum()),
        "hidden": int(hidden.sum()),
        "cup_gaussians": int(own.sum()),
        "cup_pixels_changed": counts[0] / counts[1],
        "other_pixels_changed": counts[2] / counts[3],
        "gaussians_left": float(left.sum() / own.sum()),
        "contribution_left": float(inside[left].sum() / inside[own].sum()),
    }, np.concatenate(rows)


def main() -> None:
    """Measure one scene and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=Path, required=True, help="folder of splat fit")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    stored = read_native(check_scene_folder(args.scene))
    numbers, picture = measure(stored, cup_of(stored, QueryConfig()))
    if args.picture:
        Image.fromarray(picture).save(args.picture)
    print(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
