"""Meshes and colliders of simulated tables: accurate where seen, clean, and usable in MuJoCo and in the URDF loader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.cli.splat_mesh import SplatMeshArgs, capture_path
from pointworld.errors import InputError
from pointworld.types import Capture
from splat.mesh import MeshOptions, SplatMesh, fuse, gaussian_normals, poisson, write_mesh
from splat.mesh_views import Seen, look, orbit_views
from splat.types import GaussianScene
from tests.splat.mesh_world import (
    World,
    as_gaussians,
    compare,
    make_world,
    photographs,
    ring_views,
)

pytest.importorskip("open3d")

VIEWS = ring_views(10)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def gaussians(world: World) -> GaussianScene:
    return as_gaussians(world, VIEWS)


@pytest.fixture(scope="module")
def seen(gaussians: GaussianScene) -> list[Seen]:
    return look(gaussians, VIEWS)


@pytest.fixture(scope="module")
def fused(seen: list[Seen]) -> SplatMesh:
    return fuse(seen)


def test_fused_depth_is_within_5_mm(fused: SplatMesh, world: World) -> None:
    accuracy = compare(fused.vertices, fused.triangles, world, VIEWS)
    assert accuracy.chamfer <= 0.005 and accuracy.f_score >= 0.9


def test_poisson_is_within_5_mm(gaussians: GaussianScene, world: World) -> None:
    eyes = np.stack([view.T_world_cam[:3, 3] for view in VIEWS])
    mesh = poisson(gaussians, eyes, MeshOptions(poisson_depth=7))
    accuracy = compare(mesh.vertices, mesh.triangles, world, VIEWS)
    assert accuracy.chamfer <= 0.005 and accuracy.f_score >= 0.9


def test_orbit_cameras_see_the_scene(gaussians: GaussianScene, world: World) -> None:
    mesh = fuse(look(gaussians, orbit_views(gaussians, count=8, size=240)))
    assert compare(mesh.vertices, mesh.triangles, world, VIEWS).f_score >= 0.9


def test_surface_faces_the_cameras_and_has_the_colours_of_its_objects(
    fused: SplatMesh, world: World
) -> None:
    mesh = fused.to_trimesh()
    table = np.abs(mesh.triangles_center[:, 2]) < 0.004
    assert (mesh.face_normals[table][:, 2] > 0.5).mean() > 0.99
    red = np.linalg.norm(fused.vertices - world.meshes[1].centroid, axis=1) < 0.03
    assert np.abs(fused.colors[red].mean(axis=0) - [0.8, 0.2, 0.2]).max() < 0.1


def test_normals_of_flat_gaussians_are_their_thin_axis(gaussians: GaussianScene) -> None:
    top = gaussians.select(
        (gaussians.means[:, 2].abs() < 1e-3) & (gaussians.means[:, 0].abs() < 0.1)
    )
    log_scales = top.log_scales.clone()
    log_scales[:, 1] -= 3.0
    flat = GaussianScene(
        means=top.means,
        quats_wxyz=top.quats_wxyz,
        log_scales=log_scales,
        opacity_logits=top.opacity_logits,
        sh=top.sh,
    )
    eyes = np.array([[0.0, -5.0, 1.0]])
    assert np.abs(gaussian_normals(flat, eyes) - [0, -1, 0]).max() < 1e-6
    assert (gaussian_normals(top, eyes)[:, 2] > 0.99).mean() > 0.95


def test_mesh_is_clean_and_as_small_as_asked(seen: list[Seen]) -> None:
    mesh = fuse(seen, MeshOptions(triangles=2000))
    assert len(mesh.triangles) <= 2000
    assert np.isfinite(mesh.vertices).all() and np.isfinite(mesh.colors).all()
    assert (trimesh.triangles.area(mesh.vertices[mesh.triangles]) > 0).all()
    assert len(np.unique(mesh.triangles)) == len(mesh.vertices)


def test_files_hold_the_mesh_with_colours(fused: SplatMesh, tmp_path: Path) -> None:
    names = write_mesh(fused, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)
    for name in ("mesh.obj", "mesh.ply"):
        back = trimesh.load(tmp_path / "out" / name, process=False)
        assert len(back.faces) == len(fused.triangles)
        assert np.abs(np.asarray(back.vertices) - fused.vertices).max() < 1e-5
        assert np.abs(back.visual.vertex_colors[:, :3] / 255 - fused.colors).max() < 0.01
    glb = trimesh.load(tmp_path / "out" / "mesh.glb")
    low, high = glb.bounds  # +Y is up
    assert np.allclose(
        [low[1], high[1]], [fused.vertices[:, 2].min(), fused.vertices[:, 2].max()], atol=1e-5
    )


def test_the_command_meshes_a_fit_where_its_capture_measured_depth(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind the table there is nothing, and the fit has guesses there: they are no surface."""
    frames = tuple(photographs(world, VIEWS, noise=0.002, seed=0))
    write_capture(Capture(frames=frames, source="made"), tmp_path / "capture")
    fit = ["splat", "fit", str(tmp_path / "capture"), "--out", str(tmp_path / "fit")]
    options = "--holdout 5 --json --fit.gaussians 10000 --fit.iterations 60 --fit.depth-weight 3"
    assert main([*fit, *options.split(), "--calibrate", "no"]) == 0
    fitted = json.loads(capsys.readouterr().out)
    for method in ("tsdf", "poisson"):
        out = tmp_path / method
        command = ["splat", "mesh", str(tmp_path / "fit"), "--out", str(out), "--json"]
        assert main([*command, "--method", method]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["views"] == len(VIEWS) and printed["depth_gap_m"] < 0.01
        assert all(printed[name] == fitted[name] for name in ("psnr", "ssim", "depth_l1_m"))
        mesh = trimesh.load(out / "mesh.ply", process=False)
        accuracy = compare(np.asarray(mesh.vertices), np.asarray(mesh.faces), world, VIEWS)
        assert accuracy.chamfer <= 0.006 and accuracy.f_score >= 0.85, (method, accuracy)


def test_a_queried_scene_is_looked_at_from_the_cameras_of_its_fit(tmp_path: Path) -> None:
    for name in ("capture", "fit", "query", "again", "edit"):
        (tmp_path / name).mkdir()

    def note(folder: str, command: str, **config: str) -> None:
        record = {"command": f"splat {command}", "config": config}
        (tmp_path / folder / "run.json").write_text(json.dumps(record))

    def found(folder: str) -> Path | None:
        return capture_path(SplatMeshArgs(scene=tmp_path / folder, out=tmp_path / "mesh"))

    note("fit", "fit", capture=str(tmp_path / "capture"))
    note("query", "query", scene=str(tmp_path / "fit"))
    note("again", "query", scene=str(tmp_path / "query" / "scene.safetensors"))
    note("edit", "edit", scene=str(tmp_path / "query"))
    assert found("fit") == found("query") == found("again") == tmp_path / "capture"
    # What was moved by hand is not where the capture measured it.
    assert found("edit") is None
    note("query", "query", scene=str(tmp_path / "query"))
    assert found("query") is None


@pytest.mark.rejects_input
def test_scenes_without_a_surface_are_refused(gaussians: GaussianScene) -> None:
    clear = GaussianScene(
        means=gaussians.means[:200],
        quats_wxyz=gaussians.quats_wxyz[:200],
        log_scales=gaussians.log_scales[:200],
        opacity_logits=torch.full((200,), -9.0),
        sh=gaussians.sh[:200],
    )
    with pytest.raises(InputError, match="no surface"):
        orbit_views(clear)
    with pytest.raises(InputError, match="no surface"):
        fuse(look(clear, VIEWS[:2]))
    with pytest.raises(InputError, match="0 solid Gaussians"):
        poisson(clear, np.zeros((1, 3)))
    with pytest.raises(InputError, match="voxel_size"):
        MeshOptions(voxel_size=0.0)


def test_command_writes_mesh_and_one_json_object(
    gaussians: GaussianScene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pointworld.cli import splat_mesh
    from splat import io

    io.write(gaussians, tmp_path / "scene.safetensors")
    command = [str(tmp_path / "scene.safetensors"), "--out", str(tmp_path / "out"), "--json"]
    assert splat_mesh.main([*command, "--views", "6", "--triangles", "5000"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["triangles"] <= 5000 and printed["gaussians"] == len(gaussians)
    assert printed["seconds"] > 0 and printed["peak_memory_mb"] > 0
    assert printed["psnr"] is None and printed["ssim"] is None
    for name in printed["files"]:
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert (tmp_path / "out" / "run.json").is_file()
