"""What all file formats share: the arrays of a splat file, their checks, and number conversions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pointworld.errors import InputError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: Degree-0 spherical harmonic: colour = 0.5 + SH_C0 * sh[:, 0].
SH_C0 = 0.28209479177387814

#: Coefficients a channel has at degree 0, 1, 2, 3.
SH_COUNTS = (1, 4, 9, 16)

#: Opacities are kept this far from 0 and 1 when a format stores them activated, so that logits stay finite.
OPACITY_MARGIN = 1e-5

#: Sign of each coefficient under a half turn about x, which takes (x, y, z) to (x, -y, -z): the parity of every
#: basis polynomial (y z x | xy yz zz xz xx | yxx xyz yzz z xzz zxx xxx) in y and z together.
SH_FLIP_YZ = np.array([1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1], dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatArrays:
    """The Gaussians of a file, as NumPy float32.

    means: (N, 3) [m]. quats_wxyz: (N, 4), any length but zero. log_scales: (N, 3). opacity_logits: (N,).
    sh: (N, K, 3) with K in 1, 4, 9, 16.
    """

    means: Floats
    quats_wxyz: Floats
    log_scales: Floats
    opacity_logits: Floats
    sh: Floats

    def __len__(self) -> int:
        return int(self.means.shape[0])

    @property
    def sh_degree(self) -> int:
        return SH_COUNTS.index(self.sh.shape[1])

    def take(self, order: npt.NDArray[np.intp]) -> SplatArrays:
        """The Gaussians at `order`, in that order."""
        return SplatArrays(
            means=self.means[order],
            quats_wxyz=self.quats_wxyz[order],
            log_scales=self.log_scales[order],
            opacity_logits=self.opacity_logits[order],
            sh=self.sh[order],
        )


def check_values(arrays: SplatArrays, where: str) -> None:
    """Raise InputError when a value is NaN or infinite, a quaternion is zero, or a scale overflows."""
    columns = {
        "a position": arrays.means,
        "a rotation": arrays.quats_wxyz,
        "a scale": arrays.log_scales,
        "an opacity": arrays.opacity_logits,
        "a colour coefficient": arrays.sh,
    }
    for name, values in columns.items():
        row = _first_bad_row(values)
        if row is not None:
            raise InputError(
                f"{where}: {name} of Gaussian {row} is NaN or infinite. Expected finite numbers; "
                "the file is damaged or its fit diverged. Write it again without that row."
            )
    lengths = np.abs(arrays.quats_wxyz).max(axis=1, initial=0.0)
    if bool((lengths == 0).any()):
        row = int(np.argmax(lengths == 0))
        raise InputError(f"{where}: the quaternion of Gaussian {row} is zero, expected a rotation")
    if bool((arrays.log_scales > 80).any()):
        row = int(np.argmax((arrays.log_scales > 80).any(axis=1)))
        raise InputError(
            f"{where}: Gaussian {row} has a log scale above 80, its size overflows. Are the scales of this file "
            "linear? Expected natural logarithms of metres."
        )


def _first_bad_row(values: Floats) -> int | None:
    """First row that is not finite; looks at 65536 rows at a time so that the check needs little memory."""
    for start in range(0, len(values), 65536):
        block = values[start : start + 65536]
        good = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not good.all():
            return start + int(np.argmin(good))
    return None


def check_size(path: Path, expected: int, what: str) -> None:
    """Raise InputError unless the file has exactly `expected` bytes; nothing is allocated before this."""
    size = path.stat().st_size
    if size != expected:
        word = "truncated" if size < expected else "longer than its header says"
        raise InputError(f"{path} is {word}: {what} need {expected} bytes, the file has {size}")


def sigmoid(logits: Floats) -> Floats:
    """Logistic function without overflow."""
    return (0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))).astype(np.float32)


def logit(opacity: npt.NDArray[np.floating]) -> Floats:
    """Inverse of `sigmoid`, with opacities first kept OPACITY_MARGIN away from 0 and 1."""
    clipped = np.clip(opacity.astype(np.float64), OPACITY_MARGIN, 1.0 - OPACITY_MARGIN)
    return np.log(clipped / (1.0 - clipped)).astype(np.float32)


def to_bytes(values: npt.NDArray[np.floating]) -> Bytes:
    """Round to the nearest integer and clip to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def unit_quats(quats: Floats) -> Floats:
    """Quaternions of length one, in float32 whatever their length was."""
    wide = quats.astype(np.float64)
    wide /= np.abs(wide).max(axis=1, keepdims=True)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def flip_yz(arrays: SplatArrays) -> SplatArrays:
    """Half turn about x: changes between right-down-forward and right-up-back axes, exactly (signs only)."""
    signs = np.array([1, -1, -1], dtype=np.float32)
    quats = arrays.quats_wxyz * np.array([1, 1, -1, -1], dtype=np.float32)
    return SplatArrays(
        means=arrays.means * signs,
        quats_wxyz=quats,
        log_scales=arrays.log_scales,
        opacity_logits=arrays.opacity_logits,
        sh=arrays.sh * SH_FLIP_YZ[: arrays.sh.shape[1], None],
    )
