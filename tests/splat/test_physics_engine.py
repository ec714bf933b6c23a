"""Physics with the solver: falling, settling, springing back, keeping dents, flowing, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.cli.app import main
from pointworld.robot import RobotModel
from splat.io import read_native, write_native
from splat.physics import Simulation, moved_scene, simulate
from splat.physics_demo import FLOOR, jelly_cube, runout, sand_column
from splat.physics_types import FREE_FALL, MATERIALS, Material, PhysicsOptions, PushPath
from splat.query import Plane

pytest.importorskip("newton", reason="needs the extra physics")

Tensor = torch.Tensor
SMALL = PhysicsOptions(particles=350, seconds=0.4, max_step=1 / 120, frame_dt=1 / 30)
JELLY = MATERIALS["elastic"]


def _gains(simulation: Simulation) -> float:
    """The largest rise of the energy above any earlier value, relative to the first."""
    totals = np.array([energy.total for energy in simulation.energies])
    return float((totals - np.minimum.accumulate(totals)).max() / totals[0])


def test_free_fall_is_free_fall() -> None:
    made = jelly_cube(drop=0.3, count=8)
    options = replace(SMALL, seconds=0.1, particles=200)
    result = simulate(made.scene, made.mask, FLOOR, JELLY, options)
    fallen = (result.positions[0] - result.positions)[..., 2]
    dt = options.frame_dt / 4
    wanted = FREE_FALL * result.times * (result.times + dt) / 2  # semi-implicit steps
    assert (fallen - wanted[:, None]).abs().max() < 1e-4
    assert (result.deformations - torch.eye(3).double()).abs().max() < 1e-3
    assert _gains(result) < 1e-3


def test_jelly_sinks_under_its_weight_as_computed_and_keeps_its_volume() -> None:
    """A column of height h sinks by rho g h^2 / (2 E) at its top (small strain, free sides)."""
    made = jelly_cube(count=8)
    soft = replace(JELLY, young_modulus=5e3, damping=0.02)
    options = replace(SMALL, floor_friction=0.0, seconds=0.6)
    result = simulate(made.scene, made.mask, FLOOR, soft, options)
    top = result.positions[0][:, 2] > 0.055 - result.spacing
    sunk = float((result.positions[0] - result.positions[-1])[top, 2].mean())
    wanted = soft.density * FREE_FALL * 0.06**2 / (2 * soft.young_modulus)
    assert sunk == pytest.approx(wanted, rel=0.25)
    assert 0.94 < float(result.volume_ratios[-1]) < 1.0
    assert _gains(result) < 0.01
    assert result.energies[-1].kinetic < 0.01 * result.energies[0].total


def _pressed(material: Material) -> tuple[float, float]:
    """Height of a cube's top, relative to time 0, at the deepest of a press from above and after it."""
    made = jelly_cube(count=8)
    x, y = torch.meshgrid(
        torch.arange(-0.03, 0.031, 0.01), torch.arange(-0.03, 0.031, 0.01), indexing="ij"
    )
    plate = torch.stack([x, y, torch.full_like(x, 0.07)], -1).reshape(-1, 3)
    down = torch.tensor([0.0, -0.01, -0.02, -0.01, 0.02, 0.02])
    positions = plate + torch.stack([torch.zeros(6), torch.zeros(6), down], -1)[:, None]
    push = PushPath(positions=positions, step_dt=0.1)
    options = replace(SMALL, particles=200, seconds=0.6, frame_dt=0.05)
    result = simulate(made.scene, made.mask, FLOOR, material, options, push=push)
    top = result.positions[0][:, 2] > 0.05
    height = result.positions[:, top, 2].mean(1) / result.positions[0, top, 2].mean()
    return float(height.min()), float(height[-1])


def test_jelly_springs_back_and_clay_keeps_its_dent() -> None:
    stiff = replace(JELLY, young_modulus=3e4)
    low, end = _pressed(stiff)
    assert low < 0.9 and end > 0.95
    clay = replace(stiff, kind="plastic", yield_stress=500.0)
    low, end = _pressed(clay)
    assert low < 0.9 and end < 0.92


def test_a_finger_pushes_the_way_it_goes_and_gaussians_follow() -> None:
    made = jelly_cube(count=8)
    push = made.push
    assert push is not None
    early = PushPath(positions=push.positions[4:8], step_dt=0.1)
    stiff = replace(JELLY, young_modulus=5e4)
    options = replace(SMALL, floor_friction=0.1)
    result = simulate(made.scene, made.mask, FLOOR, stiff, options, push=early)
    shift = (result.positions[-1] - result.positions[0]).mean(0)
    assert shift[0] > 0.015 and shift[1].abs() < 0.005
    nearest = (result.positions[-1, :, 0].min() - early.positions[-1, 0, 0]).item()
    assert nearest > 0.3 * early.radius, "nothing goes through the finger"
    after = moved_scene(made.scene, made.mask, result, len(result.times) - 1)
    assert torch.equal(after.means[~made.mask], made.scene.means[~made.mask])
    followed = (after.means - made.scene.means)[made.mask].double().mean(0)
    assert torch.allclose(followed, shift, atol=0.003)
    assert after.moving is not None and torch.equal(after.moving, made.mask)
    blocked = torch.tensor([[0.04, y, z] for y in (-0.02, 0.0, 0.02) for z in (0.01, 0.03, 0.05)])
    held = simulate(made.scene, made.mask, FLOOR, stiff, options, push=early, obstacles=blocked)
    assert (held.positions[-1] - held.positions[0]).mean(0)[0] < 0.6 * shift[0]


