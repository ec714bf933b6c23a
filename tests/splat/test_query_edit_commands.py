"""`splat fit --features`, `splat query` and `splat edit` on a small room with a ball in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.encoders.lejepa import PatchViT, ViTSpec, save_lejepa
from splat.features import ENCODER, read_basis
from splat.io import read_native
from tests.splat.fit.room import BALL, RADIUS, room

pytest.importorskip("numba", reason="needs the extra [splat]")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON object that a command prints."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room")
    write_capture(room(), folder / "capture")
    torch.manual_seed(0)
    save_lejepa(PatchViT(ViTSpec(width=16, depth=2, heads=2)), folder / "net", training={})
    command = ["splat", "fit", str(folder / "capture"), "--out", str(folder / "fit")]
    options = ["--max-width", "80", "--fit.gaussians", "4000", "--fit.iterations", "30"]
    features = ["--features", f"jepa:{folder / 'net'}", "--feature-channels", "8"]
    assert main([*command, *options, *features, "--feature-iterations", "4"]) == 0
    return folder / "fit"


def ball_pixel(fitted: Path, name: str) -> tuple[int, int]:
    """Where the ball's middle appears."""
    stored = read_native(fitted / "scene.safetensors")
    index = json.loads(stored.metadata["cameras"]).index(name)
    pose, K = stored.tensors["camera_viewmats"][index], stored.tensors["camera_K"][index]
    local = pose[:3, :3] @ torch.from_numpy(BALL).float() + pose[:3, 3]
    u, v = (K @ local)[:2] / local[2]
    return int(u), int(v)


def test_fit_puts_features_and_their_decoder_in_the_file(fitted: Path) -> None:
    stored = read_native(fitted / "scene.safetensors")
    assert stored.scene.features is not None and stored.scene.features.shape[1] == 8
    basis = read_basis(stored.tensors)
    assert basis.components.shape == (8, 32)
    assert stored.metadata[ENCODER].startswith("jepa:")
    report = json.loads((fitted / "run.json").read_text())["report"]
    assert 0 < report["feature_cosine"] <= report["feature_cosine_kept"] <= 1.001
    assert np.array(Image.open(fitted / "features.png")).std() > 10


def test_query_then_remove_the_ball(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = read_native(fitted / "scene.safetensors")
    name = json.loads(stored.metadata["cameras"])[0]
    x, y = ball_pixel(fitted, name)
    asked = ["splat", "query", str(fitted), "--camera", name, "--pixel", str(x), str(y)]
    options = ["--query.reach", "0.9", "--query.length", "0.5", "--query.color", "0.6"]
    found = run([*asked, *options, "--out", str(tmp_path / "q")], capsys)
    scene = read_native(tmp_path / "q" / "scene.safetensors").scene
    assert scene.ids is not None and found["object"] == 0 and found["on_plane"]
    mine = scene.ids == 0
    on_ball = (scene.means - torch.from_numpy(BALL).float()).norm(dim=1) < RADIUS + 0.05
    assert float((mine & on_ball).sum() / mine.sum()) > 0.85
    assert float((mine & on_ball).sum() / on_ball.sum()) > 0.6
    assert Image.open(tmp_path / "q" / "query.png").size[0] == 3 * 80

    edit = ["splat", "edit", str(tmp_path / "q")]
    gone = run([*edit, "remove", "--object", "0", "--out", str(tmp_path / "r")], capsys)
    taken = found["object_gaussians"] + gone["hidden_gaussians"]
    assert gone["gaussians"] == gone["gaussians_before"] - taken
    assert sum(gone["hole_pixels"].values()) > 0
    assert len(list((tmp_path / "r" / "holes").glob("*.png"))) == 4
    # The file of an edit is a scene like any other, features and cameras included.
    again = read_native(tmp_path / "r" / "scene.safetensors")
    assert again.scene.features is not None and "camera_K" in again.tensors
    moved = ["move", "--object", "0", "--by", "0", "0", "0.3", "--turn", "30", "--keep-hidden"]
    run([*edit, *moved, "--out", str(tmp_path / "m"), "--cameras", "0", name], capsys)
    after = read_native(tmp_path / "m" / "scene.safetensors").scene
    lifted = after.means[mine].mean(0) - scene.means[mine].mean(0)
    assert lifted[2] == pytest.approx(0.3, abs=0.03)


def test_query_by_example_and_vector(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = read_native(fitted / "scene.safetensors")
    assert stored.scene.features is not None
    vector = tmp_path / "v.json"
    vector.write_text(json.dumps(stored.scene.features[5].tolist()))
    plain = ["--query.no-plane", "--out", str(tmp_path / "a")]
    asked = ["splat", "query", str(fitted)]
    assert run([*asked, "--vector", str(vector), *plain], capsys)["object_gaussians"] > 0
    picture = tmp_path / "example.png"
    Image.fromarray(np.full((24, 24, 3), 200, np.uint8)).save(picture)
    assert run([*asked, "--example", str(picture), *plain], capsys)["by"] == "example"


@pytest.mark.rejects_input
def test_refusals(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["splat", "query", str(fitted), "--out", str(tmp_path)]

    def refused(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        return capsys.readouterr().err

    assert "exactly one" in refused(asked)
    assert "outside the image" in refused([*asked, "--pixel", "500", "3"])
    assert "no camera 'x'" in refused([*asked, "--camera", "x", "--pixel", "3", "3"])
    bad = tmp_path / "bad.json"
    bad.write_text("[1, 2]")
    assert "--vector has (2,) entries" in refused([*asked, "--vector", str(bad)])
    edit = ["splat", "edit", str(fitted), "move", "--object", "0", "--out", str(tmp_path)]
    assert "no object 0" in refused(edit)
    fit = ["splat", "fit", "nowhere", "--out", str(tmp_path), "--feature-channels", "0"]
    assert "--feature-channels 0" in refused(fit)
