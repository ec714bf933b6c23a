"""Point Transformer V3: encoder, decoder and their blocks, on a prepared pyramid of levels.

Module names give the state-dict keys of the released PointWorld checkpoints.

Source: X. Wu et al., Point Transformer V3 (CVPR 2024); own implementation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from pointworld.products import Linear as ProductLinear
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.conv import SubmanifoldConv3d
from pointworld.ptv3.levels import Level, Pyramid
from pointworld.ptv3.patches import PatchPlan, from_slots, to_slots

#: Values between two layers that are computed at once without gradients: few enough to stay in the cache.
_CACHED = 2**20


class Linear(ProductLinear):
    """A linear layer whose parameters stay unset until the network initialises them all at once."""

    def reset_parameters(self) -> None:
        """Leaves the parameters as they are."""


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention; on a CPU in float32, which is faster there than bfloat16 and more exact."""
    if q.device.type != "cpu":
        return scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        wide = torch.promote_types(q.dtype, torch.float32)
        exact = scaled_dot_product_attention(q.to(wide), k.to(wide), v.to(wide))
    return exact.to(q.dtype)


class PatchAttention(nn.Module):
    """Self-attention within the patches of a curve."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)

    def forward(self, x: torch.Tensor, plan: PatchPlan) -> torch.Tensor:
        """(tokens, channels) -> (tokens, channels)."""
        slots = to_slots(x, plan)
        outputs, first = [], 0
        for segments, length in plan.groups:
            part = slots[first : first + segments * length]
            first += segments * length
            at_once = segments
            if not torch.is_grad_enabled():
                at_once = max(_CACHED // (length * self.qkv.out_features), 1)
            outputs += [self._attend(rows, length) for rows in part.split(at_once * length)]
        slots = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        result: torch.Tensor = self.proj(from_slots(slots, plan))
        return result

    def _attend(self, rows: torch.Tensor, length: int) -> torch.Tensor:
        """(segments * length, channels) -> the same, every segment by itself."""
        q, k, v = (
            self.qkv(rows).view(-1, length, 3, self.heads, rows.shape[1] // self.heads).unbind(2)
        )
        attended = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return attended.transpose(1, 2).reshape(rows.shape)


class MLP(nn.Module):
    """Linear, GELU (exact), Linear."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.fc1 = Linear(in_channels, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_channels) -> (..., out_channels)."""
        rows = max(_CACHED // self.fc1.out_features, 1)
        if torch.is_grad_enabled() or len(x) <= rows:
            result: torch.Tensor = self.fc2(self.act(self.fc1(x)))
            return result
        return torch.cat([self.fc2(self.act(self.fc1(part))) for part in x.split(rows)])


def drop_rows(
    x: torch.Tensor, probability: float, training: bool, generator: torch.Generator | None
) -> torch.Tensor:
    """Drop path per token: a row is zeroed with `probability`, the others are scaled up. Off outside training."""
    if not training or probability == 0.0:
        return x
    keep = 1.0 - probability
    drawn = torch.rand(x.shape[0], 1, dtype=x.dtype, device=x.device, generator=generator)
    return x * (drawn < keep).to(x.dtype).div_(keep)


class Block(nn.Module):
    """Convolution, patch attention and MLP, each added to its input."""

    def __init__(self, channels: int, heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.cpe = nn.Sequential(
            SubmanifoldConv3d(channels, channels),
            Linear(channels, channels),
            nn.LayerNorm(channels),
        )
        self.norm1 = nn.Sequential(nn.LayerNorm(channels))
        self.attn = PatchAttention(channels, heads)
        self.norm2 = nn.Sequential(nn.LayerNorm(channels))
        self.mlp = nn.Sequential(MLP(channels, mlp_ratio * channels, channels))

    def forward(
        self, x: torch.Tensor, level: Level, index: int, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """(tokens, channels) -> the same; `index` is the block's place in its stage."""
        conv, linear, norm = self.cpe
        x = x + norm(linear(conv(x, level.neighbors)))
        attended = self.attn(self.norm1(x), level.plan(index))
        x = x + drop_rows(attended, self.drop_path, self.training, generator)
        mapped = self.mlp(self.norm2(x))
        return x + drop_rows(mapped, self.drop_path, self.training, generator)


class Embedding(nn.Module):
    """Linear, LayerNorm, GELU on every token."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.ModuleDict(
            {"linear": Linear(in_channels, channels), "norm": nn.LayerNorm(channels)}
        )
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, in_channels) -> (tokens, channels)."""
        result: torch.Tensor = self.act(self.stem["norm"](self.stem["linear"](x)))
        return result


class GridPooling(nn.Module):
    """Linear, maximum over the tokens of a coarser cell, LayerNorm, GELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = Linear(in_channels, out_channels)
        self.norm = nn.Sequential(nn.LayerNorm(out_channels))
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        """(tokens of the finer level, in) -> (tokens of `level`, out)."""
        assert level.cluster is not None
        x = self.proj(x)
        index = level.cluster[:, None].expand(-1, x.shape[1])
        pooled = x.new_zeros(len(level.batch), x.shape[1])
        pooled = pooled.scatter_reduce(0, index, x, "amax", include_self=False)
        result: torch.Tensor = self.act(self.norm(pooled))
        return result


class GridUnpooling(nn.Module):
    """Coarse features copied to the finer tokens, plus the encoder's features of those tokens."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            Linear(in_channels, out_channels), nn.LayerNorm(out_channels), nn.GELU()
        )
        self.proj_skip = nn.Sequential(
            Linear(skip_channels, out_channels), nn.LayerNorm(out_channels), nn.GELU()
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor, cluster: torch.Tensor) -> torch.Tensor:
        """(coarse tokens, in), (fine tokens, skip) -> (fine tokens, out)."""
        result: torch.Tensor = self.proj_skip(skip) + self.proj(x).index_select(0, cluster)
        return result


class Stage(nn.ModuleDict):
    """Blocks of one stage (`block0`, `block1`, ...) and the module that leads into it (`down` or `up`)."""

    def __init__(
        self,
        entry: Mapping[str, nn.Module],
        channels: int,
        heads: int,
        rates: list[float],
        mlp_ratio: int,
    ) -> None:
        blocks = {
            f"block{i}": Block(channels, heads, mlp_ratio, rate) for i, rate in enumerate(rates)
        }
        super().__init__({**entry, **blocks})
        self.depth = len(rates)

    def blocks(
        self,
        x: torch.Tensor,
        level: Level,
        generator: torch.Generator | None,
        *,
        recompute: bool = False,
    ) -> torch.Tensor:
        """(tokens, channels) through all blocks.

        recompute: keep only every block's input for the gradient (drop path must then use torch's own generator,
            whose state is restored for the second pass).
        """
        for index in range(self.depth):
            block = self[f"block{index}"]
            if recompute and generator is None:
                x = checkpoint(block, x, level, index, use_reentrant=False)
            else:
                x = block(x, level, index, generator)
        return x


def _drop_rates(depths: tuple[int, ...], most: float) -> list[list[float]]:
    """Rates that rise linearly over all blocks, cut into stages."""
    flat = iter(torch.linspace(0, most, sum(depths), dtype=torch.float64, device="cpu").tolist())
    return [[next(flat) for _ in range(depth)] for depth in depths]


class PTv3(nn.Module):
    """The backbone: token features on a pyramid in, features of the same tokens out."""

    def __init__(self, arch: PTv3Arch) -> None:
        super().__init__()
        self.arch = arch
        #: In training, compute blocks a second time for the gradient instead of keeping what is inside them.
        self.recompute = False
        widths, narrow = arch.enc_channels, arch.dec_channels
        self.embedding = Embedding(arch.in_channels, widths[0])
        ratio = arch.mlp_ratio
        self.enc = nn.ModuleDict()
        for s, rates in enumerate(_drop_rates(arch.enc_depths, arch.drop_path)):
            down = {"down": GridPooling(widths[s - 1], widths[s])} if s else {}
            self.enc[f"enc{s}"] = Stage(down, widths[s], arch.enc_heads[s], rates, ratio)
        self.dec = nn.ModuleDict()
        dec_rates = _drop_rates(arch.dec_depths, arch.drop_path)
        for s in reversed(range(len(narrow))):
            below = narrow[s + 1] if s + 1 < len(narrow) else widths[-1]
            up = {"up": GridUnpooling(below, widths[s], narrow[s])}
            self.dec[f"dec{s}"] = Stage(up, narrow[s], arch.dec_heads[s], dec_rates[s][::-1], ratio)

    def forward(
        self, features: torch.Tensor, pyramid: Pyramid, *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Runs the network.

        Args:
            features: (tokens, in_channels) in the order of the pyramid's first level.
            pyramid: from `released_pyramid` or `stable_pyramid` with the same `arch`.
            generator: for drop path in training; torch's default generator if None.
        Returns:
            (tokens, out_channels); without a decoder the tokens are those of the last level.
        """
        x = self.embedding(features)
        recompute = self.recompute and self.training
        skips = []
        for s, level in enumerate(pyramid.levels):
            stage = _stage(self.enc, f"enc{s}")
            x = stage["down"](x, level) if s else x
            x = stage.blocks(x, level, generator, recompute=recompute)
            skips.append(x)
        for s in reversed(range(len(self.arch.dec_channels))):
            stage = _stage(self.dec, f"dec{s}")
            x = stage["up"](x, skips[s], pyramid.levels[s + 1].cluster)
            x = stage.blocks(x, pyramid.levels[s], generator, recompute=recompute)
        return x


def _stage(stages: nn.ModuleDict, name: str) -> Stage:
    stage = stages[name]
    assert isinstance(stage, Stage)
    return stage


def initialise(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Truncated normal with std 0.02 for every matrix and convolution, zero biases, unit norms.

    Source: the released PointWorld's training.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | SubmanifoldConv3d):
            nn.init.trunc_normal_(part.weight, std=0.02, generator=generator)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
