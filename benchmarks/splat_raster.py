"""Times the CPU rasteriser against a plain prototype in the same run.

    python benchmarks/splat_raster.py [--threads 2] [--repeats 8] [--cpu-time]

Results: EPYC Zen 4 with 2 virtual cores, nothing else running, torch 2.13.0, numba 0.68.1, two threads, wall
milliseconds, forward / forward with backward, best of 5. "yardstick" is a tuned prototype measured earlier on two
threads of the same kind of machine; the plain prototype of this folder is slower than it, so the yardstick counts:

    image     Gaussians  channels   ours            plain prototype    yardstick    faster than it
    320x240       5,000         3   10.9 /  18.8     24.7 /  52.8      18 /  40     1.7 / 2.1
    320x240      20,000         3   14.6 /  32.3     76.7 / 163.3      39 /  89     2.7 / 2.8
    320x240     100,000         3   47.6 /  80.0    459.7 / 971.6     133 / 295     2.8 / 3.7
    640x480      20,000         3   34.3 /  69.7     99.2 / 220.1      75 / 171     2.2 / 2.5
    640x480     100,000         3   63.5 / 128.1    434.4 / 894.4     193 / 413     3.0 / 3.2
    320x240      20,000        16   16.2 /  35.9     80.9 / 169.8      37 /  85     2.3 / 2.4
    320x240      20,000        32   19.3 /  39.8     83.4 / 172.4      39 /  88     2.0 / 2.2
    320x240      20,000        64   19.6 /  47.9     82.4 / 179.3      46 / 112     2.3 / 2.3

One thread, CPU milliseconds (`--threads 1 --cpu-time`): 320x240 with 5,000 10.8 / 23.7, with 20,000 19.2 / 40.5, with
100,000 68.4 / 142; 640x480 with 20,000 47.9 / 105.6.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import torch

LEARNED = ("means", "quats_wxyz", "scales", "opacities", "colors")
#: width, height, Gaussians, channels
CASES = (
    (320, 240, 5_000, 3),
    (320, 240, 20_000, 3),
    (320, 240, 100_000, 3),
    (640, 480, 20_000, 3),
    (640, 480, 100_000, 3),
    (320, 240, 20_000, 16),
    (320, 240, 20_000, 32),
    (320, 240, 20_000, 64),
)


def scene(width: int, height: int, count: int, channels: int) -> dict[str, Any]:
    """Gaussians over the whole image, sigma about 0.6 sqrt(pixels / Gaussians) px, opacity 0.5-0.95."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    focal, depth = 0.9 * width, 1 + 2 * uniform(count)
    pixels = uniform(count, 2) * torch.tensor([width, height]) - torch.tensor([width, height]) / 2
    sigma = 0.6 * (width * height / count) ** 0.5 * depth / focal
    spread = torch.exp(0.3 * torch.randn(count, 3, generator=generator))
    return {
        "means": torch.cat([pixels / focal * depth[:, None], depth[:, None]], 1),
        "quats_wxyz": torch.randn(count, 4, generator=generator),
        "scales": sigma[:, None] * spread,
        "opacities": 0.5 + 0.45 * uniform(count),
        "colors": uniform(count, channels),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]]),
        "width": width,
        "height": height,
    }


def timed(
    render: Callable[..., torch.Tensor], case: dict[str, Any], clock: Callable[[], float]
) -> tuple[float, float]:
    """Seconds of one forward pass, and of one with its backward pass."""
    start = clock()
    with torch.no_grad():
        render(**case)
    forward = clock() - start
    learned = {k: v.clone().requires_grad_(True) if k in LEARNED else v for k, v in case.items()}
    start = clock()
    render(**learned).sum().backward()
    return forward, clock() - start


def main() -> None:
    """Prints one row per case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU seconds, for a busy machine; use --threads 1"
    )
    arguments = parser.parse_args()
    # The prototype's threads are Numba's; ours are torch's number.
    os.environ["NUMBA_NUM_THREADS"] = str(arguments.threads)
    import splat_raster_prototype as prototype

    from splat.raster import get_rasterizer

    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    ours = get_rasterizer("cpu")
    runs: dict[str, Callable[..., torch.Tensor]] = {
        "ours": lambda **case: ours(**case).colors,
        "plain": lambda **case: prototype.rasterize(**case)[0],
    }
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, best of {arguments.repeats}, milliseconds"
    )
    print(
        "   image   Gaussians  channels   forward ours / plain   with backward ours / plain   difference"
    )
    for width, height, count, channels in CASES:
        case = scene(width, height, count, channels)
        with torch.no_grad():
            gap = float((runs["ours"](**case)[0] - runs["plain"](**case)).abs().max())
        best = {name: [float("inf")] * 2 for name in runs}
        for _ in range(arguments.repeats):
            for name, render in runs.items():
                best[name] = [
                    min(a, b) for a, b in zip(best[name], timed(render, case, clock), strict=True)
                ]
        (f, b), (pf, pb) = ([1e3 * s for s in best[name]] for name in ("ours", "plain"))
        print(
            f"{width}x{height} {count:10,} {channels:9} {f:10.1f} / {pf:.1f} = {pf / f:.2f}x"
            f" {b:12.1f} / {pb:.1f} = {pb / b:.2f}x {gap:14.1e}"
        )


if __name__ == "__main__":
    main()
