"""Accuracy of meshes of simulated tables: Chamfer distance and F-score (1 cm) where seen, for both methods.

The Gaussians stand where a depth camera saw surface (one round one per 4 mm voxel), which is what a fit starts from;
so this measures meshing, not fitting.

Run: python -m benchmarks.splat_mesh --scenes 5
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from splat.mesh import MeshOptions, fuse, poisson
from splat.mesh_views import look, orbit_views
from tests.splat.mesh_world import as_gaussians, compare, make_world, ring_views


def main() -> None:
    """Print one row per scene and method, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=5)
    parser.add_argument("--views", type=int, default=12)
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {}
    print("scene  method        Gaussians  triangles  chamfer [mm]  F(1 cm)  CPU [s]")
    for seed in range(args.scenes):
        world, views = make_world(seed), ring_views(args.views)
        gaussians = as_gaussians(world, views)
        eyes = np.stack([view.T_world_cam[:3, 3] for view in views])
        methods = {
            "tsdf": lambda: fuse(look(gaussians, views)),  # noqa: B023
            "tsdf, orbit": lambda: fuse(look(gaussians, orbit_views(gaussians))),  # noqa: B023
            "poisson": lambda: poisson(gaussians, eyes, MeshOptions(poisson_depth=7)),  # noqa: B023
        }
        for name, make in methods.items():
            start = time.process_time()
            mesh = make()
            seconds = time.process_time() - start
            accuracy = compare(mesh.vertices, mesh.triangles, world, views)
            rows.setdefault(name, []).append((accuracy.chamfer, accuracy.f_score))
            print(
                f"{seed:5d}  {name:12s}  {len(gaussians):9d}  {len(mesh.triangles):9d}  "
                f"{1000 * accuracy.chamfer:12.2f}  {accuracy.f_score:7.3f}  {seconds:7.2f}"
            )
    for name, values in rows.items():
        chamfer, score = np.mean(values, axis=0)
        print(f"mean   {name:12s}  chamfer {1000 * chamfer:.2f} mm, F(1 cm) {score:.3f}")


if __name__ == "__main__":
    main()
