"""The whole released-mode prediction against an independent float64 implementation (tests/golden/world_model.npz)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.encoders.protocol import imagenet_normalize
from pointworld.model import ModelSpec, WorldModel
from pointworld.model.prepare import prepare_released
from pointworld.ptv3 import PTv3Arch
from pointworld.scene import point_features
from pointworld.types import RGBDFrame, RobotFlow, ScenePoints

GOLDEN = Path(__file__).parents[1] / "golden" / "world_model.npz"
LAYERS, WIDTH, CELL = 4, 8, 16
ABSOLUTE = 1e-4


class PatchEncoder:
    """The golden file's encoder: per 16-pixel patch and layer, tanh of a linear map, then one shared LayerNorm."""

    name, stride, channels = "golden", CELL, LAYERS * WIDTH
    layers: tuple[int, ...] = ()

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.w = weights

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        pixels = imagenet_normalize(images)
        rows, columns = images.shape[2] // CELL, images.shape[3] // CELL
        pixels = pixels[:, :, : rows * CELL, : columns * CELL]
        patches = torch.nn.functional.unfold(pixels, CELL, stride=CELL).transpose(1, 2)
        norm = (self.w["encoder.norm.weight"], self.w["encoder.norm.bias"])
        parts = [
            torch.nn.functional.layer_norm(
                torch.tanh(
                    patches @ self.w[f"encoder.layer{i}.weight"].T
                    + self.w[f"encoder.layer{i}.bias"]
                ),
                (WIDTH,),
                *norm,
            )
            for i in range(LAYERS)
        ]
        features = torch.cat(parts, -1).transpose(1, 2)
        return features.reshape(len(images), -1, rows, columns)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def model(golden: dict[str, np.ndarray]) -> WorldModel:
    meta = json.loads(str(golden["meta_json"]))
    spec = ModelSpec(
        arch=PTv3Arch.from_dict(meta["arch"]),
        mode="released",
        features="released",
        image_channels=LAYERS * WIDTH,
        encoder="golden",
        sampling="released",
        depth_threshold=meta["depth_threshold"],
        grid_size=meta["grid_size"],
        domains=tuple(meta["domains"]),
        simulated_domains=("behavior",),
        grippers=2,
    )
    model = WorldModel(spec)
    weights = {
        name.removeprefix("w/"): torch.from_numpy(value)
        for name, value in golden.items()
        if name.startswith("w/") and not name.startswith("w/encoder.")
    }
    model.load_state_dict(weights)
    return model.eval()


def scene_of(golden: dict[str, np.ndarray], features: torch.Tensor | None) -> ScenePoints:
    return ScenePoints(
        points=torch.from_numpy(golden["in/points"]),
        colors=torch.from_numpy(golden["in/colors"]),
        normals=torch.from_numpy(golden["in/normals"]),
        features=features,
    )


def flow_of(golden: dict[str, np.ndarray]) -> RobotFlow:
    return RobotFlow(
        positions=torch.from_numpy(golden["in/robot_positions"]),
        normals=torch.from_numpy(golden["in/robot_normals"]),
        gripper_open=torch.from_numpy(golden["in/gripper_open"]),
        step_dt=0.1,
    )


def frames_of(golden: dict[str, np.ndarray]) -> list[RGBDFrame]:
    """Only cameras that exist; pixel centres move from integers (released) to + 0.5 (ours)."""
    frames = []
    for camera in ("cam0", "cam1"):
        if not bool(golden[f"in/{camera}/exists"]):
            continue
        K = golden[f"in/{camera}/K"].copy()
        K[:2, 2] += 0.5
        depth = golden[f"in/{camera}/depth"]
        frames.append(
            RGBDFrame(
                rgb=golden[f"in/{camera}/rgb"],
                depth=depth,
                valid=depth > 0,
                K=K,
                T_world_cam=np.linalg.inv(golden[f"in/{camera}/T_cam_base"]),
                name=camera,
                camera=camera,
            )
        )
    return frames


