"""Sizes of the backbone: the three released ones and our own `tiny`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pointworld.errors import InputError
from pointworld.ptv3.curves import CURVES


@dataclass(frozen=True, kw_only=True)
class PTv3Arch:
    """Everything that fixes the shape of the backbone's parameters and how tokens are ordered.

    in_channels: width of the token features that enter (the world model's `predictor_dim`).
    enc_depths, enc_channels, enc_heads: blocks, width and attention heads of every encoder stage.
    dec_depths, dec_channels, dec_heads: the same for the decoder stages 0 .. stages-2; empty = encoder only.
    patch_size: tokens that attend to each other along a curve, at every stage.
    mlp_ratio: hidden width of a block's MLP over its width.
    drop_path: probability of dropping a residual branch in the last block; earlier blocks less, linearly.
    curves: curves that the blocks of a stage use in turn (block index modulo their number).

    Source: PTv3 (Wu et al. 2024); the released PointWorld sizes.
    """

    name: str
    in_channels: int
    enc_depths: tuple[int, ...]
    enc_channels: tuple[int, ...]
    enc_heads: tuple[int, ...]
    dec_depths: tuple[int, ...]
    dec_channels: tuple[int, ...]
    dec_heads: tuple[int, ...]
    patch_size: int = 256
    mlp_ratio: int = 4
    drop_path: float = 0.3
    curves: tuple[str, ...] = CURVES

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        stages = len(self.enc_depths)
        for label, length in (("enc_channels", stages), ("enc_heads", stages)):
            self._check_length(label, length)
        below = stages - 1 if self.dec_depths else 0
        for label in ("dec_depths", "dec_channels", "dec_heads"):
            self._check_length(label, below)
        widths = zip(self.enc_channels, self.enc_heads, strict=True)
        for width, heads in (*widths, *zip(self.dec_channels, self.dec_heads, strict=True)):
            if width % heads:
                raise InputError(
                    f"PTv3 '{self.name}': {width} channels cannot be split over {heads} heads; "
                    "make every width a multiple of its number of heads"
                )
        if unknown := sorted(set(self.curves) - set(CURVES)):
            raise InputError(
                f"PTv3 '{self.name}': unknown curves {unknown}, expected some of {list(CURVES)}"
            )
        if self.patch_size < 1 or not self.curves:
            raise InputError(f"PTv3 '{self.name}': needs patch_size >= 1 and at least one curve")

    def _check_length(self, label: str, expected: int) -> None:
        if len(getattr(self, label)) != expected:
            raise InputError(
                f"PTv3 '{self.name}': {label} has {len(getattr(self, label))} entries, expected {expected} "
                f"({len(self.enc_depths)} encoder stages; one decoder stage fewer, or none)"
            )

    @property
    def out_channels(self) -> int:
        """Width of the output features: of the finest stage, or of the coarsest without a decoder."""
        return self.dec_channels[0] if self.dec_channels else self.enc_channels[-1]

    @classmethod
    def small(cls, channels: int = 128) -> PTv3Arch:
        """Released small; `channels` is the predictor width (at most 128)."""
        _check_width("small", channels, 128)
        return cls(
            name="small",
            in_channels=channels,
            enc_depths=(2, 2, 2, 6, 2),
            enc_channels=(channels, channels, 128, 256, 512),
            enc_heads=(2, 4, 8, 16, 32),
            dec_depths=(2, 2, 2, 2),
            dec_channels=(channels, channels, 128, 256),
            dec_heads=(4, 4, 8, 16),
        )

    @classmethod
    def base(cls, channels: int = 256) -> PTv3Arch:
        """Released base; `channels` is the predictor width (at most 256)."""
        _check_width("base", channels, 256)
        return cls(
            name="base",
            in_channels=channels,
            enc_depths=(4, 4, 4, 8, 8, 12, 4),
            enc_channels=(channels, channels, channels, 384, 384, 512, 768),
            enc_heads=(4, 4, 4, 8, 8, 16, 24),
            dec_depths=(2,) * 6,
            dec_channels=(channels, channels, 256, 384, 384, 512),
            dec_heads=(4, 4, 4, 8, 8, 16),
        )

    @classmethod
    def large(cls) -> PTv3Arch:
        """Released large; its predictor width is 256."""
        return cls(
            name="large",
            in_channels=256,
            enc_depths=(4, 4, 8, 8, 12, 12, 4),
            enc_channels=(256, 384, 384, 512, 512, 768, 1024),
            enc_heads=(8, 12, 12, 16, 16, 24, 32),
            dec_depths=(4,) * 6,
            dec_channels=(256, 384, 384, 512, 512, 768),
            dec_heads=(8, 12, 12, 16, 16, 24),
        )

    @classmethod
    def tiny(cls, channels: int = 64) -> PTv3Arch:
        """Ours: 2.6 M parameters, at most 1.5 GFLOP at 2,000 tokens, so that it trains and plans on CPUs.

        The finest stage, where most tokens are, is narrow and shallow; `channels` (even, at most 64) is the
        predictor width.
        """
        _check_width("tiny", channels, 64)
        return cls(
            name="tiny",
            in_channels=channels,
            enc_depths=(1, 2, 2, 1),
            enc_channels=(32, 64, 96, 128),
            enc_heads=(2, 2, 3, 4),
            dec_depths=(1, 1, 1),
            dec_channels=(channels, 64, 96),
            dec_heads=(2, 2, 3),
            drop_path=0.0,
            curves=("hilbert", "z-trans"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PTv3Arch:
        """Inverse of `to_dict`; refuses unknown and missing entries.

        Raises:
            InputError: an entry is unknown or missing.
        """
        known = {field.name for field in fields(cls)}
        needed = known - {"patch_size", "mlp_ratio", "drop_path", "curves"}
        unknown, missing = sorted(set(values) - known), sorted(needed - set(values))
        if unknown or missing:
            raise InputError(
                f"PTv3 description: unknown entries {unknown}, missing entries {missing}"
            )
        return cls(**dict(values))


def _check_width(name: str, channels: int, most: int) -> None:
    if not 1 <= channels <= most:
        raise InputError(f"PTv3 '{name}' takes a predictor width of 1 to {most}, got {channels}")
