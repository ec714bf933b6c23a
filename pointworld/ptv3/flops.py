"""How many floating-point operations a forward pass of the backbone takes on given tokens."""

from __future__ import annotations

from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.levels import Level, Pyramid


def _block(level: Level, index: int, width: int, mlp_ratio: int) -> int:
    tokens, pairs = len(level.batch), len(level.neighbors.source)
    groups = level.plan(index).groups
    slots = sum(segments * length for segments, length in groups)
    attended = sum(segments * length**2 for segments, length in groups)
    # the convolution's centre, its Linear, the attention's projection, the MLP; queries, keys and values per slot
    linear = 2 * width**2 * (tokens * (1 + 1 + 1 + 2 * mlp_ratio) + 3 * slots)
    return linear + 2 * width**2 * pairs + 4 * width * attended


def forward_flops(arch: PTv3Arch, pyramid: Pyramid) -> int:
    """Multiplications and additions of all matrix products (a multiply-add counts as two).

    Norms, activations and the construction of the pyramid are left out (a few per cent).

    Args:
        arch: the backbone.
        pyramid: its levels for the tokens in question.
    """
    levels = pyramid.levels
    total = 2 * len(levels[0].batch) * arch.in_channels * arch.enc_channels[0]
    for s, level in enumerate(levels):
        width = arch.enc_channels[s]
        if s:
            total += 2 * len(levels[s - 1].batch) * arch.enc_channels[s - 1] * width
        total += sum(_block(level, i, width, arch.mlp_ratio) for i in range(arch.enc_depths[s]))
    for s, width in enumerate(arch.dec_channels):
        below = (
            arch.dec_channels[s + 1] if s + 1 < len(arch.dec_channels) else arch.enc_channels[-1]
        )
        total += 2 * len(levels[s].batch) * arch.enc_channels[s] * width
        total += 2 * len(levels[s + 1].batch) * below * width
        total += sum(_block(levels[s], i, width, arch.mlp_ratio) for i in range(arch.dec_depths[s]))
    return total
