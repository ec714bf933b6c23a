"""`read` and `write`: formats by suffix and content, the lossless file, and the two exports."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.errors import InputError
from splat import io
from splat.io.arrays import SH_C0, sigmoid
from splat.types import GaussianScene
from tests.splat.io.scenes import random_arrays, rotation_error


def _scene(seed: int = 0, count: int = 40, degree: int = 2) -> GaussianScene:
    plain = io.to_scene(random_arrays(seed, count, degree))
    rng = torch.Generator().manual_seed(seed)
    return GaussianScene(
        means=plain.means,
        quats_wxyz=plain.quats_wxyz,
        log_scales=plain.log_scales,
        opacity_logits=plain.opacity_logits,
        sh=plain.sh,
        features=torch.randn(count, 5, generator=rng, dtype=torch.float16 if seed % 2 else None),
        ids=torch.randint(-1, 4, (count,), generator=rng),
        moving=torch.rand(count, generator=rng) < 0.5,
        background=torch.rand(3, generator=rng),
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 50), degree=st.integers(0, 3))
def test_safetensors_keeps_everything(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, degree: int
) -> None:
    scene = _scene(seed, count, degree)
    path = tmp_path_factory.mktemp("native") / "scene.safetensors"
    decoder = {"decoder.basis": torch.randn(5, 7), "decoder.mean": torch.randn(7)}
    io.write_native(scene, path, tensors=decoder, metadata={"encoder": "lejepa-tiny"})
    file = io.read_native(path)
    for name in GaussianScene.__dataclass_fields__:
        before, after = getattr(scene, name), getattr(file.scene, name)
        assert before.dtype == after.dtype and torch.equal(before, after)
    assert file.metadata == {"encoder": "lejepa-tiny"}
    assert set(file.tensors) == set(decoder)
    assert all(torch.equal(file.tensors[name], value) for name, value in decoder.items())


def test_safetensors_without_the_optional_fields(tmp_path: Path) -> None:
    scene = io.to_scene(random_arrays(0, 3, 1))
    io.write(scene, tmp_path / "plain.safetensors")
    back = io.read(tmp_path / "plain.safetensors")
    assert back.features is None and back.ids is None and back.moving is None
    assert back.background is None
    assert torch.equal(back.sh, scene.sh)


@pytest.mark.rejects_input
def test_names_of_the_scene_are_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="means"):
        io.write_native(_scene(), tmp_path / "a.safetensors", tensors={"means": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", io.READABLE)
def test_every_format_by_its_suffix(tmp_path: Path, suffix: str) -> None:
    scene = _scene()
    io.write(scene, tmp_path / f"scene{suffix}")
    back = io.read(tmp_path / f"scene{suffix}")
    assert len(back) == len(scene)
    assert back.means.dtype == torch.float32
    assert (back.means.mean(0) - scene.means.mean(0)).abs().max() < 1e-3


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".spz"])
def test_content_wins_over_the_name(tmp_path: Path, suffix: str) -> None:
    io.write(_scene(), tmp_path / f"scene{suffix}")
    (tmp_path / f"scene{suffix}").rename(tmp_path / "scene.splat")
    assert len(io.read(tmp_path / "scene.splat")) == 40


@pytest.mark.rejects_input
@pytest.mark.parametrize("name", ["scene.sog", "scene.glb", "scene", "scene.ply", "scene.spz"])
def test_unknown_content_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"what is this, no splat file at all")
    with pytest.raises(InputError, match="scene"):
        io.read(tmp_path / name)


@pytest.mark.rejects_input
def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    scene = _scene()
    with pytest.raises(InputError, match=r"\.usda"):
        io.write(scene, tmp_path / "scene.obj")
    broken = scene.means.clone()
    broken[7, 1] = float("nan")
    bad = GaussianScene(
        means=broken,
        quats_wxyz=scene.quats_wxyz,
        log_scales=scene.log_scales,
        opacity_logits=scene.opacity_logits,
        sh=scene.sh,
    )
    for suffix in (".ply", ".compressed.ply", ".splat", ".spz", ".glb", ".usda"):
        with pytest.raises(InputError, match="Gaussian 7"):
            io.write(bad, tmp_path / f"scene{suffix}")
    far = GaussianScene(
        means=scene.means * 1e5,
        quats_wxyz=scene.quats_wxyz,
        log_scales=scene.log_scales,
        opacity_logits=scene.opacity_logits,
        sh=scene.sh,
    )
    with pytest.raises(InputError, match="fractional bits"):
        io.write(far, tmp_path / "scene.spz")
    with pytest.raises(InputError, match="no Gaussians"):
        io.write(scene.select(torch.zeros(40, dtype=torch.bool)), tmp_path / "scene.glb")
    assert not list(tmp_path.iterdir())


def _read_glb(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Document and attributes of a file as `write_glb` makes it, parsed by the glTF 2.0 rules."""
    data = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", data)
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and length % 4 == 0
    document = json.loads(data[20 : 20 + length])
    size, kind = struct.unpack_from("<I4s", data, 20 + length)
    assert kind == b"BIN\0" and size == document["buffers"][0]["byteLength"]
    body = data[28 + length :]
    primitive = document["meshes"][0]["primitives"][0]
    out = {}
    for name, index in primitive["attributes"].items():
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        dtype = {5126: "<f4", 5121: "u1"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        assert view["byteOffset"] % 4 == 0
        block = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        out[name] = np.frombuffer(block, dtype).reshape(accessor["count"], width)
    return document, out


@pytest.mark.parametrize("degree", [0, 3])
def test_glb_follows_the_ratified_extension(tmp_path: Path, degree: int) -> None:
    scene = _scene(3, 33, degree)
    io.write(scene, tmp_path / "scene.glb")
    document, attributes = _read_glb(tmp_path / "scene.glb")
    primitive = document["meshes"][0]["primitives"][0]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"] and primitive["mode"] == 0
    extension = primitive["extensions"]["KHR_gaussian_splatting"]
    assert extension["kernel"] == "ellipse" and extension["colorSpace"] == "srgb_rec709_display"
    prefix = "KHR_gaussian_splatting:"
    assert np.array_equal(attributes["POSITION"], scene.means.numpy())
    assert np.allclose(attributes[prefix + "SCALE"], scene.scales.numpy(), rtol=1e-6)
    assert (attributes[prefix + "SCALE"] > 0).all()
    assert np.allclose(attributes[prefix + "OPACITY"][:, 0], scene.opacities.numpy(), atol=1e-6)
    xyzw = attributes[prefix + "ROTATION"]
    assert np.allclose(np.linalg.norm(xyzw, axis=1), 1, atol=1e-6)
    assert rotation_error(xyzw[:, [3, 0, 1, 2]], scene.quats_wxyz.numpy()) < 1e-5
    names = [n for n in attributes if "SH_DEGREE" in n]
    assert len(names) == (degree + 1) ** 2
    assert np.array_equal(attributes[f"{prefix}SH_DEGREE_0_COEF_0"], scene.sh[:, 0].numpy())
    if degree:
        assert np.array_equal(attributes[f"{prefix}SH_DEGREE_2_COEF_1"], scene.sh[:, 5].numpy())
    low = document["accessors"][primitive["attributes"]["POSITION"]]["min"]
    assert np.allclose(low, scene.means.numpy().min(axis=0))
    shown = (scene.sh[:, 0].numpy() * SH_C0 + 0.5).clip(0, 1)
    assert np.abs(attributes["COLOR_0"][:, :3] / 255 - shown).max() <= 0.51 / 255


@pytest.mark.parametrize(
    ("up", "direction"), [("z", [0, 0, 1]), ("y", [0, 1, 0]), ("-y", [0, -1, 0])]
)
def test_glb_node_turns_up_to_y(tmp_path: Path, up: str, direction: list[int]) -> None:
    io.write(_scene(), tmp_path / "scene.glb", up=up)  # type: ignore[arg-type]
    document, _ = _read_glb(tmp_path / "scene.glb")
    x, y, z, w = document["nodes"][0]["rotation"]
    v, q = np.array(direction, dtype=float), np.array([x, y, z])
    turned = v + 2 * np.cross(q, np.cross(q, v) + w * v)
    assert np.allclose(turned, [0, 1, 0], atol=1e-12)


def test_usda_holds_the_schema_with_exact_numbers(tmp_path: Path) -> None:
    scene = _scene(5, 9, 1)
    io.write(scene, tmp_path / "scene.usda")
    text = (tmp_path / "scene.usda").read_text()
    assert text.startswith("#usda 1.0\n") and text.count("{") == text.count("}")
    assert 'def ParticleField3DGaussianSplat "Gaussians"' in text and 'upAxis = "Z"' in text
    assert "uniform int radiance:sphericalHarmonicsDegree = 1" in text
    assert "elementSize = 4" in text
    values = {}
    for line in text.splitlines():
        if " = [" in line and "token" not in line:
            name, numbers = line.split(" = [", 1)
            flat = numbers.split("]")[0].replace("(", "").replace(")", "")
            values[name.split()[-1]] = np.array(flat.split(","), dtype=np.float32)
    assert np.array_equal(values["positions"].reshape(9, 3), scene.means.numpy())
    assert np.allclose(values["scales"].reshape(9, 3), scene.scales.numpy(), rtol=1e-6)
    assert np.allclose(values["opacities"], sigmoid(scene.opacity_logits.numpy()), atol=1e-7)
    quats = values["orientations"].reshape(9, 4)
    assert rotation_error(quats, scene.quats_wxyz.numpy()) < 1e-5
    coefficients = values["radiance:sphericalHarmonicsCoefficients"].reshape(9, 4, 3)
    assert np.array_equal(coefficients, scene.sh.numpy())


def test_usda_loads_in_usd(tmp_path: Path) -> None:
    usd = pytest.importorskip("pxr.Usd")
    scene = _scene(6, 9, 2)
    io.write(scene, tmp_path / "scene.usda")
    stage = usd.Stage.Open(str(tmp_path / "scene.usda"))
    prim = stage.GetPrimAtPath("/World/Gaussians")
    assert prim.GetTypeName() == "ParticleField3DGaussianSplat"
    assert np.array_equal(np.array(prim.GetAttribute("positions").Get()), scene.means.numpy())
