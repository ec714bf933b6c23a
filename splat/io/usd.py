"""Export to USD as text (.usda), schema UsdVolParticleField3DGaussianSplat of OpenUSD 26.03 and later.

Text needs no USD library; `usdcat scene.usda -o scene.usdc` makes it binary.
Source: openusd.org, schemas/usdVol/ParticleField3DGaussianSplat.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pointworld.files import atomic_path
from splat.io.arrays import SplatArrays, sigmoid, unit_quats
from splat.io.glb import Up

_HEAD = """#usda 1.0
(
    defaultPrim = "World"
    metersPerUnit = 1
    upAxis = "{axis}"
)

def Xform "World"
{{
    float xformOp:rotateX = {turn}
    uniform token[] xformOpOrder = ["xformOp:rotateX"]

    def ParticleField3DGaussianSplat "Gaussians"
    {{
        float3[] extent = [{low}, {high}]
        uniform token projectionModeHint = "perspective"
        uniform token sortingModeHint = "zDepth"
        uniform int radiance:sphericalHarmonicsDegree = {degree}
"""


def write_usda(arrays: SplatArrays, path: Path, *, up: Up = "z") -> None:
    """Write one ParticleField3DGaussianSplat prim, float32 with nine digits (exact).

    Args:
        arrays: the Gaussians, at least one.
        path: file to write.
        up: direction of the scene that points up: `z` for robot frames, `-y` for a camera's frame.
    """
    reach = 3.0 * np.exp(arrays.log_scales.max(axis=1, keepdims=True).astype(np.float64))
    head = _HEAD.format(
        axis="Z" if up == "z" else "Y",
        turn=180 if up == "-y" else 0,
        low=_tuple((arrays.means - reach).min(axis=0)),
        high=_tuple((arrays.means + reach).max(axis=0)),
        degree=arrays.sh_degree,
    )
    coefficients = arrays.sh.shape[1]
    blocks = (
        ("point3f[] positions", arrays.means, ""),
        ("quatf[] orientations", unit_quats(arrays.quats_wxyz), ""),
        ("float3[] scales", np.exp(arrays.log_scales), ""),
        ("float[] opacities", sigmoid(arrays.opacity_logits), ""),
        (
            "float3[] radiance:sphericalHarmonicsCoefficients",
            arrays.sh.reshape(-1, 3),
            f' (\n            elementSize = {coefficients}\n            interpolation = "vertex"\n        )',
        ),
    )
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write(head)
        for name, values, note in blocks:
            file.write(f"        {name} = [")
            for text in _rows(values):
                file.write(text)
            file.write(f"]{note}\n")
        file.write("    }\n}\n")


def _tuple(row: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.9g}" for value in row.tolist()) + ")"


def _rows(values: np.ndarray) -> Iterator[str]:
    """Comma-separated values or tuples, in pieces of 4096."""
    for start in range(0, len(values), 4096):
        rows = values[start : start + 4096]
        if rows.ndim == 1:
            text = ", ".join(f"{value:.9g}" for value in rows.tolist())
        else:
            text = ", ".join(map(_tuple, rows))
        yield text if start == 0 else ", " + text
