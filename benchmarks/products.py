"""Speed of float32 matrix products: by MKL, as PyTorch computes them, and by `pointworld.products`.

    python benchmarks/products.py [--threads 1] [--repeats 9]

Results: EPYC (AVX-512), one thread, torch 2.13.0, nothing else running; GFLOP per CPU second, MKL > ours:

      4000 x   64 x  256: layer   96 >   98, its weight's gradient   88 >   87
      1000 x  128 x  512: layer  105 >  182, its weight's gradient   94 >  140
      3100 x  128 x  384: layer  102 >  203, its weight's gradient   96 >  147
      8200 x  256 x 1024: layer   79 >  131, its weight's gradient   96 >  167
      8200 x 1024 x  256: layer   97 >  216, its weight's gradient  100 >  193
     15300 x  384 x 1152: layer   89 >  156, its weight's gradient  104 >  195
       700 x  512 x 2048: layer  103 >  207, its weight's gradient  100 >  174
      1800 x  768 x 3072: layer  101 >  206, its weight's gradient  103 >  181
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from pointworld.products import affine, matmul_transposed

#: Rows, inner and outer width: layers of `tiny`, `small`, `base` and `large`, and what a few hundred rows cost.
SHAPES = (
    (4000, 64, 256),
    (1000, 128, 512),
    (3100, 128, 384),
    (8200, 256, 1024),
    (8200, 1024, 256),
    (15300, 384, 1152),
    (700, 512, 2048),
    (1800, 768, 3072),
)


def speed(work: Callable[[], object], operations: float, repeats: int) -> float:
    """GFLOP/s of the fastest of several CPU times, after one that does not count."""
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return operations / best / 1e9


def line_of(rows: int, inner: int, outer: int, repeats: int) -> str:
    """Both ways of a layer and of the gradient of its weight."""
    x, weight, slope = (torch.randn(*n) for n in ((rows, inner), (outer, inner), (rows, outer)))
    operations = 2.0 * rows * inner * outer
    plain = speed(lambda: x @ weight.T, operations, repeats)
    ours = speed(lambda: affine(x, weight, None), operations, repeats)
    plain_slope = speed(lambda: slope.T @ x, operations, repeats)
    our_slope = speed(lambda: matmul_transposed(slope, x), operations, repeats)
    return f"layer {plain:4.0f} > {ours:4.0f}, its weight's gradient {plain_slope:4.0f} > {our_slope:4.0f}"


def main() -> None:
    """Prints one row per shape."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads; GFLOP per CPU second, MKL > ours"
    )
    for shape in SHAPES:
        with torch.no_grad():
            print("{:6} x {:4} x {:4}: ".format(*shape) + line_of(*shape, arguments.repeats))


if __name__ == "__main__":
    main()
