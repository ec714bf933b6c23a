"""Export to binary glTF with the extension KHR_gaussian_splatting (ratified form: SCALE is linear, metres).

The Gaussians stay in their own coordinates; a rotation of the node turns them to glTF's +Y up. Spherical harmonics
need no conversion: the extension's basis is that of the original code, Condon-Shortley signs included.
Source: github.com/KhronosGroup/glTF, extensions/2.0/Khronos/KHR_gaussian_splatting.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pointworld.files import atomic_path
from splat.io.arrays import SH_C0, SplatArrays, sigmoid, to_bytes, unit_quats

Up = Literal["z", "y", "-y"]

EXTENSION = "KHR_gaussian_splatting"
_FLOAT, _UNSIGNED_BYTE, _POINTS, _ARRAY_BUFFER = 5126, 5121, 0, 34962
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_HALF = 0.7071067811865476

#: Node rotation (x y z w) that takes the scene's up direction to +Y.
UP_ROTATIONS: dict[str, list[float]] = {
    "z": [-_HALF, 0.0, 0.0, _HALF],
    "y": [0.0, 0.0, 0.0, 1.0],
    "-y": [1.0, 0.0, 0.0, 0.0],
}


def write_glb(arrays: SplatArrays, path: Path, *, up: Up = "z") -> None:
    """Write one POINTS primitive with the extension's attributes and COLOR_0 for viewers without it.

    Args:
        arrays: the Gaussians, at least one (glTF has no empty accessors).
        path: file to write.
        up: direction of the scene that points up: `z` for robot frames, `-y` for a camera's frame.
    """
    attributes = _attributes(arrays)
    document = _document(attributes, up, arrays)
    body = b"".join(values.tobytes() for values in attributes.values())
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body += b"\0" * (-len(body) % 4)
    total = 12 + 8 + len(text) + 8 + len(body)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(body), b"BIN\0") + body)


def _attributes(arrays: SplatArrays) -> dict[str, np.ndarray]:
    """Attribute name to (N, components) array, float32 or uint8, in file order."""
    opacity = sigmoid(arrays.opacity_logits)[:, None]
    color = (arrays.sh[:, 0] * SH_C0 + 0.5) * 255
    out: dict[str, np.ndarray] = {
        "POSITION": arrays.means,
        f"{EXTENSION}:ROTATION": unit_quats(arrays.quats_wxyz)[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": np.exp(arrays.log_scales),
        f"{EXTENSION}:OPACITY": opacity,
    }
    for degree in range(arrays.sh_degree + 1):
        for i in range(2 * degree + 1):
            out[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}"] = arrays.sh[:, degree * degree + i]
    out = {name: np.ascontiguousarray(values, dtype="<f4") for name, values in out.items()}
    out["COLOR_0"] = to_bytes(np.concatenate([color, opacity * 255], axis=1))
    return out


def _document(attributes: dict[str, np.ndarray], up: Up, arrays: SplatArrays) -> dict[str, Any]:
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    offset = 0
    for name, values in attributes.items():
        views.append(
            {
                "buffer": 0,
                "byteOffset": offset,
                "byteLength": values.nbytes,
                "target": _ARRAY_BUFFER,
            }
        )
        offset += values.nbytes
        accessor: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": _FLOAT,
            "count": len(values),
            "type": _KINDS[values.shape[1]],
        }
        if name == "POSITION":
            accessor["min"] = arrays.means.min(axis=0).tolist()
            accessor["max"] = arrays.means.max(axis=0).tolist()
        if name == "COLOR_0":
            accessor |= {"componentType": _UNSIGNED_BYTE, "normalized": True}
        accessors.append(accessor)
    extension = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {
        "attributes": {name: i for i, name in enumerate(attributes)},
        "mode": _POINTS,
        "extensions": {EXTENSION: extension},
    }
    return {
        "asset": {"version": "2.0", "generator": "pointworld-open"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "gaussians", "rotation": UP_ROTATIONS[up]}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset + -offset % 4}],
    }