def test_sand_flows_loses_energy_and_runs_farther_with_less_friction() -> None:
    made = sand_column(count=1500)
    options = replace(SMALL, particles=600, seconds=0.5)
    results = [
        simulate(made.scene, made.mask, FLOOR, replace(made.material, friction=mu), options)
        for mu in (0.3, 0.9)
    ]
    assert runout(results[0]) > 1.3 * runout(results[1]) > 0.5
    for result in results:
        assert _gains(result) < 0.005
        assert float(result.positions[-1][:, 2].min()) > -0.3 * result.spacing
    assert 0.95 < float(results[1].volume_ratios[-1]) < 1.15


def test_a_pile_thinner_than_a_cell_keeps_its_volume() -> None:
    """Slippery sand ends as about one layer of grains on the floor: its middle lies half a spacing high."""
    made = sand_column(count=1500)
    options = replace(SMALL, particles=600, seconds=0.5)
    slippery = replace(made.material, friction=0.2)
    result = simulate(made.scene, made.mask, FLOOR, slippery, options)
    assert float(result.positions[-1][:, 2].mean()) > 0.45 * result.spacing
    assert 0.85 < float(result.volume_ratios[-1]) < 1.1 and runout(result) > 1.5


def test_a_tilted_world_gives_the_same_motion() -> None:
    made = jelly_cube(count=8, drop=0.02)
    options = replace(SMALL, particles=200, seconds=0.2)
    level = simulate(made.scene, made.mask, FLOOR, JELLY, options)
    angle = torch.tensor(0.5)
    R = torch.tensor([[1.0, 0, 0], [0, angle.cos(), -angle.sin()], [0, angle.sin(), angle.cos()]])
    shift = torch.tensor([0.3, -0.2, 1.0])
    scene = replace(made.scene, means=made.scene.means @ R.T + shift)
    normal = R[:, 2].double().numpy()
    plane = Plane(
        normal=normal / np.linalg.norm(normal),
        offset=float(normal @ shift.double().numpy()),
        band=0.003,
    )
    tilted = simulate(scene, made.mask, plane, JELLY, options)
    back = (tilted.positions - shift) @ R.double()
    assert (back.mean(1) - level.positions.mean(1)).abs().max() < 1e-3
    ratio = tilted.volume_ratios - level.volume_ratios
    assert ratio.abs().max() < 0.01


def test_the_command_writes_a_video_a_sheet_and_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = f"splat simulate --demo sand --out {out} --json --scale 0.5 --physics.particles 150 --physics.seconds 0.1"
    assert main(words.split()) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["material"] == "granular" and summary["particles"] <= 150
    assert {"physics.mp4", "sheet.png", "last.safetensors", "physics.npz", "run.json"} <= {
        path.name for path in out.iterdir()
    }
    stored = read_native(out / "last.safetensors")
    assert (
        stored.scene.moving is not None
        and int(stored.scene.moving.sum()) == summary["object_gaussians"]
    )
    with np.load(out / "physics.npz", allow_pickle=False) as arrays:
        assert arrays["positions"].shape == (4, summary["particles"], 3)
    assert main(["splat", "simulate", "--out", str(out)]) == 2


def test_the_gripper_of_a_planned_motion_pushes_what_stands_in_its_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An FR3 turns about its first joint with its fingers just above the floor; a cube stands in their way."""
    made = jelly_cube(side=0.05, count=8)
    viewmats, Ks = made.viewmat[None], made.K[None]
    write_native(
        replace(made.scene, ids=made.mask.long() - 1),
        tmp_path / "scene.safetensors",
        tensors={"camera_viewmats": viewmats, "camera_K": Ks},
        metadata={
            "cameras": json.dumps(["front"]),
            "size": json.dumps([320, 240]),
            "object_planes": json.dumps({"0": [0.0, 0.0, 1.0, 0.0, 0.003]}),
        },
    )
    robot = RobotModel.load("fr3")
    path = torch.tensor([0.0, 0.3, 0.0, -2.2, 0.0, 2.5, 0.785, 0.0]).repeat(6, 1)
    path[:, 0] = torch.linspace(-0.2, 0.0, 6)
    places = robot.flow(robot.sample_surface(500, seed=0), path, step_dt=0.1).positions.numpy()
    low = places[0, places[0, :, 2].argmin()]
    T_world_base = np.eye(4)
    T_world_base[:3, 3] = [-low[0], 0.0, 0.012 - low[2]]
    points = np.zeros((4, 3), np.float32)
    np.savez(
        tmp_path / "prediction.npz",
        points=points,
        colors=points,
        displacements=np.zeros((6, 4, 3), np.float32),
        step_dt=np.array(0.1),
        robot_positions=places.astype(np.float32),
    )
    (tmp_path / "run.json").write_text(
        json.dumps({"summary": {"T_world_base": T_world_base.tolist()}})
    )
    out = tmp_path / "out"
    words = (
        f"splat simulate {tmp_path / 'scene.safetensors'} --object 0 --robot {tmp_path} --young-modulus 5e4 "
        "--scale 0.5 --physics.particles 200 --physics.seconds 0.6 --physics.max-step 0.0084 --physics.frame-dt 0.05 "
        f"--physics.floor-friction 0.3 --json --out {out}"
    )
    assert main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["mean_shift_m"] > 0.03
    with np.load(out / "physics.npz", allow_pickle=False) as arrays:
        first, last = arrays["positions"][[0, -1]]
    shift = (last - first).mean(0)
    assert shift[1] > 0.03 and abs(shift[0]) < 0.5 * shift[1]
    fingers = places[-1] + T_world_base[:3, 3]
    fingers = fingers[fingers[:, 2] < 0.04]
    gap = np.linalg.norm(last[:, None] - fingers[None], axis=-1).min()
    assert gap > 0.3 * 0.008, "nothing goes through the fingers"
