"""Accuracy of meshes of simulated tables: Chamfer distance and F-score (1 cm) where seen, for both methods.

"given": Gaussians that stand where an exact depth camera saw surface, one round one per 4 mm voxel: meshing alone.
"fitted": Gaussians fitted to images and noisy depth (2 mm at one metre) from the same places: the whole way.

Run: python -m benchmarks.splat_mesh --scenes 5
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from pointworld.types import Capture, RGBDFrame
from splat.fit import FitConfig, fit, split_views
from splat.mesh import MeshOptions, SplatMesh, fuse, poisson
from splat.mesh_views import View, look, near_measured, only_measured, orbit_views
from splat.types import GaussianScene
from tests.splat.mesh_world import as_gaussians, compare, make_world, photographs, ring_views

#: Of depth at one metre [m].
NOISE = 0.002


def methods(
    scene: GaussianScene, views: list[View], frames: list[RGBDFrame]
) -> dict[str, Callable[[], SplatMesh]]:
    """Ways from Gaussians to a surface, by name; frames say where depth was measured."""
    eyes = np.stack([view.T_world_cam[:3, 3] for view in views])
    options = MeshOptions(poisson_depth=7)
    return {
        "tsdf": lambda: fuse(only_measured(look(scene, views), frames)),
        "tsdf, orbit": lambda: fuse(look(scene, orbit_views(scene))),
        "poisson": lambda: poisson(
            scene.select(near_measured(scene, views, frames)), eyes, options
        ),
    }


def main() -> None:
    """Print one row per scene and method, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=5)
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--gaussians", type=int, default=15_000)
    parser.add_argument("--iterations", type=int, default=300)
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {}
    print("scene  Gaussians            method  triangles  chamfer [mm]  F(1 cm)  CPU [s]")
    for seed in range(args.scenes):
        world, views = make_world(seed), ring_views(args.views)
        start = time.process_time()
        config = FitConfig(gaussians=args.gaussians, iterations=args.iterations, depth_weight=3.0)
        frames = photographs(world, views, noise=NOISE, seed=seed)
        training, _ = split_views(
            Capture(frames=tuple(frames), source="made"), max_width=320, holdout=0
        )
        fitted = fit(training, config).scene
        print(f"{seed:5d}  fit in {time.process_time() - start:.1f} s of CPU")
        for kind, gaussians in (("given", as_gaussians(world, views)), ("fitted", fitted)):
            for method, make in methods(gaussians, views, frames).items():
                start = time.process_time()
                mesh = make()
                seconds = time.process_time() - start
                accuracy = compare(mesh.vertices, mesh.triangles, world, views)
                name = f"{kind}, {method}"
                rows.setdefault(name, []).append((accuracy.chamfer, accuracy.f_score))
                print(
                    f"{seed:5d}  {len(gaussians):9d}  {name:>20s}  {len(mesh.triangles):9d}  "
                    f"{1000 * accuracy.chamfer:12.2f}  {accuracy.f_score:7.3f}  {seconds:7.2f}"
                )
    for name, values in rows.items():
        chamfer, score = np.mean(values, axis=0)
        print(f"mean   {name:20s}  chamfer {1000 * chamfer:.2f} mm, F(1 cm) {score:.3f}")


if __name__ == "__main__":
    main()