def features_of(golden: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    encoder = PatchEncoder(
        {
            k.removeprefix("w/"): torch.from_numpy(v)
            for k, v in golden.items()
            if k[:9] == "w/encoder"
        }
    )
    return point_features(
        torch.from_numpy(golden["in/points"]),
        frames_of(golden),
        encoder,
        T_world_base=np.eye(4),
        sampling="released",
        depth_threshold=0.003,
    )


def close(value: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    assert tuple(value.shape) == expected.shape
    worst = float((value.double() - torch.from_numpy(expected)).abs().max())
    assert worst <= tolerance, f"largest difference {worst:.3g}, allowed {tolerance:g}"


def test_camera_features_and_visibility(golden: dict[str, np.ndarray]) -> None:
    features, count = features_of(golden)
    kept = torch.from_numpy(golden["out/kept"])
    assert np.array_equal(count[kept].numpy(), golden["out/view_count"])
    close(features[kept], golden["out/features"], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_preparation_and_raw_features(
    golden: dict[str, np.ndarray], model: WorldModel, dtype: torch.dtype
) -> None:
    chunk = prepare_released(
        scene_of(golden, None).to(dtype=dtype), flow_of(golden).to(dtype=dtype), model.spec
    )
    assert np.array_equal(chunk.kept.numpy(), golden["out/kept"])
    close(chunk.shift, golden["out/shift"], 1e-6)
    scene, robot, _ = model.raw_features(chunk.inputs)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    close(scene[0], golden["out/scene_raw"], tolerance)
    close(robot[0], golden["out/robot_raw"], tolerance)


def test_prediction_from_images_in_float32(
    golden: dict[str, np.ndarray], model: WorldModel
) -> None:
    features, _ = features_of(golden)
    scene = scene_of(golden, features)
    chunk = prepare_released(scene, flow_of(golden), model.spec, domain=1)
    with torch.no_grad():
        outputs = model(chunk.inputs)
    close(outputs.pred_norm[0], golden["out/pred_norm"], ABSOLUTE)
    close(outputs.log_var[0], golden["out/log_var"], ABSOLUTE)
    close(outputs.displacements[0], golden["out/displacements"], 1e-5)


def test_prediction_in_float64_is_the_same_arithmetic(
    golden: dict[str, np.ndarray], model: WorldModel
) -> None:
    kept = torch.from_numpy(golden["out/kept"])
    features = torch.zeros(len(golden["in/points"]), LAYERS * WIDTH, dtype=torch.float64)
    features[kept] = torch.from_numpy(golden["out/features"])
    double = WorldModel(model.spec).double().eval()
    double.load_state_dict(model.state_dict())
    scene = scene_of(golden, None).to(dtype=torch.float64)
    scene = ScenePoints(
        points=scene.points, colors=scene.colors, normals=scene.normals, features=features
    )
    chunk = prepare_released(scene, flow_of(golden).to(dtype=torch.float64), model.spec, domain=1)
    with torch.no_grad():
        outputs = double(chunk.inputs)
    close(outputs.pred_norm[0], golden["out/pred_norm"], 1e-10)
    close(outputs.log_var[0], golden["out/log_var"], 1e-10)
    close(outputs.displacements[0], golden["out/displacements"], 1e-11)


def test_predict_returns_metres_for_every_point(
    golden: dict[str, np.ndarray], model: WorldModel
) -> None:
    features, _ = features_of(golden)
    prediction = model.predict(scene_of(golden, features), flow_of(golden), domain="droid")
    kept = torch.from_numpy(golden["out/kept"])
    assert prediction.displacements.shape == (11, len(golden["in/points"]), 3)
    close(prediction.displacements[:, kept], golden["out/displacements"], 1e-5)
    close(prediction.log_var[1:, kept], golden["out/log_var"][1:], ABSOLUTE)
    assert bool(torch.isnan(prediction.log_var[0]).all())
    simulated = model.predict(scene_of(golden, features), flow_of(golden), domain="behavior")
    assert torch.allclose(simulated.log_var[1:], torch.tensor(1e-3).log())
