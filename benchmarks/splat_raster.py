"""Times the CPU rasteriser against a plain prototype in the same run.

    python benchmarks/splat_raster.py [--threads 2] [--repeats 8] [--cpu-time]

Results: EPYC Zen 4, torch 2.13.0, numba 0.68.1, CPU milliseconds of ONE thread (`--threads 1 --cpu-time`), forward, and
forward with backward; "yardstick" is a tuned prototype measured earlier on TWO threads of the same kind of machine:

    image     Gaussians  channels   ours            plain prototype    yardstick, 2 threads
    320x240       5,000         3   10.8 /  23.7     46.2 /  102.4     18 /  40
    320x240      20,000         3   19.2 /  40.5    152.0 /  313.2     39 /  89
    320x240     100,000         3   68.4 / 142.0    904.0 / 1848.9    133 / 295
    640x480      20,000         3   47.9 / 105.6    189.3 /  416.1     75 / 171
    640x480     100,000         3  119.1 / 235.3    863.8 / 1759.5    193 / 413
    320x240      20,000        16   22.8 /  49.5    155.2 /  325.1     37 /  85
    320x240      20,000        32   29.8 /  57.9    163.1 /  336.2     39 /  88
    320x240      20,000        64   32.9 /  69.4    163.6 /  341.5     46 / 112

The first four rows are of the present code; the last four were measured before tile lists and the projection's
gradients ran on several threads, which changes little for one. One of our threads is 1.3 to 2.2 times as fast as the
yardstick's two. The plain prototype of this folder is slower than the yardstick, so the yardstick counts. Figures on
two threads need an idle machine and are not here yet.
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
